/* Waking waiters: those asleep on a semaphore, and those that listen for a bell.
 *
 * A port that publishes (frees a ring cell, ends the last message) looks at the side's count of waiters after its exchange. It takes one
 * waiter off the count and posts once; where none sleeps, it rings a bell (bell.h). Both are hints: under SIGKILL a wake-up may be
 * lost, or one too many be left, so that waiters look again by the clock (wait.h).
 */
#ifndef SHMQ_WAKE_H
#define SHMQ_WAKE_H

#include "port.h"

/* Wake one waiter of the side, if there is one (and, for space, if it is worth it): one that sleeps, or else one whose bell is armed.
 * Never blocks. */
void shmq_wake(struct shmq_port *port, enum shmq_side side);

/* For a waiter that was woken, and takes nothing: wake another one, if what it was woken for is still there. */
void shmq_pass_on(struct shmq_port *port, enum shmq_side side);

/* Wake every waiter of this side. */
void shmq_wake_all(struct shmq_port *port, enum shmq_side side);

/* Take one off a count of sleepers. False: it is zero. */
bool shmq_take_one_off(shmq_half *waiters);

/* Take the sleepers of a dead port off the counts. One that the count does not have any more had a post on its way. */
void shmq_sleepers_take_off(struct shmq_port *port, uint32_t index);

/* After a put (get): look at the count, which pairs with the announcement [park]. */
static inline void shmq_wake_after(struct shmq_port *port, enum shmq_side side) {
    if (shmq_unlikely(shmq_load_seq(shmq_waiters(port, side)))) shmq_wake(port, side); /* [park] */
}

/* Wake those that wait for the last message to be done, if it is. */
void shmq_tell_if_done(struct shmq_port *port);

/* To be called after what may have been the last step of the last message, where that was a seq_cst access. */
static inline void shmq_wake_if_done(struct shmq_port *port) {
    if (shmq_unlikely(shmq_load_seq(&port->header->done_waiters))) shmq_tell_if_done(port); /* [park] */
}

/* To be called after such a step where it was a weaker store, which a look alone might overtake. */
static inline void shmq_wake_if_done_after_store(struct shmq_port *port) {
    if (shmq_unlikely(shmq_add_seq(&port->header->done_waiters, 0))) shmq_tell_if_done(port); /* [park] */
}

/* Post: the port `index`, mine or one that I reap, waits no longer, and has no bell. */
void shmq_port_stop_waiting(struct shmq_port *port, uint32_t index);

/* Give back my port, which holds nothing any more. It is free afterwards. */
void shmq_port_free(struct shmq_port *port);

#endif
