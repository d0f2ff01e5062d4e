#define _GNU_SOURCE
#include "resting.h"

#include "lease.h"
#include "look.h"
#include "slots.h"

/* After an adoption that made the cell TIMED: write until when, unless another port already started the clock for this one. */
static void write_deadline(struct shmq_queue_port *queue, uint32_t cell, uint64_t word, uint64_t deadline_ns) {
    /* [deadline] */
    uint64_t before = shmq_load_acquire(&queue->cells[cell].expires), wanted = shmq_expires_word(shmq_cell_generation(word), deadline_ns);
    for (int tries = 0; tries < 8 && shmq_expires_ahead(before, word) != 0; tries++) /* only a scribbler loses it more often */
        if (shmq_swap_seq(&queue->cells[cell].expires, &before, wanted)) return; /* [deadline] */
}

/* The oldest message that may be taken (dead-lettered) now: its cell and word. Otherwise SHMQ_NO_CELL, and *next_due is when the first
 * that rests is due, or SHMQ_FOREVER. */
static uint32_t oldest_orphan(const struct shmq_queue_port *queue, enum shmq_wish wish, uint64_t *found, bool *exhausted, uint64_t *next_due) {
    uint64_t now = 0, first = 0, word;
    uint32_t oldest = SHMQ_NO_CELL;
    *next_due = SHMQ_FOREVER;
    for (uint32_t i = 0; shmq_find_cell(queue, SHMQ_IN_STATE(SHMQ_ORPHAN), &i, &word); i++) {
        const struct shmq_cell *cell = &queue->cells[i];
        if (shmq_word_slot(word) >= queue->geometry.total_slots) continue;
        bool failed = shmq_message_exhausted(queue, shmq_load_relaxed(&shmq_slot_at(queue, shmq_word_slot(word))->deliveries));
        if (wish == SHMQ_TO_DEAD_LETTER ? !failed : wish == SHMQ_TO_TAKE && failed && !queue->writes_dead_letters) continue;
        uint64_t due = wish == SHMQ_TO_DISCARD ? 0 : shmq_load_relaxed(&cell->due_ns), taken_at = shmq_load_relaxed(&cell->taken_at);
        if (due && now == 0) now = shmq_now_ns();
        if (due > now) {
            if (due < *next_due) *next_due = due;
        } else if (oldest == SHMQ_NO_CELL || shmq_seq_ahead(taken_at, first) < 0) {
            oldest = i;
            first = taken_at;
            *found = word;
            *exhausted = failed;
        }
    }
    return oldest;
}

/* How often an adopter finds that another port was quicker, before it says that it found none. It looks again the next time. */
#define ADOPTIONS 64

shmq_status shmq_orphan_adopt(struct shmq_queue_port *queue, uint64_t deadline_ns, uint32_t *cell) {
    uint64_t changes = shmq_load_seq(&queue->header->orphan_changes); /* [orphan] */
    if (shmq_likely(changes == queue->orphan_changes_seen) && !shmq_orphan_is_due(queue)) return SHMQ_WOULD_BLOCK;
    for (int tries = 0; tries < ADOPTIONS; tries++) {
        uint64_t word, next_due;
        bool exhausted;
        uint32_t oldest = oldest_orphan(queue, SHMQ_TO_TAKE, &word, &exhausted, &next_due);
        if (oldest == SHMQ_NO_CELL) {
            queue->orphan_changes_seen = changes;
            queue->due_ns = next_due;
            return SHMQ_WOULD_BLOCK;
        }
        bool timed = deadline_ns && !exhausted;
        uint64_t mine = shmq_cell_next(word, timed ? SHMQ_TIMED : SHMQ_LEASED, queue->port.index, shmq_word_slot(word));
        if (timed) shmq_lease_begin_timing(queue, deadline_ns);
        if (!shmq_swap_seq(&queue->cells[oldest].word, &word, mine)) continue; /* [hand] */
        SHMQ_CRASH_POINT(orphan_adopted);
        if (timed) write_deadline(queue, oldest, mine, deadline_ns);
        *cell = oldest;
        if (exhausted) return SHMQ_EXHAUSTED;
        shmq_count(&queue->port.record->counters[SHMQ_REDELIVERIES], 1);
        return SHMQ_OK;
    }
    return SHMQ_WOULD_BLOCK;
}

bool shmq_orphan_due(struct shmq_queue_port *queue) {
    uint64_t changes = shmq_load_seq(&queue->header->orphan_changes), word, next_due; /* [orphan] */
    bool exhausted;
    if (shmq_likely(changes == queue->orphan_changes_seen) && !shmq_orphan_is_due(queue)) return false;
    if (oldest_orphan(queue, SHMQ_TO_TAKE, &word, &exhausted, &next_due) != SHMQ_NO_CELL) return true;
    queue->orphan_changes_seen = changes; /* as an adoption that found nothing */
    queue->due_ns = next_due;
    return false;
}

bool shmq_orphan_claim(struct shmq_queue_port *queue, enum shmq_wish wish, uint32_t *cell) {
    uint64_t word, next_due;
    bool exhausted;
    for (int tries = 0; tries < ADOPTIONS; tries++) {
        *cell = oldest_orphan(queue, wish, &word, &exhausted, &next_due); /* not a dead letter that could not be written a moment ago */
        if (*cell == SHMQ_NO_CELL) return false;
        /* [hand] */
        if (shmq_swap_seq(&queue->cells[*cell].word, &word, shmq_cell_next(word, SHMQ_LEASED, queue->port.index, shmq_word_slot(word)))) return true;
    }
    return false;
}
