/* Leases: messages that were delivered and are not acked, how they end, and how often they have failed.
 *
 * A LEASED cell is changed by its owner alone. A TIMED one has a deadline, after which anybody may end it; so its owner does
 * in one compare-and-swap whatever it does (ack, extend), or first makes it LEASED, as everybody else must
 * (shmq_lease_take_over). That swap decides who gives the message back and counts the failed delivery: whoever loses it has
 * touched nothing. If the winner dies, its reaper finds a LEASED cell of the dead, like any other.
 *
 * A message that came back lies in an ORPHAN cell until a consumer adopts it, not before `due_ns`, and before any that waits
 * in the ring. Where it was rejected, or has failed as often as the segment's policy allows, only a handle that buries dead
 * letters takes it.
 */
#ifndef SHMQ_LEASE_H
#define SHMQ_LEASE_H

#include "../port.h"

/* Why a delivery ended without an ack. A release is not a failure; a rejected message is never delivered again. */
enum shmq_cause { SHMQ_RELEASED = 0, SHMQ_NACKED = 1, SHMQ_EXPIRED = 2, SHMQ_DIED = 3, SHMQ_REJECTED = 4 };

#define SHMQ_BY_POLICY UINT64_MAX

/* -- while it lasts -------------------------------------------------------------------------------------------------- */

/* My IDLE cell is about to become TIMED by a get: write until when, before anybody can see it. */
void shmq_lease_time(struct shmq_port *port, uint32_t cell, uint64_t deadline_ns);

/* Move the deadline of my lease whose word was *leased; a LEASED one becomes TIMED. Post: OK and *leased is its new word;
 * LOST. Killed here: at the old deadline or at the new one. */
shmq_status shmq_lease_extend(struct shmq_port *port, uint32_t cell, uint64_t *leased, uint64_t deadline_ns);

/* My lease was taken ahead of its turn (begun: false), or is now begun with. Only a message that was begun with fails when its
 * owner dies or its time is over. Does nothing where the lease has ended: the cell may be another's by now. */
void shmq_lease_mark(struct shmq_port *port, uint32_t cell, uint64_t leased, bool begun);

/* -- who looks ------------------------------------------------------------------------------------------------------- */

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

/* For a reaper: a cell that was handed to one who looks no longer, by one who died before he looked again, is free. */
void shmq_view_settle(struct shmq_port *port, uint32_t cell);

/* -- how it ends ----------------------------------------------------------------------------------------------------- */

/* A leased cell whose word was `leased` is done. `looking`: somebody still reads the slot -> HELD, else IDLE, and the
 * caller returns it. LOST: the lease had ended otherwise. Killed here: acked or not, by one exchange. */
shmq_status shmq_lease_ack(struct shmq_port *port, uint32_t cell, uint64_t leased, bool looking);

/* Make somebody's leased cell whose word was *leased a LEASED one of mine. LOST, or OK and *leased is its new word. */
shmq_status shmq_lease_take_over(struct shmq_port *port, uint32_t cell, uint64_t *leased);

/* My leased cell -> ORPHAN; the cell is nobody's afterwards. It is delivered again after `delay_ns`; SHMQ_BY_POLICY: after what
 * the segment's policy says for a failed delivery, and at once for a released one. LOST as above.
 * Killed here: it comes back, and has failed once at most. */
shmq_status shmq_lease_give_back(struct shmq_port *port, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns);

/* Give back every lease whose time is over, whoever holds it. Post: how many; port->expiry_ns is when the next one is due. */
uint32_t shmq_lease_expire(struct shmq_port *port);

/* -- what came back -------------------------------------------------------------------------------------------------- */

/* ORPHAN -> LEASED, or TIMED where deadline_ns is not 0, mine: of those that are due the one that was put first. Only looks where the epoch has moved since this port last found
 * nothing, or one that rested is due. Post: OK and *cell; EXHAUSTED and *cell, LEASED: it has failed too often, and is to be buried
 * (only where port->buries; others leave it); WOULD_BLOCK. One exchange of one cell: nothing is open if the process dies. */
shmq_status shmq_orphan_adopt(struct shmq_port *port, uint64_t deadline_ns, uint32_t *cell);

/* Is there one to adopt, or to bury, now? Looks as rarely, and finds out as well when the next one is due. */
bool shmq_orphan_due(struct shmq_port *port);

/* Which messages that came back one looks for: those that may be delivered, those that are to be buried; those that are due, or all. */
enum shmq_wish { SHMQ_TO_TAKE, SHMQ_TO_BURY, SHMQ_TO_DISCARD };

/* ORPHAN -> LEASED, mine, of one that is to be buried, or discarded, which needs not be due. False: there is none. */
bool shmq_orphan_claim(struct shmq_port *port, enum shmq_wish wish, uint32_t *cell);

/* -- what failed ----------------------------------------------------------------------------------------------------- */

/* For whoever holds a LEASED cell that reads `leased` (its owner, or the reaper of that): count the failed delivery, once
 * however often it is called for that word, and write when the message is due again. A released one only becomes due. */
void shmq_delivery_ended(struct shmq_port *port, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns);

/* Had the owner begun with the message of the leased cell that reads `leased`? */
bool shmq_lease_begun(const struct shmq_port *port, uint32_t cell, uint64_t leased);

/* The policy in a header, clamped to what makes sense: somebody else wrote it. */
struct shmq_policy shmq_policy_of(const struct shmq_header *header);

/* The word `deliveries` of a slot: failed deliveries (16) | tag: always 1, cause (3), generation (27), cell (14). */
static inline uint32_t shmq_deliveries_failed(uint64_t word) { return (uint32_t)(word & 0xffff); }
static inline enum shmq_cause shmq_deliveries_cause(uint64_t word) { return (enum shmq_cause)(word >> 57 & 7); }

/* Is a message of these failed deliveries to be buried? */
static inline bool shmq_message_exhausted(const struct shmq_port *port, uint64_t deliveries) {
    return shmq_deliveries_cause(deliveries) == SHMQ_REJECTED ||
           (port->policy.max_deliveries && shmq_deliveries_failed(deliveries) >= port->policy.max_deliveries);
}

#endif
