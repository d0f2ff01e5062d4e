#define _GNU_SOURCE
#include "reap.h"

#include "owner.h"
#include "wake.h"

static bool recover(struct shmq_port *port, uint32_t dead) {
    if (!port->behaviour->recover(port, dead)) return false;
    shmq_port_stop_waiting(port, dead);
    shmq_store_release(&port->records[dead].owner, 0); /* [port] */
    return true;
}

uint32_t shmq_reap(struct shmq_port *port) {
    uint32_t freed = 0, before, rounds = 0;
    bool locked = false, left;
    if (!shmq_owner_can_judge()) return 0;
    do { /* again while it helps: settling one of the dead can be what another's open exchange waits for. Each round frees one, so
          * there are no more rounds than ports, unless a scribbler writes dead owners as fast as they are freed. */
        before = freed;
        left = false;
        for (uint32_t i = 0; i < shmq_ports_used(port); i++) {
            uint64_t owner = shmq_load_acquire(&port->records[i].owner); /* [port] */
            if (owner == 0 || shmq_owner_alive(owner)) continue;
            if (!locked && !(locked = shmq_owner_lock(port->nonce))) return 0;
            /* Under the lock no other reaper frees it. It may have been freed before, and claimed again. */
            if (shmq_load_acquire(&port->records[i].owner) != owner) continue; /* [port] */
            if (recover(port, i)) freed++;
            else left = true;
        }
    } while (left && freed != before && ++rounds < port->ports);
    if (!locked) return 0;
    shmq_owner_unlock(port->nonce);
    /* An intent of the dead looks like a message, too. The last store to it was weaker than this look. */
    shmq_wake_if_done_after_store(port);
    for (uint32_t i = 0; i < shmq_ports_used(port); i++) {
        shmq_wake(port, SHMQ_ITEMS);
        shmq_wake(port, SHMQ_SPACE);
    }
    return freed;
}
