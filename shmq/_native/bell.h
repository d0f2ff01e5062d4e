/* Bells: how those are woken who cannot sleep on a semaphore, because they wait for other things too.
 *
 * A bell is a FIFO beside the segment, one per port, made when it is first wanted. Its owner arms it for a side, looks once
 * more, and then waits for the descriptor to be readable, in an event loop or in poll(2). Whoever publishes (frees a cell, ends
 * the last message) and finds SHMQ_BELLS in the side's count of waiters takes the side off one armed bell and writes a byte to
 * it: one message wakes one waiter. Arming and looking pair with exchanging and looking at the count, as for sleepers [park].
 *
 * A FIFO, since its descriptor must be had by name: an eventfd cannot be opened by an unrelated process, and an abstract
 * socket has no permissions and ends at the network namespace. Rejected too: a count of armed bells. Whoever is killed between
 * two stores would leave it wrong for ever, while a flag that says "perhaps" is put right by the next who finds nobody.
 *
 * Like a semaphore's post, a ring is a hint: it is lost where the one who rings, or the one who was woken, is killed. So who
 * waits looks again by the clock, as rarely as a sleeper does (SHMQ_SLICE_MS), and passes on a ring that it does not need.
 */
#ifndef SHMQ_BELL_H
#define SHMQ_BELL_H

#include "port.h"

/* Make my port's bell. Post: its descriptor, for reading, not blocking, closed on exec; or -1 and errno. Killed here: a file
 * that the reaper removes. */
int shmq_bell_make(struct shmq_port *port);

/* Does the name of my port's bell still lead to this descriptor? Where it was removed, or replaced, nobody can ring it. */
bool shmq_bell_is_there(const struct shmq_port *port, int fd);

/* Remove the bell of a port: my own, or of one that I reap. */
void shmq_bell_remove(struct shmq_port *port, uint32_t index);

/* My bell is to be rung for this side, once. The caller looks again before it waits. False: it was not armed. Who had armed it was
 * told, then, whether it hears it or not; a waiter that takes nothing of what it was told of passes that on. Killed here: whoever rings it finds
 * nobody there, and goes on to the next. */
bool shmq_bell_arm(struct shmq_port *port, enum shmq_side side);

/* … is not to be rung any more. False: somebody has; who has no use for that passes it on (shmq_pass_on). */
bool shmq_bell_disarm(struct shmq_port *port, enum shmq_side side);

/* Is any bell armed for this side? The next walk begins with it. */
bool shmq_bell_is_armed(struct shmq_port *port, enum shmq_side side);

/* Ring one bell that is armed for this side; or some, where others may have published meanwhile and found nobody to be told.
 * False: there is none, or no descriptor left to ring it by. Never blocks. Killed here: one wake-up is lost. */
bool shmq_bell_ring(struct shmq_port *port, enum shmq_side side);

#endif
