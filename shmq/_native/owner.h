/* Who is alive: the kernel's answer.
 *
 * Each process draws a random identity below 2^62 and locks the byte at that offset, by fcntl(F_SETLK), in one lock file
 * per user (/dev/shm/.shmq-UID.lock, mode 0600). The kernel drops the lock when the process ends, however it ends.
 * Since identities are never used again, "the byte is free" means "that process is dead" and nothing else: pids are
 * reused, start times differ between time namespaces, and neither is visible across pid namespaces.
 *
 * Rules that POSIX record locks impose, all kept here: the file is opened exactly once per process, since closing any
 * other descriptor of it would drop the lock; a forked child does not inherit the lock and takes an identity of its own
 * on first use; F_OFD_SETLK and flock would stay held by a forked child and are refused for that.
 *
 * Bytes from 2^62 on serve as named locks between processes: one reaper per segment, one creator per name.
 */
#ifndef SHMQ_OWNER_H
#define SHMQ_OWNER_H

#include <stdbool.h>
#include <stdint.h>

/* This process's identity, locked; 0 with errno where the lock file cannot be opened or is not ours. Thread-safe. */
uint64_t shmq_owner_self(void);

/* Moves in the child of every fork: a handle that remembers another value was inherited. */
extern uint64_t shmq_owner_forks;

/* Does the process with this identity live? Errors of the kernel count as life: nobody is reaped on a guess. */
bool shmq_owner_alive(uint64_t identity);

/* What tells this run of this process from any other, of the same pid too: its pid, when it began, the kernel's own number of it
 * where there is one, and the address of its stack, which is another after an exec. 0 where /proc tells nothing, and before
 * shmq_owner_self(). */
uint64_t shmq_owner_run(void);

/* A second opinion on a process whose byte is free: does that very run of this pid go on? Then it has only lost its lock (it
 * closed all descriptors at once, say), goes on using its port, and must not be reaped. Never the only opinion: pids
 * are reused, and mean something else in another namespace. */
bool shmq_owner_runs(uint64_t pid, uint64_t its_run);

/* Is our descriptor still that of the lock file? Where a program closed it, nobody can be told from the dead. */
bool shmq_owner_can_judge(void);

/* The inode of the lock file: identities are comparable only within one. 0 before shmq_owner_self(). */
uint64_t shmq_owner_lock_inode(void);

/* Is this process known by the lock file of the user that it runs as now? Asked before a queue is opened by name. False: it had taken
 * its identity before it became another user. A forked child that has not, leaves its parent's lock file here. */
bool shmq_owner_is_this_user(void);

/* Try to take, and give back, the named lock `key` (any number). The kernel gives it back at death. A second thread of
 * this process is refused as another process would be. */
bool shmq_owner_lock(uint64_t key);
void shmq_owner_unlock(uint64_t key);

/* Fill `out` from the kernel's generator. */
bool shmq_owner_random(void *out, unsigned nbytes);

#endif
