/* A segment of which nothing is to be believed, under the engine's own calls. What a program in C meets there stands in hostile.c.
 *
 *     scribbled between SEED ROUNDS          random words, between two calls, wherever the format has words
 *     scribbled meanwhile SEED MILLISECONDS  the same while threads work */
#include <pthread.h>
#include <sched.h>

#include "call.h"

static uint64_t random_word(uint64_t *random, uint64_t there, const struct shmq_geometry *g) {
    uint64_t wild = (uint64_t)chance_below(random, 1u << 31) << 33 ^ (uint64_t)chance_below(random, 1u << 31) << 16 ^ chance_below(random, 1u << 16);
    switch (chance_below(random, 8)) {
    case 0: return wild;
    case 1: return 0;
    case 2: return UINT64_MAX;
    case 3: return there ^ UINT64_C(1) << chance_below(random, 64);
    case 4: return (there & ~SHMQ_SLOT_MASK) | chance_below(random, g->total_slots); /* a slot that another cell names, too */
    case 5: return (there & ~SHMQ_SLOT_MASK) | (g->total_slots + chance_below(random, 3)); /* just outside */
    case 6: return there + (UINT64_C(1) << 26) * (chance_below(random, 5) - 2); /* another lap */
    default: return shmq_cell_word(wild, chance_below(random, 8), chance_below(random, g->ports + 2), chance_below(random, g->total_slots + 1));
    }
}

/* Any word of the segment between the geometry and the slots, and the header of any slot. */
static shmq_word *random_place(uint64_t *random, const struct segment *segment) {
    struct shmq_queue_header *header = segment_queue(segment);
    struct shmq_port_record *record = segment_records(segment) + chance_below(random, segment->geometry.ports);
    switch (chance_below(random, 10)) {
    case 0: return &header->write_seq;
    case 1: return &header->read_seq;
    case 2: return &header->orphan_changes;
    case 3: return &record->owner;
    case 4: return &record->intent;
    case 5: return &record->expected;
    case 6: return (shmq_word *)(segment->base + segment->geometry.slot_offset + chance_below(random, segment->geometry.total_slots) * segment->geometry.slot_stride) + chance_below(random, 8);
    case 7: return &segment_cells(segment)[chance_below(random, segment->geometry.cells)].word;
    default: return segment_ring(segment) + chance_below(random, segment->geometry.slots);
    }
}

static void scribble_once(uint64_t *random, const struct segment *segment) {
    shmq_word *place = random_place(random, segment);
    shmq_store_relaxed(place, random_word(random, shmq_load_relaxed(place), &segment->geometry));
}

/* The slot of a cell that the engine has just handed out: whatever the segment says, it must be one. */
static uint32_t handed(struct shmq_queue_port *port, uint32_t cell, const char *by) {
    uint32_t slot = slot_in(port, cell);
    CHECK(slot < port->geometry.total_slots, "%s handed out slot %u of %u", by, slot, port->geometry.total_slots);
    return slot;
}

static void touch(struct shmq_queue_port *port, uint32_t slot, bool write) {
    unsigned char *payload = shmq_payload_at(port, slot);
    struct shmq_slot *header = shmq_slot_at(port, slot);
    uint64_t nbytes = header->nbytes < port->geometry.slot_size ? header->nbytes : port->geometry.slot_size;
    unsigned char sink[4096];
    if (nbytes > sizeof sink) nbytes = sizeof sink;
    if (write) memset(payload, 1, port->geometry.slot_size < sizeof sink ? port->geometry.slot_size : sizeof sink), header->nbytes = 1;
    else memcpy(sink, payload, nbytes);
}

static bool fill_hostile(void *left, struct shmq_queue_port *port, uint32_t slot) {
    if ((*(uint32_t *)left)-- == 0) return false;
    if (slot >= port->geometry.total_slots) return true; /* of my own cell, and somebody has scribbled over it */
    touch(port, slot, true);
    shmq_slot_stamp(port, shmq_slot_at(port, slot));
    return true;
}

static void expect(shmq_status status, const char *call) {
    CHECK(status == SHMQ_OK || status == SHMQ_WOULD_BLOCK || status == SHMQ_CORRUPT || status == SHMQ_NO_CELLS || status == SHMQ_LOST,
          "%s: status %d", call, status);
}

/* One random call on a segment of which nothing is to be believed. `quiet`: nobody scribbles between two instructions. */
static void try_anything(struct shmq_queue_port *port, uint64_t *random, bool quiet) {
    uint32_t cell, cells[4], taken = 0, left = chance_below(random, 12);
    shmq_status status;
    struct shmq_slot header;
    unsigned char bytes[128];
    bool moved;
    switch (chance_below(random, 11)) {
    case 0:
        expect(status = shmq_cell_take(port, SHMQ_TO_WRITE, &cell), "take");
        if (status != SHMQ_OK) return;
        if (quiet) touch(port, handed(port, cell, "shmq_cell_take"), true);
        expect(shmq_ring_put(port, cell), "put");
        shmq_cell_return(port, cell, false);
        return;
    case 1:
        expect(status = shmq_cell_take(port, SHMQ_TO_GIVE, &cell), "take");
        if (status != SHMQ_OK) return;
        expect(status = shmq_ring_get(port, cell, SHMQ_LEASED), "get");
        if (status == SHMQ_OK && quiet) touch(port, handed(port, cell, "shmq_ring_get"), false);
        shmq_cell_return(port, cell, true);
        return;
    case 2:
        expect(status = shmq_cell_take(port, SHMQ_TO_WRITE, &cell), "take");
        if (status != SHMQ_OK) return;
        shmq_ring_put_many(port, cell, fill_hostile, &left, &status);
        expect(status, "put_many");
        shmq_cell_return(port, cell, false);
        return;
    case 3:
        while (taken < 4 && shmq_cell_take_for_long(port, SHMQ_TO_GIVE, &cells[taken]) == SHMQ_OK) taken++;
        left = taken ? shmq_ring_get_many(port, cells, taken, SHMQ_LEASED, &status) : 0;
        for (uint32_t i = 0; i < taken; i++) {
            if (i < left && quiet) touch(port, handed(port, cells[i], "shmq_ring_get_many"), false);
            shmq_cell_return(port, cells[i], false);
        }
        return;
    case 4:
        expect(status = shmq_orphan_adopt(port, 0, &cell), "adopt");
        if (status != SHMQ_OK) return;
        if (quiet) touch(port, handed(port, cell, "shmq_orphan_adopt"), false);
        expect(shmq_lease_ack(port, cell, shmq_cell_load(port, cell), false), "ack");
        return;
    case 5:
        if (shmq_cell_take_for_long(port, SHMQ_TO_GIVE, &cell) != SHMQ_OK) return;
        if (shmq_ring_get(port, cell, SHMQ_LEASED) != SHMQ_OK) {
            shmq_cell_return(port, cell, false);
            return;
        }
        if (quiet) expect(shmq_lease_give_back(port, cell, shmq_cell_load(port, cell), left % 2 ? SHMQ_NACKED : SHMQ_RELEASED, 0), "give back");
        return;
    case 6:
        CHECK(shmq_ring_length(port) <= port->geometry.slots && shmq_ring_estimate(port) <= port->geometry.slots, "length");
        CHECK(snapshot_holds(port), "snapshot");
        return;
    case 7: shmq_ring_peek(port, left, &header, bytes, port->geometry.slot_size < sizeof bytes ? port->geometry.slot_size : sizeof bytes, &moved); return;
    case 8:
        shmq_ring_has_item(port), shmq_ring_has_space(port), shmq_ring_has_items(port, left), shmq_ring_has_spaces(port, left);
        port->port.spins = true;
        shmq_spin(port, left % 2 ? SHMQ_ITEMS : SHMQ_SPACE, shmq_now_ns());
        shmq_wake(&port->port, SHMQ_ITEMS), shmq_wake(&port->port, SHMQ_SPACE);
        return;
    case 9: shmq_reap(&port->port); return;
    default: {
        struct shmq_patience patience = {0};
        if (left == 0) shmq_wait_park(&port->port, SHMQ_ITEMS, shmq_now_ns() + 100000, port->due_ns, &patience);
        shmq_linger(port);
    }
    }
}

static bool attach_hostile(const struct segment *segment, struct shmq_queue_port *port) {
    shmq_status status = port_attach(port, segment);
    CHECK(status == SHMQ_OK || status == SHMQ_NO_PORTS, "attach: %d", status);
    return status == SHMQ_OK;
}

static void make_by_chance(struct segment *segment, uint64_t *random) {
    static const uint64_t sizes[] = {1, 64, 100, 4096};
    uint32_t slots = 1 + chance_below(random, 5);
    uint64_t slot_size = sizes[chance_below(random, 4)];
    uint32_t in_flight = 1 + chance_below(random, 5);
    segment_make(segment, slots, slot_size, in_flight, 2 + chance_below(random, 3));
}

static void hostile(uint64_t seed, uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; round++) {
        uint64_t random = (seed * 1000003 + round) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        snprintf(context, sizeof context, "hostile %lu, round %u", (unsigned long)seed, round);
        struct segment segment;
        make_by_chance(&segment, &random);
        struct shmq_queue_port ports[2];
        bool attached[2] = {false, false};
        for (int turn = 0; turn < 150; turn++) {
            int which = (int)chance_below(&random, 2);
            if (turn > 20 && chance_below(&random, 4) == 0) scribble_once(&random, &segment);
            if (!attached[which]) attached[which] = attach_hostile(&segment, &ports[which]);
            if (!attached[which]) continue;
            struct shmq_queue_port *port = &ports[which];
            try_anything(port, &random, true);
            if (chance_below(&random, 12) == 0) shmq_port_detach(port), attached[which] = false;
        }
        segment_unmake(&segment);
    }
    /* And headers. */
    for (uint32_t round = 0; round < rounds * 10; round++) {
        uint64_t random = (seed * 7919 + round) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        union { struct shmq_header segment; struct shmq_queue_header queue; } header;
        struct shmq_geometry g;
        memset(&header, 0, sizeof header);
        header.segment.magic = SHMQ_MAGIC;
        header.segment.version = SHMQ_VERSION;
        header.segment.endian = SHMQ_ENDIAN;
        header.segment.kind = SHMQ_KIND_QUEUE;
        header.queue.slots = 4;
        header.queue.slot_size = 64;
        header.queue.cells = 9;
        header.segment.ports = 4;
        CHECK(shmq_geometry(4, 64, 9, 4, &g), "geometry");
        header.segment.segment_bytes = g.segment_bytes;
        for (uint32_t i = 0; i < 1 + chance_below(&random, 3); i++) {
            uint64_t *word = (uint64_t *)&header + chance_below(&random, 8);
            *word = chance_below(&random, 2) ? *word ^ UINT64_C(1) << chance_below(&random, 64) : random_word(&random, *word, &g);
        }
        uint64_t file_bytes = sizeof header + chance_below(&random, 100000);
        if (shmq_segment_check(&header, file_bytes, &g) == SHMQ_OK)
            CHECK(g.segment_bytes <= file_bytes && g.payload_offset + (g.total_slots - 1) * g.payload_stride + g.slot_size <= file_bytes, "outside");
    }
}

static struct {
    struct segment segment;
    uint64_t seed;
    _Atomic bool over;
} scribbling;

static void *work_on_anything(void *index) {
    uint64_t random = (scribbling.seed + (uintptr_t)index) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    struct shmq_queue_port port;
    bool attached = false;
    while (!scribbling.over) {
        if (!attached) attached = attach_hostile(&scribbling.segment, &port);
        if (!attached) {
            scribble_once(&random, &scribbling.segment); /* all ports look taken: perhaps this frees one */
            continue;
        }
        try_anything(&port, &random, false);
        if (chance_below(&random, 12) == 0) shmq_port_detach(&port), attached = false;
    }
    return NULL;
}

static void scribble(uint64_t seed, uint32_t milliseconds) {
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1, until = shmq_now_ns() + milliseconds * UINT64_C(1000000);
    snprintf(context, sizeof context, "scribble %lu", (unsigned long)seed);
    segment_make(&scribbling.segment, 3, 64, 4, 4);
    scribbling.seed = seed;
    pthread_t threads[2];
    for (uintptr_t i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, work_on_anything, (void *)(i + 1)) == 0, "thread");
    while (shmq_now_ns() < until) {
        for (uint32_t i = chance_below(&random, 20); i > 0; i--) scribble_once(&random, &scribbling.segment);
        sched_yield();
    }
    scribbling.over = true;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    segment_unmake(&scribbling.segment);
}

int main(int argc, char **argv) {
    watchdog(100);
    CHECK(argc == 4 && shmq_owner_self() != 0);
    unsigned long seed = strtoul(argv[2], NULL, 0);
    uint32_t much = (uint32_t)strtoul(argv[3], NULL, 0);
    if (strcmp(argv[1], "between") == 0) return hostile(seed, much), 0;
    if (strcmp(argv[1], "meanwhile") == 0) return scribble(seed, much), 0;
    return 2;
}
