/* The exchange ring: put and get.
 *
 * The only thing that happens to a message is that a ring cell and an in-flight cell exchange their slots, by one
 * compare-and-swap on the ring cell. Before it the port writes its intent, after it the in-flight cell is brought up to
 * date; recover.c settles the one question that a death between the two leaves open.
 */
#ifndef SHMQ_RING_H
#define SHMQ_RING_H

#include "port.h"

/* Publish the slot of my IDLE cell, whose header and payload are complete. Post: OK, the cell now names an empty slot;
 * WOULD_BLOCK: full, nothing changed; CORRUPT. Killed here: published whole, or not at all. Wakes no waiter. */
shmq_status shmq_ring_put(struct shmq_queue_port *queue, uint32_t cell);

/* Publish as shmq_ring_put does, but for a message that is in the queue already, in its backlog: also after a shutdown. */
shmq_status shmq_ring_move_in(struct shmq_queue_port *queue, uint32_t cell);

/* Give the empty slot of my IDLE cell for the oldest message. Post: OK, the cell is `leased` (LEASED, or TIMED with the
 * deadline of shmq_lease_time) and names the message; WOULD_BLOCK: empty; CORRUPT. Killed here: in the ring, or leased and
 * redelivered by the reaper. */
shmq_status shmq_ring_get(struct shmq_queue_port *queue, uint32_t cell, enum shmq_cell_state leased);

/* Take a message into each of `count` cells, by one exchange each, and move the sequence once. Post: how many were taken. Fewer
 * than `count`: it met no more at that moment; for 0, *status says why. */
uint32_t shmq_ring_get_many(struct shmq_queue_port *queue, const uint32_t *cells, uint32_t count, enum shmq_cell_state leased,
                            shmq_status *status);

/* Publish many messages from one cell: `fill` writes the next message into the cell's slot, and returns false at the end. Post: how many
 * were published; *status says why the last one that was written was not: OK (it was), SHUT, WOULD_BLOCK, CORRUPT. */
typedef bool (*shmq_fill)(void *context, struct shmq_queue_port *queue, uint32_t slot);
uint32_t shmq_ring_put_many(struct shmq_queue_port *queue, uint32_t cell, shmq_fill fill, void *context, shmq_status *status);

#endif
