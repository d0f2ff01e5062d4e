/* Pre-included (-include) when the engine is compiled for a program that acts between two accesses of a call to shared memory:
 * every atomic access is counted, and before the one that the program names it is called. There it scribbles, lets another port
 * act, ends the "process" that is calling, or finds that a call never returns. So words change between any two looks at them, in
 * every run of one input at the same place. And after each store it is told the word, and may die there: so each state in which a
 * killed process can leave a segment is met, named crash point or not. Plain stores are left out: they go to slots that nobody
 * else can see yet. */
#ifndef SHMQ_TEST_ACCESSES_H
#define SHMQ_TEST_ACCESSES_H

#include "sync.h"

/* Weak: each translation unit that includes this defines the same ones. */
__attribute__((weak)) uint64_t shmq_accesses, shmq_accesses_until = UINT64_MAX; /* how many there were; before which one to call */
__attribute__((weak)) void (*shmq_access_met)(void);                           /* … whom */
__attribute__((weak)) void (*shmq_stored)(const volatile void *word);          /* after each store, if anybody */

static inline void shmq_before_access(void) {
    if (++shmq_accesses >= shmq_accesses_until) shmq_access_met();
}
static inline void shmq_after_store(const volatile void *word) {
    if (shmq_stored) shmq_stored(word);
}

#undef shmq_load_relaxed
#undef shmq_load_acquire
#undef shmq_load_seq
#undef shmq_store_relaxed
#undef shmq_store_release
#undef shmq_store_seq
#undef shmq_add_relaxed
#undef shmq_add_seq
#undef shmq_swap_seq
#undef shmq_or_seq
#undef shmq_and_seq

#define SHMQ_MEET_STORE(p, v, order) __extension__({ \
    __auto_type v_ = (v); \
    shmq_before_access(); \
    atomic_store_explicit((p), v_, memory_order_##order); \
    shmq_after_store(p); })
#define SHMQ_MEET_CHANGE(how, p, v, order) __extension__({ \
    shmq_before_access(); \
    __auto_type before_ = atomic_fetch_##how##_explicit((p), (v), memory_order_##order); \
    shmq_after_store(p); \
    before_; })

#define shmq_load_relaxed(p) (shmq_before_access(), atomic_load_explicit((p), memory_order_relaxed))
#define shmq_load_acquire(p) (shmq_before_access(), atomic_load_explicit((p), memory_order_acquire))
#define shmq_load_seq(p) (shmq_before_access(), atomic_load_explicit((p), memory_order_seq_cst))
#define shmq_store_relaxed(p, v) SHMQ_MEET_STORE(p, v, relaxed)
#define shmq_store_release(p, v) SHMQ_MEET_STORE(p, v, release)
#define shmq_store_seq(p, v) SHMQ_MEET_STORE(p, v, seq_cst)
#define shmq_add_relaxed(p, v) SHMQ_MEET_CHANGE(add, p, v, relaxed)
#define shmq_add_seq(p, v) SHMQ_MEET_CHANGE(add, p, v, seq_cst)
#define shmq_or_seq(p, v) SHMQ_MEET_CHANGE(or, p, v, seq_cst)
#define shmq_and_seq(p, v) SHMQ_MEET_CHANGE(and, p, v, seq_cst)
#define shmq_swap_seq(p, expected, v) __extension__({ \
    shmq_before_access(); \
    bool happened_ = atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_seq_cst, memory_order_acquire); \
    if (happened_) shmq_after_store(p); \
    happened_; })

#define shmq_pause() ((void)0) /* thousands of lost exchanges in a row cost the engine milliseconds on purpose */

#endif
