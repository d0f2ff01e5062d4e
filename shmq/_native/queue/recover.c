#define _GNU_SOURCE
#include "recover.h"

#include <sched.h>

#include "lease.h"
#include "view.h"

enum verdict { HAPPENED, DID_NOT, UNKNOWN };

/* The slot that an in-flight cell proves to be in circulation: the one that it names, unless its owner may have given that away a
 * moment ago. SHMQ_MAX_SLOTS: it proves nothing. The cell is read around the intent: if both looks agree, no exchange of that cell began
 * and ended between them (the generation would have moved). [intent] */
static uint32_t proven_slot(const struct shmq_queue_port *queue, uint32_t cell) {
    uint64_t word = shmq_load_acquire(&queue->cells[cell].word); /* [hand] [intent] */
    uint32_t owner = shmq_cell_owner(word);
    if (owner < queue->geometry.ports) {
        uint64_t intent = shmq_load_acquire(&queue->port.records[owner].intent); /* [intent] */
        if (shmq_load_seq(&queue->cells[cell].word) != word) return SHMQ_MAX_SLOTS; /* [hand] [intent] */
        if (shmq_intent_operation(intent) != SHMQ_NOTHING && shmq_intent_cell(intent) == cell &&
            shmq_word_slot(intent) == shmq_word_slot(word))
            return SHMQ_MAX_SLOTS;
    }
    return shmq_word_slot(word);
}

static enum verdict scan(const struct shmq_queue_port *queue, uint32_t dead_cell, uint32_t give, uint32_t take) {
    for (uint32_t i = 0; i < queue->geometry.slots; i++) {
        uint32_t slot = shmq_word_slot(shmq_load_acquire(&queue->ring[i])); /* [publish] [return] */
        if (slot == give) return HAPPENED;
        if (slot == take) return DID_NOT;
    }
    for (uint32_t i = 0; i < queue->geometry.cells; i++) {
        if (i == dead_cell) continue;
        uint32_t slot = proven_slot(queue, i);
        if (slot == give) return HAPPENED;
        if (slot == take) return DID_NOT;
    }
    return UNKNOWN;
}

/* Close the open exchange of the dead port. False: whether it happened cannot be told yet. */
static bool close_exchange(struct shmq_queue_port *queue, uint32_t dead) {
    struct shmq_port_record *record = &queue->port.records[dead];
    uint64_t intent = shmq_load_acquire(&record->intent); /* [intent] */
    unsigned operation = shmq_intent_operation(intent);
    if (operation == SHMQ_NOTHING) return true;
    uint32_t cell = shmq_intent_cell(intent), index = shmq_intent_index(intent), give = shmq_word_slot(intent);
    if (cell < queue->geometry.cells && index < queue->geometry.slots) {
        uint64_t word = shmq_load_acquire(&queue->cells[cell].word); /* [hand] */
        uint64_t expected = shmq_load_relaxed(&record->expected);
        uint32_t take = shmq_word_slot(expected);
        if (shmq_cell_owner(word) == dead && shmq_word_slot(word) == give && give != take) {
            enum verdict verdict = UNKNOWN;
            if (shmq_load_seq(&queue->ring[index]) == expected) verdict = DID_NOT; /* [publish] [return]: laps: never the same word twice */
            for (int tries = 0; verdict == UNKNOWN && tries < 64; tries++) {
                verdict = scan(queue, cell, give, take);
                if (verdict == UNKNOWN) sched_yield();
            }
            if (verdict == UNKNOWN) return false;
            SHMQ_CRASH_POINT(reap_judged);
            if (verdict == HAPPENED)
                /* [hand] */
                shmq_store_release(&queue->cells[cell].word, shmq_cell_next(word, operation == SHMQ_GETTING ? SHMQ_LEASED : SHMQ_IDLE, dead, take));
        }
    }
    SHMQ_CRASH_POINT(reap_settled);
    shmq_store_release(&record->intent, 0); /* [intent] */
    return true;
}

bool shmq_queue_recover(struct shmq_queue_port *queue, uint32_t dead) {
    if (!close_exchange(queue, dead)) return false;
    for (uint32_t i = 0; i < queue->geometry.cells; i++) {
        shmq_view_clear(queue, i, dead);
        shmq_view_repair(queue, i);
        uint64_t word = shmq_load_seq(&queue->cells[i].word); /* [hand] [view] */
        if (shmq_cell_owner(word) != dead) continue;
        if (shmq_cell_state(word) == SHMQ_TIMED) {
            /* Another port may take it over at this moment: make it LEASED first, still the dead port's. */
            uint64_t ours = shmq_cell_next(word, SHMQ_LEASED, dead, shmq_word_slot(word));
            if (!shmq_swap_seq(&queue->cells[i].word, &word, ours)) continue; /* [hand] */
            SHMQ_CRASH_POINT(reap_untimed);
            word = ours;
        }
        bool leased = shmq_cell_state(word) == SHMQ_LEASED;
        if (leased) {
            shmq_delivery_ended(queue, i, word, shmq_lease_begun(queue, i, word) ? SHMQ_DIED : SHMQ_RELEASED, SHMQ_BY_POLICY);
        }
        SHMQ_CRASH_POINT(reap_counted);
        /* [hand] */
        if (leased) shmq_swap_seq(&queue->cells[i].word, &word, shmq_cell_next(word, SHMQ_ORPHAN, SHMQ_NO_PORT, shmq_word_slot(word)));
        else shmq_cell_free_or_hand(queue, i, word, SHMQ_SPARE);
        SHMQ_CRASH_POINT(reap_cell);
    }
    shmq_add_seq(&queue->header->events[SHMQ_DEATHS], 1); /* [sides] */
    SHMQ_CRASH_POINT(reap_retired);
    /* The dead port may have been the only one that knew of an orphan, of a message or of room: make every port look. Before the
     * port is free, so that a reaper that dies here leaves a port for which the next one does that. */
    shmq_add_seq(&queue->header->orphan_changes, 1); /* [orphan] */
    return true;
}
