/* What hostile.c and tests/crash/deaths.c share: checks, a segment between two fences, messages that prove themselves.
 *
 * The segment lies in memory that forked children share. Behind it comes so much memory without any access rights that a
 * slot, index or cell number of any value, times its stride, ends there: an access out of bounds is a SIGSEGV, in every
 * build. A check that fails ends the program.
 */
#ifndef SHMQ_TEST_HARNESS_H
#define SHMQ_TEST_HARNESS_H

#define _GNU_SOURCE /* so that this header comes first in each program */

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"

#define WATCHDOG_SECONDS 60 /* then SIGALRM ends the program */

/* -- checks ---------------------------------------------------------------------------------------------------------- */

static inline void check_failed(const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: not so: %s\n", file, line, what);
    fflush(NULL);
    _Exit(1);
}
static inline void check_equal(uint64_t found, uint64_t expected, const char *what, const char *file, int line) {
    if (found == expected) return;
    fprintf(stderr, "%s:%d: %s is %llu (%#llx), expected %llu (%#llx)\n", file, line, what, (unsigned long long)found,
            (unsigned long long)found, (unsigned long long)expected, (unsigned long long)expected);
    fflush(NULL);
    _Exit(1);
}
#define CHECK(condition) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition))
#define CHECK_EQUAL(found, expected) check_equal((uint64_t)(found), (uint64_t)(expected), #found, __FILE__, __LINE__)

/* -- chance ---------------------------------------------------------------------------------------------------------- */

/* xorshift64*: the same numbers in every run. The state must not be 0. */
static inline uint64_t chance(uint64_t *state) {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545f4914f6cdd1d);
}
static inline uint32_t chance_below(uint64_t *state, uint32_t limit) { return (uint32_t)(chance(state) >> 33) % limit; }

/* -- a segment ------------------------------------------------------------------------------------------------------- */

struct segment {
    struct shmq_geometry geometry;
    unsigned char *base;
    sem_t *semaphores; /* two, in memory that forked children share */
    unsigned char *fenced;
    uint64_t fenced_bytes;
};

static inline void *shared_memory(uint64_t nbytes, int protection) {
    void *memory = mmap(NULL, nbytes, protection, MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(memory != MAP_FAILED);
    return memory;
}

/* Lay the segment out again, as a creator would; its memory stays where it is. */
static inline void segment_format(struct segment *segment) {
    static const uint8_t boot_id[16];
    memset(segment->base, 0, segment->geometry.segment_bytes);
    /* Reapers of one nonce exclude each other, also those of other programs: a nonce of our own. */
    shmq_segment_format(segment->base, &segment->geometry, shmq_owner_self(), 0, "", boot_id, shmq_owner_self(), shmq_owner_lock_inode(),
                        &(struct shmq_policy){0});
    shmq_segment_ready(segment->base);
}

static inline void segment_make(struct segment *segment, uint32_t slots, uint64_t slot_size, uint32_t in_flight, uint32_t ports) {
    uint32_t reserved = slot_size >= SHMQ_PAGE ? SHMQ_RESERVED_WHERE_PAGED : ports;
    CHECK(shmq_geometry(slots, slot_size, in_flight + reserved, ports, &segment->geometry));
    const struct shmq_geometry *g = &segment->geometry;
    uint64_t inside = (g->segment_bytes + SHMQ_PAGE - 1) & ~(uint64_t)(SHMQ_PAGE - 1);
    uint64_t behind = (uint64_t)SHMQ_PAGE + (g->payload_stride << SHMQ_SLOT_BITS);
    segment->fenced_bytes = SHMQ_PAGE + inside + behind;
    segment->fenced = shared_memory(segment->fenced_bytes, PROT_NONE);
    CHECK_EQUAL(mprotect(segment->fenced + SHMQ_PAGE, inside, PROT_READ | PROT_WRITE), 0);
    segment->base = segment->fenced + SHMQ_PAGE + inside - g->segment_bytes; /* it ends where the fence begins */
    segment->semaphores = shared_memory(SHMQ_PAGE, PROT_READ | PROT_WRITE);
    for (int side = 0; side < 2; side++) CHECK_EQUAL(sem_init(&segment->semaphores[side], 1, 0), 0);
    segment_format(segment);
}

static inline void segment_unmake(struct segment *segment) {
    munmap(segment->fenced, segment->fenced_bytes);
    munmap(segment->semaphores, SHMQ_PAGE);
}

static inline shmq_status port_attach(struct shmq_port *port, const struct segment *segment) {
    shmq_status status = shmq_port_attach(port, segment->base, &segment->geometry, shmq_owner_self());
    for (int side = 0; side < 2; side++) port->semaphores[side] = &segment->semaphores[side];
    return status;
}

/* Every slot is in exactly one cell (I1), no exchange is open, and nothing is owned by a free port. At a quiet moment. */
static inline void segment_check(const struct segment *segment) {
    const struct shmq_geometry *g = &segment->geometry;
    shmq_word *ring = (shmq_word *)(segment->base + g->ring_offset);
    struct shmq_cell *cells = (struct shmq_cell *)(segment->base + g->cells_offset);
    struct shmq_port_record *records = (struct shmq_port_record *)(segment->base + g->ports_offset);
    uint8_t *named = calloc(g->total_slots, 1);
    for (uint32_t i = 0; i < g->slots + g->cells; i++) {
        uint32_t slot = shmq_word_slot(i < g->slots ? ring[i] : cells[i - g->slots].word);
        CHECK(slot < g->total_slots);
        CHECK(named[slot]++ == 0);
    }
    free(named);
    for (uint32_t i = 0; i < g->ports; i++) CHECK_EQUAL(records[i].intent, 0);
    for (uint32_t i = 0; i < g->cells; i++) {
        uint32_t owner = shmq_cell_owner(cells[i].word);
        CHECK(owner == SHMQ_NO_PORT || (owner < g->ports && records[owner].owner != 0));
    }
}

/* -- messages -------------------------------------------------------------------------------------------------------- */

/* At the beginning of a payload: who wrote which message, and the sum of the words behind. */
struct message {
    uint32_t producer, number;
    uint64_t checksum;
};

static inline uint64_t mixed(uint64_t a, uint64_t b) {
    uint64_t state = (a + 1) * UINT64_C(0x9e3779b97f4a7c15) + b + 1;
    return chance(&state);
}

/* Write a whole message, of a length that follows from its name. */
static inline void message_write(struct shmq_port *port, uint32_t slot, uint32_t producer, uint32_t number) {
    struct shmq_slot *header = shmq_slot_at(port, slot);
    struct message *message = (struct message *)shmq_payload_at(port, slot);
    uint64_t *words = (uint64_t *)(message + 1), salt = mixed(producer, number), sum = salt;
    uint64_t count = salt % ((port->geometry.slot_size - sizeof *message) / 8 + 1);
    for (uint64_t i = 0; i < count; i++) sum += words[i] = salt ^ i;
    *message = (struct message){producer, number, sum};
    header->nbytes = sizeof *message + count * 8;
    header->kind = SHMQ_BYTES;
    header->flags = header->ndim = 0;
    header->described = 0;
    shmq_slot_stamp(port, header);
}

/* Read it, and check that it is whole. */
static inline struct message message_read(const struct shmq_port *port, uint32_t slot) {
    const struct message *message = (const struct message *)shmq_payload_at(port, slot);
    const uint64_t *words = (const uint64_t *)(message + 1);
    uint64_t sum = mixed(message->producer, message->number), count = sum % ((port->geometry.slot_size - sizeof *message) / 8 + 1);
    CHECK_EQUAL(shmq_slot_at(port, slot)->nbytes, sizeof *message + count * 8);
    for (uint64_t i = 0; i < count; i++) sum += words[i];
    CHECK_EQUAL(message->checksum, sum);
    return *message;
}

/* -- operations as a binding does them: one try each, OK or why not ------------------------------------------------------ */

static inline uint32_t slot_in(const struct shmq_port *port, uint32_t cell) { return shmq_word_slot(shmq_cell_load(port, cell)); }

static inline uint32_t delivery_count(const struct shmq_port *port, uint32_t cell) {
    return shmq_deliveries_failed(shmq_load_acquire(&shmq_slot_at(port, slot_in(port, cell))->deliveries)) + 1;
}

static inline shmq_status try_put(struct shmq_port *port, uint32_t producer, uint32_t number) {
    uint32_t cell;
    shmq_status status = shmq_cell_take(port, SHMQ_TO_WRITE, &cell);
    if (status != SHMQ_OK) return status;
    message_write(port, slot_in(port, cell), producer, number);
    status = shmq_offer(port, cell, true);
    shmq_cell_return(port, cell, status != SHMQ_OK);
    return status;
}

/* The cell is LEASED afterwards. */
static inline shmq_status try_take(struct shmq_port *port, bool for_long, uint32_t *cell) { return shmq_take(port, for_long, 0, cell); }

/* The waiting half of a blocking call. TIMED_OUT, or OK: look again. */
static inline shmq_status wait_after(struct shmq_port *port, shmq_status why, enum shmq_side side, uint64_t deadline_ns,
                                     struct shmq_patience *patience) {
    CHECK(why == SHMQ_WOULD_BLOCK || why == SHMQ_NO_CELLS);
    shmq_status status = why == SHMQ_NO_CELLS ? shmq_await_cell(port, deadline_ns, patience) : shmq_await(port, side, deadline_ns, patience);
    CHECK(status == SHMQ_OK || status == SHMQ_TIMED_OUT || status == SHMQ_INTERRUPTED);
    return status == SHMQ_TIMED_OUT ? status : SHMQ_OK;
}

static inline void put(struct shmq_port *port, uint32_t producer, uint32_t number) {
    struct shmq_patience patience = {0};
    shmq_status status;
    while ((status = try_put(port, producer, number)) != SHMQ_OK) wait_after(port, status, SHMQ_SPACE, SHMQ_FOREVER, &patience);
}

#endif
