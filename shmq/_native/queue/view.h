/* Views: who looks at the slot of a cell, and that it is not used again before. A cell is freed here, since that is where it matters. */
#ifndef SHMQ_VIEW_H
#define SHMQ_VIEW_H

#include "slots.h"

/* Say that I look at the slot of my leased cell that reads `leased`, and go on when the lease has ended: until shmq_view_end
 * the slot is not used again. OK; LOST: it had ended before; NO_CELLS: four others look already. */
shmq_status shmq_view_begin(struct shmq_port *port, uint32_t cell, uint64_t leased);

/* I look no longer. If the cell was handed to me, and no other view of mine is left, it is free afterwards. */
void shmq_view_end(struct shmq_port *port, uint32_t cell);

/* For whoever frees cells: the first attached port that looks, or SHMQ_NO_PORT; does this one look? For whoever frees ports: it
 * looks no longer. */
uint32_t shmq_view_first(struct shmq_port *port, uint32_t cell);
bool shmq_view_is(const struct shmq_port *port, uint32_t cell, uint32_t viewer);
void shmq_view_forget(struct shmq_port *port, uint32_t cell, uint32_t viewer);

/* For a reaper: a cell that was handed to a process that looks no longer, by one that died before it looked again, is free. */
void shmq_view_settle(struct shmq_port *port, uint32_t cell);

/* The cell reads `word` and is ours, or that of a dead port which we reap: free it, as `state`; or hand it to somebody who still
 * looks at its slot. Killed here: freed, handed, or as it was; or handed to one who has just ceased to look, which our
 * reaper puts right (shmq_view_settle). */
void shmq_cell_let_go(struct shmq_port *port, uint32_t cell, uint64_t word, enum shmq_cell_state state);

#endif
