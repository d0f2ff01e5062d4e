/* Messages that came back, and rest until they are due.
 *
 * Such a message lies in an ORPHAN cell until a consumer adopts it: not before `due_ns`, and before any message of the ring. Where it
 * was rejected, or has failed as often as the segment's policy allows, only a handle that writes dead letters takes it.
 */
#ifndef SHMQ_RESTING_H
#define SHMQ_RESTING_H

#include "port.h"

/* Is a message due that rested, as far as this port knows? */
static inline bool shmq_orphan_is_due(const struct shmq_queue_port *queue) {
    return shmq_unlikely(queue->due_ns != SHMQ_FOREVER) && shmq_now_ns() >= queue->due_ns;
}

/* Has a message come back, or become due, since this port last found none? Most takes ask no more than this. */
static inline bool shmq_orphans_stir(const struct shmq_queue_port *queue) {
    if (shmq_unlikely(shmq_load_seq(&queue->header->orphan_changes) != queue->orphan_changes_seen)) return true; /* [orphan] */
    return shmq_orphan_is_due(queue);
}

/* ORPHAN -> LEASED, or TIMED where deadline_ns is not 0, mine: of those that are due the one that was put first. Only looks where
 * orphan_changes has moved since this port last found none, or one that rested is due. Post: OK and *cell; EXHAUSTED and *cell, LEASED:
 * the message has failed too often, and is to be dead-lettered (only where port->writes_dead_letters; other ports leave it);
 * WOULD_BLOCK. Killed here: an ORPHAN cell, or a LEASED or TIMED one of a dead port. */
shmq_status shmq_orphan_adopt(struct shmq_queue_port *queue, uint64_t deadline_ns, uint32_t *cell);

/* Is there a message to adopt, or to dead-letter, now? Looks as rarely as shmq_orphan_adopt, and finds out when the next one is due. */
bool shmq_orphan_due(struct shmq_queue_port *queue);

/* Which messages that came back are looked for: those that may be delivered, or those to be dead-lettered, where they are due; or all. */
enum shmq_wish { SHMQ_TO_TAKE, SHMQ_TO_DEAD_LETTER, SHMQ_TO_DISCARD };

/* ORPHAN -> LEASED, mine: a message that is to be dead-lettered, or one to be discarded, due or not. False: there is none. */
bool shmq_orphan_claim(struct shmq_queue_port *queue, enum shmq_wish wish, uint32_t *cell);

#endif
