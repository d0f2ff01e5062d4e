/* Delivery: one try to publish a message, and one to take the next, as every caller does them.
 *
 * The order of delivery stands here and nowhere else: what came back before what is new, each in the order in which it was put. So does
 * what follows a success: it is counted, and one who waits for it is woken. How long a caller tries again is its own business (await.h).
 */
#ifndef SHMQ_DELIVER_H
#define SHMQ_DELIVER_H

#include "cell.h"
#include "ring.h"

/* Publish the slot of my cell (IDLE or LOANED), whose header and payload are complete. `is_new`: not one that waited in the backlog,
 * which was counted when it came there, and moves in also after a shutdown. Post: OK; WOULD_BLOCK; SHUT; CORRUPT. The cell is mine as
 * before; after OK it names an empty slot. Killed here: published whole, or not at all. */
shmq_status shmq_offer(struct shmq_port *port, uint32_t cell, bool is_new);

/* Publish many new ones from one cell: see shmq_ring_put_many. */
uint32_t shmq_offer_many(struct shmq_port *port, uint32_t cell, shmq_fill fill, void *context, shmq_status *status);

/* Lease the next message, in a cell for this call, or for as long as a user holds it (`for_long`). `lease_ns`: the cell is TIMED, for so
 * long; 0: LEASED, for as long as this process lives. Post: OK and *cell; EXHAUSTED and *cell, LEASED: it has failed too often, and
 * is to become a dead letter (only where port->writes_dead_letters); WOULD_BLOCK; NO_CELLS; CORRUPT: nothing is held. Killed here: it is
 * where it was, or leased and delivered again by the reaper. */
shmq_status shmq_take(struct shmq_port *port, bool for_long, uint64_t lease_ns, uint32_t *cell);

/* Lease up to `wanted` messages, in cells for this call; one that came back alone. Post: how many of `cells` are LEASED, and no other is
 * held. For 0, *status says why; where that is EXHAUSTED, the first of `cells` is LEASED as after shmq_take. */
uint32_t shmq_take_many(struct shmq_port *port, uint32_t *cells, uint32_t wanted, shmq_status *status);

/* What a try at this side that ended with `status` means for a caller that would wait: SHUT where no message goes in any more, or none comes
 * out (`stays`: see shmq_is_over); otherwise `status`. */
shmq_status shmq_verdict(struct shmq_port *port, enum shmq_side side, shmq_status status, bool stays);

/* For how many who wait at this side is a try worth it? As many as there are (SHMQ_MAX_SLOTS) where all is done, or the queue was shut.
 * Of messages that came back it says one at a time. */
uint64_t shmq_worth(struct shmq_port *port, enum shmq_side side);

#endif
