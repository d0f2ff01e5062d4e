/* Views: which ports look at the slot of a cell, so that it is not used again before they are done. Cells are freed here, since each
 * time that depends on views. */
#ifndef SHMQ_VIEW_H
#define SHMQ_VIEW_H

#include "slots.h"

/* Say that this port looks at the slot of its leased cell that reads `leased`, and still will when the lease has ended. Until
 * shmq_view_release the slot is not used again. Post: OK; LOST: the lease had ended before; NO_CELLS: four others look already. */
shmq_status shmq_view_begin(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased);

/* This port looks no longer. If the cell was handed to it, and no other view of its own is left, the cell is free afterwards. */
void shmq_view_release(struct shmq_queue_port *queue, uint32_t cell);

/* Before a cell is freed: the first attached port that looks, or SHMQ_NO_PORT; does this one look? When a port is freed: it looks no
 * longer. */
uint32_t shmq_view_first(struct shmq_queue_port *queue, uint32_t cell);
bool shmq_view_is(const struct shmq_queue_port *queue, uint32_t cell, uint32_t viewer);
void shmq_view_clear(struct shmq_queue_port *queue, uint32_t cell, uint32_t viewer);

/* For a reaper: free a cell that was handed to a port that looks no longer, by a process that died before it looked again. */
void shmq_view_repair(struct shmq_queue_port *queue, uint32_t cell);

/* The cell reads `word` and is this port's, or that of a dead port which it reaps: free it, as `state`; or hand it to a port that still
 * looks at its slot. Killed here: freed, handed, or as it was; or handed to a port that has just ceased to look, which the reaper
 * puts right (shmq_view_repair). */
void shmq_cell_free_or_hand(struct shmq_queue_port *queue, uint32_t cell, uint64_t word, enum shmq_cell_state state);

#endif
