/* Threads as ports of one segment: nothing is lost, torn, doubled or out of order.
 *
 *     flow MODE PRODUCERS CONSUMERS SLOTS SLOT_SIZE COUNT START
 *         COUNT messages from each producer; MODE: single, batch, lease, churn, timed; START: fresh, or edge (laps and generations
 *         about to wrap around)
 *     flow park PRODUCERS CONSUMERS SLOTS COUNT      the same, asleep on semaphores whenever there is nothing to do
 *     flow settle ROUNDS                             ack and nack of one lease at the same moment */
#include <pthread.h>
#include <sched.h>

#include "call.h"

/* -- flow ---------------------------------------------------------------------------------------------------------------- */

enum mode { SINGLE, BATCH, LEASE, CHURN, TIMED, PARK };
enum { THREADS = 8, IN_HAND = 3, TOGETHER = 7 };

static struct {
    struct segment segment;
    enum mode mode;
    uint32_t producers, consumers, count;
    _Atomic uint64_t sent, received;          /* sums of the checksums */
    _Atomic uint32_t done;                    /* messages that were consumed for good */
    _Atomic unsigned char *times;             /* per message: how often it was consumed */
    _Atomic unsigned char *failures;          /* per message: nacks */
} flow;

static void give_way(struct shmq_queue_port *port, enum shmq_side side, struct shmq_patience *patience) {
    if (flow.mode != PARK) {
        sched_yield();
        return;
    }
    /* Consumers that sleep when the last message is gone are woken by time: nobody tells them. */
    shmq_status status = shmq_await(port, side, shmq_now_ns() + 100000000u, patience);
    CHECK(status == SHMQ_OK || status == SHMQ_TIMED_OUT, "wait: %d", status);
}

static void *produce(void *index) {
    struct shmq_queue_port port;
    uint32_t producer = (uint32_t)(uintptr_t)index;
    uint64_t sent = 0;
    must_attach(&port, &flow.segment);
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
        sent += message_write(&port, slot_in(&port, cell), producer, number);
        if (loan && number % 2) { /* changed its mind: the next one takes the slot */
            sent -= message_write(&port, slot_in(&port, cell), producer, number);
            shmq_cell_return(&port, cell, true);
            cell = take_cell(&port, SHMQ_TO_WRITE, false);
            sent += message_write(&port, slot_in(&port, cell), producer, number);
        }
        while ((status = shmq_ring_put(&port, cell)) != SHMQ_OK) {
            CHECK(status == SHMQ_WOULD_BLOCK, "put: %d", status);
            give_way(&port, SHMQ_SPACE, &patience);
        }
        if (flow.mode == PARK) shmq_wake_after(&port.port, SHMQ_ITEMS);
        shmq_cell_return(&port, cell, false);
        number++;
    }
    if (flow.mode == BATCH)
        for (uint32_t number = 0; number < flow.count; number++) /* the sums again: a batch may have filled some twice */
            sent += message_checksum(&port, producer, number);
    flow.sent += sent;
    shmq_port_detach(&port);
    return NULL;
}

static bool all_done(void) { return flow.done == flow.producers * flow.count; }

static void consumed(struct head head) {
    CHECK(head.producer < flow.producers && head.number < flow.count, "never sent");
    CHECK(flow.times[head.producer * flow.count + head.number]++ == 0, "message %u of %u came twice", head.number, head.producer);
    flow.received += head.checksum;
    flow.done++;
}

static void *consume_in_order(void *unused) {
    (void)unused;
    struct shmq_queue_port port;
    int64_t last[THREADS];
    for (int i = 0; i < THREADS; i++) last[i] = -1;
    must_attach(&port, &flow.segment);
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
            struct head head = message_in(&port, cells[i]);
            CHECK(failures_of(&port, cells[i]) == 0, "a failure that nobody has had");
            CHECK((int64_t)head.number > last[head.producer], "producer %u: %u after %ld", head.producer, head.number, (long)last[head.producer]);
            last[head.producer] = head.number;
            consumed(head);
        }
        for (uint32_t i = 0; i < wanted; i++) shmq_cell_return(&port, cells[i], i < done);
        if (flow.mode == PARK) {
            if (done) shmq_wake_after(&port.port, SHMQ_SPACE);
            if (done && port.caught_up) shmq_linger(&port);
        }
        if (done) patience = (struct shmq_patience){0};
        else give_way(&port, SHMQ_ITEMS, &patience);
    }
    shmq_port_detach(&port);
    return NULL;
}

struct lease { uint32_t cell; uint64_t word; };

static void settle_one(struct shmq_queue_port *port, struct lease lease, uint64_t *random) {
    struct head head = message_read(port, shmq_word_slot(lease.word));
    uint32_t luck = chance_below(random, 100);
    _Atomic unsigned char *failures = &flow.failures[head.producer * flow.count + head.number];
    if (luck < 15 && *failures < 200) {
        (*failures)++;
        CHECK(shmq_lease_give_back(port, lease.cell, lease.word, SHMQ_NACKED, 0) == SHMQ_OK, "nack");
        return;
    }
    if (luck < 25) {
        CHECK(shmq_lease_give_back(port, lease.cell, lease.word, SHMQ_RELEASED, 0) == SHMQ_OK, "release");
        return;
    }
    bool looking = luck < 50;
    CHECK(shmq_lease_ack(port, lease.cell, lease.word, looking) == SHMQ_OK, "ack");
    if (looking) CHECK(message_in(port, lease.cell).number == head.number, "a slot changed while it was held");
    CHECK(shmq_lease_ack(port, lease.cell, lease.word, false) == SHMQ_LOST, "acked twice");
    CHECK(shmq_lease_give_back(port, lease.cell, lease.word, SHMQ_NACKED, 0) == SHMQ_LOST, "nacked after ack");
    shmq_cell_return(port, lease.cell, true);
    consumed(head);
}

static void *consume_leased(void *index) {
    struct shmq_queue_port port;
    struct lease held[IN_HAND];
    uint32_t in_hand = 0;
    uint64_t random = 88172645463325252u + (uintptr_t)index * 7919;
    must_attach(&port, &flow.segment);
    for (uint32_t turn = 1; !all_done(); turn++) {
        uint32_t cell;
        bool got = shmq_orphan_adopt(&port, 0, &cell) == SHMQ_OK;
        if (!got && shmq_cell_take_for_long(&port, SHMQ_TO_GIVE, &cell) == SHMQ_OK) {
            shmq_status status = shmq_ring_get(&port, cell, SHMQ_LEASED);
            CHECK(status == SHMQ_OK || status == SHMQ_WOULD_BLOCK, "get: %d", status);
            got = status == SHMQ_OK;
            if (!got) shmq_cell_free(&port, cell, false);
        }
        if (got) {
            struct head head = message_in(&port, cell);
            CHECK(failures_of(&port, cell) == flow.failures[head.producer * flow.count + head.number], "failures: %u", failures_of(&port, cell));
            held[in_hand++] = (struct lease){cell, shmq_cell_load(&port, cell)};
        }
        if (flow.mode == CHURN && turn % 64 == 0) { /* what it holds goes back */
            shmq_port_detach(&port);
            must_attach(&port, &flow.segment);
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

static void look_away(struct shmq_queue_port *port, struct timed held, bool acked) {
    CHECK(message_read(port, held.slot).number == held.head.number, "a slot changed under a viewer");
    shmq_view_release(port, held.lease.cell);
    if (acked) shmq_cell_return(port, held.lease.cell, true);
}

static void settle_timed(struct shmq_queue_port *port, struct timed held, uint64_t *random) {
    uint32_t luck = chance_below(random, 100);
    if (luck < 10) {
        shmq_status status = shmq_lease_give_back(port, held.lease.cell, held.lease.word, luck < 5 ? SHMQ_NACKED : SHMQ_RELEASED, 0);
        CHECK(status == SHMQ_OK || status == SHMQ_LOST, "give back: %d", status);
        look_away(port, held, false);
        return;
    }
    if (luck < 30) {
        uint64_t until = shmq_now_ns() + chance_below(random, 50000);
        shmq_status status = shmq_lease_extend(port, held.lease.cell, &held.lease.word, until);
        CHECK(status == SHMQ_OK || status == SHMQ_LOST, "extend: %d", status);
    }
    bool acked = shmq_lease_ack(port, held.lease.cell, held.lease.word, true) == SHMQ_OK;
    CHECK(!acked || shmq_lease_ack(port, held.lease.cell, held.lease.word, true) == SHMQ_LOST, "acked twice");
    look_away(port, held, acked);
    if (acked) consumed(held.head);
}

static bool take_timed(struct shmq_queue_port *port, uint64_t until, struct timed *held) {
    uint32_t cell;
    if (shmq_orphan_adopt(port, until, &cell) != SHMQ_OK) {
        if (shmq_cell_take_for_long(port, SHMQ_TO_GIVE, &cell) != SHMQ_OK) return false;
        shmq_lease_time(port, cell, until);
        if (shmq_ring_get(port, cell, SHMQ_TIMED) != SHMQ_OK) {
            shmq_cell_free(port, cell, false);
            return false;
        }
    }
    uint64_t word = shmq_load_acquire(&port->cells[cell].word);
    if (shmq_cell_owner(word) != port->port.index || shmq_cell_state(word) != SHMQ_TIMED) return false; /* over already */
    shmq_status status = shmq_view_begin(port, cell, word);
    if (status == SHMQ_NO_CELLS) shmq_lease_give_back(port, cell, word, SHMQ_RELEASED, 0);
    if (status != SHMQ_OK) return false;
    *held = (struct timed){{cell, word}, shmq_word_slot(word), message_read(port, shmq_word_slot(word))};
    return true;
}

static void *consume_timed(void *index) {
    struct shmq_queue_port port;
    struct timed held[IN_HAND];
    uint32_t in_hand = 0;
    uint64_t random = 88172645463325252u + (uintptr_t)index * 7919;
    must_attach(&port, &flow.segment);
    while (!all_done() || in_hand) {
        /* One of four in time for certain, however slow a sanitizer makes us. */
        uint64_t span = chance_below(&random, 4) ? chance_below(&random, 100000) : UINT64_C(60000000000);
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

static void run_flow(enum mode mode, uint32_t producers, uint32_t consumers, uint32_t slots, uint64_t slot_size, uint32_t count, bool edge) {
    CHECK(producers <= THREADS && consumers <= THREADS, "too many threads");
    segment_make(&flow.segment, slots, slot_size, 2 + producers + consumers * IN_HAND, producers + consumers);
    flow.mode = mode;
    flow.producers = producers;
    flow.consumers = consumers;
    flow.count = count;
    flow.times = calloc((size_t)producers * count, 1);
    flow.failures = calloc((size_t)producers * count, 1);
    CHECK(flow.times && flow.failures, "memory");
    if (edge) segment_start_at(&flow.segment, SHMQ_LAP_MASK - 1, (UINT64_C(1) << 27) - 3);
    pthread_t threads[2 * THREADS];
    void *(*consume)(void *) = mode == TIMED ? consume_timed : mode == LEASE || mode == CHURN ? consume_leased : consume_in_order;
    for (uint32_t i = 0; i < producers + consumers; i++)
        CHECK(pthread_create(&threads[i], NULL, i < producers ? produce : consume, (void *)(uintptr_t)i) == 0, "thread");
    for (uint32_t i = 0; i < producers + consumers; i++) pthread_join(threads[i], NULL);
    CHECK(flow.sent == flow.received, "checksum of all");
    for (uint32_t i = 0; i < producers * count; i++) CHECK(flow.times[i] == 1, "message %u was lost", i);
    segment_check_empty(&flow.segment);
    struct shmq_header *header = segment_header(&flow.segment);
    CHECK(mode != TIMED || segment_queue(&flow.segment)->events[SHMQ_EXPIRIES] > 0, "no lease was over in time");
    for (int side = 0; side < 2; side++) {
        /* Whoever stops waiting just while it is woken leaves a count or a post too many: a few, but they do not add up. */
        int posts;
        sem_getvalue(&flow.segment.semaphores[side], &posts);
        uint32_t left = (side == SHMQ_ITEMS ? header->items_waiters : header->space_waiters) + (uint32_t)posts;
        CHECK(left <= (mode == PARK ? producers + consumers : 0), "%u waiters or posts are left at side %d", left, side);
    }
    struct shmq_queue_port port;
    must_attach(&port, &flow.segment);
    CHECK(shmq_ring_length(&port) == 0 && shmq_ring_estimate(&port) == 0, "length %u", shmq_ring_length(&port));
    if (edge) CHECK(shmq_seq_lap(segment_queue(&flow.segment)->write_seq) < SHMQ_LAP_MASK / 2, "the laps have not come round");
    shmq_port_detach(&port);
    free((void *)flow.times), free((void *)flow.failures), segment_unmake(&flow.segment);
}

/* -- settle: two ends of one lease at the same moment ---------------------------------------------------------------------- */

static struct {
    struct segment segment;
    pthread_barrier_t barrier;
    uint32_t cell, rounds;
    uint64_t word;
    shmq_status given_back;
} settling;

static void *give_back_too(void *unused) {
    (void)unused;
    struct shmq_queue_port port;
    must_attach(&port, &settling.segment);
    for (uint32_t i = 0; i < settling.rounds; i++) {
        pthread_barrier_wait(&settling.barrier);
        settling.given_back = shmq_lease_give_back(&port, settling.cell, settling.word, SHMQ_NACKED, 0);
        pthread_barrier_wait(&settling.barrier);
    }
    shmq_port_detach(&port);
    return NULL;
}

static void settle(uint32_t rounds) {
    struct shmq_queue_port port;
    pthread_t other;
    segment_make(&settling.segment, 4, 64, 4, 2);
    settling.rounds = rounds;
    pthread_barrier_init(&settling.barrier, NULL, 2);
    must_attach(&port, &settling.segment);
    CHECK(pthread_create(&other, NULL, give_back_too, NULL) == 0, "thread");
    for (uint32_t i = 0; i < rounds; i++) {
        CHECK(ring_put(&port, 0, i) == SHMQ_OK, "put");
        uint32_t cell = ring_lease(&port);
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
        CHECK(message_in(&port, cell).number == i, "another message");
        ack(&port, cell);
    }
    pthread_join(other, NULL);
    end(&settling.segment, &port);
}

int main(int argc, char **argv) {
    static const char *const modes[] = {"single", "batch", "lease", "churn", "timed"};
    watchdog(100);
    CHECK(shmq_owner_self() != 0);
    uint32_t n[8] = {0};
    for (int i = 2; i < argc && i < 10; i++) n[i - 2] = (uint32_t)strtoul(argv[i], NULL, 0);
    if (argc > 1) snprintf(context, sizeof context, "%s", argv[1]);
    if (argc == 6 && strcmp(argv[1], "park") == 0) return run_flow(PARK, n[0], n[1], n[2], 64, n[3], false), 0;
    if (argc == 3 && strcmp(argv[1], "settle") == 0) return settle(n[0]), 0;
    for (int mode = 0; argc == 8 && mode < (int)(sizeof modes / sizeof *modes); mode++)
        if (strcmp(argv[1], modes[mode]) == 0)
            return run_flow((enum mode)mode, n[0], n[1], n[2], n[3], n[4], strcmp(argv[7], "edge") == 0), 0;
    fprintf(stderr, "usage: see the head of %s\n", __FILE__);
    return 2;
}
