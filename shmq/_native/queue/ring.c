#define _GNU_SOURCE
#include "ring.h"

#include "../wake.h"
#include "sight.h"
#include "slots.h"

/* A call looks at as many ring cells as there are, since a sequence may lag by a lap, and at so many more, since other ports move on
 * meanwhile. Then it returns to its caller, which looks at signals and tries again. A hostile segment may bring a call to this
 * bound, and never beyond it. */
#define ATTEMPTS 4096

static inline uint32_t looks_of(const struct shmq_queue_port *queue) { return queue->geometry.slots + ATTEMPTS; }

/* After losing an exchange to another port of the same side: let it run on alone for a moment. Two that meet at every message
 * move four cache lines to and fro for each; one that holds back for a few microseconds lets the other have dozens for one. */
#define HOLD_BACK 64

static void hold_back(void) {
    for (int i = 0; i < HOLD_BACK; i++) shmq_pause();
}

/* Help a sequence forward to at least `to`. Never back: the comparison is by distance. Each try that fails met another port that
 * moved it. After so many that is no queue's traffic but a scribbler, which must not keep this port here. A sequence may always lag. */
#define HELPS 16

static void sequence_advance(shmq_word *sequence, uint64_t from, uint64_t to) {
    uint64_t now = from;
    for (int tries = 0; tries < HELPS; tries++) {
        if (shmq_seq_ahead(to, now) <= 0 || shmq_swap_seq(sequence, &now, to)) return; /* [sequence] */
    }
}

/* A get had nothing after all. While its intent was open it looked as if it had a message. A port that did the last step of the last
 * message meanwhile did not wake those that wait for that. */
static void too_late(struct shmq_queue_port *queue) {
    shmq_store_seq(&queue->port.record->intent, 0); /* [intent] [park]: stored again, by a store that the look does not overtake */
    shmq_wake_if_done(&queue->port);
}

/* One exchange of my in-flight cell with a ring cell. True: it happened. The intent stands before the exchange and is
 * withdrawn after the in-flight cell tells the same. */
static inline bool exchange(struct shmq_queue_port *queue, unsigned operation, uint32_t cell, uint64_t at, uint64_t expected,
                            uint64_t desired, enum shmq_cell_state taken_state) {
    uint32_t index = shmq_seq_index(at);
    struct shmq_cell *mine = &queue->cells[cell];
    uint64_t word = shmq_load_relaxed(&mine->word); /* mine */
    if (operation == SHMQ_GETTING) shmq_store_relaxed(&mine->taken_at, at); /* released, like `expected`, by the intent */
    shmq_store_relaxed(&queue->port.record->expected, expected); /* released by the intent */
    shmq_store_release(&queue->port.record->intent, shmq_intent_word(operation, cell, index, shmq_word_slot(word))); /* [intent] */
    SHMQ_CRASH_POINT(exchange_intended);
    bool happened = shmq_swap_seq(&queue->ring[index], &expected, desired); /* [publish] [return] [park] */
    if (happened) {
        SHMQ_CRASH_POINT(exchange_happened);
        shmq_store_release(&mine->word, shmq_cell_next(word, taken_state, queue->port.index, shmq_word_slot(expected))); /* [hand] */
        SHMQ_CRASH_POINT(exchange_recorded);
    }
    shmq_store_release(&queue->port.record->intent, 0); /* [intent] */
    if (shmq_unlikely(!happened) && operation == SHMQ_GETTING) too_late(queue);
    return happened;
}

/* A transfer of a cache line between cores takes as long as two or three messages. So fetch early what will be touched:
 * the slot in the ring cell after `t` is taken by the next put and written by the one after. */
#define AHEAD 2
#define AHEAD_IN_BATCH 7 /* a batch spends less time on each message */

static inline void prefetch_for_writing(struct shmq_queue_port *queue, uint64_t t, uint32_t slots, uint32_t distance) {
    uint64_t ahead = shmq_load_relaxed(&queue->ring[index_after(shmq_seq_index(t), distance, slots)]); /* a hint for the cache */
    if (shmq_ring_state(ahead) != SHMQ_EMPTY || shmq_word_slot(ahead) >= queue->geometry.total_slots) return;
    shmq_prefetch_write(shmq_slot_at(queue, shmq_word_slot(ahead)));
    shmq_prefetch_write(shmq_payload_at(queue, shmq_word_slot(ahead)));
}

/* Fetch early what the gets after `h` will read. True: the message after `h` is there. */
static inline bool prefetch_for_reading(struct shmq_queue_port *queue, uint64_t h, uint32_t slots, uint32_t distance) {
    uint64_t ahead = shmq_load_relaxed(&queue->ring[index_after(shmq_seq_index(h), distance, slots)]); /* a hint for the cache */
    if (shmq_ring_state(ahead) == SHMQ_READY && shmq_word_slot(ahead) < queue->geometry.total_slots) {
        shmq_prefetch_read(shmq_slot_at(queue, shmq_word_slot(ahead)));
        shmq_prefetch_read(shmq_payload_at(queue, shmq_word_slot(ahead)));
        return true;
    }
    return shmq_ring_state(shmq_load_relaxed(&queue->ring[index_after(shmq_seq_index(h), 1, slots)])) == SHMQ_READY;
}

shmq_status shmq_ring_put(struct shmq_queue_port *queue, uint32_t cell) {
    return shmq_unlikely(shmq_load_relaxed(&queue->header->shut)) ? SHMQ_SHUT : shmq_ring_move_in(queue, cell);
}

shmq_status shmq_ring_move_in(struct shmq_queue_port *queue, uint32_t cell) {
    const uint32_t slots = queue->geometry.slots;
    shmq_word *sequence = &queue->header->write_seq;
    uint32_t give = shmq_word_slot(shmq_cell_load(queue, cell));
    for (uint32_t looks = looks_of(queue); looks; looks -= looks != 0) {
        uint64_t t = shmq_load_acquire(sequence); /* [sequence] */
        uint32_t index = shmq_seq_index(t);
        if (shmq_unlikely(index >= slots)) return SHMQ_CORRUPT;
        uint64_t word = shmq_load_acquire(&queue->ring[index]); /* [return] */
        uint64_t lap = shmq_seq_lap(t);
        switch (look_for_space(word, lap)) {
        case CAN: {
            uint32_t take = shmq_word_slot(word);
            if (shmq_unlikely(take >= queue->geometry.total_slots)) return SHMQ_CORRUPT;
            if (shmq_likely(exchange(queue, SHMQ_PUTTING, cell, t, word, shmq_ring_word(lap, SHMQ_READY, give), SHMQ_IDLE))) {
                prefetch_for_writing(queue, t, slots, AHEAD);
                sequence_advance(sequence, t, shmq_seq_next(t, slots));
                return SHMQ_OK;
            }
            hold_back();
            break;
        }
        case PASSED:
            sequence_advance(sequence, t, past(queue, t, SHMQ_SPACE, &looks));
            break;
        case CANNOT:
            if (shmq_load_seq(sequence) == t) return SHMQ_WOULD_BLOCK; /* [sequence] */
            break;
        case NONSENSE:
            if (shmq_load_seq(sequence) == t) return SHMQ_CORRUPT; /* [sequence] */
            break;
        }
    }
    return SHMQ_WOULD_BLOCK;
}

/* The slot of my own cell, which no other port writes. A scribbler may, and must not lead this port out of the segment. */
static inline uint32_t slot_of(const struct shmq_queue_port *queue, uint32_t cell) {
    uint32_t slot = shmq_word_slot(shmq_cell_load(queue, cell));
    return shmq_likely(slot < queue->geometry.total_slots) ? slot : 0;
}

/* A batch moves write_seq now and then, so that consumers that look at it know how much there is. */
#define TELL 32

uint32_t shmq_ring_put_many(struct shmq_queue_port *queue, uint32_t cell, shmq_fill fill, void *context, shmq_status *status) {
    const uint32_t slots = queue->geometry.slots;
    shmq_word *sequence = &queue->header->write_seq;
    uint32_t done = 0;
    *status = shmq_unlikely(shmq_load_relaxed(&queue->header->shut)) ? SHMQ_SHUT : SHMQ_OK;
    if (*status != SHMQ_OK) return 0;
    while (fill(context, queue, slot_of(queue, cell))) {
        /* The first message, and any after a meeting with another producer, goes the careful way. The next ones try the
         * cell behind the last success: it may be filled, since nothing before it is unfilled (I3). */
        uint64_t t = shmq_load_relaxed(sequence); /* checked below by the word that is found there */
        for (;;) {
            uint32_t index = shmq_seq_index(t), give = shmq_word_slot(shmq_cell_load(queue, cell));
            if (shmq_unlikely(index >= slots)) { *status = SHMQ_CORRUPT; return done; }
            uint64_t word = shmq_load_acquire(&queue->ring[index]); /* [return] */
            if (look_for_space(word, shmq_seq_lap(t)) != CAN || shmq_word_slot(word) >= queue->geometry.total_slots ||
                !exchange(queue, SHMQ_PUTTING, cell, t, word, shmq_ring_word(shmq_seq_lap(t), SHMQ_READY, give), SHMQ_IDLE))
                break;
            prefetch_for_writing(queue, t, slots, AHEAD_IN_BATCH);
            t = shmq_seq_next(t, slots);
            if (++done % TELL == 0) sequence_advance(sequence, shmq_load_relaxed(sequence), t);
            if (!fill(context, queue, slot_of(queue, cell))) {
                sequence_advance(sequence, shmq_load_relaxed(sequence), t);
                return done;
            }
        }
        if (done) sequence_advance(sequence, shmq_load_relaxed(sequence), t);
        *status = shmq_ring_put(queue, cell); /* the message that is written and did not go the quick way */
        if (*status != SHMQ_OK) return done;
        done++;
    }
    return done;
}

shmq_status shmq_ring_get(struct shmq_queue_port *queue, uint32_t cell, enum shmq_cell_state leased) {
    shmq_status status;
    shmq_ring_get_many(queue, &cell, 1, leased, &status);
    return status;
}

uint32_t shmq_ring_get_many(struct shmq_queue_port *queue, const uint32_t *cells, uint32_t count, enum shmq_cell_state leased,
                            shmq_status *status) {
    const uint32_t slots = queue->geometry.slots;
    shmq_word *sequence = &queue->header->read_seq;
    uint32_t done = 0, looks = looks_of(queue) + count;
    uint64_t from = shmq_load_acquire(sequence), h = from; /* [sequence] */
    *status = SHMQ_WOULD_BLOCK;
    for (; looks && done < count; looks -= looks != 0) {
        uint32_t index = shmq_seq_index(h);
        if (shmq_unlikely(index >= slots)) { *status = SHMQ_CORRUPT; break; }
        uint64_t word = shmq_load_acquire(&queue->ring[index]); /* [publish] */
        uint64_t lap = shmq_seq_lap(h);
        enum sight sight = look_for_item(word, lap);
        if (shmq_likely(sight == CAN)) {
            if (shmq_unlikely(shmq_word_slot(word) >= queue->geometry.total_slots)) { *status = SHMQ_CORRUPT; break; }
            uint64_t next = shmq_seq_next(h, slots);
            queue->caught_up = !prefetch_for_reading(queue, h, slots, count > 1 ? AHEAD_IN_BATCH : AHEAD);
            uint32_t give = shmq_word_slot(shmq_cell_load(queue, cells[done]));
            uint64_t emptied = shmq_ring_word((lap + 1) & SHMQ_LAP_MASK, SHMQ_EMPTY, give);
            if (shmq_likely(exchange(queue, SHMQ_GETTING, cells[done], h, word, emptied, leased))) {
                done++;
                h = next;
            } else if (!done) {
                hold_back();
                from = h = shmq_load_acquire(sequence); /* [sequence] */
            }
            continue;
        }
        if (sight == PASSED) {
            h = past(queue, h, SHMQ_ITEMS, &looks);
            if (!done) sequence_advance(sequence, from, h), from = h = shmq_load_acquire(sequence); /* [sequence] */
            continue;
        }
        if (done) break; /* fewer than were wanted */
        if (shmq_load_seq(sequence) != h) { /* [sequence] */
            from = h = shmq_load_acquire(sequence); /* [sequence] */
            continue;
        }
        if (sight == NONSENSE) *status = SHMQ_CORRUPT;
        break;
    }
    if (shmq_likely(done)) {
        *status = SHMQ_OK;
        sequence_advance(sequence, from, h);
    }
    return done;
}
