/* The roles in which a process dies; what a trial is stands in world.h. */
#ifndef SHMQ_TEST_ROLES_H
#define SHMQ_TEST_ROLES_H

#include "world.h"

struct role {
    const char *name;
    void (*before)(struct world *);                   /* the survivor, before the child is forked */
    void (*prepare)(struct world *, struct shmq_queue_port *); /* the child, safe; NULL: not even attached */
    void (*act)(struct world *, struct shmq_queue_port *);  /* the child, in danger */
    const char *earlier_role, *earlier_point;         /* who died before it, and where: what there is to reap */
};

static uint32_t childs_cell; /* what a child took in prepare, for act */

static void nothing(struct world *w, struct shmq_queue_port *port) { (void)w, (void)port; }

static void fill_but_one(struct world *w) {
    while (w->next < w->segment.geometry.slots) put_new(w, &w->survivor, FIRST);
    expect_of_role(w, 1, GONE | FIRST);
    w->next++;
}
static void put_the_last(struct world *w, struct shmq_queue_port *port) { CHECK(put_message(w, port, w->of_role) == SHMQ_OK, "full"); }

static void expect_three(struct world *w) {
    expect_of_role(w, 3, GONE | FIRST);
    for (uint32_t i = w->segment.geometry.slots; i < 3; i++) w->allowed[w->next + i] = GONE;
    w->next += 3;
}
struct three { struct world *w; uint32_t done; };
static bool fill_three(void *three_, struct shmq_queue_port *port, uint32_t slot) {
    struct three *three = three_;
    if (three->done == 3) return false;
    write_message(three->w, port, slot, three->w->of_role + three->done++);
    return true;
}
static void put_three(struct world *w, struct shmq_queue_port *port) {
    struct three three = {w, 0};
    uint32_t cell;
    shmq_status status;
    CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &cell) == SHMQ_OK, "no cell");
    shmq_ring_put_many(port, cell, fill_three, &three, &status);
    shmq_cell_return(port, cell, status != SHMQ_OK);
}

static void expect_loan(struct world *w) { fill_but_one(w); }
static void loan_message(struct world *w, struct shmq_queue_port *port) {
    childs_cell = loan(port);
    write_message(w, port, slot_in(port, childs_cell), w->of_role);
}
static void loan_and_publish(struct world *w, struct shmq_queue_port *port) {
    loan_message(w, port);
    CHECK(shmq_offer(port, childs_cell, true) == SHMQ_OK, "full");
    shmq_cell_return(port, childs_cell, false);
}
static void loan_and_abandon(struct world *w, struct shmq_queue_port *port) {
    loan_message(w, port);
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
    for (uint32_t i = 1; i < w->segment.geometry.slots; i++) put_new(w, &w->survivor, FIRST);
}
static void expect_got(struct world *w) { put_one_for_the_role(w, FIRST | SECOND | GONE); }
static void expect_received(struct world *w) { put_one_for_the_role(w, FIRST | SECOND); }
static void get(struct world *w, struct shmq_queue_port *port) {
    uint32_t cell;
    CHECK(shmq_cell_take(port, SHMQ_TO_GIVE, &cell) == SHMQ_OK && shmq_ring_get(port, cell, SHMQ_LEASED) == SHMQ_OK, "nothing to get");
    read_message(w, port, slot_in(port, cell));
    shmq_cell_return(port, cell, true);
}
static void receive_only(struct world *w, struct shmq_queue_port *port) {
    CHECK(receive(port, &childs_cell) == SHMQ_OK, "nothing to receive");
    read_message(w, port, slot_in(port, childs_cell));
}

static void expect_many_received(struct world *w) {
    uint32_t count = w->segment.geometry.slots < 3 ? w->segment.geometry.slots : 3;
    expect_of_role(w, count, FIRST | SECOND);
    for (uint32_t i = 0; i < count; i++) put_new(w, &w->survivor, FIRST | SECOND);
}
static void receive_many(struct world *w, struct shmq_queue_port *port) {
    uint32_t cells[3];
    shmq_status status;
    for (int i = 0; i < 3; i++) CHECK(shmq_cell_take_for_long(port, SHMQ_TO_GIVE, &cells[i]) == SHMQ_OK, "no cell");
    uint32_t done = shmq_ring_get_many(port, cells, 3, SHMQ_LEASED, &status);
    CHECK(done == w->of_role_count, "%u", done);
    for (uint32_t i = done; i < 3; i++) shmq_cell_free(port, cells[i], false);
}

static void expect_acked(struct world *w) { put_one_for_the_role(w, SECOND | GONE); }
static void expect_acked_later(struct world *w) { put_one_for_the_role(w, SECOND | THIRD | GONE); }
static void ack_it(struct world *w, struct shmq_queue_port *port) { (void)w, ack(port, childs_cell); }
static void ack_and_look(struct world *w, struct shmq_queue_port *port) {
    CHECK(shmq_lease_ack(port, childs_cell, shmq_cell_load(port, childs_cell), true) == SHMQ_OK, "lease lost");
    read_message(w, port, slot_in(port, childs_cell));
    shmq_cell_return(port, childs_cell, true);
}

static void expect_nacked(struct world *w) { put_one_for_the_role(w, SECOND); }
static void expect_released(struct world *w) { put_one_for_the_role(w, SECOND | FIRST); }
static void nack_it(struct world *w, struct shmq_queue_port *port) { (void)w, give_back(port, childs_cell, SHMQ_NACKED, SHMQ_BY_POLICY); }
static void release_it(struct world *w, struct shmq_queue_port *port) { (void)w, give_back(port, childs_cell, SHMQ_RELEASED, SHMQ_BY_POLICY); }

static void expect_adopted(struct world *w) {
    put_one_for_the_role(w, SECOND | THIRD);
    uint32_t cell;
    CHECK(receive(&w->survivor, &cell) == SHMQ_OK, "nothing to nack");
    give_back(&w->survivor, cell, SHMQ_NACKED, SHMQ_BY_POLICY);
}
static void adopt_it(struct world *w, struct shmq_queue_port *port) {
    CHECK(shmq_orphan_adopt(port, 0, &childs_cell) == SHMQ_OK, "no orphan");
    read_message(w, port, slot_in(port, childs_cell));
}

/* Leases with a deadline. */
static void receive_timed(struct world *w, struct shmq_queue_port *port) {
    CHECK(receive_for(port, hour, &childs_cell) == SHMQ_OK, "nothing to receive");
    read_message(w, port, slot_in(port, childs_cell));
}
static void receive_ahead(struct world *w, struct shmq_queue_port *port) {
    receive_timed(w, port);
    shmq_lease_mark(port, childs_cell, shmq_cell_load(port, childs_cell), false);
}
static void extend_it(struct world *w, struct shmq_queue_port *port) {
    (void)w;
    uint64_t word = shmq_cell_load(port, childs_cell);
    CHECK(shmq_lease_extend(port, childs_cell, &word, far_away()) == SHMQ_OK, "lease lost");
    CHECK(word == shmq_cell_load(port, childs_cell), "another word");
}
/* Who looks at a message that is no longer its lease. The child looks; the message is given back, and the survivor takes it. */
static void receive_and_look(struct world *w, struct shmq_queue_port *port) {
    receive_timed(w, port);
    CHECK(shmq_view_begin(port, childs_cell, shmq_cell_load(port, childs_cell)) == SHMQ_OK, "lease lost");
}
static void look_at_it(struct world *w, struct shmq_queue_port *port) {
    (void)w;
    CHECK(shmq_view_begin(port, childs_cell, shmq_cell_load(port, childs_cell)) == SHMQ_OK, "lease lost");
    shmq_view_release(port, childs_cell);
}
static void receive_look_and_nack(struct world *w, struct shmq_queue_port *port) {
    receive_and_look(w, port);
    give_back(port, childs_cell, SHMQ_NACKED, SHMQ_BY_POLICY);
}
/* … adopts it again, and is done with it: the cell is handed to itself, until it looks no longer. */
static void finish_and_look_away(struct world *w, struct shmq_queue_port *port) {
    uint32_t cell;
    CHECK(receive(port, &cell) == SHMQ_OK && cell == childs_cell, "not the same cell");
    ack(port, cell);
    CHECK(shmq_cell_state(shmq_cell_load(port, cell)) == SHMQ_HELD, "freed under a viewer");
    read_message(w, port, slot_in(port, cell));
    shmq_view_release(port, cell);
    CHECK(shmq_cell_state(shmq_cell_load(port, cell)) <= SHMQ_WARM, "not freed");
}
/* … and the survivor's views: it looked, gave back, and looks on while the child finishes. */
static void survivor_looks(struct world *w) {
    put_one_for_the_role(w, SECOND | GONE);
    uint32_t cell;
    CHECK(receive_for(&w->survivor, hour, &cell) == SHMQ_OK, "nothing to receive");
    CHECK(shmq_view_begin(&w->survivor, cell, shmq_cell_load(&w->survivor, cell)) == SHMQ_OK, "lease lost");
    give_back(&w->survivor, cell, SHMQ_RELEASED, SHMQ_BY_POLICY);
    w->looked_at = cell;
}
static void finish_under_a_viewer(struct world *w, struct shmq_queue_port *port) { (void)w, ack(port, childs_cell); }

/* The survivor's lease is over, and it does not look. */
static void hold_too_long(struct world *w, bool begun) {
    uint32_t cell;
    CHECK(receive_for(&w->survivor, 1, &cell) == SHMQ_OK, "nothing to receive");
    if (!begun) shmq_lease_mark(&w->survivor, cell, shmq_cell_load(&w->survivor, cell), false);
}
static void expect_expired(struct world *w) { put_one_for_the_role(w, SECOND), hold_too_long(w, true); }
static void expect_expired_unbegun(struct world *w) { put_one_for_the_role(w, FIRST | SECOND), hold_too_long(w, false); }
static void expire_it(struct world *w, struct shmq_queue_port *port) { (void)w, shmq_lease_expire(port); }

static void claim_and_receive(struct world *w, struct shmq_queue_port *port) {
    uint32_t idle;
    if (w->segment.geometry.paged) CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &idle) == SHMQ_OK, "no cell");
    receive_only(w, port);
}
static void detach_it(struct world *w, struct shmq_queue_port *port) { (void)w, shmq_port_detach(port); }

static void expect_attached(struct world *w) { put_one_for_the_role(w, FIRST); }
static void attach_it(struct world *w, struct shmq_queue_port *port) { attach(w, port); }

/* They sleep once, until a lease of somebody's is said to be over. Not a deadline of their own: that may have passed before they
 * come to announce themselves, where they are single-stepped. */
static void sleep_on(struct shmq_queue_port *port, enum shmq_side side) {
    struct shmq_patience patience = {0};
    port->expiry_ns = shmq_now_ns() + 1000000u;
    shmq_wait_park(&port->port, side, far_away(), port->expiry_ns, &patience);
}
static void wait_for_item(struct world *w, struct shmq_queue_port *port) { (void)w, sleep_on(port, SHMQ_ITEMS); }
static void wait_for_space(struct world *w, struct shmq_queue_port *port) { (void)w, sleep_on(port, SHMQ_SPACE); }
static void leave_empty(struct world *w) { expect_of_role(w, 0, 0); }

/* The dead whom reapers find: an idle cell, a loan, a lease on a message of their own, and in the middle of another call. */
static void hold_all(struct world *w, struct shmq_queue_port *port) {
    uint32_t idle;
    if (w->segment.geometry.paged) CHECK(shmq_cell_take(port, SHMQ_TO_WRITE, &idle) == SHMQ_OK, "no cell");
    CHECK(put_message(w, port, w->of_role) == SHMQ_OK, "full");
    receive_timed(w, port);
    childs_cell = loan(port);
}
static void hold_all_and_put(struct world *w, struct shmq_queue_port *port) {
    hold_all(w, port);
    CHECK(put_message(w, port, w->of_role + 1) == SHMQ_OK, "full");
}
static void put_second(struct world *w, struct shmq_queue_port *port) { CHECK(put_message(w, port, w->of_role + 1) == SHMQ_OK, "full"); }
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

static void reap_it(struct world *w, struct shmq_queue_port *port) { (void)w, shmq_reap(&port->port); }

/* A sleeper that was killed is still counted: whoever brings what it waited for posts. */
static void put_before_sleeper(struct world *w) { fill_but_one(w), w->survivor.port.header->items_waiters++; }
static void receive_before_sleeper(struct world *w) { expect_received(w), w->survivor.port.header->space_waiters++; }
static void nack_before_sleeper(struct world *w) { expect_nacked(w), w->survivor.port.header->items_waiters++; }

/* Bells. */
static void make_bell(struct world *w, struct shmq_queue_port *port) {
    (void)w;
    CHECK(shmq_bell_make(&port->port) >= 0, "no bell");
}
static void make_bell_and_wait(struct world *w, struct shmq_queue_port *port) {
    make_bell(w, port);
    shmq_bell_arm(&port->port, SHMQ_ITEMS);
    shmq_bell_disarm(&port->port, SHMQ_ITEMS);
}
static void put_before_bell(struct world *w) {
    fill_but_one(w);
    w->bell = shmq_bell_make(&w->survivor.port);
    CHECK(w->bell >= 0, "no bell");
    shmq_bell_arm(&w->survivor.port, SHMQ_ITEMS);
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

#endif
