/* Looks at a queue that change nothing in it: messages, room, what is not done, and whether a message can still come. */
#ifndef SHMQ_LOOK_H
#define SHMQ_LOOK_H

#include "port.h"

/* Was the queue shut down? Then no message goes in any more. */
static inline bool shmq_is_shut(const struct shmq_queue_port *queue) { return shmq_load_seq(&queue->header->shut) != SHMQ_NOT_SHUT; } /* [park] */

/* Messages that wait in the backlog. */
static inline uint64_t shmq_backlog(const struct shmq_queue_port *queue) { return shmq_load_seq(&queue->header->backlog); } /* [park] */

/* -- the ring -------------------------------------------------------------------------------------------------------- */

/* Would a put (get) find room (a message) now? Sequentially consistent: the second half of the handshake [park]. */
bool shmq_ring_has_space(struct shmq_queue_port *queue);
bool shmq_ring_has_item(struct shmq_queue_port *queue);

/* Is the nth cell from the front filled (from the back free)? A look takes the cache line from the port that writes it. */
bool shmq_ring_has_items(struct shmq_queue_port *queue, uint32_t nth);
bool shmq_ring_has_spaces(struct shmq_queue_port *queue, uint32_t nth);

/* Messages in the ring: exact at a quiet moment, otherwise between what it was and what it is. */
uint32_t shmq_ring_length(const struct shmq_queue_port *queue);

/* Messages in the ring by the sequences alone, which may lag: reads no ring cell that other ports are working on. */
uint32_t shmq_ring_estimate(const struct shmq_queue_port *queue);

/* Copy the header and up to `limit` payload bytes of the nth message from the front without taking it. False: there is
 * none, or it was taken meanwhile (then *moved). The copy is whole: the cell is looked at again after it. */
bool shmq_ring_peek(struct shmq_queue_port *queue, uint32_t nth, struct shmq_slot *slot, void *payload, uint64_t limit, bool *moved);

/* -- the in-flight cells ---------------------------------------------------------------------------------------------- */

/* Sets of states. */
#define SHMQ_IN_STATE(state) (1u << (state))
#define SHMQ_DELIVERED (SHMQ_IN_STATE(SHMQ_LEASED) | SHMQ_IN_STATE(SHMQ_TIMED))
#define SHMQ_NOT_DONE (SHMQ_DELIVERED | SHMQ_IN_STATE(SHMQ_ORPHAN))

/* The next in-flight cell from *cell on that is in one of these states, and its word as it was at that moment; *cell is its index. False:
 * there is none. Every look at the cells goes this way; a scribbler may have written any word. Sequentially consistent: it may be the
 * second half of the handshakes [park] and [end]. */
static inline bool shmq_find_cell(const struct shmq_queue_port *queue, unsigned states, uint32_t *cell, uint64_t *word) {
    const struct shmq_cell *end = queue->cells + queue->geometry.cells;
    for (const struct shmq_cell *at = queue->cells + *cell; at < end; at++) {
        *word = shmq_load_seq(&at->word); /* [hand] [park] [end] */
        if (shmq_likely(!(states >> shmq_cell_state(*word) & 1))) continue;
        *cell = (uint32_t)(at - queue->cells);
        return true;
    }
    return false;
}

/* -- what is there --------------------------------------------------------------------------------------------------- */

/* Messages that wait in the ring and in the backlog: leased ones and those that came back are not counted. */
uint64_t shmq_ready(const struct shmq_queue_port *queue);

/* How many messages can be put at once? */
uint32_t shmq_room(struct shmq_queue_port *queue);

/* Messages that came back, and are not to become dead letters: how many are due, how many rest, and when the first of those is due. */
struct shmq_came_back {
    uint32_t due, resting;
    uint32_t exhausted;   /* these are to become dead letters: they were rejected, or failed too often */
    uint64_t next_due_ns; /* SHMQ_FOREVER where none rests */
};
struct shmq_came_back shmq_came_back(const struct shmq_queue_port *queue);

/* -- all of it ------------------------------------------------------------------------------------------------------- */

/* Is a try at this side worth it: is there a message, is there room, is all done; or was the queue shut down, or corrupted?
 * `stays`: see shmq_is_over. */
bool shmq_promising(struct shmq_queue_port *queue, enum shmq_side side, bool stays);

/* Is there so much room, or was no producer woken for so long, that one is worth waking? */
bool shmq_worth_waking(const struct shmq_queue_port *queue, uint64_t now);

/* Was the queue shut down, and can no message come to a consumer any more? Looks at `shut` first and at everything else after it, so
 * that what was put before a shutdown is found; an earlier look would prove nothing. A message that rests will come. One that another
 * process holds may come back: `stays` says to wait for that, as loops do, which hold nothing while they wait. Two consumers that
 * collect leases would wait for one another. What this process holds it can give back itself. */
bool shmq_is_over(struct shmq_queue_port *queue, bool stays);

/* The look at everything but `shut`: can no message come, unless one is put? */
bool shmq_nothing_comes(struct shmq_queue_port *queue, bool stays);

/* Does every other attached handle wait, asleep or for its bell? Then no port is left that would wake them. */
bool shmq_all_wait(const struct shmq_queue_port *queue);

/* Of the cells that leases and loans may take (`for_long`; else: that any call may take), is one free, or in use by a call that is
 * running, so that it will be free in a moment? Otherwise users hold them all: it takes an ack, a publication, or a message that
 * rests to be due. */
bool shmq_cells_move(const struct shmq_queue_port *queue, bool for_long);

/* Messages that are not done: those in the ring, the backlog, in flight, and those taken by get without a task_done so far. */
uint64_t shmq_unfinished(const struct shmq_queue_port *queue);

/* Are all messages done? As shmq_unfinished() == 0, but it ends at the first message that it meets, and begins where it met the last. */
bool shmq_all_done(struct shmq_queue_port *queue);

/* Have gets taken so many messages, over all ports? Begins with this port's count, and ends when there are enough. */
bool shmq_has_taken(const struct shmq_queue_port *queue, uint64_t count);

#endif
