/* Numbers by chance that are the same in every run: xorshift64*. The state must not be 0. */
#ifndef SHMQ_TEST_CHANCE_H
#define SHMQ_TEST_CHANCE_H

#include <stdint.h>

static inline uint64_t chance(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}
static inline uint32_t chance_below(uint64_t *state, uint32_t limit) { return (uint32_t)(chance(state) >> 33) % limit; }

#endif
