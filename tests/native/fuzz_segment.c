/* A libFuzzer target for everything that reads a segment which somebody else wrote.
 *
 * An input is a segment and a script: a well-formed small segment, or one whose header holds the input's numbers and which
 * is looked at as attach does; then calls of two well-behaved handles, with words changed by a scribbling peer between the
 * calls and, by accesses.h, between any two accesses within a call; a handle may also die there, to be reaped.
 *
 * A finding is an access outside the segment or outside the part that is meant (fences as in segment.h; the gaps between
 * the parts and behind each payload are poisoned), undefined behaviour, a call that does not return, or a returned cell,
 * slot, length or status that cannot be. What becomes of the messages is no concern here.
 *
 * To follow a change of the engine's interface: the calls into it stand in `operate` alone, states and words in `value_of`. */
#include <errno.h>
#include <sanitizer/asan_interface.h>
#include <semaphore.h>
#include <setjmp.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define _Exit(status) abort() /* of a check that fails: libFuzzer then writes the input down */
#include "segment.h"

#include "client/client.c"

/* -- time ---------------------------------------------------------------------------------------------------------------- */

/* In place of the C library's. It passes where somebody sleeps, at once, and by a tick at each look, from the same moment on in every
 * run of an input. Nobody else runs meanwhile: whom no post waits for, none will wake. */
static uint64_t passed_ns;

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (clock != CLOCK_MONOTONIC && clock != CLOCK_MONOTONIC_COARSE) return (int)syscall(SYS_clock_gettime, clock, now);
    passed_ns += 100;
    *now = (struct timespec){.tv_sec = 1000 + (time_t)(passed_ns / 1000000000u), .tv_nsec = (long)(passed_ns % 1000000000u)};
    return 0;
}
int clock_nanosleep(clockid_t clock, int flags, const struct timespec *pause, struct timespec *rest) {
    (void)clock, (void)flags, (void)rest;
    passed_ns += (uint64_t)pause->tv_sec * 1000000000u + (uint64_t)pause->tv_nsec;
    return 0;
}
int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until) {
    if (sem_trywait(semaphore) == 0) return 0;
    (void)clock;
    uint64_t end = (uint64_t)(until->tv_sec - 1000) * 1000000000u + (uint64_t)until->tv_nsec;
    if (until->tv_sec >= 1000 && end > passed_ns) passed_ns = end;
    return errno = ETIMEDOUT, -1;
}

/* -- the input --------------------------------------------------------------------------------------------------------- */

static const uint8_t *input, *input_end;

/* Bytes, and zeros behind the end: every input means something. */
static uint8_t byte(void) { return input < input_end ? *input++ : 0; }
static uint64_t number(unsigned nbytes) {
    uint64_t n = 0;
    while (nbytes--) n = n << 8 | byte();
    return n;
}

/* -- segments ---------------------------------------------------------------------------------------------------------- */

static struct segment *segment; /* of this input */

#define FILE_BYTES 16384u /* the largest file with a header of the input's making */

static struct segment shapes[6];  /* well-formed ones; the last has room for any header, and no meaning before there is one */
enum { WELL_FORMED = sizeof shapes / sizeof *shapes - 1 };
static unsigned char *images[WELL_FORMED];

/* Each part that a program may look at, one after the other; what lies between them is nobody's. */
static void each_part(const struct segment *s, void (*part)(unsigned char *begin, uint64_t nbytes, unsigned char *end)) {
    const struct shmq_geometry *g = &s->geometry;
    unsigned char *slots = s->base + g->slot_offset, *payloads = s->base + g->payload_offset, *end = s->base + g->segment_bytes;
    uint64_t room = g->slot_size > SHMQ_SIDE_KEY_BYTES ? g->slot_size : SHMQ_SIDE_KEY_BYTES; /* such a key lies in what rounding left */
    uint64_t ring_end = g->ring_offset + g->slots * sizeof(shmq_word);
    part(s->base, ring_end, slots);
    for (uint32_t i = 0; i < g->total_slots; i++) {
        unsigned char *header = slots + i * g->slot_stride, *payload = payloads + i * g->payload_stride;
        unsigned char *after = i + 1 < g->total_slots ? header + g->slot_stride : payloads;
        part(header, sizeof(struct shmq_slot), g->paged ? after : payload);
        part(payload, room, i + 1 < g->total_slots ? payload + (g->paged ? g->payload_stride : g->slot_stride - sizeof(struct shmq_slot)) : end);
    }
}

static void fence_part(unsigned char *begin, uint64_t nbytes, unsigned char *end) {
    ASAN_POISON_MEMORY_REGION(begin + nbytes, (size_t)(end - begin) - nbytes);
}

static const unsigned char *image;
static void restore_part(unsigned char *begin, uint64_t nbytes, unsigned char *end) {
    memcpy(begin, image + (begin - segment->base), nbytes);
    (void)end;
}

static void access_met(void);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    static const struct { uint32_t slots; uint64_t slot_size; uint32_t in_flight, ports; } four[WELL_FORMED] = {
        {4, 64, 2, 2}, {1, 1, 1, 1}, {7, 100, 3, 3}, {3, SHMQ_PAGE, 3, 2}, {2, SHMQ_PAGE + 1, 1, 3},
    };
    shmq_access_met = access_met;
    CHECK(shmq_owner_self() != 0);
    for (int i = 0; i < WELL_FORMED; i++) {
        segment_make(&shapes[i], four[i].slots, four[i].slot_size, four[i].in_flight, four[i].ports);
        /* The reaper's lock is named after it: two fuzzers on one machine must not meet there. */
        struct shmq_header *header = (struct shmq_header *)shapes[i].base;
        header->nonce = (uint64_t)getpid() << 8 | (uint64_t)i;
        if (i % 2) ((struct shmq_queue_header *)shapes[i].base)->policy = (struct shmq_policy){.lease_timeout_ns = 1, .retry_initial_ns = 1, .retry_maximum_ns = 9, .retry_factor = 2, .max_deliveries = 2};
        images[i] = malloc(shapes[i].geometry.segment_bytes);
        memcpy(images[i], shapes[i].base, shapes[i].geometry.segment_bytes);
        each_part(&shapes[i], fence_part);
    }
    struct segment *any = &shapes[WELL_FORMED];
    any->fenced_bytes = 2 * SHMQ_PAGE + FILE_BYTES + ((uint64_t)FILE_BYTES << SHMQ_SLOT_BITS); /* no stride is larger than the file */
    any->fenced = shared_memory(any->fenced_bytes, PROT_NONE);
    any->base = any->fenced + SHMQ_PAGE;
    CHECK_EQUAL(mprotect(any->base, FILE_BYTES, PROT_READ | PROT_WRITE), 0);
    any->semaphores = shared_memory(SHMQ_PAGE, PROT_READ | PROT_WRITE);
    return 0;
}

/* The parts follow one another, hold what they must, and end before the segment does. */
static void check_geometry(const struct shmq_geometry *g, uint64_t file_bytes) {
    CHECK(g->segment_bytes <= file_bytes);
    CHECK(g->slots >= 1 && g->ports >= 1 && g->reserved >= 1 && g->cells > g->reserved && g->total_slots == g->slots + g->cells);
    CHECK(g->cells <= SHMQ_MAX_CELLS && g->ports < SHMQ_NO_PORT && g->total_slots <= SHMQ_MAX_SLOTS);
    CHECK(g->ports_offset >= sizeof(struct shmq_header));
    CHECK(g->cells_offset >= g->ports_offset + g->ports * sizeof(struct shmq_port_record) && g->cells_offset % SHMQ_LINE == 0);
    CHECK(g->ring_offset >= g->cells_offset + g->cells * sizeof(struct shmq_cell) && g->ring_offset % 8 == 0);
    CHECK(g->slot_offset >= g->ring_offset + g->slots * sizeof(shmq_word) && g->slot_offset % 8 == 0);
    CHECK(g->slot_stride >= sizeof(struct shmq_slot) && g->payload_stride >= g->slot_size);
    CHECK(g->payload_offset >= g->slot_offset + sizeof(struct shmq_slot));
    CHECK(g->payload_offset + (g->total_slots - 1) * g->payload_stride + g->slot_size <= g->segment_bytes);
}

/* A file with a header of the input's making. True: attach takes it. */
static bool make_any(uint8_t how) {
    struct segment *s = segment = &shapes[WELL_FORMED];
    ASAN_UNPOISON_MEMORY_REGION(s->base, FILE_BYTES);
    memset(s->base, 0, FILE_BYTES);
    struct shmq_header *header = (struct shmq_header *)s->base;
    uint64_t file_bytes = FILE_BYTES;
    if (how & 1) { /* a raw image */
        file_bytes = number(2) % (FILE_BYTES + 1);
        uint64_t nbytes = (uint64_t)(input_end - input);
        if (nbytes > 104) nbytes = 104;
        memcpy(s->base, input, nbytes);
        input += nbytes;
        if (how & 2) header->magic = SHMQ_MAGIC, header->version = SHMQ_VERSION, header->endian = SHMQ_ENDIAN, header->kind = SHMQ_KIND_QUEUE;
        header->nonce = (uint64_t)getpid() << 8;
    } else { /* four numbers, small or of any size, in an otherwise whole segment */
        unsigned width = how & 2 ? 8 : 1;
        uint64_t slots = number(width), slot_size = number(width == 1 ? 2 : 8), cells = number(width), ports = number(width);
        int64_t bytes_more = how & 4 ? 8 * (int8_t)byte() : 0;
        static const uint8_t boot_id[16];
        struct shmq_geometry g;
        if (!shmq_geometry(slots, slot_size, cells, ports, &g)) return false;
        check_geometry(&g, UINT64_MAX);
        if (g.segment_bytes > FILE_BYTES - 1024) return false; /* a file that is shorter than its header says is not read behind its end */
        file_bytes = g.segment_bytes + (uint64_t)bytes_more;
        shmq_segment_format(s->base, &g, (uint64_t)getpid() << 8, 0, "", boot_id, shmq_owner_self(), shmq_owner_lock_inode(),
                            &(struct shmq_policy){0});
        shmq_segment_ready(s->base);
        if (how & 8) header->segment_bytes += 8 * (uint64_t)(int8_t)byte();
    }
    ASAN_POISON_MEMORY_REGION(s->base + file_bytes, FILE_BYTES - file_bytes);
    shmq_status status = shmq_segment_check(s->base, file_bytes, &s->geometry);
    if (status != SHMQ_OK) {
        CHECK(status == SHMQ_WOULD_BLOCK || status == SHMQ_MISMATCH || status == SHMQ_UNKNOWN_KIND || status == SHMQ_CORRUPT);
        return false;
    }
    check_geometry(&s->geometry, file_bytes);
    each_part(s, fence_part);
    return true;
}

/* -- the peer who scribbles --------------------------------------------------------------------------------------------- */

struct patch {
    uint64_t offset, raw;
    uint8_t width, kind, a, b, c, d;
};

/* A number below `count`, or just outside, or far outside. */
static uint32_t near(uint8_t n, uint32_t count) {
    return n < 224 ? n % count : n < 254 ? count + n - 224u : n == 254 ? SHMQ_MAX_SLOTS / 2 : SHMQ_MAX_SLOTS;
}

static uint64_t place(uint8_t *width) {
    const struct shmq_geometry *g = &segment->geometry;
    static const uint16_t hot[] = {
        offsetof(struct shmq_queue_header, write_seq), offsetof(struct shmq_queue_header, read_seq), offsetof(struct shmq_queue_header, orphan_changes),
        offsetof(struct shmq_header, items_waiters), offsetof(struct shmq_header, attachments),
    };
    uint8_t what = byte();
    *width = 8;
    switch (what % 8) {
    case 0: return *width = 1 << (what >> 6), 8u * (byte() % 128);
    case 1: return hot[byte() % (sizeof hot / sizeof *hot)];
    case 2: return g->ports_offset + sizeof(struct shmq_port_record) * (byte() % g->ports) + 8u * (what >> 4);
    case 3: return g->cells_offset + sizeof(struct shmq_cell) * (byte() % g->cells);
    case 4: return g->ring_offset + 8u * (byte() % g->slots);
    case 5: return g->slot_offset + g->slot_stride * (byte() % g->total_slots) + 8u * (what >> 5);
    case 6: return g->cells_offset + sizeof(struct shmq_cell) * (byte() % g->cells) + 8u * (what >> 5);
    default: return *width = 1 << (what >> 6), number(2) % g->segment_bytes;
    }
}

static struct patch patch_read(void) {
    struct patch p = {0};
    p.offset = place(&p.width);
    p.kind = byte() % 10;
    if (p.kind == 0) p.raw = number(8);
    else if (p.kind == 7) p.raw = place(&p.a);
    else {
        p.a = byte();
        if (p.kind >= 3 && p.kind <= 6) p.b = byte(), p.c = byte();
        if (p.kind == 6) p.d = byte();
    }
    return p;
}

/* Words as the format has them, with a number that is wrong or belongs elsewhere. */
static uint64_t value_of(const struct patch *p, uint64_t there) {
    const struct shmq_geometry *g = &segment->geometry;
    switch (p->kind) {
    case 0: return p->raw;
    case 1: return there + (uint64_t)(int8_t)p->a;
    case 2: return there ^ UINT64_C(1) << p->a % 64;
    case 3: return shmq_ring_word((shmq_ring_lap(there) + (uint64_t)(int8_t)p->a) & SHMQ_LAP_MASK, p->b % 4, near(p->c, g->total_slots));
    case 4: return shmq_cell_word(shmq_cell_generation(there) + 1, p->a % 8, near(p->b, g->ports) & 1023, near(p->c, g->total_slots));
    case 5: return shmq_seq_word(shmq_seq_lap(there) + (uint64_t)(int8_t)p->a, near(p->b, g->slots)) | (uint64_t)(p->c >> 6) << 62;
    case 6: return shmq_intent_word(p->a % 4, near(p->b, g->cells) & SHMQ_MAX_CELLS, near(p->c, g->slots), near(p->d, g->total_slots));
    case 7: {
        uint64_t other = 0;
        if (p->raw + 8 <= g->segment_bytes && !__asan_region_is_poisoned(segment->base + p->raw, 8)) memcpy(&other, segment->base + p->raw, 8);
        return other;
    }
    case 8: return (there & ~SHMQ_SLOT_MASK) | near(p->a, g->total_slots);
    default: return p->a;
    }
}

static void patch_apply(const struct patch *p) {
    unsigned char *at = segment->base + p->offset;
    if (p->offset + p->width > segment->geometry.segment_bytes || __asan_region_is_poisoned(at, p->width)) return;
    uint64_t there = 0, value;
    memcpy(&there, at, p->width);
    value = value_of(p, there);
    memcpy(at, &value, p->width);
}

/* -- what happens during a call ------------------------------------------------------------------------------------------ */

#define ACCESSES_MOST (UINT64_C(1) << 24) /* of one call; a reaper of two dozen dead ports needs some three million */
#define AMBUSHES 4


static struct ambush {
    uint64_t at, period; /* 0: not armed; 0: once */
    bool kills;
    struct patch patch;
} ambushes[AMBUSHES];
static uint64_t call_ends_by = UINT64_MAX, scribbled;
static bool calling;
static jmp_buf death;

static void ambush_next(void) {
    shmq_accesses_until = call_ends_by;
    for (int i = 0; i < AMBUSHES; i++)
        if (ambushes[i].at && ambushes[i].at < shmq_accesses_until) shmq_accesses_until = ambushes[i].at;
}

static void access_met(void) {
    if (shmq_accesses >= call_ends_by) {
        fprintf(stderr, "a call does not return\n");
        abort();
    }
    bool kill = false;
    for (int i = 0; i < AMBUSHES; i++) {
        struct ambush *a = &ambushes[i];
        if (a->at == 0 || a->at > shmq_accesses) continue;
        a->at = a->period ? shmq_accesses + a->period : 0;
        if (a->kills) kill = true;
        else patch_apply(&a->patch), scribbled++;
    }
    ambush_next();
    if (kill && calling) longjmp(death, 1);
}

static void ambush_read(bool kills) {
    struct ambush *a = &ambushes[byte() % AMBUSHES];
    a->at = shmq_accesses + 1 + byte();
    a->kills = kills;
    a->period = 0;
    if (kills) return;
    uint8_t again = byte(); /* at every so many accesses: whoever loops until a word keeps still must give up */
    a->period = again < 224 ? 0 : 1 + again % 16;
    a->patch = patch_read();
}

/* -- well-behaved programs ------------------------------------------------------------------------------------------------ */

#define DEAD UINT64_C(0x2dead) /* an identity that nobody locks */
#define HANDS 6

static struct program {
    shmq_queue queue;
    bool attached;
    struct hand { bool open, loaned, held; shmq_message message; } hands[HANDS]; /* leases and loans */
} programs[2];
static unsigned waits_left;
static void *lent; /* memory of a call: freed after it, however it ended */

static bool known(int status) { return status >= SHMQ_OK && status <= SHMQ_SHUT && status != SHMQ_SYSTEM && status != SHMQ_NOT_FOUND && status != SHMQ_FOREIGN; }

static bool attached(struct program *program) {
    if (!program->attached) {
        memset(program, 0, sizeof *program);
        shmq_status status = port_attach(&program->queue.port, segment);
        CHECK(status == SHMQ_OK || status == SHMQ_NO_PORTS);
        program->attached = status == SHMQ_OK;
        program->queue.port.port.spins = true;
        program->queue.port.writes_dead_letters = byte() & 1;
    }
    return program->attached;
}

/* The slot of a cell that a call has just handed out. Where nobody has scribbled since the call began, when so many words had
 * been written, it must be one; otherwise a program looks, as the bindings do. */
static bool slot_handed(const shmq_queue *queue, uint32_t cell, uint64_t before, uint32_t *slot) {
    CHECK(cell < queue->port.geometry.cells);
    bool inside = checked_slot(queue, cell, slot);
    CHECK(inside || scribbled != before);
    return inside;
}

static void look_at(const shmq_queue *queue, const void *data, uint64_t nbytes) {
    const struct shmq_geometry *g = &queue->port.geometry;
    const unsigned char *bytes = data;
    CHECK(bytes >= queue->port.port.base + g->payload_offset && nbytes <= g->payload_room);
    CHECK(bytes + nbytes <= queue->port.port.base + g->segment_bytes);
    CHECK((uint64_t)(bytes - queue->port.port.base - g->payload_offset) % g->payload_stride == 0);
    if (nbytes > g->slot_size) nbytes = g->slot_size; /* the key of a side segment, or a description, may lie in what rounding left: not fenced */
    if (nbytes) CHECK(__asan_region_is_poisoned((void *)data, nbytes) == NULL);
}

static void look_at_slot(const shmq_queue *queue, uint32_t slot) {
    const struct shmq_slot *header = shmq_slot_at(&queue->port, slot);
    uint64_t nbytes = header->nbytes; /* once: somebody else may change it */
    look_at(queue, shmq_payload_at(&queue->port, slot), nbytes <= queue->port.geometry.slot_size ? nbytes : 0);
}

static void fill_slot(struct shmq_queue_port *port, uint32_t slot) {
    struct shmq_slot *header = shmq_slot_at(port, slot);
    header->nbytes = port->geometry.slot_size;
    header->kind = SHMQ_BYTES;
    header->flags = header->ndim = 0;
    memset(shmq_payload_at(port, slot), 7, port->geometry.slot_size);
    shmq_slot_stamp(port, header);
}

static bool fill(void *context, struct shmq_queue_port *port, uint32_t slot) {
    uint32_t *left = context;
    CHECK(slot < port->geometry.total_slots);
    if (*left == 0) return false;
    --*left;
    fill_slot(port, slot);
    return true;
}

/* A free hand, or one that holds something. */
static struct hand *hand_of(struct program *program, bool open, uint8_t from) {
    for (unsigned i = 0; i < HANDS; i++) {
        struct hand *hand = &program->hands[(from + i) % HANDS];
        if (hand->open == open) return hand;
    }
    return NULL;
}

/* None, one that is over, or a far one. */
static uint64_t deadline_from(uint8_t n) { return n & 2 ? n & 4 ? shmq_now_ns() + UINT64_C(1000000000) * n : 1000 : 0; }

static void take_in_hand(struct program *program, struct hand *hand, uint32_t cell, uint64_t before) {
    uint32_t slot;
    if (!slot_handed(&program->queue, cell, before, &slot)) return;
    *hand = (struct hand){.open = true, .message = {.cell = cell, .word = shmq_cell_load(&program->queue.port, cell)}};
    if (shmq_word_slot(hand->message.word) >= program->queue.port.geometry.total_slots) hand->open = false; /* scribbled over since */
    else look_at_slot(&program->queue, shmq_word_slot(hand->message.word));
    shmq_store_relaxed(&program->queue.port.cells[cell].leased_ns, shmq_now_coarse_ns()); /* no longer a call's, but the user's */
}

enum operation {
    PUT, PUT_BY_CLIENT, PUT_ARRAY, PUT_MANY, GET, GET_MANY, RECEIVE, RECEIVE_BY_CLIENT, ADOPT, DEAD_LETTER, EXTEND, EXPIRE, SETTLE, SETTLE_ANY, LOAN, PEEK, LOOK, REAP,
    WAIT, DETACH, DIE,
    OPERATIONS,
};

static void operate(struct program *program, enum operation operation) {
    shmq_queue *queue = &program->queue;
    if (!attached(program)) return;
    struct shmq_queue_port *port = &queue->port;
    const struct shmq_geometry *g = &port->geometry;
    const uint64_t before = scribbled;
    shmq_status status = SHMQ_OK;
    uint32_t cell = 0, slot, cells[8], count = 0, done;
    struct hand *hand;
    uint8_t n;
    uint64_t until; /* a lease with a deadline: one that is over, or a far one */
    switch (operation) {
    case PUT:
        if ((status = shmq_cell_take(port, SHMQ_TO_WRITE, &cell)) != SHMQ_OK) break;
        if (!slot_handed(queue, cell, before, &slot)) break;
        fill_slot(port, slot);
        status = shmq_offer(port, cell, true);
        shmq_cell_return(port, cell, status != SHMQ_OK);
        break;
    case PUT_BY_CLIENT:
        n = byte();
        lent = calloc(1, n ? n : 1);
        status = (shmq_status)shmq_put(queue, lent, n, NULL, 0);
        break;
    case PUT_ARRAY: {
        shmq_shape shape = {.dtype = 'u', .itemsize = 1 + byte() % 4, .ndim = byte() % 6};
        uint64_t total = shape.itemsize;
        for (unsigned i = 0; i < shape.ndim && i < 4; i++) total *= shape.shape[i] = byte() % 8;
        lent = calloc(1, total ? total : 1);
        status = (shmq_status)shmq_put(queue, lent, total, &shape, 0);
        break;
    }
    case PUT_MANY:
        if ((status = shmq_cell_take(port, SHMQ_TO_WRITE, &cell)) != SHMQ_OK) break;
        if (!slot_handed(queue, cell, before, &slot)) break;
        count = byte() % 40;
        n = (uint8_t)count;
        done = shmq_offer_many(port, cell, fill, &count, &status);
        CHECK(done + count <= n);
        shmq_cell_return(port, cell, status != SHMQ_OK);
        break;
    case GET:
        if (port->caught_up && waits_left && waits_left--) shmq_linger(port);
        if ((status = shmq_take(port, false, 0, &cell)) != SHMQ_OK && status != SHMQ_EXHAUSTED) break;
        CHECK(cell < g->cells);
        if (slot_handed(queue, cell, before, &slot)) {
            look_at_slot(queue, slot);
            shmq_cell_return(port, cell, true);
        }
        break;
    case GET_MANY:
        n = 1 + byte() % 8;
        while (count < n && (status = shmq_cell_take(port, SHMQ_TO_GIVE, &cells[count])) == SHMQ_OK) CHECK(cells[count++] < g->cells);
        if (count == 0) break;
        done = shmq_ring_get_many(port, cells, count, SHMQ_LEASED, &status);
        CHECK(done <= count);
        n = byte(); /* what becomes of each: settled, or given back */
        for (uint32_t i = 0; i < count; i++)
            if (i < done && slot_handed(queue, cells[i], before, &slot)) {
                look_at_slot(queue, slot);
                if (n >> i & 1) {
                    uint64_t word = shmq_cell_load(port, cells[i]);
                    shmq_status given = shmq_word_slot(word) < g->total_slots ? shmq_lease_give_back(port, cells[i], word, n & 1 ? SHMQ_NACKED : SHMQ_RELEASED, SHMQ_BY_POLICY) : SHMQ_LOST;
                    CHECK(given == SHMQ_OK || given == SHMQ_LOST);
                } else shmq_cell_return(port, cells[i], true);
            } else shmq_cell_return(port, cells[i], false);
        if (done) shmq_wake_after(&port->port, SHMQ_SPACE);
        break;
    case RECEIVE:
        if ((hand = hand_of(program, false, 0)) == NULL) break;
        if ((status = shmq_cell_take_for_long(port, SHMQ_TO_GIVE, &cell)) != SHMQ_OK) break;
        CHECK(cell >= g->reserved && cell < g->cells);
        n = byte();
        until = deadline_from(n);
        if (until) shmq_lease_time(port, cell, until);
        if ((status = shmq_ring_get(port, cell, until ? SHMQ_TIMED : SHMQ_LEASED)) == SHMQ_OK) take_in_hand(program, hand, cell, before);
        else shmq_cell_return(port, cell, false);
        break;
    case RECEIVE_BY_CLIENT:
        if ((hand = hand_of(program, false, 0)) == NULL) break;
        memset(hand, 0, sizeof *hand);
        if ((status = (shmq_status)shmq_receive(queue, &hand->message, 0)) != SHMQ_OK) break;
        hand->open = true;
        look_at(queue, hand->message.data, hand->message.nbytes);
        CHECK(hand->message.shape.ndim <= SHMQ_INLINE_DIMS && hand->message.cell < g->cells);
        break;
    case ADOPT:
        if ((hand = hand_of(program, false, 0)) == NULL) break;
        status = shmq_orphan_adopt(port, deadline_from(byte()), &cell);
        if (status == SHMQ_OK || status == SHMQ_EXHAUSTED) take_in_hand(program, hand, cell, before);
        break;
    case DEAD_LETTER:
        if (!shmq_orphan_claim(port, SHMQ_TO_DEAD_LETTER, &cell)) break;
        if (!slot_handed(queue, cell, before, &slot)) break;
        look_at_slot(queue, slot);
        shmq_cell_return(port, cell, true);
        break;
    case EXTEND:
        n = byte();
        if ((hand = hand_of(program, true, n >> 4)) == NULL || hand->loaned || hand->held) break;
        shmq_lease_mark(port, (uint32_t)hand->message.cell, hand->message.word, n & 1);
        until = deadline_from(n | 2);
        status = shmq_lease_extend(port, (uint32_t)hand->message.cell, &hand->message.word, until);
        CHECK(status == SHMQ_OK || status == SHMQ_LOST);
        break;
    case EXPIRE:
        CHECK(shmq_lease_expire(port) <= g->cells);
        break;
    case SETTLE: case SETTLE_ANY: {
        n = byte();
        if ((hand = hand_of(program, true, n >> 4)) == NULL) break;
        cell = (uint32_t)hand->message.cell;
        if (hand->loaned) {
            if (n & 1) {
                if ((status = (shmq_status)shmq_publish(queue, &hand->message, 0)) == SHMQ_OK) hand->open = false;
            } else {
                status = (shmq_status)shmq_abandon(queue, &hand->message);
                hand->open = false;
            }
            break;
        }
        if (hand->held) {
            shmq_cell_return(port, cell, true); /* the last view is gone */
            hand->open = false;
            break;
        }
        look_at_slot(queue, shmq_word_slot(hand->message.word)); /* what a program reads before it settles */
        hand->open = false;
        switch (n % 6) {
        case 0: status = (shmq_status)shmq_ack(queue, &hand->message); break;
        case 1: status = (shmq_status)shmq_nack(queue, &hand->message); break;
        case 2: status = shmq_lease_give_back(port, cell, hand->message.word, SHMQ_RELEASED, n >> 3); break;
        case 4: status = shmq_lease_give_back(port, cell, hand->message.word, SHMQ_REJECTED, SHMQ_BY_POLICY); break;
        case 3:
            if ((status = shmq_lease_ack(port, cell, hand->message.word, true)) == SHMQ_OK) hand->open = hand->held = true;
            break;
        default: /* twice: the second comes too late */
            status = (shmq_status)shmq_nack(queue, &hand->message);
            CHECK(status == SHMQ_OK || status == SHMQ_LOST);
            status = shmq_lease_ack(port, cell, hand->message.word, false);
            break;
        }
        CHECK(status == SHMQ_OK || status == SHMQ_LOST);
        break;
    }
    case LOAN:
        if ((hand = hand_of(program, false, 0)) == NULL) break;
        memset(hand, 0, sizeof *hand);
        if ((status = (shmq_status)shmq_loan(queue, byte(), NULL, &hand->message)) != SHMQ_OK) break;
        hand->open = hand->loaned = true;
        CHECK(hand->message.nbytes <= g->slot_size);
        look_at(queue, hand->message.data, hand->message.nbytes);
        memset(hand->message.data, 9, hand->message.nbytes);
        break;
    case PEEK: {
        struct shmq_slot copy;
        bool moved;
        uint64_t limit = byte();
        if (limit > g->slot_size || limit == 255) limit = g->slot_size;
        lent = malloc(limit ? limit : 1);
        shmq_ring_peek(port, near(byte(), g->slots), &copy, lent, limit, &moved);
        break;
    }
    case LOOK:
        n = byte();
        CHECK(shmq_ring_length(port) <= g->slots && shmq_ring_estimate(port) <= g->slots && snapshot_holds(port));
        shmq_ring_has_space(port), shmq_ring_has_item(port);
        shmq_ring_has_spaces(port, near(n, g->slots)), shmq_ring_has_items(port, near(n, g->slots));
        shmq_wake(&port->port, SHMQ_ITEMS), shmq_wake(&port->port, SHMQ_SPACE);
        break;
    case REAP:
        CHECK(shmq_reap(&port->port) <= g->ports * g->ports);
        break;
    case WAIT: {
        struct shmq_patience patience = {0};
        n = byte();
        if (waits_left == 0) break;
        waits_left--;
        status = shmq_await(port, n & 1, shmq_now_ns() + 20000, &patience);
        CHECK(status == SHMQ_OK || status == SHMQ_TIMED_OUT || status == SHMQ_INTERRUPTED);
        break;
    }
    case DETACH:
        program->attached = false;
        shmq_port_detach(port);
        break;
    case DIE:
        port->port.record->owner = DEAD;
        program->attached = false;
        break;
    case OPERATIONS: break;
    }
    CHECK(known((int)status));
}

/* A call that may end with its process. */
static void call(struct program *program, enum operation operation) {
    call_ends_by = shmq_accesses + ACCESSES_MOST;
    ambush_next();
    if (setjmp(death) == 0) {
        calling = true;
        operate(program, operation);
    } else {
        struct shmq_queue_port *port = &program->queue.port;
        if (port->port.record) port->port.record->owner = DEAD;
        if (operation == REAP || operation == WAIT) shmq_owner_unlock(port->port.nonce); /* as the kernel does */
        program->attached = false;
    }
    calling = false;
    free(lent);
    lent = NULL;
    for (int i = 0; i < AMBUSHES; i++)
        if (ambushes[i].at && ambushes[i].period && call_ends_by - shmq_accesses < ACCESSES_MOST - 5000) ambushes[i].at = 0; /* seen through once */
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes) {
    input = data, input_end = data + nbytes;
    memset(ambushes, 0, sizeof ambushes);
    programs[0].attached = programs[1].attached = false;
    scribbled = shmq_accesses = passed_ns = 0;
    call_ends_by = shmq_accesses_until = UINT64_MAX;
    waits_left = 2;
    uint8_t how = byte();
    if (how % 8 < WELL_FORMED) {
        segment = &shapes[how % 8];
        image = images[how % 8];
        each_part(segment, restore_part);
    } else if (!make_any(how >> 4)) return 0;
    for (int side = 0; side < 2; side++) CHECK_EQUAL(sem_init(&segment->semaphores[side], 1, 0), 0);
    for (unsigned steps = 0; steps < 64 && input < input_end; steps++) {
        uint8_t step = byte();
        struct patch patch;
        switch (step % 32) {
        case 31: case 30: case 29: case 28: case 27: case 26:
            patch = patch_read();
            patch_apply(&patch);
            break;
        case 25: case 24: case 23: case 22: ambush_read(false); break;
        case 21: ambush_read(true); break;
        default: call(&programs[step >> 7], step % 32 % OPERATIONS); break;
        }
    }
    return 0;
}
