/* The world in which a process dies: a queue and its ledger, a survivor, and what the survivor checks.
 *
 * A trial: the survivor holds a lease on message 0 and fills the ring as a role wants it (`before`); a child takes the role (roles.h),
 * makes ready (`prepare`) and dies in the middle of `act`. Then the survivor takes back what is lost, drains the queue, and
 * compares with the ledger. How a child dies is the business of the program: at crash points and after stores in crash_points.c,
 * at any instruction in every_instruction.c. */
#ifndef SHMQ_TEST_WORLD_H
#define SHMQ_TEST_WORLD_H

#include "call.h"

enum { PORTS = 6, IN_FLIGHT = 8, MOST = 64 };

/* -- a queue and its ledger ---------------------------------------------------------------------------------------------- */

struct shape { uint32_t slots; uint64_t slot_size; };
static const struct shape shapes[] = {{1, 64}, {2, 64}, {3, 200}, {2, 4096}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* Outcomes of a message, as bits: gone, or found with the nth delivery. */
enum { GONE = 1, FIRST = 2, SECOND = 4, THIRD = 8 };

struct world {
    struct segment segment;
    char place[64];                  /* where the bells are */
    int bell;                        /* the survivor's, or -1 */
    struct shmq_queue_port survivor;
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

static void attach(struct world *w, struct shmq_queue_port *port) {
    must_attach(port, &w->segment);
    port->port.path_prefix = w->place;
}

static void bell_path(const struct world *w, uint32_t index, char path[96]) { snprintf(path, 96, "%s.%u.bell", w->place, index); }
static bool bell_is_there(const struct world *w, uint32_t index) {
    char path[96];
    bell_path(w, index, path);
    return access(path, F_OK) == 0;
}

static uint64_t length_of(const struct world *w, uint32_t number) {
    uint64_t nbytes = 9 + (number * 37) % 48;
    return w->segment.geometry.paged ? nbytes * 20 : nbytes;
}

static void write_message(struct world *w, struct shmq_queue_port *port, uint32_t slot_index, uint32_t number) {
    struct shmq_slot *slot = shmq_slot_at(port, slot_index);
    slot->nbytes = length_of(w, number);
    slot->kind = SHMQ_BYTES;
    unsigned char *payload = shmq_payload_at(port, slot_index);
    memset(payload, (int)number + 1, slot->nbytes);
    memcpy(payload, &number, sizeof number);
    shmq_slot_stamp(port, slot);
}

/* The number of the message in a slot, which must be whole. */
static uint32_t read_message(struct world *w, struct shmq_queue_port *port, uint32_t slot_index) {
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

static shmq_status put_message(struct world *w, struct shmq_queue_port *port, uint32_t number) {
    uint32_t cell;
    CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &cell) == SHMQ_OK, "no cell");
    write_message(w, port, slot_in(port, cell), number);
    shmq_status status = shmq_offer(port, cell, true);
    shmq_cell_return(port, cell, status != SHMQ_OK);
    return status;
}

static void put_new(struct world *w, struct shmq_queue_port *port, unsigned allowed) {
    CHECK(w->next < MOST, "too many messages");
    w->allowed[w->next] = allowed;
    CHECK(put_message(w, port, w->next++) == SHMQ_OK, "full");
}

/* The next `count` messages are those of the role. */
static void expect_of_role(struct world *w, uint32_t count, unsigned allowed) {
    w->of_role = w->next;
    w->of_role_count = count;
    for (uint32_t i = 0; i < count; i++) w->allowed[w->next + i] = allowed;
}

/* With a deadline, or 0: for as long as the holder lives. */
static shmq_status receive_for(struct shmq_queue_port *port, uint64_t lease_ns, uint32_t *cell) { return shmq_take(port, true, lease_ns, cell); }
static shmq_status receive(struct shmq_queue_port *port, uint32_t *cell) { return receive_for(port, 0, cell); }
static const uint64_t hour = UINT64_C(3600000000000);
static uint64_t far_away(void) { return shmq_now_ns() + hour; }

static struct world *world_make(const struct shape *shape) {
    struct world *w = calloc(1, sizeof *w);
    CHECK(w, "memory");
    w->looked_at = SHMQ_NO_CELL;
    w->bell = -1;
    snprintf(w->place, sizeof w->place, "/dev/shm/shmq-trial.%d", (int)getpid());
    segment_make(&w->segment, shape->slots, shape->slot_size, IN_FLIGHT, PORTS);
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
    segment_unmake(&w->segment);
    free(w);
}

/* -- what the survivors find --------------------------------------------------------------------------------------------- */

static void note(struct world *w, uint32_t cell) {
    uint32_t slot = slot_in(&w->survivor, cell), number = read_message(w, &w->survivor, slot);
    CHECK(w->found[number] == 0, "message %u is there twice", number);
    w->found[number] = failures_of(&w->survivor, cell) + 1;
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
    for (uint32_t i = 0; i < laps * w->segment.geometry.slots; i++) {
        while (shmq_ring_length(&w->survivor) == w->segment.geometry.slots) CHECK(receive_one(w), "neither full nor empty");
        put_new(w, &w->survivor, FIRST);
        CHECK(receive_one(w), "just put, and nothing there");
    }
}

/* Each slot is named by exactly one cell, and nothing is left that belongs to the dead. */
static void check_cells(struct world *w) {
    const struct shmq_queue_port *port = &w->survivor;
    segment_check(&w->segment);
    for (uint32_t i = 0; i < w->segment.geometry.cells; i++) {
        uint64_t word = shmq_load_acquire(&port->cells[i].word);
        uint32_t owner = shmq_cell_owner(word);
        CHECK(owner == port->port.index || owner == SHMQ_NO_PORT, "in-flight cell %u is port %u's", i, owner);
        if (owner == port->port.index)
            CHECK(i == w->bystander || i == port->kept, "in-flight cell %u is the survivor's, who has not asked for it", i);
        else
            CHECK(shmq_cell_state(word) <= SHMQ_WARM || shmq_cell_state(word) == SHMQ_ORPHAN, "cell %u: %#lx", i, (unsigned long)word);
    }
    for (uint32_t i = 0; i < w->segment.geometry.ports; i++) {
        uint64_t owner = shmq_load_acquire(&port->port.records[i].owner);
        CHECK(i == port->port.index ? owner == port->port.owner : owner == 0, "port %u is %#lx's", i, (unsigned long)owner);
        CHECK(i == port->port.index || shmq_load_acquire(&port->port.records[i].bell) == 0, "port %u still has a bell", i);
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
    struct shmq_queue_port *port = &w->survivor;
    for (int lap = 0; lap < 2; lap++) {
        for (uint32_t i = 0; i < w->segment.geometry.slots; i++) put_new(w, port, FIRST);
        w->allowed[w->next] = GONE;
        CHECK(put_message(w, port, w->next) == SHMQ_WOULD_BLOCK, "more room than capacity");
        CHECK(shmq_ring_length(port) == w->segment.geometry.slots, "length %u", shmq_ring_length(port));
        for (uint32_t i = 0; i < w->segment.geometry.slots; i++) CHECK(receive_one(w), "lost in the ring");
        CHECK(!receive_one(w), "more messages than were put");
    }
    uint32_t cells[64], taken = 0;
    while (shmq_cell_take_for_long(port, SHMQ_TO_WRITE, &cells[taken]) == SHMQ_OK) taken++;
    CHECK(taken == w->segment.geometry.cells - w->segment.geometry.reserved - 1, "%u of the cells can be taken", taken);
    while (taken) shmq_cell_return(port, cells[--taken], false);
    CHECK(shmq_cell_load(port, w->bystander) == w->bystander_word, "the survivor's own lease was touched");
    CHECK(read_message(w, port, shmq_word_slot(w->bystander_word)) == 0, "the survivor's own message was touched");
    CHECK(shmq_lease_ack(port, w->bystander, w->bystander_word, false) == SHMQ_OK, "the survivor's own lease was lost");
    shmq_cell_return(port, w->bystander, true);
    shmq_port_detach(port);
    for (uint32_t i = 0; i < w->segment.geometry.cells; i++)
        CHECK(shmq_cell_state(shmq_load_acquire(&port->cells[i].word)) <= SHMQ_WARM, "cell %u after all have gone", i);
}

static void survive(struct world *w, bool others_first) {
    if (others_first) others_go_on(w, 2);
    shmq_reap(&w->survivor.port);
    shmq_lease_expire(&w->survivor);
    if (w->looked_at != SHMQ_NO_CELL) { /* whatever became of the message, nobody wrote to the slot */
        CHECK(read_message(w, &w->survivor, shmq_word_slot(shmq_cell_load(&w->survivor, w->looked_at))) == w->of_role, "another message");
        shmq_view_release(&w->survivor, w->looked_at);
    }
    CHECK(shmq_reap(&w->survivor.port) == 0, "somebody dead was left");
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
