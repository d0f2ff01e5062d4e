/* Delivery: one try to publish a message, and one to take the next, as every caller does them.
 *
 * The order of delivery stands here and nowhere else: messages that came back before new ones, each in the order in which they were put.
 * So does what follows a success: it is counted, and one waiter is woken. How long a caller tries again is its own business (await.h).
 */
#ifndef SHMQ_DELIVER_H
#define SHMQ_DELIVER_H

#include "cell.h"
#include "ring.h"

/* Publish the slot of my cell (IDLE or LOANED), whose header and payload are complete. `is_new`: it did not wait in the backlog;
 * one that did was counted when it came there, and moves in also after a shutdown. Post: OK; WOULD_BLOCK; SHUT; CORRUPT. The cell is mine as
 * before; after OK it names an empty slot. Killed here: published whole, or not at all. */
shmq_status shmq_offer(struct shmq_queue_port *queue, uint32_t cell, bool is_new);

/* Publish many new messages from one cell: see shmq_ring_put_many. */
uint32_t shmq_offer_many(struct shmq_queue_port *queue, uint32_t cell, shmq_fill fill, void *context, shmq_status *status);

/* Lease the next message, in a cell for this call, or for as long as a user holds it (`for_long`). `lease_ns`: the cell is TIMED, for so
 * long; 0: LEASED, for as long as this process lives. Post: OK and *cell; EXHAUSTED and *cell, LEASED: the message has failed too often,
 * and is to become a dead letter (only where port->writes_dead_letters); WOULD_BLOCK; NO_CELLS; CORRUPT. Only after the first two is a
 * message held. Killed here: the message is where it was, or leased and delivered again by the reaper. */
shmq_status shmq_take(struct shmq_queue_port *queue, bool for_long, uint64_t lease_ns, uint32_t *cell);

/* Lease up to `wanted` messages, in cells for this call; one that came back comes alone. Post: how many of `cells` are LEASED, and no
 * other is held. For 0, *status says why; where that is EXHAUSTED, the first of `cells` is LEASED as after shmq_take. */
uint32_t shmq_take_many(struct shmq_queue_port *queue, uint32_t *cells, uint32_t wanted, shmq_status *status);

/* A try at this side ended with `status`: what does that mean for a caller that would wait? SHUT where no message goes in any more, or none
 * comes out (`stays`: see shmq_is_over); otherwise `status`. */
shmq_status shmq_verdict(struct shmq_queue_port *queue, enum shmq_side side, shmq_status status, bool stays);

/* For how many waiters of this side is a try worth it? For all (SHMQ_MAX_SLOTS) where all is done, or the queue was shut down.
 * Messages that came back count as one. */
uint64_t shmq_worth(struct shmq_queue_port *queue, enum shmq_side side);

#endif
