/* Bells: how waiters are woken that cannot sleep on a semaphore, because they wait for other things too.
 *
 * A bell is a FIFO beside the segment, one per port, made when it is first wanted. Its owner arms it for a side, looks once
 * more, and then waits for the descriptor to be readable, in an event loop or in poll(2). A port that publishes (frees a ring
 * cell, ends the last message) looks for SHMQ_BELLS in the side's count of waiters. If it is set, the port takes the side off one armed
 * bell and writes a byte to it: one message wakes one waiter. Arming and looking pair with exchanging and looking at the count, as for sleepers [park].
 *
 * A FIFO, since other processes must open it by name. An eventfd cannot be opened by an unrelated process; an abstract socket has no
 * permissions, and ends at the network namespace. Rejected too: a count of armed bells. A process that is killed between two stores
 * would leave it wrong for ever. A flag that says "perhaps" is put right by the next port that finds no bell armed.
 *
 * Like a semaphore's post, a ring is a hint: it is lost where the port that rings, or the waiter that was woken, is killed. So a
 * waiter looks again by the clock, as rarely as a sleeper does (SHMQ_SLICE_MS), and passes on a ring that it does not need.
 */
#ifndef SHMQ_BELL_H
#define SHMQ_BELL_H

#include "port.h"

/* Make my port's bell. Post: its descriptor, for reading, not blocking, closed on exec; or -1 and errno. Killed here: a file
 * that the reaper removes. */
int shmq_bell_make(struct shmq_port *port);

/* Does the name of my port's bell still lead to this descriptor? Where it was removed, or replaced, no port can ring it. */
bool shmq_bell_is_there(const struct shmq_port *port, int fd);

/* Remove the bell of a port: my own, or of one that I reap. */
void shmq_bell_remove(struct shmq_port *port, uint32_t index);

/* My bell is to be rung for this side, once. The caller looks again before it waits. True: it was armed already. False: it was not; if
 * the caller had armed it before, it was rung since then, heard or not. A waiter that takes nothing passes the ring on. Killed here:
 * the port that rings it finds no listener, and goes on to the next bell. */
bool shmq_bell_arm(struct shmq_port *port, enum shmq_side side);

/* My bell is not to be rung for this side any more. False: it was rung; a waiter that has no use for that passes it on (shmq_pass_on). */
bool shmq_bell_disarm(struct shmq_port *port, enum shmq_side side);

/* Is any bell armed for this side? The next walk begins with it. */
bool shmq_bell_is_armed(struct shmq_port *port, enum shmq_side side);

/* Ring one bell that is armed for this side; or all, where other ports may have published meanwhile and found no waiter to wake.
 * False: none is armed, or no descriptor is left to ring it by. Never blocks. Killed here: one wake-up is lost. */
bool shmq_bell_ring(struct shmq_port *port, enum shmq_side side);

#endif
