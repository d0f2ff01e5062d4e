/* Threads as ports of one segment: every message arrives once, whole, in its producer's order; then every slot is in one cell.
 *
 *     threads HOW PRODUCERS CONSUMERS SLOTS SLOT_SIZE MESSAGES AGE
 *
 * HOW is `copy` (put and get, put_many and get_many by turns) or `lease` (put, publish and abandon; ack, look, nack, release,
 * and detach with leases in hand). MESSAGES are each producer's. AGE is `new`, or `edge`: laps and generations come round.
 * Run it under ThreadSanitizer built without inlined memcpy: payloads are written and read with plain accesses.
 */
#include "harness.h"

#define MANY 16 /* messages in a batch, at most */
#define IN_HAND 3 /* leases of one consumer, at most */
#define SLEEP_NS 20000000u /* then a consumer looks whether all is done */

static struct segment segment;
static bool leases;
static uint32_t producers, consumers, messages;
static _Atomic uint32_t done;
static _Atomic uint8_t *taken;    /* by message: how often it was got or acked */
static _Atomic uint8_t *failures; /* by message: how often it was nacked */

static uint64_t total(void) { return (uint64_t)producers * messages; }

static _Atomic uint8_t *of(_Atomic uint8_t *counters, struct message message) {
    CHECK(message.producer < producers && message.number < messages);
    return &counters[(uint64_t)message.producer * messages + message.number];
}

static void attach(struct shmq_port *port) {
    shmq_status status = port_attach(port, &segment);
    CHECK_EQUAL(status, SHMQ_OK);
}

/* -- producers ------------------------------------------------------------------------------------------------------- */

struct batch {
    uint32_t producer, next, end;
};

static bool fill(void *context, struct shmq_port *port, uint32_t slot) {
    struct batch *batch = context;
    if (batch->next == batch->end) return false;
    message_write(port, slot, batch->producer, batch->next++);
    return true;
}

static void put_many(struct shmq_port *port, uint32_t producer, uint32_t first, uint32_t count) {
    struct shmq_patience patience = {0};
    for (uint32_t published = 0;;) {
        struct batch batch = {producer, first + published, first + count};
        uint32_t cell;
        shmq_status status = shmq_cell_take(port, SHMQ_TO_WRITE, &cell);
        if (status == SHMQ_OK) {
            uint32_t put = shmq_ring_put_many(port, cell, fill, &batch, &status);
            shmq_cell_return(port, cell, status != SHMQ_OK);
            for (uint32_t i = 0; i < put; i++) shmq_wake_after(port, SHMQ_ITEMS);
            published += put;
        }
        if (published == count) return;
        wait_after(port, status, SHMQ_SPACE, SHMQ_FOREVER, &patience);
    }
}

/* Write in place, in a cell that others may not take meanwhile; now and then change one's mind. */
static void publish(struct shmq_port *port, uint32_t producer, uint32_t number, bool twice) {
    struct shmq_patience patience = {0};
    uint32_t cell;
    shmq_status status;
    while ((status = shmq_cell_take_for_long(port, SHMQ_TO_WRITE, &cell)) != SHMQ_OK)
        wait_after(port, status, SHMQ_SPACE, SHMQ_FOREVER, &patience);
    shmq_cell_become(port, cell, SHMQ_LOANED);
    message_write(port, slot_of(port, cell), producer, number);
    if (twice) {
        shmq_cell_return(port, cell, true);
        publish(port, producer, number, false);
        return;
    }
    while ((status = shmq_ring_put(port, cell)) != SHMQ_OK) wait_after(port, status, SHMQ_SPACE, SHMQ_FOREVER, &patience);
    shmq_wake_after(port, SHMQ_ITEMS);
    shmq_cell_return(port, cell, false);
}

static void *produce(void *argument) {
    uint32_t producer = (uint32_t)(uintptr_t)argument, number = 0;
    uint64_t luck = producer + 1;
    struct shmq_port port;
    attach(&port);
    while (number < messages) {
        uint32_t left = messages - number, count = 1 + chance_below(&luck, MANY), kind = chance_below(&luck, 8);
        if (kind < 4) {
            put(&port, producer, number++);
        } else if (leases) {
            publish(&port, producer, number++, kind == 4);
        } else {
            count = count < left ? count : left;
            put_many(&port, producer, number, count);
            number += count;
        }
    }
    shmq_port_detach(&port);
    return NULL;
}

/* -- consumers ------------------------------------------------------------------------------------------------------- */

/* The last number that this consumer saw of each producer. What comes back after a nack is older. */
struct order {
    int64_t last[64];
};

static void check_order(struct order *order, struct message message, bool came_back) {
    if (came_back) return;
    CHECK((int64_t)message.number > order->last[message.producer]);
    if (consumers == 1 && !leases) CHECK_EQUAL(message.number, order->last[message.producer] + 1);
    order->last[message.producer] = message.number;
}

static void finish(struct message message) {
    CHECK_EQUAL(atomic_fetch_add(of(taken, message), 1), 0);
    atomic_fetch_add(&done, 1);
}

static shmq_status get_many(struct shmq_port *port, uint32_t wanted, struct order *order) {
    uint32_t cells[MANY], claimed = 0, got;
    shmq_status status = SHMQ_OK;
    while (claimed < wanted && (status = shmq_cell_take(port, SHMQ_TO_GIVE, &cells[claimed])) == SHMQ_OK) claimed++;
    if (claimed == 0) return status;
    got = shmq_ring_get_many(port, cells, claimed, &status);
    for (uint32_t i = got; i < claimed; i++) shmq_cell_return(port, cells[i], false);
    if (got) shmq_wake_after(port, SHMQ_SPACE);
    for (uint32_t i = 0; i < got; i++) {
        CHECK_EQUAL(shmq_cell_state(shmq_cell_load(port, cells[i])), SHMQ_LEASED);
        struct message message = message_read(port, slot_of(port, cells[i]));
        check_order(order, message, false);
        finish(message);
    }
    for (uint32_t i = 0; i < got; i++) shmq_cell_return(port, cells[i], true);
    return got ? SHMQ_OK : status;
}

static void settle(struct shmq_port *port, uint32_t cell, uint32_t how) {
    uint64_t leased = shmq_cell_load(port, cell);
    struct message message = message_read(port, shmq_word_slot(leased));
    switch (how) {
    case 0:
        atomic_fetch_add(of(failures, message), 1); /* before others can see the message again */
        CHECK_EQUAL(shmq_lease_give_back(port, cell, leased, true), SHMQ_OK);
        break;
    case 1:
        CHECK_EQUAL(shmq_lease_give_back(port, cell, leased, false), SHMQ_OK);
        break;
    case 2: /* looked at after the ack: the slot must not be reused before the return */
        CHECK_EQUAL(shmq_lease_ack(port, cell, leased, true), SHMQ_OK);
        CHECK_EQUAL(message_read(port, shmq_word_slot(leased)).number, message.number);
        shmq_cell_return(port, cell, true);
        finish(message);
        break;
    default:
        CHECK_EQUAL(shmq_lease_ack(port, cell, leased, false), SHMQ_OK);
        shmq_cell_return(port, cell, true);
        finish(message);
        break;
    }
    CHECK_EQUAL(shmq_lease_ack(port, cell, leased, false), SHMQ_LOST);
    CHECK_EQUAL(shmq_lease_give_back(port, cell, leased, true), SHMQ_LOST);
}

static void *consume(void *argument) {
    uint64_t luck = 1000 + (uintptr_t)argument;
    struct shmq_patience patience = {0};
    struct order order;
    struct shmq_port port;
    uint32_t hand[IN_HAND], held = 0;
    for (int i = 0; i < 64; i++) order.last[i] = -1;
    attach(&port);
    while (done < total()) {
        shmq_status status;
        if (!leases) {
            struct message message;
            if (chance_below(&luck, 2)) status = get_many(&port, 1 + chance_below(&luck, MANY), &order);
            else if ((status = try_get(&port, &message)) == SHMQ_OK) {
                check_order(&order, message, false);
                finish(message);
            }
        } else if (held < IN_HAND && (status = try_take(&port, true, &hand[held])) == SHMQ_OK) {
            struct message message = message_read(&port, slot_of(&port, hand[held]));
            uint32_t count = delivery_count(&port, hand[held]);
            CHECK_EQUAL(count, *of(failures, message) + 1);
            held++;
        } else if (held) {
            uint32_t which = chance_below(&luck, held);
            settle(&port, hand[which], chance_below(&luck, 12));
            hand[which] = hand[--held];
            continue;
        }
        if (leases && held && chance_below(&luck, 64) == 0) { /* what it holds goes to the others, uncounted */
            shmq_port_detach(&port);
            attach(&port);
            held = 0;
        }
        if (status == SHMQ_OK) patience = (struct shmq_patience){0};
        else wait_after(&port, status, SHMQ_ITEMS, shmq_now_ns() + SLEEP_NS, &patience);
    }
    shmq_port_detach(&port);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 8) return 2;
    alarm(WATCHDOG_SECONDS);
    CHECK(shmq_owner_self() != 0);
    leases = strcmp(argv[1], "lease") == 0;
    producers = (uint32_t)atoi(argv[2]), consumers = (uint32_t)atoi(argv[3]), messages = (uint32_t)atoi(argv[6]);
    pthread_t threads[64];
    CHECK(producers + consumers <= 64);
    segment_make(&segment, (uint32_t)atoi(argv[4]), (uint64_t)atoi(argv[5]), IN_HAND * consumers + 2, producers + consumers);
    if (strcmp(argv[7], "edge") == 0) segment_age_to_the_edge(&segment);
    taken = calloc(total(), 1);
    failures = calloc(total(), 1);
    for (uint32_t i = 0; i < producers + consumers; i++) {
        void *(*work)(void *) = i < producers ? produce : consume;
        CHECK_EQUAL(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)(i < producers ? i : i - producers)), 0);
    }
    for (uint32_t i = 0; i < producers + consumers; i++) pthread_join(threads[i], NULL);
    CHECK_EQUAL(done, total());
    for (uint64_t i = 0; i < total(); i++) CHECK_EQUAL(taken[i], 1);
    struct shmq_port port;
    attach(&port);
    struct message none;
    CHECK_EQUAL(shmq_ring_length(&port), 0);
    CHECK_EQUAL(try_get(&port, &none), SHMQ_WOULD_BLOCK);
    shmq_port_detach(&port);
    segment_check(&segment);
    free((void *)taken);
    free((void *)failures);
    segment_unmake(&segment);
    return 0;
}
