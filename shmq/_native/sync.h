/* Atomics, cache lines and crash points: the few words of C11 that the rest of the engine is written in.
 *
 * Every shared word is reached through these names, so that each access shows its order. Partners are named by a label
 * in a comment, `[label]`, which stands at both ends of a synchronising pair:
 *
 *   [publish]   put's exchange on a ring cell          -> get's look at the same cell: payload and slot header
 *   [return]    get's exchange on a ring cell          -> put's look at the same cell: the slot given back is no longer read
 *   [hand]      a store to an in-flight cell           -> reaper, adopter or claimant of that cell
 *   [intent]    the intent's operation word            -> the reaper's two looks around an in-flight cell
 *   [orphan]    orphan_changes after a cell became ORPHAN -> the consumer that compares it with what it has seen
 *   [park]      exchange, then look at the waiter count <-> announce, then look at the ring (all four seq_cst: Dekker); the
 *               same where the announcement is an armed bell, and where what one waits for is a shutdown or the last ack
 *   [view]      a viewer says so, then looks whether the lease is its own <-> the cell is another's, then look for viewers;
 *               a viewer says that it goes (also by detaching, or its reaper for it), then looks whether the cell was handed to it
 *               <-> hand it over, then look again (Dekker)
 *   [end]       begun, take another one's lease over, give it back, ended <-> look at ended, at the cells, at begun: a loop that sees
 *               such a cell as its own process's sees as well that somebody is at it
 *   [ready]     the magic word stored last             -> attach
 *
 * `relaxed` is used where the word is private to its writer until a later release, or is only a counter for people.
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
