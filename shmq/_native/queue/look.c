#define _GNU_SOURCE
#include "look.h"

#include <string.h>

#include "../owner.h"
#include "policy.h"
#include "sight.h"
#include "slots.h"

/* -- the ring -------------------------------------------------------------------------------------------------------- */

bool shmq_ring_has_space(struct shmq_queue_port *queue) {
    uint64_t t = shmq_load_seq(&queue->header->write_seq); /* [sequence] [park] */
    uint32_t looks = queue->geometry.slots;
    if (shmq_seq_index(t) >= queue->geometry.slots) return true; /* corrupt: let the caller's try find out */
    enum sight sight = look_for_space(shmq_load_seq(&queue->ring[shmq_seq_index(t)]), shmq_seq_lap(t)); /* [park] */
    if (shmq_likely(sight != PASSED)) return sight != CANNOT;
    t = past(queue, t, SHMQ_SPACE, &looks);
    return look_for_space(shmq_load_seq(&queue->ring[shmq_seq_index(t)]), shmq_seq_lap(t)) != CANNOT; /* [park] */
}

bool shmq_ring_has_item(struct shmq_queue_port *queue) {
    uint64_t h = shmq_load_seq(&queue->header->read_seq); /* [sequence] [park] */
    uint32_t looks = queue->geometry.slots;
    if (shmq_seq_index(h) >= queue->geometry.slots) return true;
    enum sight sight = look_for_item(shmq_load_seq(&queue->ring[shmq_seq_index(h)]), shmq_seq_lap(h)); /* [park] */
    if (shmq_likely(sight != PASSED)) return sight != CANNOT;
    h = past(queue, h, SHMQ_ITEMS, &looks);
    return look_for_item(shmq_load_seq(&queue->ring[shmq_seq_index(h)]), shmq_seq_lap(h)) != CANNOT; /* [park] */
}

bool shmq_ring_has_items(struct shmq_queue_port *queue, uint32_t nth) {
    uint64_t h = shmq_load_relaxed(&queue->header->read_seq);
    uint32_t index = shmq_seq_index(h), slots = queue->geometry.slots;
    if (nth >= slots || index >= slots) return false;
    uint64_t lap = shmq_seq_lap(h) + (index + nth >= slots);
    return look_for_item(shmq_load_relaxed(&queue->ring[index_after(index, nth, slots)]), lap) == CAN;
}

bool shmq_ring_has_spaces(struct shmq_queue_port *queue, uint32_t nth) {
    uint64_t t = shmq_load_relaxed(&queue->header->write_seq);
    uint32_t index = shmq_seq_index(t), slots = queue->geometry.slots;
    if (nth >= slots || index >= slots) return false;
    uint64_t lap = shmq_seq_lap(t) + (index + nth >= slots);
    return look_for_space(shmq_load_relaxed(&queue->ring[index_after(index, nth, slots)]), lap) != CANNOT;
}

static uint32_t distance(uint64_t h, uint64_t t, uint32_t slots) {
    int64_t laps = shmq_lap_ahead(shmq_seq_lap(t), shmq_seq_lap(h));
    int64_t length = laps * (int64_t)slots + (int64_t)shmq_seq_index(t) - (int64_t)shmq_seq_index(h);
    return length < 0 ? 0 : length > (int64_t)slots ? slots : (uint32_t)length;
}

uint32_t shmq_ring_estimate(const struct shmq_queue_port *queue) {
    uint64_t h = shmq_load_acquire(&queue->header->read_seq), t = shmq_load_acquire(&queue->header->write_seq); /* [sequence] */
    return distance(h, t, queue->geometry.slots);
}

/* Where the oldest message is or will be taken (the next one put), though a port that took (put) one may not have moved the sequence yet. */
static uint64_t front(const struct shmq_queue_port *queue, uint64_t h, enum shmq_side side) {
    uint32_t looks = queue->geometry.slots;
    return past(queue, h, side, &looks);
}

uint32_t shmq_ring_length(const struct shmq_queue_port *queue) {
    uint64_t h = shmq_load_acquire(&queue->header->read_seq), t = shmq_load_acquire(&queue->header->write_seq); /* [sequence] */
    uint64_t end = front(queue, t, SHMQ_SPACE); /* first: a message that is put meanwhile is not counted, rather than one counted that was taken */
    return distance(front(queue, h, SHMQ_ITEMS), end, queue->geometry.slots);
}

bool shmq_ring_peek(struct shmq_queue_port *queue, uint32_t nth, struct shmq_slot *slot, void *payload, uint64_t limit, bool *moved) {
    const uint32_t slots = queue->geometry.slots;
    uint64_t h = front(queue, shmq_load_acquire(&queue->header->read_seq), SHMQ_ITEMS); /* [sequence] */
    *moved = false;
    if (nth >= slots || shmq_seq_index(h) >= slots) return false;
    uint32_t index = shmq_seq_index(h) + nth; /* no overflow: both below 2^24 */
    uint64_t lap = shmq_seq_lap(h);
    if (index >= slots) index -= slots, lap++;
    uint64_t word = shmq_load_acquire(&queue->ring[index]); /* [publish] */
    enum sight sight = look_for_item(word, lap);
    *moved = sight == PASSED;
    if (sight != CAN || shmq_word_slot(word) >= queue->geometry.total_slots) return false;
    const struct shmq_slot *there = shmq_slot_at(queue, shmq_word_slot(word));
    memcpy(slot, there, sizeof *slot);
    uint64_t nbytes = slot->nbytes + slot->described;
    if (nbytes < slot->nbytes) nbytes = limit;
    memcpy(payload, shmq_payload_at(queue, shmq_word_slot(word)), nbytes < limit ? nbytes : limit);
    atomic_thread_fence(memory_order_acquire); /* [return]: the copy comes before the second look, which finds whether the slot was given back */
    *moved = shmq_load_relaxed(&queue->ring[index]) != word;
    return !*moved;
}

/* -- what is there ---------------------------------------------------------------------------------------------------- */

uint64_t shmq_ready(const struct shmq_queue_port *queue) {
    uint64_t waiting = shmq_backlog(queue); /* before the ring: a message that moves into it meanwhile is seen twice rather than overlooked */
    return waiting + shmq_ring_length(queue);
}

uint32_t shmq_room(struct shmq_queue_port *queue) {
    if (!shmq_ring_has_space(queue)) return 0;
    uint32_t room = queue->geometry.slots - shmq_ring_length(queue);
    return room ? room : 1;
}

/* Not inlined: most cells hold nothing that came back, and the loop over those stays small. */
static __attribute__((noinline)) void add_what_came_back(const struct shmq_queue_port *queue, uint32_t cell, uint32_t slot, uint64_t *now,
                                                         struct shmq_came_back *found) {
    uint64_t due = shmq_load_relaxed(&queue->cells[cell].due_ns);
    if (due && *now == 0) *now = shmq_now_ns();
    if (shmq_message_exhausted(queue, shmq_load_relaxed(&shmq_slot_at(queue, slot)->deliveries))) found->exhausted++;
    else if (due <= *now) found->due++;
    else {
        found->resting++;
        if (due < found->next_due_ns) found->next_due_ns = due;
    }
}

struct shmq_came_back shmq_came_back(const struct shmq_queue_port *queue) {
    struct shmq_came_back found = {.next_due_ns = SHMQ_FOREVER};
    uint64_t word, now = 0;
    for (uint32_t i = 0; shmq_find_cell(queue, SHMQ_IN_STATE(SHMQ_ORPHAN), &i, &word); i++)
        if (shmq_word_slot(word) < queue->geometry.total_slots) add_what_came_back(queue, i, shmq_word_slot(word), &now, &found);
    return found;
}

/* -- what is not done ------------------------------------------------------------------------------------------------- */

static uint64_t taken_by(const struct shmq_queue_port *queue, uint32_t index) { return shmq_load_relaxed(&queue->port.records[index].counters[SHMQ_GETS]); }

bool shmq_has_taken(const struct shmq_queue_port *queue, uint64_t count) {
    const uint32_t ports = shmq_ports_used(&queue->port), begin = queue->port.index < ports ? queue->port.index : 0;
    uint64_t taken = 0;
    for (uint32_t n = 0, i = begin; n < ports && taken < count; n++, i = i + 1 < ports ? i + 1 : 0) taken += taken_by(queue, i);
    return taken >= count;
}

/* Messages that a get took and for which task_done was not called. `done` is read before what was taken. */
static uint64_t worked_on(const struct shmq_queue_port *queue) {
    uint64_t done = shmq_load_seq(&queue->header->done), taken = 0; /* [park] */
    for (uint32_t i = 0; i < shmq_ports_used(&queue->port); i++) taken += taken_by(queue, i);
    return taken > done ? taken - done : 0;
}

static bool is_getting(const struct shmq_queue_port *queue, uint32_t index) {
    return shmq_intent_operation(shmq_load_seq(&queue->port.records[index].intent)) == SHMQ_GETTING; /* [intent] [park] */
}

/* Looks in the order in which a message moves: backlog, ring, an open exchange, cells, work on what a get took. So one that moves
 * meanwhile is seen twice rather than overlooked. */
uint64_t shmq_unfinished(const struct shmq_queue_port *queue) {
    uint64_t unfinished = shmq_ready(queue), word;
    for (uint32_t i = 0; i < shmq_ports_used(&queue->port); i++) unfinished += is_getting(queue, i);
    for (uint32_t i = 0; shmq_find_cell(queue, SHMQ_NOT_DONE, &i, &word); i++) unfinished++;
    return unfinished + worked_on(queue);
}

bool shmq_all_done(struct shmq_queue_port *queue) {
    const uint32_t hint = queue->unfinished_hint;
    uint32_t cell = hint;
    uint64_t word;
    /* [hand] [park]: the port that settles that one looks again */
    if (hint < queue->geometry.cells && SHMQ_NOT_DONE >> shmq_cell_state(shmq_load_seq(&queue->cells[hint].word)) & 1) return false;
    if (shmq_ready(queue)) return false;
    for (uint32_t i = 0; i < shmq_ports_used(&queue->port); i++)
        if (is_getting(queue, i)) return false;
    bool found = shmq_find_cell(queue, SHMQ_NOT_DONE, &cell, &word);
    if (!found && hint) cell = 0, found = shmq_find_cell(queue, SHMQ_NOT_DONE, &cell, &word); /* those before the hint */
    if (found) queue->unfinished_hint = cell;
    return !found && worked_on(queue) == 0;
}

/* -- what can come ---------------------------------------------------------------------------------------------------- */

bool shmq_cells_move(const struct shmq_queue_port *queue, bool for_long) {
    const unsigned moves = SHMQ_IN_STATE(SHMQ_SPARE) | SHMQ_IN_STATE(SHMQ_WARM) | SHMQ_IN_STATE(SHMQ_IDLE) | SHMQ_DELIVERED;
    uint64_t word;
    for (uint32_t i = for_long || !queue->geometry.paged ? queue->geometry.reserved : 0; shmq_find_cell(queue, moves, &i, &word); i++) {
        uint32_t owner = shmq_cell_owner(word);
        unsigned state = shmq_cell_state(word);
        if (shmq_word_slot(word) >= queue->geometry.total_slots) continue; /* no port takes a cell that was scribbled over */
        if (state == SHMQ_SPARE || (state == SHMQ_WARM && queue->geometry.paged)) return true;
        if (state == SHMQ_WARM || owner >= queue->geometry.ports || !shmq_load_acquire(&queue->port.records[owner].owner)) continue; /* [port] */
        if (state == SHMQ_IDLE || shmq_load_relaxed(&queue->cells[i].leased_ns) == 0) return true; /* the call that took it still runs */
    }
    return false;
}

bool shmq_nothing_comes(struct shmq_queue_port *queue, bool stays) {
    /* In the order in which a message moves: backlog, ring, an open exchange, cells. A cell that a thread of
     * this process has taken over, to give it back, looks like one that the process's consumers hold. So no thread may be in the middle
     * of that between the two ends of this look. */
    const uint64_t ended = shmq_load_seq(&shmq_owner_ended); /* [end] */
    uint64_t word;
    if (shmq_backlog(queue) || shmq_ring_has_item(queue)) return false;
    for (uint32_t i = 0; stays && i < shmq_ports_used(&queue->port); i++)
        /* [intent] [port] */
        if (shmq_intent_operation(shmq_load_seq(&queue->port.records[i].intent)) == SHMQ_GETTING && queue->port.records[i].owner != queue->port.owner) return false;
    for (uint32_t i = 0; shmq_find_cell(queue, SHMQ_NOT_DONE, &i, &word); i++) {
        uint32_t slot = shmq_word_slot(word), owner = shmq_cell_owner(word);
        if (slot >= queue->geometry.total_slots) continue;
        if (shmq_cell_state(word) == SHMQ_ORPHAN) {
            if (!shmq_message_exhausted(queue, shmq_load_relaxed(&shmq_slot_at(queue, slot)->deliveries))) return false;
        } else if (stays && owner < queue->geometry.ports) {
            if (shmq_load_acquire(&queue->port.records[owner].owner) != queue->port.owner) return false; /* [port] */
            /* [hand] [end]: the port may have been another process's, and the cell with it */
            if (shmq_load_seq(&queue->cells[i].word) != word) return false;
        }
    }
    return !stays || shmq_load_seq(&shmq_owner_begun) == ended; /* [end] */
}

bool shmq_all_wait(const struct shmq_queue_port *queue) {
    for (uint32_t i = 0; i < queue->geometry.ports; i++) {
        const struct shmq_port_record *record = &queue->port.records[i];
        bool waits = shmq_load_seq(&record->asleep[SHMQ_ITEMS]) || shmq_load_seq(&record->asleep[SHMQ_SPACE]) || /* [asleep] */
                     (shmq_load_seq(&record->bell) & (SHMQ_BELL_MADE - 1)); /* [bell] */
        if (i != queue->port.index && shmq_load_seq(&record->owner) && !waits) return false; /* [port] */
    }
    return true;
}

bool shmq_is_over(struct shmq_queue_port *queue, bool stays) {
    return shmq_unlikely(shmq_is_shut(queue)) && shmq_nothing_comes(queue, stays);
}

bool shmq_promising(struct shmq_queue_port *queue, enum shmq_side side, bool stays) {
    if (side == SHMQ_SPACE) return shmq_ring_has_space(queue) || shmq_is_shut(queue);
    if (side == SHMQ_DONE) return shmq_all_done(queue);
    if (shmq_unlikely(shmq_backlog(queue))) return true;
    return shmq_ring_has_item(queue) || shmq_load_seq(&queue->header->orphan_changes) != queue->orphan_changes_seen || /* [orphan] [park] */
           (shmq_unlikely(queue->due_ns != SHMQ_FOREVER) && shmq_now_ns() >= queue->due_ns) || shmq_is_over(queue, stays);
}

/* A producer that waits for space is worth waking for a quarter of the ring (at most this many cells) at once. Waking it
 * for every freed cell would put a context switch (20 to 45 us) behind every message of a full ring. */
#define SPACE_WORTH 256u
/* It is also worth waking where none was woken for this long: a slow consumer frees a cell now and then, and announces each at once. */
#define SPACE_PATIENCE_NS 200000u

bool shmq_worth_waking(const struct shmq_queue_port *queue, uint64_t now) {
    uint32_t space = queue->geometry.slots - shmq_ring_estimate(queue), worth = queue->geometry.slots / 4;
    if (space >= (worth < SPACE_WORTH ? worth : SPACE_WORTH)) return true;
    return now - shmq_load_relaxed(&queue->port.header->space_woken_ns) >= SPACE_PATIENCE_NS; /* a hint */
}
