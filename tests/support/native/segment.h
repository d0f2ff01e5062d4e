/* A segment between two fences, in memory that forked children share.
 *
 * Behind it comes so much memory without any access rights that a slot, index or cell number of any value, times its stride,
 * ends there: an access out of bounds is a SIGSEGV, in every build. What lies before it in its first page is poisoned where
 * AddressSanitizer looks. */
#ifndef SHMQ_TEST_SEGMENT_H
#define SHMQ_TEST_SEGMENT_H

#include "check.h"

#include <semaphore.h>
#include <sys/mman.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#include <sanitizer/asan_interface.h>
#endif
#endif
#ifndef ASAN_POISON_MEMORY_REGION
#define ASAN_POISON_MEMORY_REGION(address, nbytes) ((void)(address), (void)(nbytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, nbytes) ((void)(address), (void)(nbytes))
#endif

#include "engine.h"

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

static inline struct shmq_header *segment_header(const struct segment *segment) { return (struct shmq_header *)segment->base; }
static inline struct shmq_queue_header *segment_queue(const struct segment *segment) { return (struct shmq_queue_header *)segment->base; }
static inline shmq_word *segment_ring(const struct segment *segment) { return (shmq_word *)(segment->base + segment->geometry.ring_offset); }
static inline struct shmq_cell *segment_cells(const struct segment *segment) {
    return (struct shmq_cell *)(segment->base + segment->geometry.cells_offset);
}
static inline struct shmq_port_record *segment_records(const struct segment *segment) {
    return (struct shmq_port_record *)(segment->base + segment->geometry.ports_offset);
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
    ASAN_POISON_MEMORY_REGION(segment->fenced + SHMQ_PAGE, inside - g->segment_bytes);
    segment->semaphores = shared_memory(SHMQ_PAGE, PROT_READ | PROT_WRITE);
    for (int side = 0; side < 2; side++) CHECK_EQUAL(sem_init(&segment->semaphores[side], 1, 0), 0);
    segment_format(segment);
}

static inline void segment_unmake(struct segment *segment) {
    ASAN_UNPOISON_MEMORY_REGION(segment->fenced + SHMQ_PAGE, (uint64_t)(segment->base - segment->fenced) - SHMQ_PAGE);
    munmap(segment->fenced, segment->fenced_bytes);
    munmap(segment->semaphores, SHMQ_PAGE);
}

/* Another lap and another generation than those of a fresh segment. */
static inline void segment_start_at(struct segment *segment, uint64_t lap, uint64_t generation) {
    const struct shmq_geometry *g = &segment->geometry;
    struct shmq_queue_header *header = segment_queue(segment);
    header->write_seq = header->read_seq = shmq_seq_word(lap, 0);
    for (uint32_t i = 0; i < g->slots; i++) segment_ring(segment)[i] = shmq_ring_word(lap & SHMQ_LAP_MASK, SHMQ_EMPTY, i);
    for (uint32_t i = 0; i < g->cells; i++)
        segment_cells(segment)[i].word = shmq_cell_word(generation, SHMQ_SPARE, SHMQ_NO_PORT, g->slots + i);
}

static inline shmq_status port_attach(struct shmq_queue_port *port, const struct segment *segment) {
    shmq_status status = shmq_port_attach(port, segment->base, &segment->geometry, shmq_owner_self());
    for (int side = 0; side < 2; side++) port->port.semaphores[side] = &segment->semaphores[side];
    return status;
}
static inline void must_attach(struct shmq_queue_port *port, const struct segment *segment) {
    CHECK_EQUAL(port_attach(port, segment), SHMQ_OK);
}

/* Every slot is in exactly one cell (I1). */
static inline void segment_check_slots(const struct segment *segment) {
    const struct shmq_geometry *g = &segment->geometry;
    uint8_t *named = calloc(g->total_slots, 1);
    CHECK(named != NULL);
    for (uint32_t i = 0; i < g->slots + g->cells; i++) {
        uint32_t slot = shmq_word_slot(shmq_load_acquire(i < g->slots ? &segment_ring(segment)[i] : &segment_cells(segment)[i - g->slots].word));
        CHECK(slot < g->total_slots && named[slot]++ == 0, "%s cell %u names slot %u", i < g->slots ? "ring" : "in-flight",
              i < g->slots ? i : i - g->slots, slot);
    }
    free(named);
}

/* At a quiet moment: besides, no exchange is open, and nothing is owned by a free port. */
static inline void segment_check(const struct segment *segment) {
    const struct shmq_geometry *g = &segment->geometry;
    const struct shmq_port_record *records = segment_records(segment);
    segment_check_slots(segment);
    for (uint32_t i = 0; i < g->ports; i++) CHECK(shmq_load_acquire(&records[i].intent) == 0, "port %u still intends something", i);
    for (uint32_t i = 0; i < g->cells; i++) {
        uint32_t owner = shmq_cell_owner(shmq_load_acquire(&segment_cells(segment)[i].word));
        CHECK(owner == SHMQ_NO_PORT || (owner < g->ports && records[owner].owner != 0), "in-flight cell %u is port %u's", i, owner);
    }
}

/* Nobody is attached, and nothing is there. */
static inline void segment_check_empty(const struct segment *segment) {
    const struct shmq_geometry *g = &segment->geometry;
    segment_check(segment);
    for (uint32_t i = 0; i < g->slots; i++) CHECK(shmq_ring_state(shmq_load_acquire(&segment_ring(segment)[i])) == SHMQ_EMPTY, "ring cell %u", i);
    for (uint32_t i = 0; i < g->cells; i++) {
        uint64_t word = shmq_load_acquire(&segment_cells(segment)[i].word);
        CHECK(shmq_cell_state(word) <= SHMQ_WARM && shmq_cell_owner(word) == SHMQ_NO_PORT, "cell %u: %#lx", i, (unsigned long)word);
    }
}

#endif
