/* Calls of a port as a binding makes them: one try each, OK or why not; and those that wait until the try succeeds. */
#ifndef SHMQ_TEST_CALL_H
#define SHMQ_TEST_CALL_H

#include <sched.h>

#include "message.h"
#include "segment.h"

static inline uint32_t slot_in(const struct shmq_queue_port *port, uint32_t cell) { return shmq_word_slot(shmq_cell_load(port, cell)); }

static inline struct head message_in(const struct shmq_queue_port *port, uint32_t cell) { return message_read(port, slot_in(port, cell)); }

static inline uint32_t failures_of(const struct shmq_queue_port *port, uint32_t cell) {
    return shmq_deliveries_failed(shmq_load_acquire(&shmq_slot_at(port, slot_in(port, cell))->deliveries));
}

static inline shmq_status try_put(struct shmq_queue_port *port, uint32_t producer, uint32_t number) {
    uint32_t cell;
    shmq_status status = shmq_cell_take(port, SHMQ_TO_WRITE, &cell);
    if (status != SHMQ_OK) return status;
    message_write(port, slot_in(port, cell), producer, number);
    status = shmq_offer(port, cell, true);
    shmq_cell_return(port, cell, status != SHMQ_OK);
    return status;
}

/* The cell is LEASED afterwards. */
static inline shmq_status try_take(struct shmq_queue_port *port, bool for_long, uint32_t *cell) { return shmq_take(port, for_long, 0, cell); }

/* The waiting half of a blocking call. TIMED_OUT, or OK: look again. */
static inline shmq_status wait_after(struct shmq_queue_port *port, shmq_status why, enum shmq_side side, uint64_t deadline_ns,
                                     struct shmq_patience *patience) {
    CHECK(why == SHMQ_WOULD_BLOCK || why == SHMQ_NO_CELLS);
    shmq_status status = why == SHMQ_NO_CELLS ? shmq_await_cell(port, deadline_ns, patience) : shmq_await(port, side, deadline_ns, patience);
    CHECK(status == SHMQ_OK || status == SHMQ_TIMED_OUT || status == SHMQ_INTERRUPTED);
    return status == SHMQ_TIMED_OUT ? status : SHMQ_OK;
}

static inline void put(struct shmq_queue_port *port, uint32_t producer, uint32_t number) {
    struct shmq_patience patience = {0};
    shmq_status status;
    while ((status = try_put(port, producer, number)) != SHMQ_OK) wait_after(port, status, SHMQ_SPACE, SHMQ_FOREVER, &patience);
}

static inline uint32_t take(struct shmq_queue_port *port, bool for_long) {
    struct shmq_patience patience = {0};
    uint32_t cell;
    shmq_status status;
    while ((status = try_take(port, for_long, &cell)) != SHMQ_OK) wait_after(port, status, SHMQ_ITEMS, SHMQ_FOREVER, &patience);
    return cell;
}

/* A loan: a cell that is held for as long as its port likes. */
static inline uint32_t loan(struct shmq_queue_port *port) {
    uint32_t cell;
    CHECK_EQUAL(shmq_cell_take_for_long(port, SHMQ_TO_WRITE, &cell), SHMQ_OK);
    shmq_cell_become(port, cell, SHMQ_LOANED);
    return cell;
}

static inline void ack(struct shmq_queue_port *port, uint32_t cell) {
    CHECK_EQUAL(shmq_lease_ack(port, cell, shmq_cell_load(port, cell), false), SHMQ_OK);
    shmq_cell_return(port, cell, true);
}

static inline void give_back(struct shmq_queue_port *port, uint32_t cell, enum shmq_cause cause, uint64_t delay_ns) {
    CHECK_EQUAL(shmq_lease_give_back(port, cell, shmq_cell_load(port, cell), cause, delay_ns), SHMQ_OK);
}

/* -- of the ring alone, without what delivery adds ------------------------------------------------------------------------ */

static inline uint32_t take_cell(struct shmq_queue_port *port, enum shmq_purpose purpose, bool for_long) {
    uint32_t cell;
    shmq_status status;
    while ((status = for_long ? shmq_cell_take_for_long(port, purpose, &cell) : shmq_cell_take(port, purpose, &cell)) != SHMQ_OK) {
        CHECK(status == SHMQ_NO_CELLS, "take: %d", status);
        sched_yield();
    }
    return cell;
}

static inline shmq_status ring_put(struct shmq_queue_port *port, uint32_t producer, uint32_t number) {
    uint32_t cell = take_cell(port, SHMQ_TO_WRITE, false);
    message_write(port, slot_in(port, cell), producer, number);
    shmq_status status = shmq_ring_put(port, cell);
    shmq_cell_return(port, cell, status != SHMQ_OK);
    return status;
}

static inline shmq_status ring_get(struct shmq_queue_port *port, uint32_t *number) {
    uint32_t cell = take_cell(port, SHMQ_TO_GIVE, false);
    shmq_status status = shmq_ring_get(port, cell, SHMQ_LEASED);
    *number = status == SHMQ_OK ? message_in(port, cell).number : UINT32_MAX;
    shmq_cell_return(port, cell, true);
    return status;
}

/* Lease the oldest message of the ring. */
static inline uint32_t ring_lease(struct shmq_queue_port *port) {
    uint32_t cell = take_cell(port, SHMQ_TO_GIVE, true);
    CHECK(shmq_ring_get(port, cell, SHMQ_LEASED) == SHMQ_OK, "nothing to lease");
    return cell;
}

/* A batch for shmq_ring_put_many: the messages from `next` to `end`, so many of which are written. */
struct batch {
    uint32_t producer, next, filled, end;
};
static inline bool fill_batch(void *batch_, struct shmq_queue_port *port, uint32_t slot) {
    struct batch *batch = batch_;
    if (batch->next + batch->filled == batch->end) return false;
    message_write(port, slot, batch->producer, batch->next + batch->filled++);
    return true;
}

/* The last port of a segment goes, and nothing is left. */
static inline void end(struct segment *segment, struct shmq_queue_port *port) {
    shmq_port_detach(port);
    segment_check_empty(segment);
    segment_unmake(segment);
}

#endif
