#define _GNU_SOURCE
#include "deliver.h"

#include "../wake.h"
#include "lease.h"
#include "look.h"
#include "resting.h"

shmq_status shmq_offer(struct shmq_queue_port *queue, uint32_t cell, bool is_new) {
    shmq_status status = shmq_likely(is_new) ? shmq_ring_put(queue, cell) : shmq_ring_move_in(queue, cell);
    if (shmq_unlikely(status != SHMQ_OK)) return status;
    shmq_count(&queue->port.record->counters[SHMQ_PUTS], is_new);
    shmq_wake_after(&queue->port, SHMQ_ITEMS);
    return SHMQ_OK;
}

uint32_t shmq_offer_many(struct shmq_queue_port *queue, uint32_t cell, shmq_fill fill, void *context, shmq_status *status) {
    uint32_t put = shmq_ring_put_many(queue, cell, fill, context, status);
    if (put == 0) return 0;
    shmq_count(&queue->port.record->counters[SHMQ_PUTS], put);
    for (uint32_t i = 0; i < put && shmq_load_seq(shmq_waiters(&queue->port, SHMQ_ITEMS)); i++) shmq_wake(&queue->port, SHMQ_ITEMS); /* [park] */
    return put;
}

shmq_status shmq_take(struct shmq_queue_port *queue, bool for_long, uint64_t lease_ns, uint32_t *cell) {
    const uint64_t until = lease_ns ? shmq_now_ns() + lease_ns : 0;
    shmq_status status = SHMQ_WOULD_BLOCK;
    if (shmq_unlikely(shmq_orphans_stir(queue))) status = shmq_orphan_adopt(queue, until, cell);
    if (shmq_unlikely(status != SHMQ_WOULD_BLOCK)) return status;
    status = for_long ? shmq_cell_take_for_long(queue, SHMQ_TO_GIVE, cell) : shmq_cell_take(queue, SHMQ_TO_GIVE, cell);
    if (shmq_unlikely(status != SHMQ_OK)) return status;
    if (until) shmq_lease_time(queue, *cell, until);
    status = shmq_ring_get(queue, *cell, until ? SHMQ_TIMED : SHMQ_LEASED);
    if (shmq_unlikely(status != SHMQ_OK)) {
        shmq_cell_return(queue, *cell, false);
        return status;
    }
    shmq_wake_after(&queue->port, SHMQ_SPACE);
    return SHMQ_OK;
}

uint32_t shmq_take_many(struct shmq_queue_port *queue, uint32_t *cells, uint32_t wanted, shmq_status *status) {
    uint32_t claimed = 0;
    *status = SHMQ_WOULD_BLOCK;
    if (shmq_unlikely(shmq_orphans_stir(queue))) *status = shmq_orphan_adopt(queue, 0, cells);
    if (shmq_unlikely(*status != SHMQ_WOULD_BLOCK)) return *status == SHMQ_OK;
    while (claimed < wanted && (*status = shmq_cell_take(queue, SHMQ_TO_GIVE, &cells[claimed])) == SHMQ_OK) claimed++;
    if (claimed == 0) return 0;
    uint32_t taken = shmq_ring_get_many(queue, cells, claimed, SHMQ_LEASED, status);
    for (uint32_t i = taken; i < claimed; i++) shmq_cell_return(queue, cells[i], false);
    if (taken) shmq_wake_after(&queue->port, SHMQ_SPACE);
    return taken;
}

/* Was the queue shut down in a way that ends the wait of this side? */
static bool ends_wait(struct shmq_queue_port *queue, enum shmq_side side, bool stays) {
    return side == SHMQ_ITEMS ? shmq_is_over(queue, stays) : shmq_is_shut(queue);
}

shmq_status shmq_verdict(struct shmq_queue_port *queue, enum shmq_side side, shmq_status status, bool stays) {
    return status == SHMQ_WOULD_BLOCK && ends_wait(queue, side, stays) ? SHMQ_SHUT : status;
}

uint64_t shmq_worth(struct shmq_queue_port *queue, enum shmq_side side) {
    if (side == SHMQ_DONE) return shmq_all_done(queue) ? SHMQ_MAX_SLOTS : 0;
    if (ends_wait(queue, side, false)) return SHMQ_MAX_SLOTS;
    return side == SHMQ_ITEMS ? shmq_ready(queue) + shmq_orphan_due(queue) : shmq_room(queue);
}
