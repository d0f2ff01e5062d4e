#define _GNU_SOURCE
#include "snapshot.h"

#include <string.h>

#include "lease.h"
#include "look.h"
#include "slots.h"

/* -- cells ----------------------------------------------------------------------------------------------------------- */

static struct shmq_cell_row row_of(const struct shmq_queue_port *queue, uint32_t cell, uint64_t word) {
    return (struct shmq_cell_row){
        .state = (enum shmq_cell_state)shmq_cell_state(word),
        .owner = shmq_cell_owner(word),
        .slot = shmq_word_slot(word),
        .leased_ns = shmq_load_relaxed(&queue->cells[cell].leased_ns),
    };
}

struct shmq_cell_row shmq_cell_row(const struct shmq_queue_port *queue, uint32_t cell) {
    return row_of(queue, cell, shmq_load_acquire(&queue->cells[cell].word)); /* [hand] */
}

/* When the lease ends, or when what came back is due; 0: no time is set, or it is not written yet. */
static uint64_t end_of(const struct shmq_cell *cell, uint64_t word) {
    if (shmq_cell_state(word) == SHMQ_ORPHAN) return shmq_load_relaxed(&cell->due_ns);
    if (shmq_cell_state(word) != SHMQ_TIMED) return 0;
    uint64_t expires = shmq_load_acquire(&cell->expires); /* [deadline] */
    return shmq_expires_ahead(expires, word) <= 1 ? shmq_expires_ns(expires) : 0;
}

bool shmq_find_occupied(const struct shmq_queue_port *queue, uint32_t *cell, struct shmq_occupied_row *found) {
    const unsigned occupied = SHMQ_NOT_DONE | SHMQ_IN_STATE(SHMQ_LOANED) | SHMQ_IN_STATE(SHMQ_HELD);
    for (uint64_t word; shmq_find_cell(queue, occupied, cell, &word); ++*cell) {
        const uint32_t slot = shmq_word_slot(word);
        if (slot >= queue->geometry.total_slots) continue;
        struct shmq_slot there;
        memcpy(&there, shmq_slot_at(queue, slot), sizeof there);
        *found = (struct shmq_occupied_row){
            .cell = row_of(queue, *cell, word),
            .id = there.id,
            .ends_ns = end_of(&queue->cells[*cell], word),
            .nbytes = there.nbytes,
            .described = there.described,
            .failed = shmq_deliveries_failed(shmq_load_relaxed(&there.deliveries)),
            .begun = shmq_lease_begun(queue, *cell, word),
            .spilled = shmq_cell_state(word) != SHMQ_LOANED && there.flags & SHMQ_SPILLED,
        };
        if (found->spilled) memcpy(found->key, shmq_payload_at(queue, slot), sizeof found->key);
        atomic_thread_fence(memory_order_acquire); /* [hand]: all that was copied comes before the second look at the cell */
        if (shmq_load_relaxed(&queue->cells[*cell].word) == word) return true;
    }
    return false;
}

/* -- where each slot is ---------------------------------------------------------------------------------------------- */

void shmq_ring_rows(const struct shmq_queue_port *queue, uint32_t *slots, int64_t *half_laps) {
    uint64_t first = 0;
    for (uint32_t i = 0; i < queue->geometry.slots; i++) {
        uint64_t word = shmq_load_acquire(&queue->ring[i]); /* [publish] [return] */
        if (i == 0) first = word;
        slots[i] = shmq_word_slot(word);
        half_laps[i] = shmq_ring_ahead(word, first);
    }
}

bool shmq_find_exchange(const struct shmq_queue_port *queue, uint32_t *index, struct shmq_exchange_row *found) {
    for (; *index < queue->port.ports; ++*index) {
        const struct shmq_port_record *record = &queue->port.records[*index];
        uint64_t intent = shmq_load_acquire(&record->intent); /* [intent] */
        if (shmq_intent_operation(intent) == SHMQ_NOTHING) continue;
        *found = (struct shmq_exchange_row){
            .cell = shmq_intent_cell(intent),
            .gives = shmq_word_slot(intent),
            .takes = shmq_word_slot(shmq_load_relaxed(&record->expected)),
        };
        return true;
    }
    return false;
}

/* Does the message in the slot that a word names lead to a side segment? A message that moves on while this is read is met again. */
static bool leads_aside(const struct shmq_queue_port *queue, uint64_t word, char key[SHMQ_SIDE_KEY_BYTES]) {
    const uint32_t slot = shmq_word_slot(word);
    if (slot >= queue->geometry.total_slots || !(shmq_slot_at(queue, slot)->flags & SHMQ_SPILLED)) return false;
    memcpy(key, shmq_payload_at(queue, slot), SHMQ_SIDE_KEY_BYTES);
    return true;
}

bool shmq_find_side(const struct shmq_queue_port *queue, uint64_t *at, char key[SHMQ_SIDE_KEY_BYTES]) {
    const uint64_t ring_end = queue->geometry.slots, ports_end = ring_end + queue->port.ports;
    while (*at < ring_end) {
        uint64_t word = shmq_load_acquire(&queue->ring[(*at)++]); /* [publish] */
        if (shmq_ring_state(word) == SHMQ_READY && leads_aside(queue, word, key)) return true;
    }
    while (*at < ports_end) {
        const struct shmq_port_record *record = &queue->port.records[(*at)++ - ring_end];
        if (shmq_intent_operation(shmq_load_acquire(&record->intent)) != SHMQ_GETTING) continue; /* [intent] */
        if (leads_aside(queue, shmq_load_relaxed(&record->expected), key)) return true;
    }
    uint64_t word;
    for (uint32_t cell = (uint32_t)(*at - ports_end); shmq_find_cell(queue, SHMQ_NOT_DONE, &cell, &word);) {
        *at = ports_end + ++cell;
        if (leads_aside(queue, word, key)) return true;
    }
    *at = ports_end + queue->geometry.cells;
    return false;
}

/* -- numbers --------------------------------------------------------------------------------------------------------- */

void shmq_counted(const struct shmq_queue_port *queue, uint64_t counters[SHMQ_COUNTERS]) {
    memset(counters, 0, SHMQ_COUNTERS * sizeof *counters);
    for (uint32_t i = 0; i < queue->port.ports; i++)
        for (int kind = 0; kind < SHMQ_COUNTERS; kind++) counters[kind] += shmq_load_relaxed(&queue->port.records[i].counters[kind]);
}

uint64_t shmq_waiting(const struct shmq_queue_port *queue, enum shmq_side side) {
    uint64_t waiting = shmq_load_seq(shmq_waiters(&queue->port, side)) & ~SHMQ_BELLS; /* [park] */
    for (uint32_t i = 0; i < queue->port.ports; i++) waiting += shmq_load_relaxed(&queue->port.records[i].bell) >> side & 1;
    return waiting;
}
