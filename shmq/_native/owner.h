/* Which processes are alive: the kernel's answer.
 *
 * Each process draws a random identity below 2^62 and locks the byte at that offset in one lock file per user
 * (/dev/shm/.shmq-UID.lock, mode 0600). The kernel drops the lock when the process ends, however it ends. Since identities
 * are never used again, "the byte is free" means "that process is dead" and nothing else. Pids are reused, start times
 * differ between time namespaces, and neither is visible across pid namespaces.
 *
 * The lock is one of an open file (F_OFD_SETLK) whose only reference is a mapping that no fork copies (MADV_DONTFORK): no
 * descriptor holds it. So a program that closes all its descriptors keeps its identity. A forked child does not inherit it,
 * and takes one of its own on first use; an exec ends it. A lock of the process (F_SETLK) would go when any descriptor of the file is
 * closed. One of an open file that is kept by a descriptor, or an flock, would stay held by a forked child.
 *
 * Bytes from 2^62 on serve as named locks between processes: one reaper per segment, one creator per name. Those are locks of
 * the process, held for a moment, by the one descriptor of the file that the process keeps. Closing another one would drop them.
 */
#ifndef SHMQ_OWNER_H
#define SHMQ_OWNER_H

#include <stdbool.h>
#include <stdint.h>

#include "sync.h"

/* This process's identity, locked; 0 with errno where the lock file cannot be opened or is not ours. Thread-safe. */
uint64_t shmq_owner_self(void);

/* Moves in the child of every fork: a handle that remembers another value was inherited. */
extern uint64_t shmq_owner_forks;

/* How often threads of this process have begun to give back another port's lease, and have ended that. In between the cell is this
 * process's, though no consumer of it holds the message. A forked child has begun nothing. [end] */
extern shmq_word shmq_owner_begun, shmq_owner_ended;

/* Does the process with this identity live? Errors of the kernel count as life: no process is reaped on a guess. */
bool shmq_owner_alive(uint64_t identity);

/* Is the lock file at hand? Where a program closed its descriptor, it is opened again. Where that fails (no descriptor is left),
 * the living cannot be told from the dead. */
bool shmq_owner_can_judge(void);

/* In which pid namespace this process is counted, for people; 0 where /proc does not tell, and before shmq_owner_self(). */
uint64_t shmq_owner_namespace(void);

/* The inode of the lock file: identities are comparable only within one. 0 before shmq_owner_self(). */
uint64_t shmq_owner_lock_inode(void);

/* Is this process known by the lock file of the user that it runs as now? Asked before a queue is opened by name. False: it took its
 * identity before it became another user. A forked child without an identity gives up its parent's lock file here. */
bool shmq_owner_is_this_user(void);

/* Try to take, and give back, the named lock `key` (any number). The kernel gives it back at death. A second thread of
 * this process is refused as another process would be. */
bool shmq_owner_lock(uint64_t key);
void shmq_owner_unlock(uint64_t key);

/* The pid of the process that has the named lock, this one's own included; 0 where it is free, or its holder is not in this pid
 * namespace. */
int64_t shmq_owner_holder(uint64_t key);

/* Fill `out` from the kernel's generator. */
bool shmq_owner_random(void *out, unsigned nbytes);

#endif
