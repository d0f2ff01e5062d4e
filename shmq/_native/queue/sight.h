/* What the ring cell under a sequence says: one reading of laps and states, shared by put, get and every look. */
#ifndef SHMQ_SIGHT_H
#define SHMQ_SIGHT_H

#include "port.h"

/* What a look at the ring cell under a sequence tells. */
enum sight { CAN, CANNOT, PASSED, NONSENSE };

/* At write_seq = t: EMPTY of t's lap can be filled. READY of the lap before: full. READY of t's lap, or any later lap:
 * a producer published here, and write_seq has not moved yet. That includes a message that was already taken again: it would stop
 * all producers for ever, if its own died before it moved write_seq and no other port helped. */
static inline enum sight look_for_space(uint64_t word, uint64_t lap) {
    int64_t ahead = shmq_lap_ahead(shmq_ring_lap(word), lap);
    unsigned state = shmq_ring_state(word);
    if (shmq_likely(ahead == 0)) return state == SHMQ_EMPTY ? CAN : state == SHMQ_READY ? PASSED : NONSENSE;
    if (ahead > 0) return PASSED;
    return ahead == -1 && state == SHMQ_READY ? CANNOT : NONSENSE;
}

/* At read_seq = h: READY of h's lap can be taken, EMPTY of h's lap means empty, a later lap that it was taken. */
static inline enum sight look_for_item(uint64_t word, uint64_t lap) {
    int64_t ahead = shmq_lap_ahead(shmq_ring_lap(word), lap);
    unsigned state = shmq_ring_state(word);
    if (shmq_likely(ahead == 0)) return state == SHMQ_READY ? CAN : state == SHMQ_EMPTY ? CANNOT : NONSENSE;
    return ahead > 0 ? PASSED : NONSENSE;
}

/* Where a sequence should be that reads `at`: behind every cell that was filled (emptied). A process that died in a batch may have left
 * thousands. That a cell was filled in some lap says that every cell before it was, so earlier laps are skipped. Each look takes
 * one from *looks; at zero the answer is as far as they led.
 *
 * A waiter that has announced itself looks by this, too (shmq_ready): [park]. An acquire alone may be served before the waiter's
 * announcement is seen, and find a ring of before a message that its producer announced to nobody. Where the sequence lags does not matter,
 * since the cells say how far. */
static inline uint64_t past(const struct shmq_queue_port *queue, uint64_t at, enum shmq_side side, uint32_t *looks) {
    const uint32_t slots = queue->geometry.slots;
    for (; *looks && shmq_seq_index(at) < slots; --*looks) {
        uint64_t word = shmq_load_seq(&queue->ring[shmq_seq_index(at)]), lap = shmq_seq_lap(at); /* [publish] [return] [park] */
        if ((side == SHMQ_SPACE ? look_for_space(word, lap) : look_for_item(word, lap)) != PASSED) break;
        bool filled = side == SHMQ_SPACE && shmq_ring_state(word) == SHMQ_READY; /* in the lap of the word; else in the one before */
        at = shmq_seq_next(shmq_seq_word(shmq_ring_lap(word) - !filled, shmq_seq_index(at)), slots);
    }
    return at;
}

static inline uint32_t index_after(uint32_t index, uint32_t distance, uint32_t slots) {
    index += distance;
    return index < slots ? index : index - slots < slots ? index - slots : 0;
}

#endif
