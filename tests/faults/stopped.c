/* Processes that are stopped in any window of any call while others go on, and that go on themselves afterwards.
 *
 *     stopped ROLE slot_size past|soon POINT …
 *
 * For each crash point, each passage of it: a child takes the role and stops itself there by SIGSTOP. This process then
 * puts and takes for three laps of the ring, reaps (the stopped one lives), and with `past` waits until every lease has
 * ended that can. Then the child goes on by SIGCONT, finishes, and detaches. Afterwards each message that was put has been
 * completed once, by whoever; every slot is in one cell, and nobody is left. Prints
 *
 *     POINT NTH             each window in which a child was stopped
 *     lost N                late acks that met LOST
 *     slowest MICROSECONDS  the slowest of all calls that others made meanwhile
 *
 * Roles whose name begins with "reap" find one who died in the middle of an exchange, holding leases and a loan; while a
 * reaper is stopped nobody else can reap, and "killed_reap" is killed where the others go on.
 */
#include "call.h"
#include "child.h"

#define PORTS 8
#define IN_FLIGHT 12
#define SLOTS 4
#define MOST 4096
#define LEASE_NS UINT64_C(4000000) /* a loaded machine may let more of them end than are meant to: that is right, too */
#define PATIENCE_NS UINT64_C(5000000000) /* for one call of the others, on a loaded machine; they need microseconds */

static struct segment segment;
static struct shmq_queue_port port; /* of this process */
static int bell = -1; /* of this process, in the roles where it has one */

static const char *own_place(void) {
    static char place[64];
    if (place[0] == 0) snprintf(place, sizeof place, "/dev/shm/shmq-stopped.%d", (int)getpid());
    return place;
}

/* What became of each message, in memory that is not the segment. */
static struct ledger {
    _Atomic uint32_t next;          /* number of the next message */
    _Atomic uint32_t put[MOST];     /* its put has returned */
    _Atomic uint32_t perhaps[MOST]; /* its putter died in the middle */
    _Atomic uint32_t done[MOST];    /* how often it was completed */
    _Atomic uint32_t lost;          /* late acks */
    _Atomic uint64_t passed;        /* by a child that was not to stop: bit n for the nth point of the command line */
} *ledger;

/* -- stopping --------------------------------------------------------------------------------------------------------- */

static const char *point;
static uint32_t nth, passages;
static int fault = SIGSTOP;
static bool armed;

static char **points;

void shmq_crash_point(const char *name) {
    if (armed && point == NULL)
        for (int i = 0; points[i]; i++)
            if (strcmp(name, points[i]) == 0) ledger->passed |= UINT64_C(1) << i;
    if (!armed || point == NULL || strcmp(name, point) != 0 || ++passages != nth) return;
    armed = false;
    kill(getpid(), fault);
}

static void arm(void) { armed = true; }
static void disarm(void) { armed = false; }

/* -- calls that wait --------------------------------------------------------------------------------------------------- */

static uint64_t slowest_ns;

/* Others' calls are timed: from `begun` on, no longer than our patience. */
static void await_more(shmq_status status, enum shmq_side side, uint64_t begun, struct shmq_patience *patience) {
    CHECK(shmq_now_ns() - begun < PATIENCE_NS);
    wait_after(&port, status, side, begun + PATIENCE_NS, patience);
}

static void note_time(uint64_t begun) {
    uint64_t took = shmq_now_ns() - begun;
    if (took > slowest_ns) slowest_ns = took;
}

static uint32_t new_number(void) {
    uint32_t number = ledger->next++;
    CHECK(number < MOST);
    return number;
}

static void give(void) {
    struct shmq_patience patience = {0};
    uint64_t begun = shmq_now_ns();
    uint32_t number = new_number();
    shmq_status status;
    while ((status = try_put(&port, 0, number)) != SHMQ_OK) await_more(status, SHMQ_SPACE, begun, &patience);
    ledger->put[number] = 1;
    note_time(begun);
}

/* As a binding does it: until_ns 0 is a lease for as long as the holder lives. */
static shmq_status try_receive(bool for_long, uint64_t lease_ns, uint32_t *cell) {
    return shmq_take(&port, for_long, lease_ns, cell);
}

/* What is ours and how it read when it became so: somebody else may end a timed lease at any moment. */
struct lease {
    uint32_t cell, number;
    uint64_t word;
};

/* False: the lease was over before anybody could look at it. */
static bool look(struct lease *lease, bool timed) {
    lease->word = shmq_load_acquire(&port.cells[lease->cell].word);
    if (timed && (shmq_cell_state(lease->word) != SHMQ_TIMED || shmq_cell_owner(lease->word) != port.port.index)) return false;
    CHECK(shmq_word_slot(lease->word) < segment.geometry.total_slots);
    lease->number = ((struct head *)shmq_payload_at(&port, shmq_word_slot(lease->word)))->number;
    return true;
}

static struct lease receive(bool for_long, bool timed) {
    struct shmq_patience patience = {0};
    uint64_t begun = shmq_now_ns();
    struct lease lease;
    shmq_status status;
    do {
        while ((status = try_receive(for_long, timed ? LEASE_NS : 0, &lease.cell)) != SHMQ_OK)
            await_more(status, SHMQ_ITEMS, begun, &patience);
    } while (!look(&lease, timed));
    note_time(begun);
    return lease;
}

static void done(uint32_t number) {
    CHECK(number < MOST);
    ledger->done[number]++;
}

static void finish(struct lease lease, bool looking) {
    shmq_status status = shmq_lease_ack(&port, lease.cell, lease.word, looking);
    if (status == SHMQ_LOST) {
        ledger->lost++;
        return;
    }
    CHECK_EQUAL(status, SHMQ_OK);
    done(lease.number);
    shmq_cell_return(&port, lease.cell, true);
}

static void return_lease(struct lease lease, enum shmq_cause cause) {
    shmq_status status = shmq_lease_give_back(&port, lease.cell, lease.word, cause, 0);
    if (status == SHMQ_LOST) ledger->lost++;
    else CHECK_EQUAL(status, SHMQ_OK);
}

static void attach(void) {
    must_attach(&port, &segment);
    port.port.path_prefix = own_place();
}

/* -- roles ------------------------------------------------------------------------------------------------------------- */

static void play_put(void) {
    attach();
    arm();
    give();
}

static uint32_t batch[3], filled;
static bool fill(void *context, struct shmq_queue_port *where, uint32_t slot) {
    (void)context;
    if (filled == 3) return false;
    batch[filled] = new_number();
    message_write(where, slot, 0, batch[filled++]);
    return true;
}
static void play_put_many(void) {
    uint32_t cell, count;
    shmq_status status;
    attach();
    CHECK_EQUAL(shmq_cell_take(&port, SHMQ_TO_WRITE, &cell), SHMQ_OK);
    arm();
    count = shmq_ring_put_many(&port, cell, fill, NULL, &status);
    for (uint32_t i = 0; i < count; i++) ledger->put[batch[i]] = 1;
    shmq_cell_return(&port, cell, status != SHMQ_OK);
}

static void play_publish(void) {
    struct shmq_patience patience = {0};
    uint64_t begun = shmq_now_ns();
    uint32_t number = new_number();
    shmq_status status;
    attach();
    uint32_t cell = loan(&port);
    message_write(&port, slot_in(&port, cell), 0, number);
    arm();
    while ((status = shmq_ring_put(&port, cell)) != SHMQ_OK) await_more(status, SHMQ_SPACE, begun, &patience);
    ledger->put[number] = 1;
    shmq_cell_return(&port, cell, false);
}

static void play_get(void) {
    attach();
    arm();
    struct lease lease = receive(false, false);
    done(lease.number);
    shmq_cell_return(&port, lease.cell, true);
}

static void play_get_many(void) {
    uint32_t cells[3];
    shmq_status status;
    attach();
    for (int i = 0; i < 3; i++) CHECK_EQUAL(shmq_cell_take(&port, SHMQ_TO_GIVE, &cells[i]), SHMQ_OK);
    arm();
    uint32_t count = shmq_ring_get_many(&port, cells, 3, SHMQ_LEASED, &status);
    for (uint32_t i = 0; i < 3; i++) {
        if (i < count) done(message_read(&port, slot_in(&port, cells[i])).number);
        shmq_cell_return(&port, cells[i], true);
    }
}

static void play_ack(void) {
    attach();
    struct lease lease = receive(true, false);
    arm();
    finish(lease, false);
}
static void play_look(void) {
    attach();
    struct lease lease = receive(true, false);
    arm();
    finish(lease, true);
}
static void play_nack(void) {
    attach();
    struct lease lease = receive(true, false);
    arm();
    return_lease(lease, SHMQ_NACKED);
}
static void play_release(void) {
    attach();
    struct lease lease = receive(true, false);
    arm();
    return_lease(lease, SHMQ_RELEASED);
}
static void play_adopt(void) {
    attach();
    arm();
    finish(receive(true, false), false);
}
static void play_timed(void) {
    attach();
    arm();
    finish(receive(true, true), false);
}
static void play_timed_nack(void) {
    attach();
    arm();
    return_lease(receive(true, true), SHMQ_NACKED);
}
static void play_extend(void) {
    attach();
    struct lease lease = receive(true, true);
    arm();
    if (shmq_lease_extend(&port, lease.cell, &lease.word, shmq_now_ns() + LEASE_NS) == SHMQ_LOST) ledger->lost++;
    else finish(lease, false);
}
/* Looks at its message until the end, and says so: what it sees is this message, whoever has finished it meanwhile. */
static void play_watch(void) {
    attach();
    struct lease lease = receive(true, true);
    uint32_t slot = shmq_word_slot(lease.word);
    arm();
    if (shmq_view_begin(&port, lease.cell, lease.word) != SHMQ_OK) {
        ledger->lost++;
        return;
    }
    CHECK_EQUAL(message_read(&port, slot).number, lease.number);
    bool acked = shmq_lease_ack(&port, lease.cell, lease.word, true) == SHMQ_OK;
    if (acked) done(lease.number);
    else ledger->lost++;
    CHECK_EQUAL(message_read(&port, slot).number, lease.number);
    shmq_view_release(&port, lease.cell);
    if (acked) shmq_cell_return(&port, lease.cell, true);
}
static void play_expire(void) {
    attach();
    arm();
    shmq_lease_expire(&port);
}
static void wait_for(enum shmq_side side) {
    struct shmq_patience patience = {.spun = true};
    attach();
    arm();
    shmq_wait_park(&port.port, side, shmq_now_ns() + 10000000u, port.expiry_ns, &patience);
}
static void play_wait_for_item(void) { wait_for(SHMQ_ITEMS); }
static void play_wait_for_space(void) { wait_for(SHMQ_SPACE); }
static void play_attach(void) {
    arm();
    attach();
}
static void play_detach(void) {
    attach();
    receive(true, false);
    receive(true, true);
    loan(&port);
    arm();
}
static void play_reap(void) {
    attach();
    arm();
    shmq_reap(&port.port);
}

/* -- what a role finds ---------------------------------------------------------------------------------------------------- */

static void half(void) { give(), give(); }
static void nothing(void) {}
static void full(void) {
    while (shmq_ring_length(&port) < SLOTS) give();
}
static void one_came_back(void) {
    half();
    return_lease(receive(true, false), SHMQ_NACKED);
}
static struct lease held_too_long;
static void one_is_over(void) {
    half();
    held_too_long = receive(true, true);
    usleep(LEASE_NS / 1000 + 1000);
}

static struct lease looked_at;
static void one_is_looked_at(void) {
    half();
    looked_at = receive(true, false);
    CHECK_EQUAL(shmq_view_begin(&port, looked_at.cell, looked_at.word), SHMQ_OK);
    return_lease(looked_at, SHMQ_RELEASED);
}

/* Dies in the middle of a put or a get, holding a lease for life, one with a time-out, and a loan. */
static void one_died(bool putting) {
    half();
    give();
    pid_t child = fork_child();
    if (child == 0) {
        attach();
        receive(true, false);
        receive(true, true);
        loan(&port);
        point = "exchange_happened";
        nth = 1;
        fault = SIGKILL;
        if (putting) ledger->perhaps[ledger->next] = 1;
        arm();
        if (putting) give();
        else receive(false, false);
        _exit(3);
    }
    CHECK(child_was_killed(child));
}
static void one_died_putting(void) { one_died(true); }
static void one_died_getting(void) { one_died(false); }

/* Bells: the child waits at one, and goes; or rings that of this process. */
static void play_bell(void) {
    attach();
    arm();
    CHECK(shmq_bell_make(&port.port) >= 0);
    shmq_bell_arm(&port.port, SHMQ_ITEMS);
    shmq_bell_disarm(&port.port, SHMQ_ITEMS);
}
static void half_and_armed(void) {
    half();
    if (bell >= 0) close(bell);
    bell = shmq_bell_make(&port.port);
    CHECK(bell >= 0);
    shmq_bell_arm(&port.port, SHMQ_ITEMS);
}

static const struct role {
    const char *name;
    void (*before)(void); /* this process */
    void (*play)(void);   /* the child; what it leaves unsettled it detaches from */
} roles[] = {
    {"put", half, play_put},
    {"put_many", half, play_put_many},
    {"publish", half, play_publish},
    {"get", half, play_get},
    {"get_many", half, play_get_many},
    {"ack", half, play_ack},
    {"look", half, play_look},
    {"nack", half, play_nack},
    {"release", half, play_release},
    {"adopt", one_came_back, play_adopt},
    {"timed", half, play_timed},
    {"timed_adopt", one_came_back, play_timed},
    {"timed_nack", half, play_timed_nack},
    {"extend", half, play_extend},
    {"watch", half, play_watch},
    {"finish_under_a_viewer", one_is_looked_at, play_adopt},
    {"expire", one_is_over, play_expire},
    {"wait_for_item", nothing, play_wait_for_item},
    {"wait_for_space", full, play_wait_for_space},
    {"attach", half, play_attach},
    {"detach", half, play_detach},
    {"wait_for_bell", half, play_bell},
    {"ring", half_and_armed, play_put},
    {"reap_putter", one_died_putting, play_reap},
    {"reap_getter", one_died_getting, play_reap},
    {"killed_reap_putter", one_died_putting, play_reap},
    {"killed_reap_getter", one_died_getting, play_reap},
};

/* -- the others ------------------------------------------------------------------------------------------------------------ */

static uint32_t attached(void) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < PORTS; i++) count += port.port.records[i].owner != 0;
    return count;
}

/* Three laps of puts and takes, whatever is in the ring and whatever came back, and nobody waits. */
static void others_go_on(void) {
    for (uint32_t i = 0; i < 3 * SLOTS; i++) {
        if (shmq_ring_length(&port) == SLOTS) finish(receive(i % 2, false), false);
        give();
        finish(receive(i % 2, i % 4 < 2), false);
    }
}

static bool any_timed(void) {
    for (uint32_t i = 0; i < segment.geometry.cells; i++)
        if (shmq_cell_state(shmq_load_acquire(&port.cells[i].word)) == SHMQ_TIMED) return true;
    return false;
}

/* Take what is there, and what ends meanwhile, until every lease that can has ended. */
static void outlive_leases(void) {
    uint64_t begun = shmq_now_ns();
    struct lease lease;
    for (bool more = true; more; usleep(500)) {
        CHECK(shmq_now_ns() - begun < PATIENCE_NS);
        more = any_timed();
        shmq_lease_expire(&port);
        while (try_receive(true, 0, &lease.cell) == SHMQ_OK) {
            look(&lease, false);
            finish(lease, false);
        }
    }
}

static void check_end(void) {
    struct lease lease;
    for (int rounds = 0; attached() > 1; rounds++) {
        CHECK(rounds < 100);
        shmq_reap(&port.port);
    }
    outlive_leases();
    for (uint32_t i = 0; i < ledger->next; i++) {
        if (ledger->perhaps[i]) CHECK(ledger->done[i] <= 1);
        else CHECK_EQUAL(ledger->done[i], ledger->put[i]); /* nothing is lost, nothing twice, nothing that was not put */
    }
    CHECK_EQUAL(shmq_ring_length(&port), 0);
    for (uint32_t i = 0; i < SLOTS; i++) give();
    CHECK_EQUAL(try_put(&port, 0, MOST), SHMQ_WOULD_BLOCK);
    while (try_receive(false, 0, &lease.cell) == SHMQ_OK) look(&lease, false), finish(lease, false);
    uint32_t cells[IN_FLIGHT], cell;
    for (uint32_t i = 0; i < IN_FLIGHT; i++) CHECK_EQUAL(shmq_cell_take_for_long(&port, SHMQ_TO_WRITE, &cells[i]), SHMQ_OK);
    CHECK_EQUAL(shmq_cell_take_for_long(&port, SHMQ_TO_WRITE, &cell), SHMQ_NO_CELLS);
    for (uint32_t i = 0; i < IN_FLIGHT; i++) shmq_cell_return(&port, cells[i], true);
    segment_check(&segment);
}

/* One trial. False: the child has not come to this passage of the point. */
static bool trial(const struct role *role, bool past) {
    memset(ledger, 0, offsetof(struct ledger, lost));
    segment_format(&segment);
    ((struct shmq_queue_header *)segment.base)->policy.lease_timeout_ns = LEASE_NS; /* what a holder gets that was stopped before it could say */
    attach();
    role->before();
    bool reaps = strstr(role->name, "reap") != NULL, killed = strncmp(role->name, "killed", 6) == 0;
    pid_t child = fork_child();
    if (child == 0) {
        passages = 0;
        role->play();
        if (role->play == play_detach || role->play == play_bell) shmq_port_detach(&port), disarm();
        else disarm(), shmq_port_detach(&port);
        _exit(0);
    }
    int status = wait_for_child(child);
    bool stopped = WIFSTOPPED(status);
    if (stopped) {
        uint32_t there = attached();
        bool dead_left = reaps && there > 2;
        others_go_on();
        if (dead_left) CHECK_EQUAL(shmq_reap(&port.port), 0); /* the lock is the stopped one's: nobody else reaps meanwhile */
        else shmq_reap(&port.port);
        CHECK_EQUAL(attached(), there); /* who is stopped lives */
        if (past) {
            outlive_leases();
            half(); /* it may have come for a message, and still want one */
        }
        kill(child, killed ? SIGKILL : SIGCONT);
        if (killed) {
            CHECK(was_killed(wait_for_child(child)));
            for (int tries = 0; attached() > 1; tries++) {
                CHECK(tries < 2); /* the lock went with its holder, and what was begun is finished */
                shmq_reap(&port.port);
            }
            status = 0;
        } else status = wait_for_child(child);
    }
    CHECK(ended_well(status), "the child ended with %#x", (unsigned)status);
    if (role->before == one_is_over) finish(held_too_long, false);
    if (role->before == one_is_looked_at) {
        CHECK_EQUAL(message_read(&port, shmq_word_slot(looked_at.word)).number, looked_at.number);
        shmq_view_release(&port, looked_at.cell);
    }
    check_end();
    shmq_port_detach(&port);
    return stopped;
}

int main(int argc, char **argv) {
    watchdog(WATCHDOG_SECONDS);
    CHECK(argc > 4 && shmq_owner_self() != 0);
    const struct role *role = NULL;
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strcmp(roles[i].name, argv[1]) == 0) role = &roles[i];
    CHECK(role != NULL);
    ledger = shared_memory(sizeof *ledger, PROT_READ | PROT_WRITE);
    segment_make(&segment, SLOTS, (uint64_t)atoi(argv[2]), IN_FLIGHT, PORTS);
    points = argv + 4;
    CHECK(argc < 4 + 64 && !trial(role, false)); /* finds out what it passes */
    for (int i = 0; points[i]; i++) {
        if (!(ledger->passed >> i & 1)) continue;
        point = points[i];
        for (nth = 1; trial(role, strcmp(argv[3], "past") == 0); nth++) printf("%s %u\n", point, nth);
    }
    printf("lost %u\nslowest %lu\n", ledger->lost, (unsigned long)(slowest_ns / 1000));
    return 0;
}
