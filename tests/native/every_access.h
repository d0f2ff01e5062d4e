/* Pre-included (`clang -include`) when the engine is compiled for fuzz_segment.c, meetings.c and steps.c: every atomic access to
 * shared memory is counted, and before the one that the test names the test is called. There it scribbles, lets another port
 * act, ends the "process" that is calling, or finds that a call never returns. So words change between any two looks at them,
 * in every run of one input at the same place. */
#ifndef SHMQ_EVERY_ACCESS_H
#define SHMQ_EVERY_ACCESS_H

#include "sync.h"

extern uint64_t shmq_accesses, shmq_accesses_until; /* how many there were, and at which one the test wants to be called */
void shmq_access_met(void);

static inline void shmq_before_access(void) {
    if (++shmq_accesses >= shmq_accesses_until) shmq_access_met();
}

#undef shmq_load_relaxed
#undef shmq_load_acquire
#undef shmq_load_seq
#undef shmq_store_relaxed
#undef shmq_store_release
#undef shmq_add_relaxed
#undef shmq_add_seq
#undef shmq_swap_seq
#undef shmq_or_seq
#undef shmq_and_seq
#undef shmq_store_seq

#define shmq_load_relaxed(p) (shmq_before_access(), atomic_load_explicit((p), memory_order_relaxed))
#define shmq_load_acquire(p) (shmq_before_access(), atomic_load_explicit((p), memory_order_acquire))
#define shmq_load_seq(p) (shmq_before_access(), atomic_load_explicit((p), memory_order_seq_cst))
#define shmq_store_relaxed(p, v) __extension__({ __auto_type v_ = (v); shmq_before_access(); atomic_store_explicit((p), v_, memory_order_relaxed); })
#define shmq_store_release(p, v) __extension__({ __auto_type v_ = (v); shmq_before_access(); atomic_store_explicit((p), v_, memory_order_release); })
#define shmq_add_relaxed(p, v) (shmq_before_access(), atomic_fetch_add_explicit((p), (v), memory_order_relaxed))
#define shmq_add_seq(p, v) (shmq_before_access(), atomic_fetch_add_explicit((p), (v), memory_order_seq_cst))
#define shmq_or_seq(p, v) (shmq_before_access(), atomic_fetch_or_explicit((p), (v), memory_order_seq_cst))
#define shmq_and_seq(p, v) (shmq_before_access(), atomic_fetch_and_explicit((p), (v), memory_order_seq_cst))
#define shmq_store_seq(p, v) __extension__({ __auto_type v_ = (v); shmq_before_access(); atomic_store_explicit((p), v_, memory_order_seq_cst); })
#define shmq_swap_seq(p, expected, v) \
    (shmq_before_access(), atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_seq_cst, memory_order_acquire))

#define shmq_pause() ((void)0) /* thousands of lost exchanges in a row cost the engine milliseconds on purpose */

#endif
