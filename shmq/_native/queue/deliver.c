#define _GNU_SOURCE
#include "deliver.h"

#include "../wake.h"
#include "lease.h"
#include "look.h"
#include "resting.h"

shmq_status shmq_offer(struct shmq_port *port, uint32_t cell, bool is_new) {
    shmq_status status = shmq_likely(is_new) ? shmq_ring_put(port, cell) : shmq_ring_move_in(port, cell);
    if (shmq_unlikely(status != SHMQ_OK)) return status;
    shmq_count(&port->record->counters[SHMQ_PUTS], is_new);
    shmq_wake_after(port, SHMQ_ITEMS);
    return SHMQ_OK;
}

uint32_t shmq_offer_many(struct shmq_port *port, uint32_t cell, shmq_fill fill, void *context, shmq_status *status) {
    uint32_t put = shmq_ring_put_many(port, cell, fill, context, status);
    if (put == 0) return 0;
    shmq_count(&port->record->counters[SHMQ_PUTS], put);
    for (uint32_t i = 0; i < put && shmq_load_seq(shmq_waiters(port, SHMQ_ITEMS)); i++) shmq_wake(port, SHMQ_ITEMS); /* [park] */
    return put;
}

shmq_status shmq_take(struct shmq_port *port, bool for_long, uint64_t lease_ns, uint32_t *cell) {
    const uint64_t until = lease_ns ? shmq_now_ns() + lease_ns : 0;
    shmq_status status = SHMQ_WOULD_BLOCK;
    if (shmq_unlikely(shmq_orphans_stir(port))) status = shmq_orphan_adopt(port, until, cell);
    if (shmq_unlikely(status != SHMQ_WOULD_BLOCK)) return status;
    status = for_long ? shmq_cell_take_for_long(port, SHMQ_TO_GIVE, cell) : shmq_cell_take(port, SHMQ_TO_GIVE, cell);
    if (shmq_unlikely(status != SHMQ_OK)) return status;
    if (until) shmq_lease_time(port, *cell, until);
    status = shmq_ring_get(port, *cell, until ? SHMQ_TIMED : SHMQ_LEASED);
    if (shmq_unlikely(status != SHMQ_OK)) {
        shmq_cell_return(port, *cell, false);
        return status;
    }
    shmq_wake_after(port, SHMQ_SPACE);
    return SHMQ_OK;
}

uint32_t shmq_take_many(struct shmq_port *port, uint32_t *cells, uint32_t wanted, shmq_status *status) {
    uint32_t claimed = 0;
    *status = SHMQ_WOULD_BLOCK;
    if (shmq_unlikely(shmq_orphans_stir(port))) *status = shmq_orphan_adopt(port, 0, cells);
    if (shmq_unlikely(*status != SHMQ_WOULD_BLOCK)) return *status == SHMQ_OK;
    while (claimed < wanted && (*status = shmq_cell_take(port, SHMQ_TO_GIVE, &cells[claimed])) == SHMQ_OK) claimed++;
    if (claimed == 0) return 0;
    uint32_t taken = shmq_ring_get_many(port, cells, claimed, SHMQ_LEASED, status);
    for (uint32_t i = taken; i < claimed; i++) shmq_cell_return(port, cells[i], false);
    if (taken) shmq_wake_after(port, SHMQ_SPACE);
    return taken;
}

/* Was the queue shut down in a way that ends the wait of this side? */
static bool ends_wait(struct shmq_port *port, enum shmq_side side, bool stays) {
    return side == SHMQ_ITEMS ? shmq_is_over(port, stays) : shmq_is_shut(port);
}

shmq_status shmq_verdict(struct shmq_port *port, enum shmq_side side, shmq_status status, bool stays) {
    return status == SHMQ_WOULD_BLOCK && ends_wait(port, side, stays) ? SHMQ_SHUT : status;
}

uint64_t shmq_worth(struct shmq_port *port, enum shmq_side side) {
    if (side == SHMQ_DONE) return shmq_all_done(port) ? SHMQ_MAX_SLOTS : 0;
    if (ends_wait(port, side, false)) return SHMQ_MAX_SLOTS;
    return side == SHMQ_ITEMS ? shmq_ready(port) + shmq_orphan_due(port) : shmq_room(port);
}
