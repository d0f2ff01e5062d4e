/* The engine alone: threads as ports of one segment in plain memory. No test, no waiting on semaphores but where it says so.
 *
 *     engine_test flow MODE PRODUCERS CONSUMERS SLOTS SLOT_SIZE COUNT START
 *         COUNT messages from each producer; MODE: single, batch, lease, churn, timed; START: fresh, or edge (laps and generations
 *         about to wrap around)
 *     engine_test park PRODUCERS CONSUMERS SLOTS COUNT      the same, asleep on semaphores whenever there is nothing to do
 *     engine_test settle ROUNDS                             ack and nack of one lease at the same moment
 *     engine_test hostile SEED ROUNDS                       random words wherever the format has words
 *     engine_test scribble SEED MILLISECONDS                the same while threads work
 *     engine_test NAME                                      one of the tests of a single thread: `singles` */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine.h"

enum { WATCHDOG = 100 };

static char context[256];

#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: not %s: ", __FILE__, __LINE__, context, #condition); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
            exit(1); \
        } \
    } while (0)

static void barked(int signal_) {
    (void)signal_;
    static const char words[] = "hangs: ";
    if (write(2, words, sizeof words - 1) < 0 || write(2, context, strlen(context)) < 0) _exit(4);
    _exit(3);
}

/* -- a segment in plain memory ------------------------------------------------------------------------------------------ */

struct arena {
    struct shmq_geometry g;
    unsigned char *base;
};

static struct arena arena_make(uint64_t slots, uint64_t slot_size, uint64_t in_flight, uint64_t ports) {
    struct arena a;
    uint64_t reserved = slot_size >= SHMQ_PAGE ? SHMQ_RESERVED_WHERE_PAGED : ports;
    CHECK(shmq_geometry(slots, slot_size, reserved + in_flight, ports, &a.g), "geometry");
    void *memory;
    CHECK(posix_memalign(&memory, SHMQ_PAGE, a.g.segment_bytes) == 0, "memory"); /* exact: what is behind it is poisoned */
    memset(memory, 0, a.g.segment_bytes);
    a.base = memory;
    static const uint8_t boot[16];
    uint64_t nonce;
    CHECK(shmq_owner_self() != 0 && shmq_owner_random(&nonce, sizeof nonce), "identity");
    shmq_segment_format(a.base, &a.g, nonce, 0, "", boot, shmq_owner_self(), shmq_owner_lock_inode(), &(struct shmq_policy){0});
    shmq_segment_ready(a.base);
    return a;
}

static void attach(const struct arena *a, struct shmq_port *port) {
    CHECK(shmq_port_attach(port, a->base, &a->g, shmq_owner_self()) == SHMQ_OK, "no port");
}

/* Another lap and another generation than those of a fresh segment. */
static void start_at(const struct arena *a, uint64_t lap, uint64_t generation) {
    struct shmq_header *header = (struct shmq_header *)a->base;
    shmq_word *ring = (shmq_word *)(a->base + a->g.ring_offset);
    struct shmq_cell *cells = (struct shmq_cell *)(a->base + a->g.cells_offset);
    header->write_seq = header->read_seq = shmq_seq_word(lap, 0);
    for (uint32_t i = 0; i < a->g.slots; i++) ring[i] = shmq_ring_word(lap & SHMQ_LAP_MASK, SHMQ_EMPTY, i);
    for (uint32_t i = 0; i < a->g.cells; i++)
        cells[i].word = shmq_cell_word(generation, SHMQ_SPARE, SHMQ_NO_PORT, a->g.slots + i);
}

/* Nobody is attached, nothing is there: every slot in one cell, every cell free. */
static void check_quiet(const struct arena *a) {
    const shmq_word *ring = (const shmq_word *)(a->base + a->g.ring_offset);
    const struct shmq_cell *cells = (const struct shmq_cell *)(a->base + a->g.cells_offset);
    unsigned char *named = calloc(a->g.total_slots, 1);
    CHECK(named, "memory");
    for (uint32_t i = 0; i < a->g.slots; i++) {
        uint64_t word = shmq_load_acquire(&ring[i]);
        CHECK(shmq_word_slot(word) < a->g.total_slots && !named[shmq_word_slot(word)]++, "ring cell %u names a slot twice", i);
        CHECK(shmq_ring_state(word) == SHMQ_EMPTY, "ring cell %u is not empty", i);
    }
    for (uint32_t i = 0; i < a->g.cells; i++) {
        uint64_t word = shmq_load_acquire(&cells[i].word);
        CHECK(shmq_word_slot(word) < a->g.total_slots && !named[shmq_word_slot(word)]++, "in-flight cell %u names a slot twice", i);
        CHECK(shmq_cell_state(word) <= SHMQ_WARM && shmq_cell_owner(word) == SHMQ_NO_PORT, "cell %u: %#lx", i, (unsigned long)word);
    }
    free(named);
}

/* -- messages ------------------------------------------------------------------------------------------------------------ */

struct head { uint32_t producer, number; uint64_t sum; };

static uint64_t sum_of(const unsigned char *bytes, uint64_t nbytes) {
    uint64_t sum = nbytes;
    for (uint64_t i = 0; i < nbytes; i++) sum = sum * 31 + bytes[i];
    return sum;
}

enum { LONGEST = 5000 };

static uint64_t length_of(const struct shmq_port *port, uint32_t producer, uint32_t number) {
    uint64_t room = port->geometry.slot_size - sizeof(struct head);
    if (room > LONGEST) room = LONGEST;
    return sizeof(struct head) + (number * 2654435761u + producer) % (room + 1);
}

/* Returns the checksum. By memcpy from and to private memory: what ThreadSanitizer sees is one access of the whole payload. */
static uint64_t write_message(struct shmq_port *port, uint32_t slot_index, uint32_t producer, uint32_t number) {
    unsigned char bytes[sizeof(struct head) + LONGEST];
    struct head head = {producer, number, 0};
    uint64_t nbytes = length_of(port, producer, number);
    memset(bytes + sizeof head, (int)(number * 7 + producer), nbytes - sizeof head);
    head.sum = sum_of(bytes + sizeof head, nbytes - sizeof head) ^ ((uint64_t)producer << 32 | number);
    memcpy(bytes, &head, sizeof head);
    struct shmq_slot *slot = shmq_slot_at(port, slot_index);
    slot->nbytes = nbytes;
    slot->kind = SHMQ_BYTES;
    slot->described = 0;
    memcpy(shmq_payload_at(port, slot_index), bytes, nbytes);
    shmq_slot_stamp(port, slot);
    return head.sum;
}

static struct head read_message(struct shmq_port *port, uint32_t slot_index) {
    unsigned char bytes[sizeof(struct head) + LONGEST];
    struct head head;
    uint64_t nbytes = shmq_slot_at(port, slot_index)->nbytes;
    CHECK(nbytes >= sizeof head && nbytes <= sizeof bytes && nbytes <= port->geometry.slot_size, "length %lu", (unsigned long)nbytes);
    memcpy(bytes, shmq_payload_at(port, slot_index), nbytes);
    memcpy(&head, bytes, sizeof head);
    CHECK(nbytes == length_of(port, head.producer, head.number), "length of message %u of %u", head.number, head.producer);
    uint64_t sum = sum_of(bytes + sizeof head, nbytes - sizeof head) ^ ((uint64_t)head.producer << 32 | head.number);
    CHECK(sum == head.sum, "message %u of producer %u is torn", head.number, head.producer);
    return head;
}

static uint32_t slot_of(const struct shmq_port *port, uint32_t cell) { return shmq_word_slot(shmq_cell_load(port, cell)); }

static uint32_t failures_of(const struct shmq_port *port, uint32_t cell) {
    return shmq_deliveries_failed(shmq_load_relaxed(&shmq_slot_at(port, slot_of(port, cell))->deliveries));
}

static uint32_t random_below(uint64_t *state, uint32_t bound) { /* xorshift64* */
    *state ^= *state >> 12, *state ^= *state << 25, *state ^= *state >> 27;
    return (uint32_t)((*state * UINT64_C(2685821657736338717)) >> 33) % bound;
}

/* -- flow ---------------------------------------------------------------------------------------------------------------- */

enum mode { SINGLE, BATCH, LEASE, CHURN, TIMED, PARK };
enum { THREADS = 8, IN_HAND = 3, TOGETHER = 7 };

static struct {
    struct arena a;
    enum mode mode;
    uint32_t producers, consumers, count;
    sem_t semaphores[2];
    _Atomic uint64_t sent, received;          /* sums of the checksums */
    _Atomic uint32_t done;                    /* messages that were consumed for good */
    _Atomic unsigned char *times;             /* per message: how often it was consumed */
    _Atomic unsigned char *failures;          /* per message: nacks */
} flow;

static void flow_attach(struct shmq_port *port) {
    attach(&flow.a, port);
    if (flow.mode == PARK)
        for (int side = 0; side < 2; side++) port->semaphores[side] = &flow.semaphores[side];
}

static void give_way(struct shmq_port *port, enum shmq_side side, struct shmq_patience *patience) {
    if (flow.mode != PARK) {
        sched_yield();
        return;
    }
    /* Consumers that sleep when the last message is gone are woken by time: nobody tells them. */
    shmq_status status = shmq_await(port, side, shmq_now_ns() + 100000000u, patience);
    CHECK(status == SHMQ_OK || status == SHMQ_TIMED_OUT, "wait: %d", status);
}

static uint32_t take_cell(struct shmq_port *port, enum shmq_purpose purpose, bool for_long) {
    uint32_t cell;
    shmq_status status;
    while ((status = for_long ? shmq_cell_take_for_long(port, purpose, &cell) : shmq_cell_take(port, purpose, &cell)) != SHMQ_OK) {
        CHECK(status == SHMQ_NO_CELLS, "take: %d", status);
        sched_yield();
    }
    return cell;
}

struct batch { uint32_t producer, next, filled, end; uint64_t sum; };

static bool fill_batch(void *batch_, struct shmq_port *port, uint32_t slot) {
    struct batch *batch = batch_;
    if (batch->next + batch->filled == batch->end) return false;
    batch->sum = write_message(port, slot, batch->producer, batch->next + batch->filled++);
    return true;
}

static void *produce(void *index) {
    struct shmq_port port;
    uint32_t producer = (uint32_t)(uintptr_t)index;
    uint64_t sent = 0;
    flow_attach(&port);
    for (uint32_t number = 0; number < flow.count;) {
        bool loan = flow.mode >= LEASE && flow.mode != PARK && number % 3 == 0;
        uint32_t cell = take_cell(&port, SHMQ_TO_WRITE, loan);
        struct shmq_patience patience = {0};
        shmq_status status;
        if (flow.mode == BATCH) {
            struct batch batch = {.producer = producer, .next = number, .end = number + TOGETHER};
            if (batch.end > flow.count) batch.end = flow.count;
            uint32_t done = shmq_ring_put_many(&port, cell, fill_batch, &batch, &status);
            CHECK(done <= batch.filled && (status == SHMQ_OK ? done == batch.filled : status == SHMQ_WOULD_BLOCK), "put_many: %d", status);
            number += done;
            shmq_cell_return(&port, cell, status != SHMQ_OK);
            if (status != SHMQ_OK) give_way(&port, SHMQ_SPACE, &patience);
            continue;
        }
        if (loan) shmq_cell_become(&port, cell, SHMQ_LOANED);
        sent += write_message(&port, slot_of(&port, cell), producer, number);
        if (loan && number % 2) { /* changed its mind: the next one takes the slot */
            sent -= write_message(&port, slot_of(&port, cell), producer, number);
            shmq_cell_return(&port, cell, true);
            cell = take_cell(&port, SHMQ_TO_WRITE, false);
            sent += write_message(&port, slot_of(&port, cell), producer, number);
        }
        while ((status = shmq_ring_put(&port, cell)) != SHMQ_OK) {
            CHECK(status == SHMQ_WOULD_BLOCK, "put: %d", status);
            give_way(&port, SHMQ_SPACE, &patience);
        }
        if (flow.mode == PARK) shmq_wake_after(&port, SHMQ_ITEMS);
        shmq_cell_return(&port, cell, false);
        number++;
    }
    if (flow.mode == BATCH)
        for (uint32_t number = 0; number < flow.count; number++) { /* the sums again: a batch may have filled some twice */
            unsigned char bytes[sizeof(struct head) + LONGEST];
            uint64_t nbytes = length_of(&port, producer, number) - sizeof(struct head);
            memset(bytes, (int)(number * 7 + producer), nbytes);
            sent += sum_of(bytes, nbytes) ^ ((uint64_t)producer << 32 | number);
        }
    flow.sent += sent;
    shmq_port_detach(&port);
    return NULL;
}

static bool all_done(void) { return flow.done == flow.producers * flow.count; }

static void consumed(struct head head) {
    CHECK(head.producer < flow.producers && head.number < flow.count, "never sent");
    CHECK(flow.times[head.producer * flow.count + head.number]++ == 0, "message %u of %u came twice", head.number, head.producer);
    flow.received += head.sum;
    flow.done++;
}

static void *consume_in_order(void *unused) {
    (void)unused;
    struct shmq_port port;
    int64_t last[THREADS];
    for (int i = 0; i < THREADS; i++) last[i] = -1;
    flow_attach(&port);
    struct shmq_patience patience = {0};
    while (!all_done()) {
        uint32_t cells[TOGETHER], wanted = flow.mode == BATCH ? TOGETHER : 1, done;
        shmq_status status;
        cells[0] = take_cell(&port, SHMQ_TO_GIVE, false);
        for (uint32_t i = 1; i < wanted; i++)
            if (shmq_cell_take_for_long(&port, SHMQ_TO_GIVE, &cells[i]) != SHMQ_OK) wanted = i;
        done = shmq_ring_get_many(&port, cells, wanted, SHMQ_LEASED, &status);
        CHECK(done ? status == SHMQ_OK : status == SHMQ_WOULD_BLOCK, "get: %d", status);
        for (uint32_t i = 0; i < done; i++) {
            struct head head = read_message(&port, slot_of(&port, cells[i]));
            CHECK(failures_of(&port, cells[i]) == 0, "a failure that nobody has had");
            CHECK((int64_t)head.number > last[head.producer], "producer %u: %u after %ld", head.producer, head.number, (long)last[head.producer]);
            last[head.producer] = head.number;
            consumed(head);
        }
        for (uint32_t i = 0; i < wanted; i++) shmq_cell_return(&port, cells[i], i < done);
        if (flow.mode == PARK) {
            if (done) shmq_wake_after(&port, SHMQ_SPACE);
            if (done && port.caught_up) shmq_linger(&port);
        }
        if (done) patience = (struct shmq_patience){0};
        else give_way(&port, SHMQ_ITEMS, &patience);
    }
    shmq_port_detach(&port);
    return NULL;
}

struct lease { uint32_t cell; uint64_t word; };

static void settle_one(struct shmq_port *port, struct lease lease, uint64_t *random) {
    struct head head = read_message(port, shmq_word_slot(lease.word));
    uint32_t chance = random_below(random, 100);
    _Atomic unsigned char *failures = &flow.failures[head.producer * flow.count + head.number];
    if (chance < 15 && *failures < 200) {
        (*failures)++;
        CHECK(shmq_lease_give_back(port, lease.cell, lease.word, SHMQ_NACKED, 0) == SHMQ_OK, "nack");
        return;
    }
    if (chance < 25) {
        CHECK(shmq_lease_give_back(port, lease.cell, lease.word, SHMQ_RELEASED, 0) == SHMQ_OK, "release");
        return;
    }
    bool looking = chance < 50;
    CHECK(shmq_lease_ack(port, lease.cell, lease.word, looking) == SHMQ_OK, "ack");
    if (looking) CHECK(read_message(port, slot_of(port, lease.cell)).number == head.number, "a slot changed while it was held");
    CHECK(shmq_lease_ack(port, lease.cell, lease.word, false) == SHMQ_LOST, "acked twice");
    CHECK(shmq_lease_give_back(port, lease.cell, lease.word, SHMQ_NACKED, 0) == SHMQ_LOST, "nacked after ack");
    shmq_cell_return(port, lease.cell, true);
    consumed(head);
}

static void *consume_leased(void *index) {
    struct shmq_port port;
    struct lease held[IN_HAND];
    uint32_t in_hand = 0;
    uint64_t random = 88172645463325252u + (uintptr_t)index * 7919;
    flow_attach(&port);
    for (uint32_t turn = 1; !all_done(); turn++) {
        uint32_t cell;
        bool got = shmq_orphan_adopt(&port, 0, &cell) == SHMQ_OK;
        if (!got && shmq_cell_take_for_long(&port, SHMQ_TO_GIVE, &cell) == SHMQ_OK) {
            shmq_status status = shmq_ring_get(&port, cell, SHMQ_LEASED);
            CHECK(status == SHMQ_OK || status == SHMQ_WOULD_BLOCK, "get: %d", status);
            got = status == SHMQ_OK;
            if (!got) shmq_cell_release(&port, cell, false);
        }
        if (got) {
            struct head head = read_message(&port, slot_of(&port, cell));
            CHECK(failures_of(&port, cell) == flow.failures[head.producer * flow.count + head.number], "failures: %u", failures_of(&port, cell));
            held[in_hand++] = (struct lease){cell, shmq_cell_load(&port, cell)};
        }
        if (flow.mode == CHURN && turn % 64 == 0) { /* what it holds goes back */
            shmq_port_detach(&port);
            flow_attach(&port);
            in_hand = 0;
        }
        if (in_hand == IN_HAND || (in_hand && !got)) {
            struct lease oldest = held[0];
            in_hand--;
            memmove(held, held + 1, in_hand * sizeof *held);
            settle_one(&port, oldest, &random);
        } else if (!got) sched_yield();
    }
    CHECK(in_hand == 0, "something in hand, and all is done");
    shmq_port_detach(&port);
    return NULL;
}

/* Leases so short that many are over before the ack: whoever looks, takes them over. Each message is acked once all the same, and
 * who looks at it reads it whole, also when it is another's by then. */
struct timed { struct lease lease; uint32_t slot; struct head head; };

static void look_away(struct shmq_port *port, struct timed held, bool acked) {
    CHECK(read_message(port, held.slot).number == held.head.number, "a slot changed under a viewer");
    shmq_view_end(port, held.lease.cell);
    if (acked) shmq_cell_return(port, held.lease.cell, true);
}

static void settle_timed(struct shmq_port *port, struct timed held, uint64_t *random) {
    uint32_t chance = random_below(random, 100);
    if (chance < 10) {
        shmq_status status = shmq_lease_give_back(port, held.lease.cell, held.lease.word, chance < 5 ? SHMQ_NACKED : SHMQ_RELEASED, 0);
        CHECK(status == SHMQ_OK || status == SHMQ_LOST, "give back: %d", status);
        look_away(port, held, false);
        return;
    }
    if (chance < 30) {
        uint64_t until = shmq_now_ns() + random_below(random, 50000);
        shmq_status status = shmq_lease_extend(port, held.lease.cell, &held.lease.word, until);
        CHECK(status == SHMQ_OK || status == SHMQ_LOST, "extend: %d", status);
    }
    bool acked = shmq_lease_ack(port, held.lease.cell, held.lease.word, true) == SHMQ_OK;
    CHECK(!acked || shmq_lease_ack(port, held.lease.cell, held.lease.word, true) == SHMQ_LOST, "acked twice");
    look_away(port, held, acked);
    if (acked) consumed(held.head);
}

static bool take_timed(struct shmq_port *port, uint64_t until, struct timed *held) {
    uint32_t cell;
    if (shmq_orphan_adopt(port, until, &cell) != SHMQ_OK) {
        if (shmq_cell_take_for_long(port, SHMQ_TO_GIVE, &cell) != SHMQ_OK) return false;
        shmq_lease_time(port, cell, until);
        if (shmq_ring_get(port, cell, SHMQ_TIMED) != SHMQ_OK) {
            shmq_cell_release(port, cell, false);
            return false;
        }
    }
    uint64_t word = shmq_load_acquire(&port->cells[cell].word);
    if (shmq_cell_owner(word) != port->index || shmq_cell_state(word) != SHMQ_TIMED) return false; /* over already */
    shmq_status status = shmq_view_begin(port, cell, word);
    if (status == SHMQ_NO_CELLS) shmq_lease_give_back(port, cell, word, SHMQ_RELEASED, 0);
    if (status != SHMQ_OK) return false;
    *held = (struct timed){{cell, word}, shmq_word_slot(word), read_message(port, shmq_word_slot(word))};
    return true;
}

static void *consume_timed(void *index) {
    struct shmq_port port;
    struct timed held[IN_HAND];
    uint32_t in_hand = 0;
    uint64_t random = 88172645463325252u + (uintptr_t)index * 7919;
    flow_attach(&port);
    while (!all_done() || in_hand) {
        /* One of four in time for certain, however slow a sanitizer makes us. */
        uint64_t span = random_below(&random, 4) ? random_below(&random, 100000) : UINT64_C(60000000000);
        bool got = take_timed(&port, shmq_now_ns() + span, &held[in_hand]);
        in_hand += got;
        shmq_lease_expire(&port);
        if (in_hand == IN_HAND || (in_hand && !got)) {
            struct timed oldest = held[0];
            in_hand--;
            memmove(held, held + 1, in_hand * sizeof *held);
            settle_timed(&port, oldest, &random);
        } else if (!got) sched_yield();
    }
    shmq_port_detach(&port);
    return NULL;
}

static void run_flow(enum mode mode, uint32_t producers, uint32_t consumers, uint64_t slots, uint64_t slot_size, uint32_t count, bool edge) {
    CHECK(producers <= THREADS && consumers <= THREADS, "too many threads");
    flow.a = arena_make(slots, slot_size, 2 + producers + consumers * IN_HAND, producers + consumers);
    flow.mode = mode;
    flow.producers = producers;
    flow.consumers = consumers;
    flow.count = count;
    flow.times = calloc((size_t)producers * count, 1);
    flow.failures = calloc((size_t)producers * count, 1);
    CHECK(flow.times && flow.failures, "memory");
    for (int side = 0; side < 2; side++) sem_init(&flow.semaphores[side], 0, 0);
    if (edge) start_at(&flow.a, SHMQ_LAP_MASK - 1, (UINT64_C(1) << 27) - 3);
    pthread_t threads[2 * THREADS];
    void *(*consume)(void *) = mode == TIMED ? consume_timed : mode == LEASE || mode == CHURN ? consume_leased : consume_in_order;
    for (uint32_t i = 0; i < producers + consumers; i++)
        CHECK(pthread_create(&threads[i], NULL, i < producers ? produce : consume, (void *)(uintptr_t)i) == 0, "thread");
    for (uint32_t i = 0; i < producers + consumers; i++) pthread_join(threads[i], NULL);
    CHECK(flow.sent == flow.received, "checksum of all");
    for (uint32_t i = 0; i < producers * count; i++) CHECK(flow.times[i] == 1, "message %u was lost", i);
    check_quiet(&flow.a);
    struct shmq_header *header = (struct shmq_header *)flow.a.base;
    CHECK(mode != TIMED || header->events[SHMQ_EXPIRIES] > 0, "no lease was over in time");
    for (int side = 0; side < 2; side++) {
        /* Whoever stops waiting just while it is woken leaves a count or a post too many: a few, but they do not add up. */
        int posts;
        sem_getvalue(&flow.semaphores[side], &posts);
        uint32_t left = (side == SHMQ_ITEMS ? header->items_waiters : header->space_waiters) + (uint32_t)posts;
        CHECK(left <= (mode == PARK ? producers + consumers : 0), "%u waiters or posts are left at side %d", left, side);
    }
    struct shmq_port port;
    attach(&flow.a, &port);
    CHECK(shmq_ring_length(&port) == 0 && shmq_ring_estimate(&port) == 0, "length %u", shmq_ring_length(&port));
    if (edge) CHECK(shmq_seq_lap(header->write_seq) < SHMQ_LAP_MASK / 2, "the laps have not come round");
    shmq_port_detach(&port);
    free((void *)flow.times), free((void *)flow.failures), free(flow.a.base);
}

/* -- settle: two ends of one lease at the same moment ---------------------------------------------------------------------- */

static struct {
    struct arena a;
    pthread_barrier_t barrier;
    uint32_t cell, rounds;
    uint64_t word;
    shmq_status given_back;
} settling;

static void *give_back_too(void *unused) {
    (void)unused;
    struct shmq_port port;
    attach(&settling.a, &port);
    for (uint32_t i = 0; i < settling.rounds; i++) {
        pthread_barrier_wait(&settling.barrier);
        settling.given_back = shmq_lease_give_back(&port, settling.cell, settling.word, SHMQ_NACKED, 0);
        pthread_barrier_wait(&settling.barrier);
    }
    shmq_port_detach(&port);
    return NULL;
}

static void settle(uint32_t rounds) {
    struct shmq_port port;
    pthread_t other;
    settling.a = arena_make(4, 64, 4, 2);
    settling.rounds = rounds;
    pthread_barrier_init(&settling.barrier, NULL, 2);
    attach(&settling.a, &port);
    CHECK(pthread_create(&other, NULL, give_back_too, NULL) == 0, "thread");
    for (uint32_t i = 0; i < rounds; i++) {
        uint32_t cell = take_cell(&port, SHMQ_TO_WRITE, false);
        write_message(&port, slot_of(&port, cell), 0, i);
        CHECK(shmq_ring_put(&port, cell) == SHMQ_OK, "put");
        shmq_cell_return(&port, cell, false);
        cell = take_cell(&port, SHMQ_TO_GIVE, true);
        CHECK(shmq_ring_get(&port, cell, SHMQ_LEASED) == SHMQ_OK, "get");
        settling.cell = cell;
        settling.word = shmq_cell_load(&port, cell);
        pthread_barrier_wait(&settling.barrier);
        shmq_status acked = shmq_lease_ack(&port, cell, settling.word, false);
        pthread_barrier_wait(&settling.barrier);
        CHECK((acked == SHMQ_OK) != (settling.given_back == SHMQ_OK), "ack %d, nack %d", acked, settling.given_back);
        CHECK(acked == SHMQ_OK || acked == SHMQ_LOST, "ack %d", acked);
        CHECK(settling.given_back == SHMQ_OK || settling.given_back == SHMQ_LOST, "nack %d", settling.given_back);
        if (acked == SHMQ_OK) {
            shmq_cell_return(&port, cell, true);
            CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_WOULD_BLOCK, "acked, and here again");
            continue;
        }
        CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_OK && failures_of(&port, cell) == 1, "nacked, and not here again");
        CHECK(read_message(&port, slot_of(&port, cell)).number == i, "another message");
        CHECK(shmq_lease_ack(&port, cell, shmq_cell_load(&port, cell), false) == SHMQ_OK, "ack");
        shmq_cell_return(&port, cell, true);
    }
    pthread_join(other, NULL);
    shmq_port_detach(&port);
    check_quiet(&settling.a);
    free(settling.a.base);
}

/* -- single-threaded ------------------------------------------------------------------------------------------------------- */

static shmq_status put(struct shmq_port *port, uint32_t number) {
    uint32_t cell = take_cell(port, SHMQ_TO_WRITE, false);
    write_message(port, slot_of(port, cell), 0, number);
    shmq_status status = shmq_ring_put(port, cell);
    shmq_cell_return(port, cell, status != SHMQ_OK);
    return status;
}

static shmq_status get(struct shmq_port *port, uint32_t *number) {
    uint32_t cell = take_cell(port, SHMQ_TO_GIVE, false);
    shmq_status status = shmq_ring_get(port, cell, SHMQ_LEASED);
    if (status == SHMQ_OK) *number = read_message(port, slot_of(port, cell)).number;
    shmq_cell_return(port, cell, true);
    return status;
}

/* Lease the oldest message of the ring. */
static uint32_t lease(struct shmq_port *port) {
    uint32_t cell = take_cell(port, SHMQ_TO_GIVE, true);
    CHECK(shmq_ring_get(port, cell, SHMQ_LEASED) == SHMQ_OK, "nothing to lease");
    return cell;
}

static void ack(struct shmq_port *port, uint32_t cell) {
    CHECK(shmq_lease_ack(port, cell, shmq_cell_load(port, cell), false) == SHMQ_OK, "ack");
    shmq_cell_return(port, cell, true);
}

static void end(struct arena *a, struct shmq_port *port) {
    shmq_port_detach(port);
    check_quiet(a);
    free(a->base);
}

/* Every capacity holds exactly so many, in order, from any position and lap; length, estimate, peek and looks agree. */
static void capacities(void) {
    for (uint32_t slots = 1; slots <= 9; slots++)
        for (uint32_t offset = 0; offset < 2 * slots + 1; offset++) {
            snprintf(context, sizeof context, "capacity %u after %u messages", slots, offset);
            struct arena a = arena_make(slots, 64, 2, 1);
            struct shmq_port port;
            uint32_t number = 0, sent = 0, next = 0;
            start_at(&a, SHMQ_LAP_MASK, 5); /* the next lap is 0 */
            attach(&a, &port);
            for (; sent < offset; sent++, next++) CHECK(put(&port, sent) == SHMQ_OK && get(&port, &number) == SHMQ_OK && number == next, "%u", number);
            CHECK(get(&port, &number) == SHMQ_WOULD_BLOCK && !shmq_ring_has_item(&port), "not empty");
            for (uint32_t n = 0; n < slots; n++) {
                CHECK(shmq_ring_length(&port) == n && shmq_ring_estimate(&port) == n && shmq_ring_has_space(&port), "length %u", n);
                CHECK(put(&port, sent++) == SHMQ_OK && shmq_ring_has_item(&port), "no room for %u", n);
                CHECK(shmq_ring_has_items(&port, n) && !shmq_ring_has_items(&port, n + 1), "items %u", n);
                CHECK(n + 1 == slots || (shmq_ring_has_spaces(&port, slots - n - 2) && !shmq_ring_has_spaces(&port, slots - n - 1)), "spaces %u", n);
            }
            CHECK(put(&port, sent) == SHMQ_WOULD_BLOCK && !shmq_ring_has_space(&port), "more than the capacity");
            CHECK(shmq_ring_length(&port) == slots && shmq_ring_estimate(&port) == slots, "length");
            for (uint32_t n = 0; n <= slots; n++) {
                struct shmq_slot slot;
                struct head head;
                bool moved;
                bool there = shmq_ring_peek(&port, n, &slot, &head, sizeof head, &moved);
                CHECK(!moved && there == (n < slots) && (!there || head.number == next + n), "peek at %u", n);
            }
            while (next < sent) CHECK(get(&port, &number) == SHMQ_OK && number == next++, "%u", number);
            CHECK(get(&port, &number) == SHMQ_WOULD_BLOCK && shmq_ring_length(&port) == 0, "not empty again");
            end(&a, &port);
        }
}

/* Sequences that lag behind, by as much as a batch may leave them, are helped forward by whoever comes. */
static void lagging(void) {
    for (uint32_t slots = 1; slots <= 5; slots++)
        for (uint32_t behind = 0; behind <= slots; behind++)
            for (int which = 0; which < 3; which++) {
                snprintf(context, sizeof context, "%u slots, sequences %u behind, %d", slots, behind, which);
                struct arena a = arena_make(slots, 64, 2, 1);
                struct shmq_header *header = (struct shmq_header *)a.base;
                struct shmq_port port;
                uint32_t number;
                attach(&a, &port);
                uint64_t at = header->write_seq;
                for (uint32_t i = 0; i < behind; i++) CHECK(put(&port, i) == SHMQ_OK, "put");
                header->write_seq = which == 1 ? header->write_seq : at;
                uint32_t taken = which == 0 ? 0 : behind;
                for (uint32_t i = 0; i < taken; i++) CHECK(get(&port, &number) == SHMQ_OK && number == i, "get %u", i);
                if (which) header->read_seq = at;
                if (which == 2) header->write_seq = at; /* the messages have come and gone, and nobody has moved anything */
                CHECK(shmq_ring_length(&port) == behind - taken, "length %u", shmq_ring_length(&port));
                for (uint32_t i = behind - taken; i < slots; i++) CHECK(put(&port, taken + i) == SHMQ_OK, "room for %u", i);
                CHECK(put(&port, 99) == SHMQ_WOULD_BLOCK, "not full");
                for (uint32_t i = 0; i < slots; i++) CHECK(get(&port, &number) == SHMQ_OK && number == taken + i, "%u", number);
                CHECK(get(&port, &number) == SHMQ_WOULD_BLOCK, "not empty");
                end(&a, &port);
            }
}

/* The same by thousands, as a consumer leaves them that is killed after a large batch, and by many laps of a small ring: one look finds
 * what is there. */
static void far_behind(void) {
    static const struct { uint32_t slots, gone, there; } cases[] = {{20000, 9000, 3}, {20000, 20000, 0}, {9000, 9000, 9000}, {3, 10000, 2}, {1, 5000, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int which = 1; which < 4; which++) {
            uint32_t slots = cases[i].slots, gone = cases[i].gone, there = cases[i].there, number;
            snprintf(context, sizeof context, "%u slots, %u gone, %u there, %d", slots, gone, there, which);
            struct arena a = arena_make(slots, 64, 2, 1);
            struct shmq_header *header = (struct shmq_header *)a.base;
            struct shmq_port port;
            start_at(&a, SHMQ_LAP_MASK - 1, 5);
            attach(&a, &port);
            uint64_t at = header->write_seq;
            for (uint32_t n = 0; n < gone; n++) CHECK(put(&port, n) == SHMQ_OK && get(&port, &number) == SHMQ_OK && number == n, "%u", n);
            for (uint32_t n = 0; n < there; n++) CHECK(put(&port, gone + n) == SHMQ_OK, "put");
            if (which & 1) header->read_seq = at;
            if (which & 2) header->write_seq = at;
            struct shmq_slot slot;
            struct head head;
            bool moved;
            CHECK(shmq_ring_length(&port) == there, "length %u", shmq_ring_length(&port));
            CHECK(shmq_ring_peek(&port, 0, &slot, &head, sizeof head, &moved) == (there != 0) && !moved, "peek");
            CHECK(!there || head.number == gone, "peek at %u", head.number);
            CHECK(put(&port, gone + there) == (there < slots ? SHMQ_OK : SHMQ_WOULD_BLOCK), "room");
            for (uint32_t n = 0; n < there + (there < slots); n++) CHECK(get(&port, &number) == SHMQ_OK && number == gone + n, "%u", number);
            CHECK(get(&port, &number) == SHMQ_WOULD_BLOCK && shmq_ring_length(&port) == 0, "not empty");
            end(&a, &port);
        }
}

/* A nack counts once whatever generation its lease has, that of the wrap-around included, in every cell. */
static void generations(void) {
    enum { SPAN = 8 };
    for (uint64_t start = (UINT64_C(1) << 27) - SPAN; start < (UINT64_C(1) << 27) + 2; start++)
        for (int kept = 0; kept < 2; kept++) {
            snprintf(context, sizeof context, "generation %#lx, %s cell", (unsigned long)start, kept ? "reserved" : "other");
            struct arena a = arena_make(2, 64, 1, 1);
            struct shmq_port port;
            start_at(&a, 0, start);
            attach(&a, &port);
            CHECK(put(&port, 1) == SHMQ_OK, "put");
            uint32_t cell = take_cell(&port, SHMQ_TO_GIVE, !kept);
            CHECK(shmq_ring_get(&port, cell, SHMQ_LEASED) == SHMQ_OK, "get");
            for (uint32_t failures = 0; failures < 2 * SPAN; failures++) {
                CHECK(failures_of(&port, cell) == failures, "%u failures, not %u", failures_of(&port, cell), failures);
                uint64_t leased = shmq_cell_load(&port, cell);
                CHECK(shmq_lease_give_back(&port, cell, leased, SHMQ_NACKED, 0) == SHMQ_OK, "nack");
                CHECK(shmq_lease_ack(&port, cell, leased, false) == SHMQ_LOST, "acked after a nack");
                CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_OK, "no orphan");
                CHECK(shmq_lease_ack(&port, cell, leased, false) == SHMQ_LOST, "acked another's lease");
            }
            ack(&port, cell);
            end(&a, &port);
        }
}

/* A delivery that fails is counted once however often the same failure is told, and up to the limit of the counter. */
static void failures(void) {
    struct arena a = arena_make(2, 64, 2, 1);
    struct shmq_port port;
    attach(&a, &port);
    CHECK(put(&port, 1) == SHMQ_OK, "put");
    uint32_t cell = lease(&port);
    uint64_t word = shmq_cell_load(&port, cell);
    for (int i = 0; i < 3; i++) shmq_delivery_ended(&port, cell, word, SHMQ_NACKED, 0);
    CHECK(failures_of(&port, cell) == 1, "%u", failures_of(&port, cell));
    shmq_word *deliveries = &shmq_slot_at(&port, shmq_word_slot(word))->deliveries;
    shmq_store_relaxed(deliveries, (shmq_load_relaxed(deliveries) & ~UINT64_C(0xffff)) | 0xfffe);
    for (uint32_t i = 0; i < 3; i++) { /* the first of these was counted before */
        CHECK(shmq_lease_give_back(&port, cell, shmq_cell_load(&port, cell), SHMQ_NACKED, 0) == SHMQ_OK, "nack");
        CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_OK, "no orphan");
        CHECK(failures_of(&port, cell) == (i == 0 ? 0xfffe : 0xffff), "nack %u: %u failures", i, failures_of(&port, cell));
    }
    ack(&port, cell);
    CHECK(put(&port, 2) == SHMQ_OK, "put");
    cell = lease(&port);
    CHECK(failures_of(&port, cell) == 0, "a new message inherits failures");
    ack(&port, cell);
    end(&a, &port);
}

/* What came back comes before what waits in the ring, to whoever asks, and only where something did come back. */
static void orphans(void) {
    struct arena a = arena_make(4, 64, 4, 3);
    struct shmq_port port, other, late;
    uint32_t cell, number;
    attach(&a, &port);
    attach(&a, &other);
    for (uint32_t i = 0; i < 3; i++) CHECK(put(&port, i) == SHMQ_OK, "put");
    CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_WOULD_BLOCK, "an orphan of nobody");
    uint32_t first = lease(&port), second = lease(&port);
    CHECK(shmq_lease_give_back(&port, first, shmq_cell_load(&port, first), SHMQ_NACKED, 0) == SHMQ_OK, "nack");
    CHECK(shmq_orphan_adopt(&other, 0, &cell) == SHMQ_OK && read_message(&other, slot_of(&other, cell)).number == 0, "not adopted");
    CHECK(shmq_orphan_adopt(&port, 0, &first) == SHMQ_WOULD_BLOCK, "adopted twice");
    CHECK(shmq_lease_give_back(&other, cell, shmq_cell_load(&other, cell), SHMQ_RELEASED, 0) == SHMQ_OK, "release");
    CHECK(shmq_lease_give_back(&port, second, shmq_cell_load(&port, second), SHMQ_RELEASED, 0) == SHMQ_OK, "release");
    attach(&a, &late); /* and to one who was not there when it came back */
    for (int i = 0; i < 2; i++) {
        CHECK(shmq_orphan_adopt(&late, 0, &cell) == SHMQ_OK, "not seen by a late one");
        struct head head = read_message(&late, slot_of(&late, cell));
        CHECK(head.number < 2 && failures_of(&late, cell) == (head.number == 0), "message %u, %u failures", head.number, failures_of(&late, cell));
        ack(&late, cell);
    }
    CHECK(shmq_orphan_adopt(&late, 0, &cell) == SHMQ_WOULD_BLOCK, "a third one");
    CHECK(get(&port, &number) == SHMQ_OK && number == 2, "the ring");
    shmq_port_detach(&late);
    shmq_port_detach(&other);
    end(&a, &port);
}

/* What came back is delivered in the order in which it was put, whatever cells it lies in, whoever gave it back, and how often; over
 * the wrap-around of the laps; what rests joins when it is due. */
static void ages(void) {
    enum { MESSAGES = 40, ROUNDS = 50 };
    uint64_t random = 88172645463325252u;
    for (uint32_t slots = 1; slots <= 7; slots++) {
        snprintf(context, sizeof context, "%u slots", slots);
        struct arena a = arena_make(slots, 64, MESSAGES, 2);
        struct shmq_port ports[2];
        uint32_t holders[MESSAGES], cells[MESSAGES], count = MESSAGES, number;
        start_at(&a, SHMQ_LAP_MASK - 1, 3);
        for (int i = 0; i < 2; i++) attach(&a, &ports[i]);
        for (uint32_t i = 0; i < MESSAGES; i++) { /* from a cell anywhere */
            ports[0].hint = a.g.reserved + random_below(&random, MESSAGES);
            CHECK(put(&ports[0], i) == SHMQ_OK, "put");
            cells[i] = lease(&ports[holders[i] = 0]);
        }
        for (uint32_t i = 0; i < slots; i++) CHECK(put(&ports[0], MESSAGES + i) == SHMQ_OK, "put");
        for (int round = 0; round < ROUNDS; round++) {
            bool back[MESSAGES] = {false}, rests[MESSAGES] = {false};
            uint32_t returned = 0;
            for (uint32_t i = 0; i < count; i++) { /* the half of them, in any order */
                uint32_t n = random_below(&random, count), by = random_below(&random, 3);
                struct shmq_port *holder = &ports[holders[n]];
                if (back[n]) continue;
                uint64_t delay = by == 2 ? UINT64_C(3600000000000) : 0;
                CHECK(shmq_lease_give_back(holder, cells[n], shmq_cell_load(holder, cells[n]), by ? SHMQ_NACKED : SHMQ_RELEASED, delay) == SHMQ_OK, "back");
                back[n] = true;
                rests[n] = delay != 0;
                returned += delay == 0;
            }
            for (int time = 0; time < 2; time++) {
                for (uint32_t i = 0, last = 0; i < returned; i++) {
                    uint32_t cell, by = random_below(&random, 2);
                    CHECK(shmq_orphan_adopt(&ports[by], 0, &cell) == SHMQ_OK, "not given");
                    number = read_message(&ports[by], slot_of(&ports[by], cell)).number;
                    CHECK(number < MESSAGES && back[number] && rests[number] == time && (i == 0 || number > last), "%u after %u", number, last);
                    last = number;
                    holders[number] = by;
                    CHECK(cells[number] == cell, "another cell");
                }
                returned = 0;
                for (uint32_t i = 0; i < count; i++) /* now it is due */
                    if (rests[i] && time == 0) {
                        shmq_store_relaxed(&ports[0].cells[cells[i]].due_ns, 1);
                        returned++;
                    }
                shmq_add_seq(&ports[0].header->orphan_changes, 1);
            }
        }
        for (uint32_t i = 0; i < MESSAGES; i++) ack(&ports[holders[i]], cells[i]);
        for (uint32_t i = 0; i < slots; i++) CHECK(get(&ports[1], &number) == SHMQ_OK && number == MESSAGES + i, "%u", number);
        shmq_port_detach(&ports[1]);
        end(&a, &ports[0]);
    }
}

/* What is offered is taken in the order in which it was put, what came back first; each is counted, and looks agree with what is there. */
static void delivering(void) {
    struct arena a = arena_make(4, 64, 4, 3);
    struct shmq_port port, other;
    uint32_t cell, many[8];
    shmq_status status;
    const uint64_t hour = UINT64_C(3600000000000);
    attach(&a, &port);
    attach(&a, &other);
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_WOULD_BLOCK && shmq_ready(&port) == 0 && shmq_room(&port) == 4, "empty");
    for (uint32_t number = 0; number < 4; number++) {
        cell = take_cell(&port, SHMQ_TO_WRITE, false);
        write_message(&port, slot_of(&port, cell), 0, number);
        CHECK(shmq_offer(&port, cell, true) == SHMQ_OK, "offer");
        shmq_cell_return(&port, cell, false);
        CHECK(shmq_ready(&other) == number + 1 && shmq_room(&other) == 3 - number, "looks after a put");
    }
    cell = take_cell(&port, SHMQ_TO_WRITE, false);
    CHECK(shmq_offer(&port, cell, true) == SHMQ_WOULD_BLOCK && shmq_offer(&port, cell, false) == SHMQ_WOULD_BLOCK, "full");
    CHECK(shmq_load_relaxed(&port.record->counters[SHMQ_PUTS]) == 4, "what was not put is not counted");
    shmq_cell_return(&port, cell, true);
    CHECK(shmq_verdict(&port, SHMQ_SPACE, SHMQ_WOULD_BLOCK, false) == SHMQ_WOULD_BLOCK && shmq_worth(&port, SHMQ_SPACE) == 0, "it may wait");

    /* The first comes back at once, the second rests: the first, the third, and, when it is due, the second. */
    CHECK(shmq_take(&other, true, hour, &cell) == SHMQ_OK && shmq_cell_state(shmq_cell_load(&other, cell)) == SHMQ_TIMED, "timed");
    CHECK(shmq_lease_give_back(&other, cell, shmq_cell_load(&other, cell), SHMQ_RELEASED, 0) == SHMQ_OK, "released");
    CHECK(shmq_came_back(&port).due == 1 && shmq_ready(&port) == 3 && shmq_worth(&port, SHMQ_ITEMS) == 4, "one came back");
    CHECK(shmq_take(&port, false, 0, &cell) == SHMQ_OK && read_message(&port, slot_of(&port, cell)).number == 0, "what came back is first");
    ack(&port, cell);
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_OK && read_message(&port, slot_of(&port, cell)).number == 1, "then what is new");
    CHECK(shmq_lease_give_back(&port, cell, shmq_cell_load(&port, cell), SHMQ_NACKED, hour) == SHMQ_OK, "nacked");
    struct shmq_came_back rests = shmq_came_back(&other);
    CHECK(rests.due == 0 && rests.resting == 1 && rests.exhausted == 0 && rests.next_due_ns - shmq_now_ns() <= hour, "it rests");
    uint32_t done = shmq_take_many(&other, many, 8, &status); /* the released one was taken: nothing that came back is due */
    CHECK(done == 2 && read_message(&other, slot_of(&other, many[0])).number == 2 && read_message(&other, slot_of(&other, many[1])).number == 3, "a batch");
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_WOULD_BLOCK && shmq_unfinished(&port) == 3, "two are leased, and one rests");
    while (done) ack(&other, many[--done]);

    /* After a shutdown nothing new goes in; what waited in the backlog does, uncounted; and who waits learns of it. */
    shmq_store_seq(&port.header->shut, SHMQ_SHUT_FOR_PUTS);
    cell = take_cell(&port, SHMQ_TO_WRITE, false);
    write_message(&port, slot_of(&port, cell), 0, 4);
    CHECK(shmq_offer(&port, cell, true) == SHMQ_SHUT && shmq_offer(&port, cell, false) == SHMQ_OK, "shut");
    shmq_cell_return(&port, cell, false);
    CHECK(shmq_load_relaxed(&port.record->counters[SHMQ_PUTS]) == 4, "it was counted when it came to the backlog");
    CHECK(shmq_verdict(&port, SHMQ_SPACE, SHMQ_WOULD_BLOCK, false) == SHMQ_SHUT && shmq_worth(&port, SHMQ_SPACE) == SHMQ_MAX_SLOTS, "for producers");
    CHECK(shmq_verdict(&port, SHMQ_ITEMS, SHMQ_WOULD_BLOCK, false) == SHMQ_WOULD_BLOCK, "there is still something");
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_OK, "take");
    ack(&port, cell);
    CHECK(shmq_orphan_claim(&port, SHMQ_TO_DISCARD, &cell), "what rests");
    ack(&port, cell);
    CHECK(shmq_verdict(&port, SHMQ_ITEMS, SHMQ_WOULD_BLOCK, false) == SHMQ_SHUT && shmq_verdict(&port, SHMQ_ITEMS, SHMQ_NO_CELLS, false) == SHMQ_NO_CELLS, "for consumers");
    CHECK(shmq_worth(&port, SHMQ_DONE) == SHMQ_MAX_SLOTS, "all is done");
    shmq_port_detach(&other);
    shmq_port_detach(&port);
    free(a.base);
}

/* A queue that was shut is over when nothing is there, nothing rests, and for those who stay when no other process may give anything back. */
static void shutting(void) {
    struct arena a = arena_make(4, 64, 4, 3);
    struct shmq_port port, mine, others;
    uint32_t cell, number;
    attach(&a, &port);
    attach(&a, &mine);
    CHECK(shmq_port_attach(&others, a.base, &a.g, shmq_owner_self() + 1) == SHMQ_OK, "no port"); /* of another process */
    struct shmq_port *holders[] = {&port, &mine, &others};
    CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, and not shut");
    for (int i = 0; i < 3; i++) {
        snprintf(context, sizeof context, "held by %d", i);
        shmq_store_seq(&port.header->shut, SHMQ_NOT_SHUT);
        CHECK(put(&port, 7) == SHMQ_OK, "put");
        shmq_store_seq(&port.header->shut, SHMQ_SHUT_FOR_PUTS);
        CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, with a message in the ring");
        cell = lease(holders[i]);
        CHECK(shmq_is_over(&port, false), "a lease is somebody's");
        CHECK(shmq_is_over(&port, true) == (i != 2), "what another process holds may come back");
        CHECK(shmq_lease_give_back(holders[i], cell, shmq_cell_load(holders[i], cell), SHMQ_NACKED, UINT64_C(3600000000000)) == SHMQ_OK, "nack");
        CHECK(shmq_orphan_adopt(&port, 0, &number) == SHMQ_WOULD_BLOCK && !shmq_promising(&port, SHMQ_ITEMS, false), "it rests");
        CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, with a message that rests");
        CHECK(!shmq_orphan_claim(&port, SHMQ_TO_DEAD_LETTER, &number), "it has not failed too often");
        CHECK(shmq_orphan_claim(&port, SHMQ_TO_DISCARD, &number) && number == cell, "what rests can be discarded");
        CHECK(shmq_is_over(&port, true), "mine");
        shmq_delivery_ended(&port, cell, shmq_cell_load(&port, cell), SHMQ_REJECTED, 0);
        CHECK(shmq_lease_give_back(&port, cell, shmq_cell_load(&port, cell), SHMQ_RELEASED, UINT64_C(3600000000000)) == SHMQ_OK, "back");
        CHECK(shmq_is_over(&port, false) && shmq_is_over(&port, true), "a dead letter that could not be written is not waited for");
        CHECK(shmq_orphan_claim(&port, SHMQ_TO_DISCARD, &number) && number == cell, "and can be discarded");
        ack(&port, cell);
    }
    shmq_store_seq(&others.record->intent, shmq_intent_word(SHMQ_GETTING, 0, 0, 0));
    CHECK(shmq_is_over(&port, false) && !shmq_is_over(&port, true), "another process is about to take");
    shmq_store_seq(&others.record->intent, 0);
    shmq_store_seq(&port.header->backlog, 1);
    CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, with a message in the backlog");
    shmq_store_seq(&port.header->backlog, 0);
    CHECK(shmq_promising(&port, SHMQ_ITEMS, false) && shmq_promising(&port, SHMQ_SPACE, false), "nobody is told");
    shmq_port_detach(&others);
    shmq_port_detach(&mine);
    end(&a, &port);
}

/* Detaching gives everything back: leases uncounted, loans and held messages for good. */
static void detaching(void) {
    for (int paged = 0; paged < 2; paged++) {
        struct arena a = arena_make(4, paged ? 4096 : 64, 4, 2);
        struct shmq_port port, other;
        uint32_t cell;
        attach(&a, &port);
        attach(&a, &other);
        for (uint32_t i = 0; i < 2; i++) CHECK(put(&other, i) == SHMQ_OK, "put");
        uint32_t leased = lease(&port), held = lease(&port), loaned = take_cell(&port, SHMQ_TO_WRITE, true);
        CHECK(shmq_lease_ack(&port, held, shmq_cell_load(&port, held), true) == SHMQ_OK, "ack");
        shmq_cell_become(&port, loaned, SHMQ_LOANED);
        uint64_t word = shmq_cell_load(&port, leased);
        shmq_count(&port.record->counters[SHMQ_PUTS], 7);
        shmq_port_detach(&port);
        CHECK(shmq_load_relaxed(&other.records[0].counters[SHMQ_PUTS]) == 7, "counters");
        CHECK(shmq_lease_ack(&port, leased, word, false) == SHMQ_LOST, "acked after detaching");
        CHECK(shmq_orphan_adopt(&other, 0, &cell) == SHMQ_OK && failures_of(&other, cell) == 0, "not given back");
        CHECK(read_message(&other, slot_of(&other, cell)).number == 0, "another message");
        ack(&other, cell);
        CHECK(shmq_orphan_adopt(&other, 0, &cell) == SHMQ_WOULD_BLOCK, "the held one came back");
        attach(&a, &port);
        CHECK(shmq_load_relaxed(&port.record->counters[SHMQ_PUTS]) == 7 && port.next_id >> SHMQ_ID_BITS == 2, "a port of its own");
        shmq_port_detach(&port);
        end(&a, &other);
    }
}

/* No id is given twice: not after another attachment to the same port, and not when the count of a serial is used up. */
static void ids(void) {
    struct arena a = arena_make(4, 64, 4, 3);
    struct shmq_port port, other;
    attach(&a, &port);
    attach(&a, &other);
    const uint64_t count = UINT64_C(1) << SHMQ_ID_BITS;
    CHECK(shmq_next_id(&port) == 1 && shmq_next_id(&other) == (count | 1), "the first ids");
    port.next_id = count - 1;
    CHECK(shmq_next_id(&port) == count - 1, "the last one of a serial");
    CHECK(shmq_load_relaxed(&port.record->serial) == 0, "its serial, while what has the id may be on its way");
    CHECK(shmq_next_id(&port) == (2 * count | 1) && shmq_next_id(&port) == (2 * count | 2), "another serial");
    CHECK(shmq_load_relaxed(&port.record->serial) == 2 && shmq_load_relaxed(&port.record->serial_before) == 0, "the serials of the port");
    shmq_port_detach(&port);
    attach(&a, &port);
    CHECK(port.index == 0 && shmq_next_id(&port) == (3 * count | 1), "the same port, attached again");
    CHECK(shmq_load_relaxed(&port.record->serial_before) == 3, "nothing of its is of who was there before");
    /* At the edge the serials begin again: see `id` in format/queue.h. */
    shmq_store_relaxed(&port.header->attachments, (UINT64_C(1) << (64 - SHMQ_ID_BITS)) - 1);
    shmq_port_draw_serial(&port);
    CHECK(shmq_next_id(&port) == (UINT64_MAX << SHMQ_ID_BITS | 1), "the last serial");
    shmq_port_draw_serial(&port);
    CHECK(shmq_next_id(&port) == 1, "and then the first again");
    shmq_port_detach(&other);
    end(&a, &port);
}

static void *sleep_at(void *port) {
    struct shmq_patience patience = {0};
    shmq_wait_park(port, SHMQ_ITEMS, SHMQ_FOREVER, &patience);
    return NULL;
}

/* A port that is given back while a thread sleeps at it takes its sleeper off the count, and nobody else's. */
static void taken_away_asleep(void) {
    struct arena a = arena_make(4, 64, 4, 2);
    struct shmq_port port, other;
    sem_t semaphores[2];
    CHECK(sem_init(&semaphores[0], 0, 0) == 0 && sem_init(&semaphores[1], 0, 0) == 0, "semaphores");
    pthread_t threads[2];
    struct shmq_port *ports[2] = {&port, &other};
    shmq_half *waiters = &((struct shmq_header *)a.base)->items_waiters;
    for (int i = 0; i < 2; i++) {
        attach(&a, ports[i]);
        for (int side = 0; side < 2; side++) ports[i]->semaphores[side] = &semaphores[side];
        CHECK(pthread_create(&threads[i], NULL, sleep_at, ports[i]) == 0, "thread");
    }
    while (shmq_load_seq(waiters) != 2) sched_yield();
    usleep(20000); /* they have looked, and sleep; where they have not, less is tried */
    shmq_port_detach(&port);
    CHECK((shmq_load_seq(waiters) & ~SHMQ_BELLS) == 1, "who went is still counted");
    struct shmq_port heir;
    attach(&a, &heir);
    CHECK(heir.index == port.index && shmq_load_seq(&heir.record->asleep[SHMQ_ITEMS]) == 0, "the heir is said to sleep");
    CHECK(pthread_join(threads[0], NULL) == 0, "the sleeper of the port that is gone"); /* by the end of its slice, at the latest */
    CHECK(shmq_load_seq(&heir.record->asleep[SHMQ_ITEMS]) == 0, "what the heir sleeps: %u", shmq_load_seq(&heir.record->asleep[SHMQ_ITEMS]));
    CHECK(pthread_join(threads[1], NULL) == 0 && shmq_load_seq(waiters) == 0, "the other sleeper");
    CHECK(shmq_load_seq(&other.record->asleep[SHMQ_ITEMS]) == 0, "what the other one sleeps");
    shmq_port_detach(&heir);
    end(&a, &other);
}

/* Leases and loans never take the cells that put and get depend on; ports and cells end where the geometry says. */
static void limits(void) {
    for (int paged = 0; paged < 2; paged++) {
        struct arena a = arena_make(3, paged ? 4096 : 64, 2, 2);
        struct shmq_port port, other, third;
        uint32_t cells[2], number;
        attach(&a, &port);
        attach(&a, &other);
        CHECK(shmq_port_attach(&third, a.base, &a.g, shmq_owner_self()) == SHMQ_NO_PORTS, "a port too many");
        for (int i = 0; i < 2; i++) {
            cells[i] = take_cell(&port, SHMQ_TO_WRITE, true);
            CHECK(cells[i] >= a.g.reserved, "a reserved cell was taken for long");
            shmq_cell_become(&port, cells[i], SHMQ_LOANED);
        }
        uint32_t cell;
        CHECK(shmq_cell_take_for_long(&other, SHMQ_TO_GIVE, &cell) == SHMQ_NO_CELLS, "a cell too many");
        CHECK(put(&port, 1) == SHMQ_OK && put(&other, 2) == SHMQ_OK, "put beside loans");
        CHECK(get(&other, &number) == SHMQ_OK && number == 1 && get(&port, &number) == SHMQ_OK && number == 2, "get beside loans");
        for (int i = 0; i < 2; i++) shmq_cell_return(&port, cells[i], true);
        CHECK(shmq_cell_take_for_long(&other, SHMQ_TO_GIVE, &cell) == SHMQ_OK, "not returned");
        shmq_cell_return(&other, cell, true);
        shmq_port_detach(&other);
        end(&a, &port);
    }
}

/* In a ring of large slots, n frames in flight walk through n + 1 slots of memory. */
static void warm(void) {
    for (uint32_t in_flight = 1; in_flight <= 4; in_flight++) {
        struct arena a = arena_make(64, 4096, 8, 2);
        struct shmq_port producer, consumer;
        unsigned char touched[256] = {0};
        uint32_t count = 0, number, sent = 0;
        attach(&a, &producer);
        attach(&a, &consumer);
        for (int round = 0; round < 500; round++) {
            for (uint32_t i = 0; i < in_flight; i++) {
                uint32_t cell = take_cell(&producer, SHMQ_TO_WRITE, false), slot = slot_of(&producer, cell);
                count += !touched[slot];
                touched[slot] = 1;
                write_message(&producer, slot, 0, sent++);
                CHECK(shmq_ring_put(&producer, cell) == SHMQ_OK, "put");
                shmq_cell_return(&producer, cell, false);
            }
            for (uint32_t i = 0; i < in_flight; i++) CHECK(get(&consumer, &number) == SHMQ_OK, "get");
        }
        CHECK(count <= in_flight + 1, "%u in flight, %u slots touched", in_flight, count);
        shmq_port_detach(&consumer);
        end(&a, &producer);
    }
}

/* Batches: as many as there is room for, from any position; the one that found no room was not sent. */
static void batches(void) {
    for (uint32_t slots = 1; slots <= 8; slots++)
        for (uint32_t there = 0; there <= slots; there++)
            for (uint32_t wanted = 0; wanted <= 6; wanted++) {
                snprintf(context, sizeof context, "%u slots, %u there, %u more", slots, there, wanted);
                struct arena a = arena_make(slots, 64, 8, 1);
                struct shmq_port port;
                start_at(&a, SHMQ_LAP_MASK, 3);
                attach(&a, &port);
                for (uint32_t i = 0; i < there; i++) CHECK(put(&port, i) == SHMQ_OK, "put");
                struct batch batch = {.next = there, .end = there + wanted};
                shmq_status status;
                uint32_t cell = take_cell(&port, SHMQ_TO_WRITE, false), room = slots - there;
                uint32_t sent = shmq_ring_put_many(&port, cell, fill_batch, &batch, &status);
                shmq_cell_return(&port, cell, true);
                CHECK(sent == (wanted < room ? wanted : room), "%u sent", sent);
                CHECK(status == (wanted <= room ? SHMQ_OK : SHMQ_WOULD_BLOCK), "status %d", status);
                uint32_t cells[7], got;
                for (int i = 0; i < 7; i++) cells[i] = take_cell(&port, SHMQ_TO_GIVE, true);
                for (uint32_t next = 0; next < there + sent; next += got) {
                    got = shmq_ring_get_many(&port, cells, 7, SHMQ_LEASED, &status);
                    CHECK(status == SHMQ_OK && got == (there + sent - next < 7 ? there + sent - next : 7), "%u got", got);
                    for (uint32_t i = 0; i < got; i++) {
                        CHECK(read_message(&port, slot_of(&port, cells[i])).number == next + i, "order");
                        ack(&port, cells[i]);
                        cells[i] = take_cell(&port, SHMQ_TO_GIVE, true);
                    }
                }
                CHECK(shmq_ring_get_many(&port, cells, 7, SHMQ_LEASED, &status) == 0 && status == SHMQ_WOULD_BLOCK, "not empty");
                for (int i = 0; i < 7; i++) shmq_cell_return(&port, cells[i], false);
                end(&a, &port);
            }
}

/* A batch is held up in the middle, and others go round the ring meanwhile: it must not take the sequence back to where it was. */
struct held_up { struct shmq_port *others; uint32_t filled, meanwhile; uint64_t then; };

static bool fill_held_up(void *held_up_, struct shmq_port *port, uint32_t slot) {
    struct held_up *held_up = held_up_;
    if (held_up->filled++ == 0) {
        write_message(port, slot, 0, 0);
        return true;
    }
    uint32_t number;
    CHECK(get(held_up->others, &number) == SHMQ_OK && number == 0, "the first of the batch");
    for (uint32_t i = 1; i <= held_up->meanwhile; i++)
        CHECK(put(held_up->others, i) == SHMQ_OK && get(held_up->others, &number) == SHMQ_OK && number == i, "%u", number);
    held_up->then = shmq_load_relaxed(&port->header->write_seq);
    return false;
}

static void never_back(void) {
    for (uint32_t slots = 1; slots <= 4; slots++)
        for (uint32_t meanwhile = 0; meanwhile < 9; meanwhile++)
            for (int edge = 0; edge < 2; edge++) {
                snprintf(context, sizeof context, "%u slots, %u messages meanwhile%s", slots, meanwhile, edge ? ", last lap" : "");
                struct arena a = arena_make(slots, 64, 2, 2);
                struct shmq_port port, others;
                struct held_up held_up = {&others, 0, meanwhile, 0};
                shmq_status status;
                start_at(&a, edge ? SHMQ_LAP_MASK : 0, 1);
                attach(&a, &port);
                attach(&a, &others);
                uint32_t cell = take_cell(&port, SHMQ_TO_WRITE, false);
                CHECK(shmq_ring_put_many(&port, cell, fill_held_up, &held_up, &status) == 1 && status == SHMQ_OK, "status %d", status);
                shmq_cell_return(&port, cell, true);
                int64_t moved = (int64_t)((port.header->write_seq - held_up.then) << 2) >> 2;
                CHECK(moved >= 0, "write_seq went back from %#lx to %#lx", (unsigned long)held_up.then, (unsigned long)port.header->write_seq);
                CHECK(shmq_ring_length(&port) == 0 && shmq_ring_estimate(&port) == 0, "length %u", shmq_ring_estimate(&port));
                shmq_port_detach(&others);
                end(&a, &port);
            }
}

/* Words that the protocol never writes are told as such, and nothing is taken or given for them. */
static void corruption(void) {
    enum { SLOTS = 3, LAP = 7 };
    const uint64_t outside = SLOTS + 3 + 1;
    const struct { uint64_t word; shmq_status put, get; } cases[] = {
        {shmq_ring_word(LAP, 2, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},               /* states that there are not */
        {shmq_ring_word(LAP, 3, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},
        {shmq_ring_word(LAP, SHMQ_EMPTY, (uint32_t)outside), SHMQ_CORRUPT, SHMQ_WOULD_BLOCK}, /* slots that there are not */
        {shmq_ring_word(LAP, SHMQ_EMPTY, SHMQ_SLOT_MASK), SHMQ_CORRUPT, SHMQ_WOULD_BLOCK},
        {shmq_ring_word(LAP, SHMQ_READY, (uint32_t)outside), SHMQ_OK, SHMQ_CORRUPT},
        {shmq_ring_word(LAP - 1, SHMQ_EMPTY, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},  /* laps that cannot be */
        {shmq_ring_word(LAP - 2, SHMQ_READY, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},
        {shmq_ring_word(0, SHMQ_EMPTY, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int side = 0; side < 2; side++) {
            snprintf(context, sizeof context, "corruption %zu", i);
            struct arena a = arena_make(SLOTS, 64, 2, 1);
            struct shmq_port port;
            start_at(&a, LAP, 1);
            attach(&a, &port);
            port.ring[0] = cases[i].word;
            uint32_t cell = take_cell(&port, side ? SHMQ_TO_GIVE : SHMQ_TO_WRITE, false);
            uint64_t before = shmq_cell_load(&port, cell);
            if (side == 0) write_message(&port, slot_of(&port, cell), 0, 0);
            shmq_status status = side ? shmq_ring_get(&port, cell, SHMQ_LEASED) : shmq_ring_put(&port, cell);
            CHECK(status == (side ? cases[i].get : cases[i].put), "%s: %d", side ? "get" : "put", status);
            CHECK(status == SHMQ_OK || (shmq_cell_load(&port, cell) == before && port.ring[0] == cases[i].word), "something was exchanged");
            free(a.base);
        }
    for (uint32_t index = SLOTS; index < SLOTS + 2; index++) {
        struct arena a = arena_make(SLOTS, 64, 2, 1);
        struct shmq_port port;
        uint32_t number;
        attach(&a, &port);
        port.header->write_seq = port.header->read_seq = shmq_seq_word(0, index);
        CHECK(put(&port, 0) == SHMQ_CORRUPT && get(&port, &number) == SHMQ_CORRUPT, "index %u", index);
        CHECK(shmq_ring_has_space(&port) && shmq_ring_has_item(&port), "whoever sleeps would never find out");
        end(&a, &port);
    }
}

/* The parts of a segment lie behind one another, aligned, and inside it; what the format has no room for is refused. */
static void geometries(void) {
    static const uint64_t sizes[] = {1, 63, 64, 65, 4095, 4096, 4097, 1 << 20};
    struct shmq_geometry g;
    for (uint64_t slots = 1; slots <= 1000; slots = slots * 3 + 1)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (uint64_t ports = 1; ports < 20; ports += 6) {
                uint64_t cells = ports + 5;
                CHECK(shmq_geometry(slots, sizes[s], cells, ports, &g), "refused");
                CHECK(g.total_slots == slots + cells && g.ports_offset == sizeof(struct shmq_header), "start");
                CHECK(g.cells_offset >= g.ports_offset + ports * sizeof(struct shmq_port_record) && g.cells_offset % SHMQ_LINE == 0, "cells");
                CHECK(g.ring_offset >= g.cells_offset + cells * sizeof(struct shmq_cell), "ring");
                CHECK(g.slot_offset >= g.ring_offset + slots * 8 && g.slot_offset % SHMQ_LINE == 0, "slots");
                CHECK(g.slot_stride >= sizeof(struct shmq_slot) && g.payload_stride >= sizes[s], "strides");
                CHECK(g.payload_offset % (sizes[s] >= SHMQ_PAGE ? SHMQ_PAGE : SHMQ_LINE) == 0, "payload");
                CHECK(g.payload_stride % (sizes[s] >= SHMQ_PAGE ? SHMQ_PAGE : SHMQ_LINE) == 0, "payload stride");
                CHECK(g.paged ? g.payload_offset >= g.slot_offset + g.total_slots * g.slot_stride : g.payload_offset == g.slot_offset + 64, "payload");
                CHECK(g.segment_bytes >= g.payload_offset + (g.total_slots - 1) * g.payload_stride + sizes[s], "end");
            }
    static const uint64_t wrong[][4] = {
        {0, 64, 9, 4}, {4, 0, 9, 4}, {4, 64, 0, 4}, {4, 64, 9, 0}, {4, 64, 4, 4}, {4, 4096, 2, 4}, {1 << 24, 64, 9, 4},
        {4, 64, 1 << 14, 4}, {4, 64, 9000, 1023}, {4, UINT64_C(1) << 39, 9, 4}, {UINT64_MAX, 64, 9, 4}, {4, UINT64_MAX, 9, 4},
        {4, 64, UINT64_MAX, 4}, {4, 64, 9, UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(!shmq_geometry(wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3], &g), "number %zu was accepted", i);
    CHECK(shmq_geometry(SHMQ_MAX_SLOTS - SHMQ_MAX_CELLS, UINT64_C(1) << 38, SHMQ_MAX_CELLS, SHMQ_MAX_PORTS - 1, &g), "the largest");
    CHECK(g.segment_bytes > g.payload_offset && g.segment_bytes < UINT64_C(1) << 63, "overflow");
}

/* Field by field: what is between them may be anything. */
static bool same_geometry(const struct shmq_geometry *a, const struct shmq_geometry *b) {
    return a->slot_size == b->slot_size && a->slots == b->slots && a->cells == b->cells && a->ports == b->ports &&
           a->total_slots == b->total_slots && a->reserved == b->reserved && a->paged == b->paged &&
           a->ports_offset == b->ports_offset && a->cells_offset == b->cells_offset && a->ring_offset == b->ring_offset &&
           a->slot_offset == b->slot_offset && a->slot_stride == b->slot_stride && a->payload_offset == b->payload_offset &&
           a->payload_stride == b->payload_stride && a->segment_bytes == b->segment_bytes;
}

/* A header is believed only as far as it agrees with itself, this machine and the size of the file. */
static void headers(void) {
    struct arena a = arena_make(4, 64, 4, 2);
    struct shmq_header *header = (struct shmq_header *)a.base;
    struct shmq_geometry g;
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes, &g) == SHMQ_OK && same_geometry(&g, &a.g), "its own");
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes + 4096, &g) == SHMQ_OK, "a larger file");
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes - 1, &g) == SHMQ_CORRUPT, "a smaller file");
    CHECK(shmq_segment_check(a.base, 0, &g) == SHMQ_WOULD_BLOCK && shmq_segment_check(a.base, 100, &g) == SHMQ_MISMATCH, "tiny files");
    header->magic = 0;
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes, &g) == SHMQ_WOULD_BLOCK, "half-made");
    header->magic = SHMQ_MAGIC ^ 1;
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes, &g) == SHMQ_MISMATCH, "magic");
    header->magic = SHMQ_MAGIC;
    header->version++;
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes, &g) == SHMQ_MISMATCH, "version");
    header->version--;
    header->endian = 0x04030201;
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes, &g) == SHMQ_MISMATCH, "byte order");
    header->endian = SHMQ_ENDIAN;
    header->kind++;
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes, &g) == SHMQ_UNKNOWN_KIND, "kind");
    header->kind--;
    for (size_t bit = 8 * 16; bit < 8 * 52; bit++) { /* from segment_bytes to ports, the nonce excepted */
        if (bit >= 8 * 24 && bit < 8 * 32) continue;
        a.base[bit / 8] ^= (unsigned char)(1 << bit % 8);
        shmq_status status = shmq_segment_check(a.base, a.g.segment_bytes, &g);
        CHECK(status == SHMQ_CORRUPT || g.segment_bytes == a.g.segment_bytes, "bit %zu: status %d", bit, status);
        a.base[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    CHECK(shmq_segment_check(a.base, a.g.segment_bytes, &g) == SHMQ_OK, "its own again");
    free(a.base);
}

/* The kernel says who lives: a child has an identity of its own, and is dead when it is dead; locks go with their holder. */
static void *lock_too(void *taken) {
    *(bool *)taken = shmq_owner_lock(42);
    return NULL;
}
/* Close whatever the lock might hang on. */
static void close_all_but(int spared, int spared_too) {
    for (int fd = 3; fd < 100; fd++)
        if (fd != spared && fd != spared_too) close(fd);
}
/* Threads that ask at once who lives, after the program has closed the lock file: one of them opens it again. */
static void *ask(void *stranger) {
    for (int i = 0; i < 20; i++) CHECK(!shmq_owner_alive(*(uint64_t *)stranger), "somebody who never was");
    return NULL;
}
static void lock_file_closed(void) {
    uint64_t stranger = shmq_owner_self() ^ 1, inode = shmq_owner_lock_inode();
    CHECK(stranger != 1, "identity");
    for (int round = 0; round < 50; round++) {
        pthread_t threads[3];
        close_all_but(-1, -1);
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, ask, &stranger) == 0, "thread");
        for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    }
    CHECK(shmq_owner_can_judge() && shmq_owner_lock_inode() == inode, "the lock file is another one");
}
static void owners(void) {
    uint64_t self = shmq_owner_self(), forks = shmq_owner_forks;
    uint64_t key;
    CHECK(self != 0 && shmq_owner_self() == self && shmq_owner_alive(self) && shmq_owner_can_judge(), "self");
    CHECK(!shmq_owner_alive(self ^ 1) && shmq_owner_lock_inode() != 0 && shmq_owner_random(&key, sizeof key), "somebody who never was");
    int from_child[2], to_child[2];
    CHECK(pipe(from_child) == 0 && pipe(to_child) == 0, "pipe");
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        uint64_t mine = shmq_owner_self();
        pid_t grandchild = fork(); /* it outlives its parent, and keeps nothing of its alive */
        if (grandchild == 0) {
            char *const late[] = {"sleep", "1", NULL};
            execvp(late[0], late);
            _exit(1);
        }
        if (grandchild > 0 && (grandchild = fork()) == 0) {
            sleep(1);
            _exit(0);
        }
        close_all_but(from_child[1], to_child[0]);
        bool fine = mine != 0 && mine != self && shmq_owner_alive(self) && shmq_owner_forks == forks + 1 && shmq_owner_lock(key);
        if (!fine) mine = 0;
        if (write(from_child[1], &mine, sizeof mine) != sizeof mine) _exit(1);
        _exit(read(to_child[0], &mine, 1) != 1);
    }
    uint64_t child;
    CHECK(read(from_child[0], &child, sizeof child) == sizeof child && child != 0, "the child's identity");
    CHECK(shmq_owner_alive(child), "a living child is called dead");
    CHECK(!shmq_owner_lock(key), "the child's lock was taken");
    CHECK(shmq_owner_lock(key ^ 2), "another lock");
    shmq_owner_unlock(key ^ 2);
    CHECK(write(to_child[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid, "its end");
    CHECK(!shmq_owner_alive(child) && shmq_owner_alive(self), "a dead child is called alive");
    CHECK(shmq_owner_lock(key), "the dead child's lock is still held");
    shmq_owner_unlock(key);
    pthread_t thread;
    bool taken = true;
    CHECK(shmq_owner_lock(42) && pthread_create(&thread, NULL, lock_too, &taken) == 0 && pthread_join(thread, NULL) == 0, "thread");
    CHECK(!taken, "a lock was taken twice");
    shmq_owner_unlock(42);
    CHECK(pthread_create(&thread, NULL, lock_too, &taken) == 0 && pthread_join(thread, NULL) == 0 && taken, "a free lock was refused");
    shmq_owner_unlock(42);
}

/* -- hostile words ----------------------------------------------------------------------------------------------------------- */

static uint64_t random_word(uint64_t *random, uint64_t there, const struct shmq_geometry *g) {
    uint64_t wild = (uint64_t)random_below(random, 1u << 31) << 33 ^ (uint64_t)random_below(random, 1u << 31) << 16 ^ random_below(random, 1u << 16);
    switch (random_below(random, 8)) {
    case 0: return wild;
    case 1: return 0;
    case 2: return UINT64_MAX;
    case 3: return there ^ UINT64_C(1) << random_below(random, 64);
    case 4: return (there & ~SHMQ_SLOT_MASK) | random_below(random, g->total_slots); /* a slot that another cell names, too */
    case 5: return (there & ~SHMQ_SLOT_MASK) | (g->total_slots + random_below(random, 3)); /* just outside */
    case 6: return there + (UINT64_C(1) << 26) * (random_below(random, 5) - 2); /* another lap */
    default: return shmq_cell_word(wild, random_below(random, 8), random_below(random, g->ports + 2), random_below(random, g->total_slots + 1));
    }
}

/* Any word of the segment between the geometry and the slots, and the header of any slot. */
static shmq_word *random_place(uint64_t *random, const struct arena *a) {
    struct shmq_header *header = (struct shmq_header *)a->base;
    struct shmq_port_record *record = (struct shmq_port_record *)(a->base + a->g.ports_offset) + random_below(random, a->g.ports);
    switch (random_below(random, 10)) {
    case 0: return &header->write_seq;
    case 1: return &header->read_seq;
    case 2: return &header->orphan_changes;
    case 3: return &record->owner;
    case 4: return &record->intent;
    case 5: return &record->expected;
    case 6: return (shmq_word *)(a->base + a->g.slot_offset + random_below(random, a->g.total_slots) * a->g.slot_stride) + random_below(random, 8);
    case 7: return &((struct shmq_cell *)(a->base + a->g.cells_offset))[random_below(random, a->g.cells)].word;
    default: return (shmq_word *)(a->base + a->g.ring_offset) + random_below(random, a->g.slots);
    }
}

static void scribble_once(uint64_t *random, const struct arena *a) {
    shmq_word *place = random_place(random, a);
    shmq_store_relaxed(place, random_word(random, shmq_load_relaxed(place), &a->g));
}

/* The slot of a cell that the engine has just handed out: whatever the segment says, it must be one. */
static uint32_t handed(struct shmq_port *port, uint32_t cell, const char *by) {
    uint32_t slot = slot_of(port, cell);
    CHECK(slot < port->geometry.total_slots, "%s handed out slot %u of %u", by, slot, port->geometry.total_slots);
    return slot;
}

static void touch(struct shmq_port *port, uint32_t slot, bool write) {
    unsigned char *payload = shmq_payload_at(port, slot);
    struct shmq_slot *header = shmq_slot_at(port, slot);
    uint64_t nbytes = header->nbytes < port->geometry.slot_size ? header->nbytes : port->geometry.slot_size;
    unsigned char sink[4096];
    if (nbytes > sizeof sink) nbytes = sizeof sink;
    if (write) memset(payload, 1, port->geometry.slot_size < sizeof sink ? port->geometry.slot_size : sizeof sink), header->nbytes = 1;
    else memcpy(sink, payload, nbytes);
}

static bool fill_hostile(void *left, struct shmq_port *port, uint32_t slot) {
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
static void try_anything(struct shmq_port *port, uint64_t *random, bool quiet) {
    uint32_t cell, cells[4], taken = 0, left = random_below(random, 12);
    shmq_status status;
    struct shmq_slot header;
    unsigned char bytes[128];
    bool moved;
    switch (random_below(random, 11)) {
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
        return;
    case 7: shmq_ring_peek(port, left, &header, bytes, port->geometry.slot_size < sizeof bytes ? port->geometry.slot_size : sizeof bytes, &moved); return;
    case 8:
        shmq_ring_has_item(port), shmq_ring_has_space(port), shmq_ring_has_items(port, left), shmq_ring_has_spaces(port, left);
        port->spins = true;
        shmq_spin(port, left % 2 ? SHMQ_ITEMS : SHMQ_SPACE, shmq_now_ns());
        shmq_wake(port, SHMQ_ITEMS), shmq_wake(port, SHMQ_SPACE);
        return;
    case 9: shmq_reap(port); return;
    default: {
        struct shmq_patience patience = {0};
        if (left == 0) shmq_wait_park(port, SHMQ_ITEMS, shmq_now_ns() + 100000, &patience);
        shmq_linger(port);
    }
    }
}

static bool attach_hostile(const struct arena *a, struct shmq_port *port, sem_t *semaphores) {
    shmq_status status = shmq_port_attach(port, a->base, &a->g, shmq_owner_self());
    CHECK(status == SHMQ_OK || status == SHMQ_NO_PORTS, "attach: %d", status);
    for (int side = 0; side < 2; side++) port->semaphores[side] = &semaphores[side];
    return status == SHMQ_OK;
}

static struct arena random_arena(uint64_t *random) {
    static const uint64_t sizes[] = {1, 64, 100, 4096};
    return arena_make(1 + random_below(random, 5), sizes[random_below(random, 4)], 1 + random_below(random, 5), 2 + random_below(random, 3));
}

static void hostile(uint64_t seed, uint32_t rounds) {
    sem_t semaphores[2];
    for (int side = 0; side < 2; side++) sem_init(&semaphores[side], 0, 0);
    for (uint32_t round = 0; round < rounds; round++) {
        uint64_t random = (seed * 1000003 + round) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        snprintf(context, sizeof context, "hostile %lu, round %u", (unsigned long)seed, round);
        struct arena a = random_arena(&random);
        struct shmq_port ports[2];
        bool attached[2] = {false, false};
        for (int turn = 0; turn < 150; turn++) {
            int which = (int)random_below(&random, 2);
            if (turn > 20 && random_below(&random, 4) == 0) scribble_once(&random, &a);
            if (!attached[which]) attached[which] = attach_hostile(&a, &ports[which], semaphores);
            if (!attached[which]) continue;
            struct shmq_port *port = &ports[which];
            try_anything(port, &random, true);
            if (random_below(&random, 12) == 0) shmq_port_detach(port), attached[which] = false;
        }
        free(a.base);
    }
    /* And headers. */
    for (uint32_t round = 0; round < rounds * 10; round++) {
        uint64_t random = (seed * 7919 + round) * UINT64_C(0x9e3779b97f4a7c15) | 1;
        struct shmq_header header;
        struct shmq_geometry g;
        memset(&header, 0, sizeof header);
        header.magic = SHMQ_MAGIC;
        header.version = SHMQ_VERSION;
        header.endian = SHMQ_ENDIAN;
        header.kind = SHMQ_KIND_QUEUE;
        header.slots = 4;
        header.slot_size = 64;
        header.cells = 9;
        header.ports = 4;
        CHECK(shmq_geometry(4, 64, 9, 4, &g), "geometry");
        header.segment_bytes = g.segment_bytes;
        for (uint32_t i = 0; i < 1 + random_below(&random, 3); i++) {
            uint64_t *word = (uint64_t *)&header + random_below(&random, 8);
            *word = random_below(&random, 2) ? *word ^ UINT64_C(1) << random_below(&random, 64) : random_word(&random, *word, &g);
        }
        uint64_t file_bytes = sizeof header + random_below(&random, 100000);
        if (shmq_segment_check(&header, file_bytes, &g) == SHMQ_OK)
            CHECK(g.segment_bytes <= file_bytes && g.payload_offset + (g.total_slots - 1) * g.payload_stride + g.slot_size <= file_bytes, "outside");
    }
}

static struct {
    struct arena a;
    sem_t semaphores[2];
    uint64_t seed;
    _Atomic bool over;
} scribbling;

static void *work_on_anything(void *index) {
    uint64_t random = (scribbling.seed + (uintptr_t)index) * UINT64_C(0x9e3779b97f4a7c15) | 1;
    struct shmq_port port;
    bool attached = false;
    while (!scribbling.over) {
        if (!attached) attached = attach_hostile(&scribbling.a, &port, scribbling.semaphores);
        if (!attached) {
            scribble_once(&random, &scribbling.a); /* all ports look taken: perhaps this frees one */
            continue;
        }
        try_anything(&port, &random, false);
        if (random_below(&random, 12) == 0) shmq_port_detach(&port), attached = false;
    }
    return NULL;
}

static void scribble(uint64_t seed, uint32_t milliseconds) {
    uint64_t random = seed * UINT64_C(0x9e3779b97f4a7c15) | 1, until = shmq_now_ns() + milliseconds * UINT64_C(1000000);
    snprintf(context, sizeof context, "scribble %lu", (unsigned long)seed);
    scribbling.a = arena_make(3, 64, 4, 4);
    scribbling.seed = seed;
    for (int side = 0; side < 2; side++) sem_init(&scribbling.semaphores[side], 0, 0);
    pthread_t threads[2];
    for (uintptr_t i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, work_on_anything, (void *)(i + 1)) == 0, "thread");
    while (shmq_now_ns() < until) {
        for (uint32_t i = random_below(&random, 20); i > 0; i--) scribble_once(&random, &scribbling.a);
        sched_yield();
    }
    scribbling.over = true;
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    free(scribbling.a.base);
}

/* -- main -------------------------------------------------------------------------------------------------------------------- */

static const struct { const char *name; void (*run)(void); } singles[] = {
    {"capacities", capacities}, {"lagging", lagging}, {"far_behind", far_behind}, {"generations", generations}, {"failures", failures}, {"orphans", orphans}, {"ages", ages}, {"shutting", shutting}, {"delivering", delivering},
    {"detaching", detaching}, {"ids", ids}, {"taken_away_asleep", taken_away_asleep}, {"limits", limits}, {"warm", warm}, {"batches", batches}, {"geometries", geometries},
    {"headers", headers}, {"owners", owners}, {"lock_file_closed", lock_file_closed}, {"never_back", never_back}, {"corruption", corruption},
};

int main(int argc, char **argv) {
    static const char *const modes[] = {"single", "batch", "lease", "churn", "timed"};
    signal(SIGALRM, barked);
    alarm(WATCHDOG);
    CHECK(shmq_owner_self() != 0, "identity");
    unsigned long n[8] = {0};
    for (int i = 2; i < argc && i < 10; i++) n[i - 2] = strtoul(argv[i], NULL, 0);
    if (argc > 1) snprintf(context, sizeof context, "%s", argv[1]);
    if (argc == 9 && strcmp(argv[1], "flow") == 0)
        for (int mode = 0; mode < (int)(sizeof modes / sizeof *modes); mode++)
            if (strcmp(argv[2], modes[mode]) == 0) {
                run_flow((enum mode)mode, (uint32_t)n[1], (uint32_t)n[2], n[3], n[4], (uint32_t)n[5], strcmp(argv[8], "edge") == 0);
                return 0;
            }
    if (argc == 6 && strcmp(argv[1], "park") == 0) return run_flow(PARK, (uint32_t)n[0], (uint32_t)n[1], n[2], 64, (uint32_t)n[3], false), 0;
    if (argc == 3 && strcmp(argv[1], "settle") == 0) return settle((uint32_t)n[0]), 0;
    if (argc == 4 && strcmp(argv[1], "hostile") == 0) return hostile(n[0], (uint32_t)n[1]), 0;
    if (argc == 4 && strcmp(argv[1], "scribble") == 0) return scribble(n[0], (uint32_t)n[1]), 0;
    for (size_t i = 0; argc == 2 && i < sizeof singles / sizeof *singles; i++)
        if (strcmp(argv[1], singles[i].name) == 0) return singles[i].run(), 0;
    fprintf(stderr, "usage: see the head of %s\n", __FILE__);
    return 2;
}
