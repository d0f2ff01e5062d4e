/* Pre-included (`cc -include`) when the engine is compiled for crash_test.c: after every store to shared memory the test is
 * called, and may die there. So each state in which a killed process can leave a segment is met, named crash point or not.
 * Plain stores are left out: they go to slots that nobody else can see yet. */
#ifndef SHMQ_EVERY_STORE_H
#define SHMQ_EVERY_STORE_H

#include "sync.h"

void shmq_stored(const volatile void *word);

#undef shmq_store_relaxed
#undef shmq_store_release
#undef shmq_add_relaxed
#undef shmq_add_seq
#undef shmq_swap_seq
#undef shmq_or_seq
#undef shmq_and_seq
#undef shmq_store_seq

#define SHMQ_STORE_AND_TELL(p, v, order) (atomic_store_explicit((p), (v), order), shmq_stored(p))
#define SHMQ_CHANGE_AND_TELL(how, p, v, order) \
    __extension__({ __auto_type before_ = atomic_fetch_##how##_explicit((p), (v), order); shmq_stored(p); before_; })

#define shmq_store_relaxed(p, v) SHMQ_STORE_AND_TELL(p, v, memory_order_relaxed)
#define shmq_store_release(p, v) SHMQ_STORE_AND_TELL(p, v, memory_order_release)
#define shmq_store_seq(p, v) SHMQ_STORE_AND_TELL(p, v, memory_order_seq_cst)
#define shmq_add_relaxed(p, v) SHMQ_CHANGE_AND_TELL(add, p, v, memory_order_relaxed)
#define shmq_add_seq(p, v) SHMQ_CHANGE_AND_TELL(add, p, v, memory_order_seq_cst)
#define shmq_or_seq(p, v) SHMQ_CHANGE_AND_TELL(or, p, v, memory_order_seq_cst)
#define shmq_and_seq(p, v) SHMQ_CHANGE_AND_TELL(and, p, v, memory_order_seq_cst)
#define shmq_swap_seq(p, expected, v) __extension__({ \
    bool happened_ = atomic_compare_exchange_strong_explicit((p), (expected), (v), memory_order_seq_cst, memory_order_acquire); \
    if (happened_) shmq_stored(p); \
    happened_; })

#endif
