#define _GNU_SOURCE
#include "wake.h"

#include "bell.h"

/* Other ports may take theirs off at the same moment, but not for ever: a scribbler must not keep this one here. A waiter that
 * misses its wake-up for that looks again after its slice. */
#define TAKES 1024

bool shmq_take_one_off(shmq_half *waiters) {
    uint32_t n = shmq_load_seq(waiters); /* [park] */
    for (int tries = 0; n & ~SHMQ_BELLS && tries < TAKES; tries++)
        if (shmq_swap_seq(waiters, &n, n - 1)) return true; /* [park] */
    return false;
}

void shmq_sleepers_take_off(struct shmq_port *port, uint32_t index) {
    for (int side = 0; side < 2; side++) {
        shmq_half *asleep = &port->records[index].asleep[side];
        for (uint32_t n = shmq_load_seq(asleep); n && n <= TAKES; n--) { /* [asleep] */
            if (!shmq_take_one_off(shmq_waiters(port, (enum shmq_side)side)) && port->semaphores[side]) sem_trywait(port->semaphores[side]);
            shmq_store_seq(asleep, n - 1); /* [asleep] */
        }
        shmq_store_seq(asleep, 0); /* [asleep] */
    }
}

static bool post(struct shmq_port *port, enum shmq_side side) {
    if (side == SHMQ_DONE || port->semaphores[side] == NULL || !shmq_take_one_off(shmq_waiters(port, side))) return false;
    sem_post(port->semaphores[side]);
    return true;
}

static bool wake_one(struct shmq_port *port, enum shmq_side side) {
    return post(port, side) || (shmq_load_seq(shmq_waiters(port, side)) & SHMQ_BELLS && shmq_bell_ring(port, side)); /* [park] */
}

void shmq_wake(struct shmq_port *port, enum shmq_side side) {
    uint64_t now = 0;
    if (shmq_load_seq(shmq_waiters(port, side)) == 0) return; /* [park] */
    if (side == SHMQ_SPACE && !port->behaviour->worth_waking(port, now = shmq_now_ns())) return;
    if (wake_one(port, side) && side == SHMQ_SPACE) shmq_store_relaxed(&port->header->space_woken_ns, now);
}

void shmq_pass_on(struct shmq_port *port, enum shmq_side side) {
    if (shmq_load_seq(shmq_waiters(port, side)) != 0 && port->behaviour->promising(port, side, false)) wake_one(port, side); /* [park] */
}

void shmq_wake_all(struct shmq_port *port, enum shmq_side side) {
    for (int n = 0; n < TAKES && post(port, side); n++) {}
    for (uint32_t n = 0; n < port->ports && shmq_bell_ring(port, side); n++) {}
}

void shmq_tell_if_done(struct shmq_port *port) {
    if (!shmq_bell_is_armed(port, SHMQ_DONE)) {
        /* No port waits any more: clear the flag, and look again, since some may have armed before that. A waiter that arms later
         * sets it again, and then looks whether all is done. */
        shmq_and_seq(&port->header->done_waiters, ~SHMQ_BELLS); /* [park] [bell] */
        if (!shmq_bell_is_armed(port, SHMQ_DONE)) return;
        shmq_or_seq(&port->header->done_waiters, SHMQ_BELLS); /* [park] [bell] */
    }
    if (port->behaviour->promising(port, SHMQ_DONE, false)) shmq_wake_all(port, SHMQ_DONE);
}

void shmq_port_stop_waiting(struct shmq_port *port, uint32_t index) {
    shmq_bell_remove(port, index);
    shmq_sleepers_take_off(port, index);
}

void shmq_port_free(struct shmq_port *port) {
    bool belled = shmq_load_relaxed(&port->record->bell) & SHMQ_BELL_MADE;
    shmq_port_stop_waiting(port, port->index); /* threads may have slept here when their process took the port away */
    shmq_store_release(&port->record->owner, 0); /* [port] */
    shmq_wake(port, SHMQ_SPACE);
    if (!belled) return;
    shmq_pass_on(port, SHMQ_ITEMS); /* it may have been rung for us */
    shmq_pass_on(port, SHMQ_SPACE);
}
