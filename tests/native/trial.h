/* What the trials of death share: a queue and its ledger, the roles in which a process dies, and what the survivors check.
 *
 * A trial: a survivor holds a lease on message 0 and fills the ring as the role wants it (`before`); a child takes the role,
 * makes ready (`prepare`) and dies in the middle of `act`. Then the survivor takes back what is lost, drains the queue, and
 * compares with the ledger. How a child dies is the business of the program: at crash points and after stores in crash_test.c,
 * at any instruction in tests/crash/every_instruction.c. */
#ifndef SHMQ_TRIAL_H
#define SHMQ_TRIAL_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "engine.h"

enum { PORTS = 6, IN_FLIGHT = 8, MOST = 64 };

static char context[256]; /* which trial this is, for the message of a failure */

#define CHECK(condition, ...) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: %s: not %s: ", __FILE__, __LINE__, context, #condition); \
            fprintf(stderr, __VA_ARGS__); \
            fputc('\n', stderr); \
            exit(1); \
        } \
    } while (0)

/* -- a queue and its ledger ---------------------------------------------------------------------------------------------- */

/* The segment of the world that was made last. */
static const unsigned char *segment;
static uint64_t segment_bytes;

struct shape { uint32_t slots; uint64_t slot_size; };
static const struct shape shapes[] = {{1, 64}, {2, 64}, {3, 200}, {2, 4096}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Outcomes of a message, as bits: gone, or found with the nth delivery. */
enum { GONE = 1, FIRST = 2, SECOND = 4, THIRD = 8 };

struct world {
    struct shmq_geometry g;
    unsigned char *base;
    sem_t *semaphores;               /* of the two sides, shared */
    char place[64];                  /* where the bells are */
    int bell;                        /* the survivor's, or -1 */
    struct shmq_port survivor;
    uint32_t bystander;              /* the survivor's cell that holds a lease all the time */
    uint64_t bystander_word;
    uint32_t next;                   /* number of the next message */
    unsigned allowed[MOST];
    uint32_t found[MOST];            /* delivery count with which it was received; 0: not */
    uint32_t of_role, of_role_count; /* the messages on which the role works */
    uint32_t looked_at;              /* the survivor's cell of a lease that it has given back, or SHMQ_NO_CELL */
    uint32_t last_first;             /* number of the last one that was found at its first delivery */
    uint32_t last_found;             /* number of the last one that was found */
};

static void attach(struct world *w, struct shmq_port *port) {
    CHECK(shmq_port_attach(port, w->base, &w->g, shmq_owner_self()) == SHMQ_OK, "no port");
    for (int side = 0; side < 2; side++) port->semaphores[side] = &w->semaphores[side];
    port->path_prefix = w->place;
}

static void bell_path(const struct world *w, uint32_t index, char path[96]) { snprintf(path, 96, "%s.%u.bell", w->place, index); }
static bool bell_is_there(const struct world *w, uint32_t index) {
    char path[96];
    bell_path(w, index, path);
    return access(path, F_OK) == 0;
}

static uint64_t length_of(const struct world *w, uint32_t number) {
    uint64_t nbytes = 9 + (number * 37) % 48;
    return w->g.paged ? nbytes * 20 : nbytes;
}

static void write_message(struct world *w, struct shmq_port *port, uint32_t slot_index, uint32_t number) {
    struct shmq_slot *slot = shmq_slot_at(port, slot_index);
    slot->nbytes = length_of(w, number);
    slot->kind = SHMQ_BYTES;
    unsigned char *payload = shmq_payload_at(port, slot_index);
    memset(payload, (int)number + 1, slot->nbytes);
    memcpy(payload, &number, sizeof number);
    shmq_slot_stamp(port, slot);
}

/* The number of the message in a slot, which must be whole. */
static uint32_t read_message(struct world *w, struct shmq_port *port, uint32_t slot_index) {
    const unsigned char *payload = shmq_payload_at(port, slot_index);
    uint32_t number;
    memcpy(&number, payload, sizeof number);
    CHECK(number < w->next, "message %u was never sent", number);
    CHECK(shmq_slot_at(port, slot_index)->nbytes == length_of(w, number), "length of message %u", number);
    CHECK(payload[sizeof number] == (unsigned char)(number + 1), "first byte of message %u", number);
    CHECK(memcmp(&payload[sizeof number], &payload[sizeof number + 1], length_of(w, number) - sizeof number - 1) == 0,
          "message %u is torn", number); /* each byte as the next: in few instructions, since some programs step through them */
    return number;
}

static shmq_status put(struct world *w, struct shmq_port *port, uint32_t number) {
    uint32_t cell;
    CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &cell) == SHMQ_OK, "no cell");
    write_message(w, port, shmq_word_slot(shmq_cell_load(port, cell)), number);
    shmq_status status = shmq_offer(port, cell, true);
    shmq_cell_return(port, cell, status != SHMQ_OK);
    return status;
}

static void put_new(struct world *w, struct shmq_port *port, unsigned allowed) {
    CHECK(w->next < MOST, "too many messages");
    w->allowed[w->next] = allowed;
    CHECK(put(w, port, w->next++) == SHMQ_OK, "full");
}

/* The next `count` messages are those of the role. */
static void expect_of_role(struct world *w, uint32_t count, unsigned allowed) {
    w->of_role = w->next;
    w->of_role_count = count;
    for (uint32_t i = 0; i < count; i++) w->allowed[w->next + i] = allowed;
}

/* With a deadline, or 0: for as long as the holder lives. */
static shmq_status receive_for(struct shmq_port *port, uint64_t lease_ns, uint32_t *cell) { return shmq_take(port, true, lease_ns, cell); }
static shmq_status receive(struct shmq_port *port, uint32_t *cell) { return receive_for(port, 0, cell); }
static const uint64_t hour = UINT64_C(3600000000000);
static uint64_t far_away(void) { return shmq_now_ns() + hour; }

static void ack(struct shmq_port *port, uint32_t cell) {
    CHECK(shmq_lease_ack(port, cell, shmq_cell_load(port, cell), false) == SHMQ_OK, "lease lost");
    shmq_cell_return(port, cell, true);
}

static struct world *world_make(const struct shape *shape) {
    struct world *w = calloc(1, sizeof *w);
    CHECK(w, "memory");
    w->looked_at = SHMQ_NO_CELL;
    w->bell = -1;
    snprintf(w->place, sizeof w->place, "/dev/shm/shmq-trial.%d", (int)getpid());
    uint64_t reserved = shape->slot_size >= SHMQ_PAGE ? SHMQ_RESERVED_WHERE_PAGED : PORTS;
    CHECK(shmq_geometry(shape->slots, shape->slot_size, reserved + IN_FLIGHT, PORTS, &w->g), "geometry");
    w->base = mmap(NULL, w->g.segment_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    w->semaphores = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(w->base != MAP_FAILED && w->semaphores != MAP_FAILED, "memory");
    for (int side = 0; side < 2; side++) sem_init(&w->semaphores[side], 1, 0);
    segment = w->base;
    segment_bytes = w->g.segment_bytes;
    static const uint8_t boot[16];
    uint64_t nonce;
    CHECK(shmq_owner_self() != 0 && shmq_owner_random(&nonce, sizeof nonce), "identity");
    shmq_segment_format(w->base, &w->g, nonce, 0, "", boot, shmq_owner_self(), shmq_owner_lock_inode(), &(struct shmq_policy){0});
    shmq_segment_ready(w->base);
    attach(w, &w->survivor);
    put_new(w, &w->survivor, GONE); /* message 0, which the survivor holds */
    CHECK(receive(&w->survivor, &w->bystander) == SHMQ_OK, "message 0");
    w->bystander_word = shmq_cell_load(&w->survivor, w->bystander);
    memset(w->found, 0, sizeof w->found);
    return w;
}

static void world_unmake(struct world *w) {
    char path[96];
    if (w->bell >= 0) close(w->bell);
    for (uint32_t i = 0; i < PORTS; i++) bell_path(w, i, path), unlink(path); /* where a state was put back, of another one */
    munmap(w->base, w->g.segment_bytes);
    munmap(w->semaphores, 4096);
    free(w);
}

/* -- roles --------------------------------------------------------------------------------------------------------------- */

struct role {
    const char *name;
    void (*before)(struct world *);                   /* the survivor, before the child is forked */
    void (*prepare)(struct world *, struct shmq_port *); /* the child, safe; NULL: not even attached */
    void (*act)(struct world *, struct shmq_port *);  /* the child, in danger */
    const char *earlier_role, *earlier_point;         /* who died before it, and where: what there is to reap */
};

static uint32_t childs_cell; /* what a child took in prepare, for act */

static void nothing(struct world *w, struct shmq_port *port) { (void)w, (void)port; }

static void fill_but_one(struct world *w) {
    while (w->next < w->g.slots) put_new(w, &w->survivor, FIRST);
    expect_of_role(w, 1, GONE | FIRST);
    w->next++;
}
static void put_the_last(struct world *w, struct shmq_port *port) { CHECK(put(w, port, w->of_role) == SHMQ_OK, "full"); }

static void expect_three(struct world *w) {
    expect_of_role(w, 3, GONE | FIRST);
    for (uint32_t i = w->g.slots; i < 3; i++) w->allowed[w->next + i] = GONE;
    w->next += 3;
}
struct batch { struct world *w; uint32_t done; };
static bool fill_batch(void *batch_, struct shmq_port *port, uint32_t slot) {
    struct batch *batch = batch_;
    if (batch->done == 3) return false;
    write_message(batch->w, port, slot, batch->w->of_role + batch->done++);
    return true;
}
static void put_three(struct world *w, struct shmq_port *port) {
    struct batch batch = {w, 0};
    uint32_t cell;
    shmq_status status;
    CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &cell) == SHMQ_OK, "no cell");
    shmq_ring_put_many(port, cell, fill_batch, &batch, &status);
    shmq_cell_return(port, cell, status != SHMQ_OK);
}

static void expect_loan(struct world *w) { fill_but_one(w); }
static void loan(struct world *w, struct shmq_port *port) {
    CHECK(shmq_cell_take_for_long(port, SHMQ_TO_WRITE, &childs_cell) == SHMQ_OK, "no cell");
    shmq_cell_become(port, childs_cell, SHMQ_LOANED);
    write_message(w, port, shmq_word_slot(shmq_cell_load(port, childs_cell)), w->of_role);
}
static void loan_and_publish(struct world *w, struct shmq_port *port) {
    loan(w, port);
    CHECK(shmq_offer(port, childs_cell, true) == SHMQ_OK, "full");
    shmq_cell_return(port, childs_cell, false);
}
static void loan_and_abandon(struct world *w, struct shmq_port *port) {
    loan(w, port);
    shmq_cell_return(port, childs_cell, true);
}
static void expect_nothing(struct world *w) {
    fill_but_one(w);
    w->allowed[w->of_role] = GONE;
}

/* The role's message is the oldest; as many behind it as there is room. */
static void put_one_for_the_role(struct world *w, unsigned allowed) {
    expect_of_role(w, 1, allowed);
    put_new(w, &w->survivor, allowed);
    for (uint32_t i = 1; i < w->g.slots; i++) put_new(w, &w->survivor, FIRST);
}
static void expect_got(struct world *w) { put_one_for_the_role(w, FIRST | SECOND | GONE); }
static void expect_received(struct world *w) { put_one_for_the_role(w, FIRST | SECOND); }
static void get(struct world *w, struct shmq_port *port) {
    uint32_t cell;
    CHECK(shmq_cell_take(port, SHMQ_TO_GIVE, &cell) == SHMQ_OK && shmq_ring_get(port, cell, SHMQ_LEASED) == SHMQ_OK, "nothing to get");
    read_message(w, port, shmq_word_slot(shmq_cell_load(port, cell)));
    shmq_cell_return(port, cell, true);
}
static void receive_only(struct world *w, struct shmq_port *port) {
    CHECK(receive(port, &childs_cell) == SHMQ_OK, "nothing to receive");
    read_message(w, port, shmq_word_slot(shmq_cell_load(port, childs_cell)));
}

static void expect_many_received(struct world *w) {
    uint32_t count = w->g.slots < 3 ? w->g.slots : 3;
    expect_of_role(w, count, FIRST | SECOND);
    for (uint32_t i = 0; i < count; i++) put_new(w, &w->survivor, FIRST | SECOND);
}
static void receive_many(struct world *w, struct shmq_port *port) {
    uint32_t cells[3];
    shmq_status status;
    for (int i = 0; i < 3; i++) CHECK(shmq_cell_take_for_long(port, SHMQ_TO_GIVE, &cells[i]) == SHMQ_OK, "no cell");
    uint32_t done = shmq_ring_get_many(port, cells, 3, SHMQ_LEASED, &status);
    CHECK(done == w->of_role_count, "%u", done);
    for (uint32_t i = done; i < 3; i++) shmq_cell_release(port, cells[i], false);
}

static void expect_acked(struct world *w) { put_one_for_the_role(w, SECOND | GONE); }
static void expect_acked_later(struct world *w) { put_one_for_the_role(w, SECOND | THIRD | GONE); }
static void ack_it(struct world *w, struct shmq_port *port) { (void)w, ack(port, childs_cell); }
static void ack_and_look(struct world *w, struct shmq_port *port) {
    CHECK(shmq_lease_ack(port, childs_cell, shmq_cell_load(port, childs_cell), true) == SHMQ_OK, "lease lost");
    read_message(w, port, shmq_word_slot(shmq_cell_load(port, childs_cell)));
    shmq_cell_return(port, childs_cell, true);
}

static void give_back(struct shmq_port *port, uint32_t cell, bool failed) {
    enum shmq_cause cause = failed ? SHMQ_NACKED : SHMQ_RELEASED;
    CHECK(shmq_lease_give_back(port, cell, shmq_cell_load(port, cell), cause, SHMQ_BY_POLICY) == SHMQ_OK, "lease lost");
}
static void expect_nacked(struct world *w) { put_one_for_the_role(w, SECOND); }
static void expect_released(struct world *w) { put_one_for_the_role(w, SECOND | FIRST); }
static void nack_it(struct world *w, struct shmq_port *port) { (void)w, give_back(port, childs_cell, true); }
static void release_it(struct world *w, struct shmq_port *port) { (void)w, give_back(port, childs_cell, false); }

static void expect_adopted(struct world *w) {
    put_one_for_the_role(w, SECOND | THIRD);
    uint32_t cell;
    CHECK(receive(&w->survivor, &cell) == SHMQ_OK, "nothing to nack");
    give_back(&w->survivor, cell, true);
}
static void adopt_it(struct world *w, struct shmq_port *port) {
    CHECK(shmq_orphan_adopt(port, 0, &childs_cell) == SHMQ_OK, "no orphan");
    read_message(w, port, shmq_word_slot(shmq_cell_load(port, childs_cell)));
}

/* Leases with a deadline. */
static void receive_timed(struct world *w, struct shmq_port *port) {
    CHECK(receive_for(port, hour, &childs_cell) == SHMQ_OK, "nothing to receive");
    read_message(w, port, shmq_word_slot(shmq_cell_load(port, childs_cell)));
}
static void receive_ahead(struct world *w, struct shmq_port *port) {
    receive_timed(w, port);
    shmq_lease_mark(port, childs_cell, shmq_cell_load(port, childs_cell), false);
}
static void extend_it(struct world *w, struct shmq_port *port) {
    (void)w;
    uint64_t word = shmq_cell_load(port, childs_cell);
    CHECK(shmq_lease_extend(port, childs_cell, &word, far_away()) == SHMQ_OK, "lease lost");
    CHECK(word == shmq_cell_load(port, childs_cell), "another word");
}
/* Who looks at a message that is no longer its lease. The child looks; the message is given back, and the survivor takes it. */
static void receive_and_look(struct world *w, struct shmq_port *port) {
    receive_timed(w, port);
    CHECK(shmq_view_begin(port, childs_cell, shmq_cell_load(port, childs_cell)) == SHMQ_OK, "lease lost");
}
static void look_at_it(struct world *w, struct shmq_port *port) {
    (void)w;
    CHECK(shmq_view_begin(port, childs_cell, shmq_cell_load(port, childs_cell)) == SHMQ_OK, "lease lost");
    shmq_view_end(port, childs_cell);
}
static void receive_look_and_nack(struct world *w, struct shmq_port *port) {
    receive_and_look(w, port);
    give_back(port, childs_cell, true);
}
/* … adopts it again, and is done with it: the cell is handed to itself, until it looks no longer. */
static void finish_and_look_away(struct world *w, struct shmq_port *port) {
    uint32_t cell;
    CHECK(receive(port, &cell) == SHMQ_OK && cell == childs_cell, "not the same cell");
    ack(port, cell);
    CHECK(shmq_cell_state(shmq_cell_load(port, cell)) == SHMQ_HELD, "freed under a viewer");
    read_message(w, port, shmq_word_slot(shmq_cell_load(port, cell)));
    shmq_view_end(port, cell);
    CHECK(shmq_cell_state(shmq_cell_load(port, cell)) <= SHMQ_WARM, "not freed");
}
/* … and the survivor's views: it looked, gave back, and looks on while the child finishes. */
static void survivor_looks(struct world *w) {
    put_one_for_the_role(w, SECOND | GONE);
    uint32_t cell;
    CHECK(receive_for(&w->survivor, hour, &cell) == SHMQ_OK, "nothing to receive");
    CHECK(shmq_view_begin(&w->survivor, cell, shmq_cell_load(&w->survivor, cell)) == SHMQ_OK, "lease lost");
    give_back(&w->survivor, cell, false);
    w->looked_at = cell;
}
static void finish_under_a_viewer(struct world *w, struct shmq_port *port) { (void)w, ack(port, childs_cell); }

/* The survivor's lease is over, and it does not look. */
static void hold_too_long(struct world *w, bool begun) {
    uint32_t cell;
    CHECK(receive_for(&w->survivor, 1, &cell) == SHMQ_OK, "nothing to receive");
    if (!begun) shmq_lease_mark(&w->survivor, cell, shmq_cell_load(&w->survivor, cell), false);
}
static void expect_expired(struct world *w) { put_one_for_the_role(w, SECOND), hold_too_long(w, true); }
static void expect_expired_unbegun(struct world *w) { put_one_for_the_role(w, FIRST | SECOND), hold_too_long(w, false); }
static void expire_it(struct world *w, struct shmq_port *port) { (void)w, shmq_lease_expire(port); }

static void claim_and_receive(struct world *w, struct shmq_port *port) {
    uint32_t idle;
    if (w->g.paged) CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &idle) == SHMQ_OK, "no cell");
    receive_only(w, port);
}
static void detach_it(struct world *w, struct shmq_port *port) { (void)w, shmq_port_detach(port); }

static void expect_attached(struct world *w) { put_one_for_the_role(w, FIRST); }
static void attach_it(struct world *w, struct shmq_port *port) { attach(w, port); }

/* They sleep once, until a lease of somebody's is said to be over. Not a deadline of their own: that may have passed before they
 * come to announce themselves, where they are single-stepped. */
static void sleep_on(struct shmq_port *port, enum shmq_side side) {
    struct shmq_patience patience = {0};
    port->expiry_ns = shmq_now_ns() + 1000000u;
    shmq_wait_park(port, side, far_away(), &patience);
}
static void wait_for_item(struct world *w, struct shmq_port *port) { (void)w, sleep_on(port, SHMQ_ITEMS); }
static void wait_for_space(struct world *w, struct shmq_port *port) { (void)w, sleep_on(port, SHMQ_SPACE); }
static void leave_empty(struct world *w) { expect_of_role(w, 0, 0); }

/* The dead whom reapers find: an idle cell, a loan, a lease on a message of their own, and in the middle of another call. */
static void hold_all(struct world *w, struct shmq_port *port) {
    uint32_t idle;
    if (w->g.paged) CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &idle) == SHMQ_OK, "no cell");
    CHECK(put(w, port, w->of_role) == SHMQ_OK, "full");
    receive_timed(w, port);
    CHECK(shmq_cell_take_for_long(port, SHMQ_TO_WRITE, &childs_cell) == SHMQ_OK, "no cell");
    shmq_cell_become(port, childs_cell, SHMQ_LOANED);
}
static void hold_all_and_put(struct world *w, struct shmq_port *port) {
    hold_all(w, port);
    CHECK(put(w, port, w->of_role + 1) == SHMQ_OK, "full");
}
static void put_second(struct world *w, struct shmq_port *port) { CHECK(put(w, port, w->of_role + 1) == SHMQ_OK, "full"); }
static void expect_of_dead(struct world *w, unsigned second) {
    expect_of_role(w, 2, SECOND);
    w->allowed[w->next + 1] = second;
    w->next += 2;
}
static void expect_second_got(struct world *w) { expect_of_dead(w, SECOND); }
static void expect_second_there(struct world *w) { expect_of_dead(w, FIRST); }
static void expect_second_not_put(struct world *w) { expect_of_dead(w, GONE); }
static void expect_second_anything(struct world *w) { expect_of_dead(w, FIRST | SECOND | GONE); }
static void expect_second_perhaps(struct world *w) { expect_of_dead(w, FIRST | GONE); }

static void reap_it(struct world *w, struct shmq_port *port) { (void)w, shmq_reap(port); }

/* A sleeper that was killed is still counted: whoever brings what it waited for posts. */
static void put_before_sleeper(struct world *w) { fill_but_one(w), w->survivor.header->items_waiters++; }
static void receive_before_sleeper(struct world *w) { expect_received(w), w->survivor.header->space_waiters++; }
static void nack_before_sleeper(struct world *w) { expect_nacked(w), w->survivor.header->items_waiters++; }

/* Bells. */
static void make_bell(struct world *w, struct shmq_port *port) {
    (void)w;
    CHECK(shmq_bell_make(port) >= 0, "no bell");
}
static void make_bell_and_wait(struct world *w, struct shmq_port *port) {
    make_bell(w, port);
    shmq_bell_arm(port, SHMQ_ITEMS);
    shmq_bell_disarm(port, SHMQ_ITEMS);
}
static void put_before_bell(struct world *w) {
    fill_but_one(w);
    w->bell = shmq_bell_make(&w->survivor);
    CHECK(w->bell >= 0, "no bell");
    shmq_bell_arm(&w->survivor, SHMQ_ITEMS);
}

static const struct role roles[] = {
    {"putter", fill_but_one, nothing, put_the_last, NULL, NULL},
    {"batch_putter", expect_three, nothing, put_three, NULL, NULL},
    {"publisher", expect_loan, nothing, loan_and_publish, NULL, NULL},
    {"abandoner", expect_nothing, nothing, loan_and_abandon, NULL, NULL},
    {"getter", expect_got, nothing, get, NULL, NULL},
    {"receiver", expect_received, nothing, receive_only, NULL, NULL},
    {"batch_receiver", expect_many_received, nothing, receive_many, NULL, NULL},
    {"acker", expect_acked, receive_only, ack_it, NULL, NULL},
    {"looking_acker", expect_acked, receive_only, ack_and_look, NULL, NULL},
    {"nacker", expect_nacked, receive_only, nack_it, NULL, NULL},
    {"releaser", expect_released, receive_only, release_it, NULL, NULL},
    {"adopter", expect_adopted, nothing, adopt_it, NULL, NULL},
    {"timed_receiver", expect_received, nothing, receive_timed, NULL, NULL},
    {"timed_acker", expect_acked, receive_timed, ack_it, NULL, NULL},
    {"timed_nacker", expect_nacked, receive_timed, nack_it, NULL, NULL},
    {"timed_adopter", expect_adopted, nothing, receive_timed, NULL, NULL},
    {"extender", expect_nacked, receive_timed, extend_it, NULL, NULL},
    {"extender_ahead", expect_attached, receive_ahead, extend_it, NULL, NULL},
    {"expirer", expect_expired, nothing, expire_it, NULL, NULL},
    {"expirer_unbegun", expect_expired_unbegun, nothing, expire_it, NULL, NULL},
    {"viewer", expect_nacked, receive_timed, look_at_it, NULL, NULL},
    {"finishing_viewer", expect_acked_later, receive_look_and_nack, finish_and_look_away, NULL, NULL},
    {"finisher", survivor_looks, receive_only, finish_under_a_viewer, NULL, NULL},
    {"detacher", expect_released, claim_and_receive, detach_it, NULL, NULL},
    {"attacher", expect_attached, NULL, attach_it, NULL, NULL},
    {"item_waiter", leave_empty, nothing, wait_for_item, NULL, NULL},
    {"space_waiter", expect_attached, nothing, wait_for_space, NULL, NULL},
    {"waking_putter", put_before_sleeper, nothing, put_the_last, NULL, NULL},
    {"waking_receiver", receive_before_sleeper, nothing, receive_only, NULL, NULL},
    {"waking_nacker", nack_before_sleeper, receive_only, nack_it, NULL, NULL},
    {"bell_owner", leave_empty, nothing, make_bell_and_wait, NULL, NULL},
    {"leaving_bell_owner", leave_empty, make_bell, detach_it, NULL, NULL},
    {"ringing_putter", put_before_bell, nothing, put_the_last, NULL, NULL},
    /* Who died before the reapers. */
    {"dead_getter", expect_second_anything, hold_all_and_put, get, NULL, NULL},
    {"dead_putter", expect_second_perhaps, hold_all, put_second, NULL, NULL},
    {"reaper_after_get", expect_second_got, nothing, reap_it, "dead_getter", "exchange_happened"},
    {"reaper_before_get", expect_second_there, nothing, reap_it, "dead_getter", "exchange_intended"},
    {"reaper_after_put", expect_second_there, nothing, reap_it, "dead_putter", "exchange_happened"},
    {"reaper_before_put", expect_second_not_put, nothing, reap_it, "dead_putter", "exchange_intended"},
    {"reaper_of_bell", leave_empty, nothing, reap_it, "bell_owner", "bell_armed"},
};

static const struct role *role_of(const char *name) {
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(roles[i].name, name) == 0) return &roles[i];
    fprintf(stderr, "no role %s\n", name);
    exit(2);
}

/* -- what the survivors find --------------------------------------------------------------------------------------------- */

static void note(struct world *w, uint32_t cell) {
    uint32_t slot = shmq_word_slot(shmq_cell_load(&w->survivor, cell)), number = read_message(w, &w->survivor, slot);
    CHECK(w->found[number] == 0, "message %u is there twice", number);
    w->found[number] = shmq_deliveries_failed(shmq_load_relaxed(&shmq_slot_at(&w->survivor, slot)->deliveries)) + 1;
    w->last_found = number;
    bool came_back = w->allowed[number] & SECOND || (number >= w->of_role && number < w->of_role + w->of_role_count);
    if (w->found[number] == 1 && !came_back) { /* what comes back uncounted comes late */
        CHECK(number > w->last_first, "message %u came after %u", number, w->last_first);
        w->last_first = number;
    }
}

static bool receive_one(struct world *w) {
    uint32_t cell;
    shmq_status status = receive(&w->survivor, &cell);
    if (status == SHMQ_WOULD_BLOCK) return false;
    CHECK(status == SHMQ_OK, "receive: %d", status);
    note(w, cell);
    ack(&w->survivor, cell);
    return true;
}

/* All that is there, in the order in which it was put: what came back is older than what is in the ring. */
static void drain(struct world *w) {
    for (uint32_t last = 0; receive_one(w); last = w->last_found)
        CHECK(w->last_found > last, "message %u came after %u", w->last_found, last); /* message 0 is the bystander's */
}

/* The others put and get although nobody has taken back anything yet: `laps` times round the ring. */
static void others_go_on(struct world *w, uint32_t laps) {
    for (uint32_t i = 0; i < laps * w->g.slots; i++) {
        while (shmq_ring_length(&w->survivor) == w->g.slots) CHECK(receive_one(w), "neither full nor empty");
        put_new(w, &w->survivor, FIRST);
        CHECK(receive_one(w), "just put, and nothing there");
    }
}

/* Each slot is named by exactly one cell, and nothing is left that belongs to the dead. */
static void check_cells(struct world *w) {
    struct shmq_port *port = &w->survivor;
    unsigned char named[64] = {0};
    CHECK(w->g.total_slots <= sizeof named, "too many slots");
    for (uint32_t i = 0; i < w->g.slots; i++) {
        uint32_t slot = shmq_word_slot(shmq_load_acquire(&port->ring[i]));
        CHECK(slot < w->g.total_slots && !named[slot]++, "ring cell %u names slot %u", i, slot);
    }
    for (uint32_t i = 0; i < w->g.cells; i++) {
        uint64_t word = shmq_load_acquire(&port->cells[i].word);
        uint32_t slot = shmq_word_slot(word), owner = shmq_cell_owner(word);
        CHECK(slot < w->g.total_slots && !named[slot]++, "in-flight cell %u names slot %u", i, slot);
        CHECK(owner == port->index || owner == SHMQ_NO_PORT, "in-flight cell %u is port %u's", i, owner);
        if (owner == port->index)
            CHECK(i == w->bystander || i == port->kept, "in-flight cell %u is the survivor's, who has not asked for it", i);
        else
            CHECK(shmq_cell_state(word) <= SHMQ_WARM || shmq_cell_state(word) == SHMQ_ORPHAN, "cell %u: %#lx", i, (unsigned long)word);
    }
    for (uint32_t i = 0; i < w->g.ports; i++) {
        uint64_t owner = shmq_load_acquire(&port->records[i].owner);
        CHECK(i == port->index ? owner == port->owner : owner == 0, "port %u is %#lx's", i, (unsigned long)owner);
        CHECK(shmq_load_acquire(&port->records[i].intent) == 0, "port %u still intends something", i);
        CHECK(i == port->index || shmq_load_acquire(&port->records[i].bell) == 0, "port %u still has a bell", i);
    }
}

static void check_ledger(struct world *w) {
    for (uint32_t i = 1; i < w->next; i++)
        CHECK(w->allowed[i] & 1u << w->found[i], "message %u was found with delivery count %u (0: lost)", i, w->found[i]);
    for (uint32_t i = 1; i < w->of_role_count; i++) /* of a batch, the first ones: later ones are not there without them */
        if (w->allowed[w->of_role] == (GONE | FIRST))
            CHECK(w->found[w->of_role + i] == 0 || w->found[w->of_role + i - 1], "a gap in the batch");
}

/* The queue is as good as new: whole capacity, all cells, and the survivor's lease as it was. */
static void check_whole(struct world *w) {
    struct shmq_port *port = &w->survivor;
    for (int lap = 0; lap < 2; lap++) {
        for (uint32_t i = 0; i < w->g.slots; i++) put_new(w, port, FIRST);
        w->allowed[w->next] = GONE;
        CHECK(put(w, port, w->next) == SHMQ_WOULD_BLOCK, "more room than capacity");
        CHECK(shmq_ring_length(port) == w->g.slots, "length %u", shmq_ring_length(port));
        for (uint32_t i = 0; i < w->g.slots; i++) CHECK(receive_one(w), "lost in the ring");
        CHECK(!receive_one(w), "more messages than were put");
    }
    uint32_t cells[64], taken = 0;
    while (shmq_cell_take_for_long(port, SHMQ_TO_WRITE, &cells[taken]) == SHMQ_OK) taken++;
    CHECK(taken == w->g.cells - w->g.reserved - 1, "%u of the cells can be taken", taken);
    while (taken) shmq_cell_return(port, cells[--taken], false);
    CHECK(shmq_cell_load(port, w->bystander) == w->bystander_word, "the survivor's own lease was touched");
    CHECK(read_message(w, port, shmq_word_slot(w->bystander_word)) == 0, "the survivor's own message was touched");
    CHECK(shmq_lease_ack(port, w->bystander, w->bystander_word, false) == SHMQ_OK, "the survivor's own lease was lost");
    shmq_cell_return(port, w->bystander, true);
    shmq_port_detach(port);
    for (uint32_t i = 0; i < w->g.cells; i++)
        CHECK(shmq_cell_state(shmq_load_acquire(&port->cells[i].word)) <= SHMQ_WARM, "cell %u after all have gone", i);
}

static void survive(struct world *w, bool others_first) {
    if (others_first) others_go_on(w, 2);
    shmq_reap(&w->survivor);
    shmq_lease_expire(&w->survivor);
    if (w->looked_at != SHMQ_NO_CELL) { /* whatever became of the message, nobody wrote to the slot */
        CHECK(read_message(w, &w->survivor, shmq_word_slot(shmq_cell_load(&w->survivor, w->looked_at))) == w->of_role, "another message");
        shmq_view_end(&w->survivor, w->looked_at);
    }
    CHECK(shmq_reap(&w->survivor) == 0, "somebody dead was left");
    check_cells(w);
    drain(w);
    check_ledger(w);
    check_cells(w);
    check_whole(w);
    for (uint32_t i = 0; i < PORTS; i++) CHECK(!bell_is_there(w, i), "the bell of port %u is left behind", i);
}

/* What becomes of a message may change while a call goes on, but never back. */
struct history { uint32_t last[MOST]; unsigned seen[MOST]; };
static void remember(struct history *history, const struct world *w) {
    for (uint32_t i = w->of_role; i < w->of_role + w->of_role_count; i++) {
        if (history->seen[i] && history->last[i] == w->found[i]) continue;
        CHECK(!(history->seen[i] & 1u << w->found[i]), "message %u: back to delivery count %u", i, w->found[i]);
        history->seen[i] |= 1u << w->found[i];
        history->last[i] = w->found[i];
    }
}

#endif
