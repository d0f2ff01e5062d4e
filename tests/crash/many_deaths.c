/* Processes that die at crash points, one after the other, and a survivor that says what it found.
 *
 *     many_deaths slots=N slot_size=N preload=N between=nothing|laps|hands ROLE@POINT:NTH …
 *
 * The segment lies in memory that forked processes share; liveness is the real lock file's. `preload` messages, numbered
 * from 1, are in the ring at first. Each ROLE is played by a process of its own, which kills itself at the NTH passage of
 * the crash point. Its own messages are numbered 100 × (1 + its place) + 0, 1, … Then the survivor does what `between` says
 * (nothing; let the ring go round; lease all there is and hold it), reaps, takes whatever there is, and prints
 *
 *     died PLACE | lived PLACE          whether the process reached the crash point
 *     message NUMBER DELIVERY_COUNT     each message that the survivor got, in that order
 *     sound                             each slot is in one cell, all ports are free, and a producer and a consumer get on
 *
 *     many_deaths storm SEED ROUNDS POINT …
 *
 * lets processes of all roles die at random passages of all points under the eyes of a living producer and two living
 * consumers, and checks the ledger that all of them keep. A failed check ends the program with status 1.
 */
#include "call.h"
#include "child.h"

#define PORTS 8
#define IN_FLIGHT 12
#define FILLER 10000 /* numbers from here on only make the ring go round */
#define BATCH 5

static struct segment segment;
static struct shmq_queue_port port; /* of this process */

/* -- dying ------------------------------------------------------------------------------------------------------------ */

static const char *armed;
static uint32_t passages;

void shmq_crash_point(const char *name) {
    if (armed == NULL || strcmp(name, armed) != 0 || --passages != 0) return;
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static void arm(const char *point, uint32_t nth) {
    passages = nth;
    armed = point;
}

static void attach(void) { must_attach(&port, &segment); }

/* How often anybody dead was freed; until none is left. */
static bool reap_once(void) {
    shmq_reap(&port.port);
    for (uint32_t i = 0; i < segment.geometry.ports; i++) {
        uint64_t owner = port.port.records[i].owner;
        if (owner != 0 && !shmq_owner_alive(owner)) return false;
    }
    return true;
}

static void reap_all(void) {
    for (int rounds = 0; !reap_once(); rounds++) CHECK(rounds < 100);
}

/* -- roles ------------------------------------------------------------------------------------------------------------- */

static const char *point;
static uint32_t nth, own_number;

static void play_put(void) {
    attach();
    arm(point, nth);
    put(&port, 0, own_number);
}

static void play_put_many(void) {
    attach();
    struct batch batch = {.next = own_number, .end = own_number + BATCH};
    uint32_t cell;
    shmq_status status;
    CHECK_EQUAL(shmq_cell_take(&port, SHMQ_TO_WRITE, &cell), SHMQ_OK);
    arm(point, nth);
    shmq_ring_put_many(&port, cell, fill_batch, &batch, &status);
}

static void play_publish(void) {
    attach();
    uint32_t cell = loan(&port);
    message_write(&port, slot_in(&port, cell), 0, own_number);
    arm(point, nth);
    SHMQ_CRASH_POINT(driver_loaned);
    CHECK_EQUAL(shmq_ring_put(&port, cell), SHMQ_OK);
}

static void play_get(void) {
    attach();
    arm(point, nth);
    uint32_t cell = take(&port, false);
    SHMQ_CRASH_POINT(driver_leased);
    shmq_cell_return(&port, cell, true);
    SHMQ_CRASH_POINT(driver_got);
}

static void play_get_many(void) {
    attach();
    uint32_t cells[BATCH];
    shmq_status status;
    for (int i = 0; i < BATCH; i++) CHECK_EQUAL(shmq_cell_take(&port, SHMQ_TO_GIVE, &cells[i]), SHMQ_OK);
    arm(point, nth);
    shmq_ring_get_many(&port, cells, BATCH, SHMQ_LEASED, &status);
}

static void play_ack(void) {
    attach();
    uint32_t cell = take(&port, true);
    arm(point, nth);
    ack(&port, cell);
}

static void play_look(void) {
    attach();
    uint32_t cell = take(&port, true);
    CHECK_EQUAL(shmq_lease_ack(&port, cell, shmq_cell_load(&port, cell), true), SHMQ_OK);
    arm(point, nth);
    SHMQ_CRASH_POINT(driver_held);
}

static void play_nack(void) {
    attach();
    uint32_t cell = take(&port, true);
    arm(point, nth);
    give_back(&port, cell, SHMQ_NACKED, 0);
}

static void play_release(void) {
    attach();
    uint32_t cell = take(&port, true);
    arm(point, nth);
    give_back(&port, cell, SHMQ_RELEASED, 0);
}

static void play_adopt(void) {
    attach();
    give_back(&port, take(&port, true), SHMQ_NACKED, 0);
    arm(point, nth);
    take(&port, true);
}

static void play_attach(void) {
    arm(point, nth);
    attach();
}

/* Two leases and one loan in hand. */
static void play_detach(void) {
    attach();
    take(&port, true);
    take(&port, true);
    loan(&port);
    arm(point, nth);
    SHMQ_CRASH_POINT(driver_hands_full);
    shmq_port_detach(&port);
}

static void play_reap(void) {
    attach();
    arm(point, nth);
    while (!reap_once()) {}
}

static const struct role {
    const char *name;
    void (*play)(void);
} roles[] = {
    {"put", play_put},   {"put_many", play_put_many}, {"publish", play_publish}, {"get", play_get},       {"get_many", play_get_many},
    {"ack", play_ack},   {"look", play_look},         {"nack", play_nack},       {"release", play_release}, {"adopt", play_adopt},
    {"attach", play_attach}, {"detach", play_detach}, {"reap", play_reap},
};

static const struct role *role_of(const char *name, size_t length) {
    for (size_t i = 0; i < sizeof roles / sizeof *roles; i++)
        if (strlen(roles[i].name) == length && strncmp(roles[i].name, name, length) == 0) return &roles[i];
    fprintf(stderr, "there is no role %s\n", name);
    exit(2);
}

/* ROLE@POINT:NTH, played to its end. */
static void play(const char *act, uint32_t place) {
    const char *at = strchr(act, '@'), *colon = strchr(act, ':');
    CHECK(at != NULL && colon != NULL);
    const struct role *role = role_of(act, (size_t)(at - act));
    pid_t child = fork_child();
    if (child == 0) {
        point = strndup(at + 1, (size_t)(colon - at - 1));
        nth = (uint32_t)atoi(colon + 1);
        own_number = 100 * (1 + place);
        role->play();
        _exit(0);
    }
    printf("%s %u\n", child_was_killed(child) ? "died" : "lived", place);
}

/* -- the survivor ------------------------------------------------------------------------------------------------------- */

static void say(uint32_t cell) {
    uint32_t number = message_in(&port, cell).number;
    if (number < FILLER) printf("message %u %u\n", number, failures_of(&port, cell) + 1);
}

static bool say_and_take_one(void) {
    uint32_t cell;
    shmq_status status = try_take(&port, false, &cell);
    if (status != SHMQ_OK) {
        CHECK_EQUAL(status, SHMQ_WOULD_BLOCK);
        return false;
    }
    say(cell);
    ack(&port, cell);
    return true;
}

/* Twice round the ring and a half, with whatever is in it. */
static void go_round(void) {
    for (uint32_t i = 0; i < segment.geometry.slots * 5 / 2 + 1; i++) {
        if (try_put(&port, 0, FILLER + i) != SHMQ_OK) {
            CHECK(say_and_take_one());
            put(&port, 0, FILLER + i);
        }
        if (i % 2) say_and_take_one();
    }
}

/* Reap while the slots that the dead had a hand in are in the survivor's in-flight cells, and not in the ring. */
static void reap_with_full_hands(void) {
    uint32_t cells[IN_FLIGHT], held = 0;
    while (held < IN_FLIGHT && try_take(&port, true, &cells[held]) == SHMQ_OK) held++;
    reap_all();
    for (uint32_t i = 0; i < held; i++) {
        say(cells[i]);
        ack(&port, cells[i]);
    }
}

static void others_get_on(void) {
    const uint32_t count = segment.geometry.slots * 3 + 2;
    pid_t child = fork_child();
    if (child == 0) {
        attach();
        for (uint32_t i = 0; i < count; i++) {
            uint32_t cell = take(&port, i % 2);
            CHECK_EQUAL(message_in(&port, cell).number, FILLER + i);
            CHECK_EQUAL(failures_of(&port, cell) + 1, 1);
            ack(&port, cell);
        }
        shmq_port_detach(&port);
        _exit(0);
    }
    for (uint32_t i = 0; i < count; i++) put(&port, 0, FILLER + i);
    CHECK(!child_was_killed(child));
}

/* All that the segment has can be used: the ring fills up, and every other in-flight cell can be leased. */
static void nothing_has_leaked(void) {
    uint32_t cell, cells[IN_FLIGHT];
    for (uint32_t i = 0; i < segment.geometry.slots; i++) CHECK_EQUAL(try_put(&port, 0, FILLER + i), SHMQ_OK);
    CHECK_EQUAL(try_put(&port, 0, FILLER), SHMQ_WOULD_BLOCK);
    for (uint32_t i = 0; i < segment.geometry.slots; i++) {
        CHECK_EQUAL(try_take(&port, false, &cell), SHMQ_OK);
        ack(&port, cell);
    }
    for (uint32_t i = 0; i < IN_FLIGHT; i++) CHECK_EQUAL(shmq_cell_take_for_long(&port, SHMQ_TO_WRITE, &cells[i]), SHMQ_OK);
    CHECK_EQUAL(shmq_cell_take_for_long(&port, SHMQ_TO_WRITE, &cell), SHMQ_NO_CELLS);
    for (uint32_t i = 0; i < IN_FLIGHT; i++) shmq_cell_return(&port, cells[i], true);
    for (uint32_t i = 1; i < PORTS; i++) CHECK_EQUAL(port.port.records[i].owner, 0);
    segment_check(&segment);
}

static uint32_t option(const char *argument, const char *name, uint32_t otherwise) {
    size_t length = strlen(name);
    return strncmp(argument, name, length) == 0 && argument[length] == '=' ? (uint32_t)atoi(argument + length + 1) : otherwise;
}

static void act(int argc, char **argv) {
    uint32_t slots = 4, slot_size = 64, preload = 0, place = 0;
    const char *between = "between=nothing";
    int first = 1;
    for (; first < argc && strchr(argv[first], '='); first++) {
        slots = option(argv[first], "slots", slots);
        slot_size = option(argv[first], "slot_size", slot_size);
        preload = option(argv[first], "preload", preload);
        if (strncmp(argv[first], "between=", 8) == 0) between = argv[first];
    }
    segment_make(&segment, slots, slot_size, IN_FLIGHT, PORTS);
    attach();
    CHECK_EQUAL(port.port.index, 0);
    for (uint32_t i = 1; i <= preload; i++) CHECK_EQUAL(try_put(&port, 0, i), SHMQ_OK);
    for (; first < argc; first++) play(argv[first], place++);
    if (strcmp(between, "between=laps") == 0) go_round();
    if (strcmp(between, "between=hands") == 0) reap_with_full_hands();
    reap_all();
    while (say_and_take_one()) {}
    others_get_on();
    nothing_has_leaked();
    shmq_port_detach(&port);
    segment_check(&segment);
    segment_unmake(&segment);
    puts("sound");
}

/* -- the storm ------------------------------------------------------------------------------------------------------------ */

#define VICTIM_MESSAGES 8
#define LIVE_MESSAGES 20000
#define MOST_VICTIMS 2000
#define STORM_SLOTS 6

/* What each process has seen return, in memory that outlives it. Producer 0 lives; the others are victims. */
static struct ledger {
    _Atomic uint32_t returned[MOST_VICTIMS + 1];  /* by producer: puts that returned */
    _Atomic uint32_t acked_live[LIVE_MESSAGES];   /* acks that returned */
    _Atomic uint32_t acked[(MOST_VICTIMS + 1) * VICTIM_MESSAGES];
    _Atomic uint32_t begun_live[LIVE_MESSAGES];   /* acks that were begun */
    _Atomic uint32_t begun[(MOST_VICTIMS + 1) * VICTIM_MESSAGES];
    _Atomic uint32_t failures;                    /* nacks and deaths, at most: what redeliveries there can be */
    _Atomic bool finish;
} *ledger;

static _Atomic uint32_t *entry(_Atomic uint32_t *live, _Atomic uint32_t *victims, struct head head) {
    if (head.producer == 0) {
        CHECK(head.number < LIVE_MESSAGES);
        return &live[head.number];
    }
    CHECK(head.producer <= MOST_VICTIMS && head.number < VICTIM_MESSAGES);
    return &victims[head.producer * VICTIM_MESSAGES + head.number];
}

static void settle(uint32_t cell, bool fail) {
    struct head head = message_in(&port, cell);
    CHECK(failures_of(&port, cell) + 1 <= ledger->failures + 1);
    if (fail) {
        ledger->failures++;
        give_back(&port, cell, SHMQ_NACKED, 0);
        return;
    }
    (*entry(ledger->begun_live, ledger->begun, head))++;
    ack(&port, cell);
    (*entry(ledger->acked_live, ledger->acked, head))++;
}

static void live_producer(void) {
    attach();
    for (uint32_t i = 0; i < LIVE_MESSAGES; i++) {
        put(&port, 0, i);
        ledger->returned[0] = i + 1;
    }
    shmq_port_detach(&port);
}

static void live_consumer(uint64_t luck) {
    attach();
    struct shmq_patience patience = {0};
    for (;;) {
        uint32_t cell;
        bool finish = ledger->finish;
        shmq_status status = try_take(&port, chance_below(&luck, 2), &cell);
        if (status == SHMQ_OK) settle(cell, chance_below(&luck, 10) == 0);
        else if (finish && status == SHMQ_WOULD_BLOCK) break;
        else wait_after(&port, status, SHMQ_ITEMS, shmq_now_ns() + 100000000u, &patience);
        if (status == SHMQ_OK) patience = (struct shmq_patience){0};
    }
    shmq_port_detach(&port);
}

static void victim(uint32_t who, uint64_t luck, char **points, uint32_t point_count) {
    const char *where = points[chance_below(&luck, point_count)];
    arm(where, 1 + chance_below(&luck, 6));
    while (port_attach(&port, &segment) != SHMQ_OK) shmq_reap(&port.port);
    shmq_reap(&port.port);
    uint32_t cells[2], held = 0;
    for (uint32_t next = 0, steps = 0; steps < 40; steps++) {
        switch (chance_below(&luck, 5)) {
        case 0:
        case 1:
            if (next < VICTIM_MESSAGES && try_put(&port, who, next) == SHMQ_OK) ledger->returned[who] = ++next;
            break;
        case 2:
            if (held < 2 && try_take(&port, chance_below(&luck, 2), &cells[held]) == SHMQ_OK) held++;
            break;
        case 3:
            if (held) settle(cells[--held], chance_below(&luck, 3) == 0);
            break;
        default: {
            struct shmq_patience patience = {.spun = true};
            if (strcmp(where, "park_announced") == 0) shmq_await(&port, SHMQ_ITEMS, shmq_now_ns() + 1000000, &patience);
            break;
        }
        }
    }
    if (chance_below(&luck, 2)) shmq_port_detach(&port); /* or exit with whatever is in hand */
}

static void check_entry(uint32_t returned, uint32_t number, uint32_t acked, uint32_t begun) {
    CHECK(acked <= 1);
    if (number < returned) CHECK(acked == 1 || begun > 0); /* nothing that was put is lost */
    if (number > returned) CHECK_EQUAL(begun, 0);          /* nothing that was not put is there */
}

static void storm(uint64_t seed, uint32_t rounds, char **points, uint32_t point_count) {
    uint64_t luck = seed;
    uint32_t killed = 0, victims = 0;
    CHECK(rounds * 2 <= MOST_VICTIMS);
    ledger = shared_memory(sizeof *ledger, PROT_READ | PROT_WRITE);
    segment_make(&segment, STORM_SLOTS, 64, IN_FLIGHT, PORTS);
    pid_t live[3];
    for (uint32_t i = 0; i < 3; i++)
        if ((live[i] = fork_child()) == 0) {
            if (i == 0) live_producer();
            else live_consumer(seed + i);
            _exit(0);
        }
    for (uint32_t round = 0; round < rounds; round++) {
        pid_t pair[2];
        for (int i = 0; i < 2; i++) {
            uint64_t own = chance(&luck) | 1;
            victims++;
            ledger->failures++;
            if ((pair[i] = fork_child()) == 0) {
                victim(victims, own, points, point_count);
                _exit(0);
            }
        }
        for (int i = 0; i < 2; i++) killed += child_was_killed(pair[i]);
    }
    CHECK(!child_was_killed(live[0]));
    ledger->finish = true;
    CHECK(!child_was_killed(live[1]));
    CHECK(!child_was_killed(live[2]));
    while (port_attach(&port, &segment) != SHMQ_OK) shmq_reap(&port.port);
    reap_all();
    for (uint32_t cell; try_take(&port, true, &cell) == SHMQ_OK;) settle(cell, false);
    for (uint32_t i = 0; i < LIVE_MESSAGES; i++) check_entry(LIVE_MESSAGES, i, ledger->acked_live[i], ledger->begun_live[i]);
    for (uint32_t who = 1; who <= victims; who++)
        for (uint32_t i = 0; i < VICTIM_MESSAGES; i++) {
            uint32_t at = who * VICTIM_MESSAGES + i;
            check_entry(ledger->returned[who], i, ledger->acked[at], ledger->begun[at]);
        }
    shmq_port_detach(&port);
    segment_check(&segment);
    for (uint32_t i = 0; i < PORTS; i++) CHECK_EQUAL(port.port.records[i].owner, 0);
    printf("killed %u of %u\nsound\n", killed, victims);
}

int main(int argc, char **argv) {
    watchdog(WATCHDOG_SECONDS / 2); /* children die with their parent */
    CHECK(shmq_owner_self() != 0);
    if (argc > 4 && strcmp(argv[1], "storm") == 0) storm((uint64_t)atoll(argv[2]), (uint32_t)atoi(argv[3]), argv + 4, (uint32_t)argc - 4);
    else act(argc, argv);
    return 0;
}
