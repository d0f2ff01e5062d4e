/* A peer that writes anything anywhere: calls return, with an error or without, and touch nothing outside the segment.
 *
 * Compiled together with the C interface itself, whose handles are made here over a segment between fences, so that the
 * code that real programs run meets the hostile words. An access out of bounds ends in the fence; an endless loop ends
 * by the watchdog.
 */
#include <pthread.h>

#include "chance.h"
#include "segment.h"
#include "single.h"

#include "client/client.c"

static struct segment segment;
static shmq_queue queues[2];
static uint64_t luck = 1;

static void begin(uint32_t slots, uint64_t slot_size) {
    segment_format(&segment);
    for (int i = 0; i < 2; i++) must_attach(&queues[i].port, &segment);
    for (uint32_t i = 0; i < slots / 2; i++) CHECK_EQUAL(shmq_put(&queues[0], &slot_size, sizeof slot_size, NULL, 0), SHMQ_OK);
}

static bool known(int status) { return status >= SHMQ_OK && (status <= SHMQ_SYSTEM || status == SHMQ_SHUT); }

/* What was received lies inside the segment, whatever its header says. */
static void touch(const shmq_message *message) {
    const unsigned char *data = message->data, *end = segment.base + segment.geometry.segment_bytes;
    CHECK(data >= segment.base + segment.geometry.payload_offset && data < end);
    CHECK(message->nbytes <= segment.geometry.slot_size && message->nbytes <= (uint64_t)(end - data));
    volatile unsigned char sink = 0;
    for (uint64_t i = 0; i < message->nbytes; i++) sink += data[i];
    CHECK(message->shape.ndim <= 4);
}

static bool fill(void *context, struct shmq_queue_port *port, uint32_t slot) {
    uint32_t *left = context;
    if ((*left)-- == 0) return false;
    memset(shmq_payload_at(port, slot), 7, port->geometry.slot_size);
    shmq_slot_at(port, slot)->nbytes = port->geometry.slot_size;
    shmq_slot_stamp(port, shmq_slot_at(port, slot));
    return true;
}

static void attach_again(shmq_queue *queue) {
    if (port_attach(&queue->port, &segment) == SHMQ_OK) return;
    for (uint32_t i = 0; i < segment.geometry.ports; i++) queue->port.port.records[i].owner = 0; /* its words say that all are taken */
    CHECK_EQUAL(port_attach(&queue->port, &segment), SHMQ_OK);
}

enum { PUT, PUT_ARRAY, LOAN, RECEIVE, PUT_MANY, GET_MANY, REAP, LOOK, DETACH, OPERATIONS };

/* One call of a well-behaved program. */
static void operate(shmq_queue *queue, uint32_t operation) {
    struct shmq_queue_port *port = &queue->port;
    shmq_message message;
    shmq_status status;
    uint32_t cells[4], count = 0, left = 3;
    unsigned char payload[64] = {0};
    const shmq_shape square = {.dtype = 'u', .itemsize = 1, .ndim = 2, .shape = {4, 4}};
    switch (operation) {
    case PUT:
        CHECK(known(shmq_put(queue, payload, sizeof payload, NULL, 0)));
        break;
    case PUT_ARRAY:
        CHECK(known(shmq_put(queue, payload, 16, &square, 0)));
        break;
    case LOAN:
        if (shmq_loan(queue, sizeof payload, NULL, &message) != SHMQ_OK) break;
        memset(message.data, 1, message.nbytes);
        if (chance_below(&luck, 2) || shmq_publish(queue, &message, 0) != SHMQ_OK) {
            int status = shmq_abandon(queue, &message);
            CHECK(status == SHMQ_OK || status == SHMQ_LOST); /* lost: the scribbler has changed the cell */
        }
        break;
    case RECEIVE:
        if (shmq_receive(queue, &message, 0) != SHMQ_OK) break;
        touch(&message);
        CHECK(known(chance_below(&luck, 2) ? shmq_ack(queue, &message) : shmq_nack(queue, &message)));
        break;
    case PUT_MANY:
        if (shmq_cell_take(port, SHMQ_TO_WRITE, cells) != SHMQ_OK) break;
        shmq_ring_put_many(port, cells[0], fill, &left, &status);
        shmq_cell_return(port, cells[0], status != SHMQ_OK);
        CHECK(known((int)status));
        break;
    case GET_MANY:
        while (count < 4 && shmq_cell_take(port, SHMQ_TO_GIVE, &cells[count]) == SHMQ_OK) count++;
        if (count) CHECK(shmq_ring_get_many(port, cells, count, SHMQ_LEASED, &status) <= count && known((int)status));
        while (count) shmq_cell_return(port, cells[--count], true);
        break;
    case REAP:
        shmq_reap(&port->port);
        break;
    case LOOK: {
        struct shmq_slot slot;
        bool moved;
        CHECK(shmq_ring_length(port) <= port->geometry.slots && shmq_ring_estimate(port) <= port->geometry.slots);
        for (uint32_t i = 0; i < 4; i++) shmq_ring_peek(port, i, &slot, payload, sizeof payload, &moved);
        CHECK(snapshot_holds(port));
        shmq_ring_has_space(port), shmq_ring_has_item(port);
        shmq_ring_has_spaces(port, 2), shmq_ring_has_items(port, 2);
        shmq_wake(&port->port, SHMQ_ITEMS), shmq_wake(&port->port, SHMQ_SPACE);
        break;
    }
    case DETACH:
        shmq_port_detach(port);
        attach_again(queue);
        break;
    }
}

/* -- one word at a time ---------------------------------------------------------------------------------------------- */

/* Words that a flipped bit, an old segment or malice could leave. */
static uint64_t hostile_word(uint32_t n) {
    const uint64_t last_slot = segment.geometry.total_slots - 1;
    const uint64_t words[] = {
        0,
        UINT64_MAX,
        SHMQ_SLOT_MASK,                                        /* a slot far outside, at lap 0 */
        last_slot + 1,                                         /* a slot just outside */
        shmq_ring_word(0, SHMQ_READY, SHMQ_MAX_SLOTS),
        shmq_ring_word(0, SHMQ_READY, (uint32_t)last_slot + 1),
        shmq_ring_word(0, 2, 0),                               /* no state of a ring cell */
        shmq_ring_word(0, 3, 0),
        shmq_ring_word(7, SHMQ_READY, 0),                      /* a lap that cannot be yet */
        shmq_ring_word(SHMQ_LAP_MASK, SHMQ_EMPTY, 0),          /* … or any more */
        shmq_ring_word(SHMQ_LAP_MASK / 2, SHMQ_READY, 1),
        shmq_seq_word(0, segment.geometry.slots),              /* an index just outside */
        shmq_seq_word(SHMQ_LAP_MASK / 2 + 1, 0),
        shmq_cell_word(3, SHMQ_SPARE, SHMQ_NO_PORT, SHMQ_MAX_SLOTS),
        shmq_cell_word(3, SHMQ_WARM, SHMQ_NO_PORT, SHMQ_MAX_SLOTS),
        shmq_cell_word(3, SHMQ_IDLE, 0, SHMQ_MAX_SLOTS),
        shmq_cell_word(3, SHMQ_LEASED, 0, SHMQ_MAX_SLOTS),
        shmq_cell_word(3, SHMQ_LEASED, 1000, SHMQ_MAX_SLOTS),  /* a port far outside */
        shmq_cell_word(3, SHMQ_ORPHAN, SHMQ_NO_PORT, SHMQ_MAX_SLOTS),
        shmq_cell_word(3, SHMQ_ORPHAN, SHMQ_NO_PORT, (uint32_t)last_slot + 1),
        shmq_cell_word(3, 7, 0, 0),                            /* no state of an in-flight cell */
        shmq_intent_word(SHMQ_PUTTING, SHMQ_MAX_CELLS, SHMQ_MAX_SLOTS, SHMQ_MAX_SLOTS),
        shmq_intent_word(SHMQ_GETTING, 0, 0, SHMQ_MAX_SLOTS),
        shmq_intent_word(3, 0, SHMQ_MAX_SLOTS, 0),
    };
    return n < sizeof words / sizeof *words ? words[n] : 0;
}
#define HOSTILE_WORDS 24

/* The same word everywhere in one part of the segment; then everything that a program does, twice. */
static void meet(shmq_word *words, uint64_t stride_bytes, uint32_t count, uint32_t slots, uint64_t slot_size) {
    for (uint32_t n = 0; n < HOSTILE_WORDS; n++)
        for (uint32_t operation = 0; operation < OPERATIONS; operation++) {
            begin(slots, slot_size);
            for (uint32_t i = 0; i < count; i++) *(shmq_word *)((unsigned char *)words + i * stride_bytes) = hostile_word(n);
            operate(&queues[0], operation);
            operate(&queues[1], operation);
            for (uint32_t other = 0; other < OPERATIONS; other++) operate(&queues[0], other);
        }
}

#define MEET(words, stride, count)                    \
    for (uint32_t large = 0; large < 2; large++) {    \
        uint64_t slot_size = large ? 4096 : 64;       \
        segment_make(&segment, 4, slot_size, 4, 2);   \
        struct shmq_geometry *g = &segment.geometry;  \
        (void)g;                                      \
        meet(words, stride, count, 4, slot_size);     \
        segment_unmake(&segment);                     \
    }

TEST(hostile_ring_cells_are_survived) { MEET((shmq_word *)(segment.base + g->ring_offset), 8, g->slots) }
TEST(a_hostile_ring_cell_at_the_front_is_survived) { MEET((shmq_word *)(segment.base + g->ring_offset), 8, 1) }
TEST(hostile_in_flight_cells_are_survived) { MEET((shmq_word *)(segment.base + g->cells_offset), sizeof(struct shmq_cell), g->cells) }
TEST(a_hostile_kept_cell_is_survived) { MEET((shmq_word *)(segment.base + g->cells_offset), sizeof(struct shmq_cell), 1) }
TEST(a_hostile_write_sequence_is_survived) { MEET(&segment_queue(&segment)->write_seq, 8, 1) }
TEST(a_hostile_read_sequence_is_survived) { MEET(&segment_queue(&segment)->read_seq, 8, 1) }
TEST(hostile_waiter_counts_and_orphan_changes_are_survived) { MEET((shmq_word *)&segment_header(&segment)->items_waiters, 8, 4) }
TEST(hostile_owners_and_intents_are_survived) { MEET((shmq_word *)(segment.base + g->ports_offset), 8, g->ports * 16) }
TEST(hostile_slot_headers_are_survived) { MEET((shmq_word *)(segment.base + g->slot_offset), g->slot_stride, g->total_slots) }
TEST(hostile_lengths_are_survived) { MEET((shmq_word *)(segment.base + g->slot_offset + 16), g->slot_stride, g->total_slots) }
TEST(hostile_kinds_and_shapes_are_survived) { MEET((shmq_word *)(segment.base + g->slot_offset + 32), g->slot_stride, g->total_slots) }

/* -- everything at once ---------------------------------------------------------------------------------------------- */

static shmq_word *any_word(void) {
    const struct shmq_geometry *g = &segment.geometry;
    uint64_t offset;
    switch (chance_below(&luck, 6)) {
    case 0: offset = g->ring_offset + 8 * chance_below(&luck, g->slots); break;
    case 1: offset = g->cells_offset + sizeof(struct shmq_cell) * chance_below(&luck, g->cells); break;
    case 2: offset = offsetof(struct shmq_queue_header, write_seq); break;
    case 3: offset = offsetof(struct shmq_queue_header, read_seq); break;
    case 4: offset = g->slot_offset + g->slot_stride * chance_below(&luck, g->total_slots) + 8 * chance_below(&luck, 8); break;
    default: offset = 8 * chance_below(&luck, (uint32_t)(g->slot_offset / 8)); break; /* anything before the slots */
    }
    return (shmq_word *)(segment.base + offset);
}

static void scribble(void) {
    shmq_word *word = any_word();
    switch (chance_below(&luck, 4)) {
    case 0: *word = chance(&luck); break;
    case 1: *word = hostile_word(chance_below(&luck, HOSTILE_WORDS)); break;
    case 2: *word ^= UINT64_C(1) << chance_below(&luck, 64); break;
    default: *word += chance_below(&luck, 5) - 2u; break;
    }
}

static void scribble_for(uint32_t rounds, uint64_t slot_size) {
    luck = 4711 + slot_size;
    segment_make(&segment, 3, slot_size, 3, 2);
    for (uint32_t round = 0; round < rounds; round++) {
        begin(3, slot_size);
        for (uint32_t step = 0; step < 40; step++) {
            if (chance_below(&luck, 3) == 0) scribble();
            operate(&queues[chance_below(&luck, 2)], chance_below(&luck, OPERATIONS));
        }
    }
    segment_unmake(&segment);
}

TEST(random_words_between_calls_are_survived) { scribble_for(3000, 64); }
TEST(random_words_between_calls_are_survived_by_large_slots) { scribble_for(1000, 4096); }

static _Atomic bool stop_scribbling;

/* Its luck is its own: the words of ring, cells and sequences change under the calls of others. */
static void *scribble_on(void *argument) {
    uint64_t own = (uint64_t)(uintptr_t)argument;
    const struct shmq_geometry *g = &segment.geometry;
    while (!stop_scribbling) {
        uint64_t place = chance_below(&own, 4), offset = place == 0 ? offsetof(struct shmq_queue_header, write_seq) : offsetof(struct shmq_queue_header, read_seq);
        if (place == 1) offset = g->ring_offset + 8 * chance_below(&own, g->slots);
        if (place == 2) offset = g->cells_offset + sizeof(struct shmq_cell) * chance_below(&own, g->cells);
        shmq_word *word = (shmq_word *)(segment.base + offset);
        *word = chance_below(&own, 2) ? *word + 1 : hostile_word(chance_below(&own, HOSTILE_WORDS));
    }
    return NULL;
}

TEST(words_that_change_during_calls_are_survived) {
    luck = 99;
    segment_make(&segment, 3, 64, 3, 2);
    begin(3, 64);
    pthread_t scribbler;
    CHECK_EQUAL(pthread_create(&scribbler, NULL, scribble_on, (void *)(uintptr_t)12345), 0);
    for (uint32_t i = 0; i < 20000; i++) operate(&queues[chance_below(&luck, 2)], chance_below(&luck, OPERATIONS));
    stop_scribbling = true;
    pthread_join(scribbler, NULL);
    segment_unmake(&segment);
}

TEST(a_header_of_random_numbers_is_accepted_only_where_the_file_is_large_enough) {
    luck = 17;
    segment_make(&segment, 3, 64, 3, 2);
    for (uint32_t i = 0; i < 200000; i++) {
        struct shmq_geometry g;
        segment_format(&segment);
        uint32_t *field = (uint32_t *)(segment.base + 16) + chance_below(&luck, 10);
        *field = chance_below(&luck, 2) ? (uint32_t)chance(&luck) : *field ^ 1u << chance_below(&luck, 32);
        if (shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_OK) {
            CHECK(g.segment_bytes <= segment.geometry.segment_bytes);
            CHECK(g.payload_offset + (g.total_slots - 1) * g.payload_stride + g.slot_size <= g.segment_bytes);
        }
    }
    segment_unmake(&segment);
}

int main(int argc, char **argv) { return run_single(argc, argv, WATCHDOG_SECONDS); }
