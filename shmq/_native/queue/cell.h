/* In-flight cells: claimed for a call, or for as long as a user holds a loan or a lease, and released.
 *
 * Which cell for which call. Loans and leases take cells behind the first `reserved` ones, so that put and get go on
 * however many of them are out. In segments of small slots there is a reserved cell for each port, which keeps the one
 * of its own index; while that one holds a message that came back, the port does without. In segments of large slots ("paged") a cell
 * is claimed for each call and freed after it: a claim costs two exchanges, nothing beside a copy of 4 KiB. There a producer claims the
 * slot that was freed last (WARM, lowest cell first), and a consumer gives a cold one into the ring. So with n frames in flight the
 * process walks through n + 1 slots of memory, however long the ring is.
 */
#ifndef SHMQ_CELL_H
#define SHMQ_CELL_H

#include "slots.h"

/* What the cell is wanted for; matters in segments of large slots only. */
enum shmq_purpose { SHMQ_TO_WRITE, SHMQ_TO_GIVE };

/* SPARE (or WARM) -> IDLE, mine. False: it was in another state, or another port was quicker. */
bool shmq_cell_claim(struct shmq_queue_port *queue, uint32_t cell, unsigned wanted);

/* The cell for one call: the kept one, or one that is claimed, SPARE or WARM -> IDLE, mine; and its return. Post: OK and
 * *cell; NO_CELLS; CORRUPT. Killed here: an IDLE cell of a dead port. */
shmq_status shmq_cell_take(struct shmq_queue_port *queue, enum shmq_purpose purpose, uint32_t *cell);
void shmq_cell_return(struct shmq_queue_port *queue, uint32_t cell, bool warm);

/* A cell that the caller will hold for long: none of the reserved ones. */
shmq_status shmq_cell_take_for_long(struct shmq_queue_port *queue, enum shmq_purpose purpose, uint32_t *cell);

/* IDLE, mine -> SPARE (or WARM where `warm` and the slots are large). */
void shmq_cell_free(struct shmq_queue_port *queue, uint32_t cell, bool warm);

/* The most messages of a batch: half of the cells that are not reserved, so that other calls find one. */
static inline uint32_t shmq_batch_limit(const struct shmq_queue_port *queue) {
    uint32_t half = (queue->geometry.cells - queue->geometry.reserved) / 2;
    return half ? half : 1;
}

#endif
