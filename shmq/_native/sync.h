/* Atomics, cache lines and crash points: the few words of C11 that the rest of the engine is written in.
 *
 * Every shared word is reached through these names, so that each access shows its order. Each acquire, release and seq_cst access carries
 * a label in its comment, `[label]`, which stands at both ends of a synchronising pair; an access that is part of two pairs carries two.
 * tests/native/test_labels.py reads the two tables below, and finds an access without a label and a label without a partner; in the binding, too.
 *
 * One side releases, and what it wrote before is visible to the side that acquires:
 *
 *   label      | word                 | released by                           | acquired by                    | what becomes visible
 *   [ready]    | magic                | the creator, last of all              | attach                         | the whole segment
 *   [publish]  | ring                 | a put's exchange                      | a get's look, reaper           | slot header and payload
 *   [return]   | ring                 | a get's exchange                      | a put's look, reaper, peek     | the slot given back is no longer read
 *   [sequence] | write_seq, read_seq  | a port that moves it                  | the next look                  | the ring cells before it
 *   [hand]     | word, handed         | owner, claimant or reaper of a cell   | the next one, each look        | the cell's fields, and its slot
 *   [intent]   | intent, word         | a port, around its exchange           | reaper, join                   | expected, taken_at; then the cell
 *   [orphan]   | orphan_changes       | a port that made a cell ORPHAN        | a consumer that compares it    | that cell
 *   [port]     | owner                | claimant; owner that leaves, reaper   | claimant, reaper, each look    | the record is cleared
 *   [serial]   | serial               | owner that draws one                  | a reaper of side segments      | serial_before
 *   [used]     | ports_used           | claimant, before it claims            | each walk over the ports       | the number alone
 *   [deadline] | expires              | owner; a reaper, for a stopped owner  | extend, expire, adopt          | the deadline alone
 *   [mark]     | prefetched           | owner                                 | a port that ends the lease     | the mark alone
 *   [failed]   | deliveries           | a port that counts a failed delivery  | its reaper                     | first_failed_ms
 *   [timing]   | timing               | the first lease with a time-out       | expire                         | the flag alone
 *   [asleep]   | asleep               | sleeper, its reaper                   | reaper, all_wait               | the number alone
 *   [duty]     | watch                | a sleeper that takes it, or ends it   | the same                       | the time alone
 *   [look]     | look_due             | a port that looks                     | the same                       | the time alone
 *   [spilled]  | spilled              | a port, before its side segment       | a reaper of side segments      | the flag alone
 *   [sides]    | events, sides_reaped | a reaper; a reaper of side segments   | a reaper of side segments      | what the dead held is settled
 *   [log]      | words                | a port at the backlog, under its lock | the next one                   | the records (shmq/_binding/backlog.pxi)
 *   [self]     | self                 | the thread that drew the identity     | the others of its process      | its lock file and pid namespace
 *
 * Both sides write, then look at what the other writes, all four seq_cst (Dekker): one of the two sees the other.
 *
 *   label      | word                 | one side                              | the other side
 *   [park]     | items_waiters, space_waiters, done_waiters, ring, word, orphan_changes, intent, backlog, shut, done
 *              |                      | change what is waited for; look at    | a waiter joins the count, or arms its bell and sets
 *              |                      | the count of waiters                  | SHMQ_BELLS; it looks at what it waits for
 *   [bell]     | bell, items_waiters, space_waiters, done_waiters
 *              |                      | arm a bell; set SHMQ_BELLS            | clear SHMQ_BELLS; look at every bell
 *   [view]     | viewers, word        | a viewer begins or ends (also by      | the lease ends, or the cell is handed over; look at
 *              |                      | detach or its reaper); look at the    | the viewers
 *              |                      | cell                                  |
 *   [end]      | shmq_owner_begun, shmq_owner_ended, word
 *              |                      | begun; take over another one's lease; | a loop looks at ended, at the cells, at begun: it sees
 *              |                      | give it back; ended                   | that a thread of its process is about to give one back
 *
 * `relaxed` is used where the word is private to its writer until a later release, or is only a counter for people. Some of the words
 * above need no more either; a stronger order on a path that is not hot costs less than the proof.
 */
#ifndef SHMQ_SYNC_H
#define SHMQ_SYNC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define SHMQ_LINE 64u

typedef _Atomic uint64_t shmq_word;
typedef _Atomic uint32_t shmq_half;

_Static_assert(sizeof(shmq_word) == 8, "a cell must be one machine word");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "64-bit atomics must be lock-free: a lock would die with its owner");

#define shmq_load_relaxed(p) atomic_load_explicit((p), memory_order_relaxed)
#define shmq_load_acquire(p) atomic_load_explicit((p), memory_order_acquire)
#define shmq_load_seq(p) atomic_load_explicit((p), memory_order_seq_cst)
#define shmq_store_relaxed(p, v) atomic_store_explicit((p), (v), memory_order_relaxed)
#define shmq_store_release(p, v) atomic_store_explicit((p), (v), memory_order_release)
#define shmq_add_relaxed(p, v) atomic_fetch_add_explicit((p), (v), memory_order_relaxed)
#define shmq_add_seq(p, v) atomic_fetch_add_explicit((p), (v), memory_order_seq_cst)
#define shmq_or_seq(p, v) atomic_fetch_or_explicit((p), (v), memory_order_seq_cst)
#define shmq_and_seq(p, v) atomic_fetch_and_explicit((p), (v), memory_order_seq_cst)
#define shmq_store_seq(p, v) atomic_store_explicit((p), (v), memory_order_seq_cst)
#define shmq_swap_seq(p, expected, v) \
    atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_seq_cst, memory_order_acquire)

/* A counter with one writer: a plain increment, atomic only so that a reader in another process sees whole words. */
#define shmq_count(p, n) shmq_store_relaxed((p), shmq_load_relaxed(p) + (uint64_t)(n))

static inline void shmq_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("isb" ::: "memory"); /* `yield` is a no-op on most cores; isb waits some tens of cycles */
#endif
}

#define shmq_prefetch_read(p) __builtin_prefetch((p), 0, 3)
#define shmq_prefetch_write(p) __builtin_prefetch((p), 1, 3)
#define shmq_likely(x) __builtin_expect(!!(x), 1)
#define shmq_unlikely(x) __builtin_expect(!!(x), 0)

static inline uint64_t shmq_clock_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#define shmq_now_ns() shmq_clock_ns(CLOCK_MONOTONIC)
/* For time stamps on messages: the tick of the kernel (1 to 4 ms), a quarter of the price of the exact clock. */
#define shmq_now_coarse_ns() shmq_clock_ns(CLOCK_MONOTONIC_COARSE)

/* A window between two stores that matter. In a build with -DSHMQ_CRASH_POINTS the tests die there. */
#ifdef SHMQ_CRASH_POINTS
void shmq_crash_point(const char *name);
#define SHMQ_CRASH_POINT(name) shmq_crash_point(#name)
#else
#define SHMQ_CRASH_POINT(name) ((void)0)
#endif

#endif
