/* Leases: messages that were delivered and are not acked, how they end, and how often they have failed.
 *
 * A LEASED cell is changed by its owner alone. A TIMED one has a deadline, after which any port may end it. So its owner acks or
 * extends it in one compare-and-swap; or it first makes it LEASED, as every other port must (shmq_lease_take_over). That swap decides
 * which port gives the message back and counts the failed delivery: a port that loses it has changed nothing. If the winner dies, its
 * reaper finds a LEASED cell of the dead, like any other.
 */
#ifndef SHMQ_LEASE_H
#define SHMQ_LEASE_H

#include "policy.h"

#define SHMQ_BY_POLICY UINT64_MAX

/* -- while it lasts -------------------------------------------------------------------------------------------------- */

/* My IDLE cell is about to become TIMED by a get: write until when, before any other port can see it. */
void shmq_lease_time(struct shmq_queue_port *queue, uint32_t cell, uint64_t deadline_ns);

/* Move the deadline of my lease whose word was *leased; a LEASED one becomes TIMED. Post: OK and *leased is its new word;
 * LOST. Killed here: at the old deadline or at the new one. */
shmq_status shmq_lease_extend(struct shmq_queue_port *queue, uint32_t cell, uint64_t *leased, uint64_t deadline_ns);

/* My lease was prefetched (begun: false), or the program begins with it now. Only a message that was begun with fails when its
 * owner dies or its time is over. Does nothing where the lease has ended: the cell may be another's. */
void shmq_lease_mark(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, bool begun);

/* -- how it ends ----------------------------------------------------------------------------------------------------- */

/* A leased cell whose word was `leased` is done. `looking`: a view of the slot is left -> HELD; else IDLE, and the
 * caller returns it. LOST: the lease had ended otherwise. Killed here: acked or not, by one exchange. */
shmq_status shmq_lease_ack(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, bool looking);

/* Make any port's leased cell whose word was *leased a LEASED one of mine. LOST, or OK and *leased is its new word. */
shmq_status shmq_lease_take_over(struct shmq_queue_port *queue, uint32_t cell, uint64_t *leased);

/* My leased cell -> ORPHAN; the cell is nobody's afterwards. It is delivered again after `delay_ns`; SHMQ_BY_POLICY: after
 * the back-off of the segment's policy where the delivery failed, and at once where it was released. LOST: the lease had ended otherwise.
 * Killed here: it comes back, and has failed once at most. */
shmq_status shmq_lease_give_back(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns);

/* Give back every lease whose time is over, of any port. Post: how many; port->expiry_ns is when the next one is over. */
uint32_t shmq_lease_expire(struct shmq_queue_port *queue);

/* Called by the owner of a LEASED cell that reads `leased`, or by the owner's reaper. Counts the failed delivery, once however often it
 * is called for that word, and writes when the message is due again. A released message only becomes due. */
void shmq_delivery_ended(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns);

/* Had the owner begun with the message of the leased cell that reads `leased`? */
bool shmq_lease_begun(const struct shmq_queue_port *queue, uint32_t cell, uint64_t leased);

/* From the first lease with a deadline on, waiters look for expired ones; this port looks in time for its own. */
static inline void shmq_lease_begin_timing(struct shmq_queue_port *queue, uint64_t deadline_ns) {
    if (shmq_unlikely(!shmq_load_relaxed(&queue->header->timing))) shmq_store_release(&queue->header->timing, 1); /* [timing] */
    if (deadline_ns < queue->expiry_ns) queue->expiry_ns = deadline_ns;
}

#endif
