/* Kill a process at a crash point, or after any of its stores to shared memory, and look at what the survivors find.
 *
 *     crash_points passes ROLE              which crash points the role passes: "NAME HITS" lines
 *     crash_points kill ROLE POINT NTH      die at the nth hit; prints, per shape of queue, what became of the role's messages
 *     crash_points scan ROLE               die after each store to shared memory in turn
 *     crash_points pairs ROLE               ROLE reaps: a second reaper dies after each store, for each death of the first
 *     crash_points crowd PUTTERS            three die, after each of their stores, before anybody reaps; bit n of PUTTERS: the
 *                                         nth puts, otherwise it receives
 *     crash_points asleep                   a sleeper is killed, and the one who was just woken
 *
 * What a trial is stands in world.h. */
#include "roles.h"

#include "child.h"

enum { NAMES = 32 };

/* -- dying ----------------------------------------------------------------------------------------------------------- */

/* What children tell, in memory that is not the segment. */
static struct {
    struct { char name[40]; unsigned hits; } passed[NAMES];
    _Atomic bool received[2];
} *told;

static struct { const struct segment *segment; const char *point; unsigned nth, hits; bool armed; } death; /* point NULL: after the nth store */

static void meet(void) {
    if (++death.hits == death.nth) kill(getpid(), SIGKILL);
}

void shmq_crash_point(const char *name) {
    if (!death.armed) return;
    int i = 0;
    while (told->passed[i].hits && strcmp(told->passed[i].name, name) != 0) i++;
    CHECK(i < NAMES - 1, "too many names");
    strncpy(told->passed[i].name, name, sizeof told->passed[i].name - 1);
    told->passed[i].hits++;
    if (death.point && strcmp(death.point, name) == 0) meet();
}

static void stored(const volatile void *word) {
    const unsigned char *byte = (const unsigned char *)word, *begin = death.segment->base;
    if (death.armed && death.point == NULL && byte >= begin && byte < begin + death.segment->geometry.segment_bytes) meet();
}

static void try_to_put(struct world *w, struct shmq_queue_port *port) { put_message(w, port, w->of_role); }
static void try_to_receive(struct world *w, struct shmq_queue_port *port) { (void)w, receive(port, &childs_cell); }
static const struct role one_putter = {"one of the putters", NULL, nothing, try_to_put, NULL, NULL};
static const struct role one_receiver = {"one of the receivers", NULL, nothing, try_to_receive, NULL, NULL};

/* A child takes the role and dies after `nth` stores, or at the nth hit of `point`. False: it came through, and ended. */
static bool die_as(struct world *w, const struct role *role, const char *point, unsigned nth) {
    pid_t pid = fork_child();
    if (pid == 0) {
        struct shmq_queue_port port;
        if (role->prepare) {
            attach(w, &port);
            role->prepare(w, &port);
        }
        shmq_stored = stored;
        death.segment = &w->segment;
        death.point = point;
        death.nth = nth;
        death.armed = true;
        role->act(w, &port);
        death.armed = false;
        _exit(0);
    }
    return child_was_killed(pid);
}

/* -- trials --------------------------------------------------------------------------------------------------------------- */

static struct world *begin(const struct role *role, const struct shape *shape) {
    struct world *w = world_make(shape);
    role->before(w);
    if (role->earlier_role) CHECK(die_as(w, role_of(role->earlier_role), role->earlier_point, 1), "%s lives", role->earlier_role);
    return w;
}

static void passes(const struct role *role) {
    struct { const char *name; unsigned hits; } most[NAMES] = {{0}};
    for (int s = 0; s < SHAPES; s++) {
        snprintf(context, sizeof context, "%s passes, %u slots of %lu bytes", role->name, shapes[s].slots, (unsigned long)shapes[s].slot_size);
        struct world *w = begin(role, &shapes[s]);
        memset(told->passed, 0, sizeof told->passed); /* what an earlier death has passed */
        CHECK(!die_as(w, role, "no such point", 1), "%s died unasked", role->name);
        for (int i = 0, k; told->passed[i].hits; i++) {
            for (k = 0; most[k].name && strcmp(most[k].name, told->passed[i].name) != 0; k++) {}
            if (most[k].name == NULL) most[k].name = strdup(told->passed[i].name);
            if (told->passed[i].hits > most[k].hits) most[k].hits = told->passed[i].hits;
        }
        survive(w, false);
        world_unmake(w);
    }
    for (int k = 0; most[k].name; k++) printf("%s %u\n", most[k].name, most[k].hits);
}

static void kill_at(const struct role *role, const char *point, unsigned nth) {
    for (int s = 0; s < SHAPES; s++)
        for (int others_first = 0; others_first < 2; others_first++) {
            snprintf(context, sizeof context, "%s killed at %s %u, %u slots of %lu bytes, %s", role->name, point, nth, shapes[s].slots,
                     (unsigned long)shapes[s].slot_size, others_first ? "others first" : "reaped first");
            struct world *w = begin(role, &shapes[s]);
            bool died = die_as(w, role, point, nth);
            survive(w, others_first);
            if (died) { /* in a small queue it may not have come so far */
                printf("%u", shapes[s].slots);
                for (uint32_t i = 0; i < w->of_role_count; i++) printf(" %u", w->found[w->of_role + i]);
                putchar('\n');
            }
            world_unmake(w);
        }
}

static void scan(const struct role *role) {
    unsigned deaths = 0;
    for (int s = 0; s < SHAPES; s++)
        for (int others_first = 0; others_first < 2; others_first++) {
            struct history history = {{0}, {0}};
            bool died = true;
            for (unsigned nth = 1; died; nth++) {
                snprintf(context, sizeof context, "%s killed after store %u, %u slots of %lu bytes, %s", role->name, nth, shapes[s].slots,
                         (unsigned long)shapes[s].slot_size, others_first ? "others first" : "reaped first");
                struct world *w = begin(role, &shapes[s]);
                died = die_as(w, role, NULL, nth);
                deaths += died;
                survive(w, others_first);
                remember(&history, w);
                world_unmake(w);
            }
        }
    printf("%u deaths\n", deaths);
}

static void pairs(const struct role *role) {
    unsigned deaths = 0;
    bool first_died = true;
    for (unsigned first = 1; first_died; first++) {
        bool second_died = true;
        for (unsigned second = 1; second_died; second++) {
            snprintf(context, sizeof context, "%s: reaper killed after store %u, its reaper after store %u", role->name, first, second);
            struct world *w = begin(role, &shapes[(first + second) % SHAPES]);
            first_died = die_as(w, role, NULL, first);
            second_died = die_as(w, role, NULL, second);
            deaths += second_died;
            survive(w, (first + second) / SHAPES % 2);
            world_unmake(w);
        }
    }
    printf("%u deaths\n", deaths);
}

/* Three die one after the other, each after any of its stores, and nobody has reaped in between. */
static bool crowd_of(unsigned putters, const struct shape *shape, bool others_between, const unsigned stores[3], bool died[3]) {
    snprintf(context, sizeof context, "crowd of %u killed after stores %u, %u, %u; %u slots of %lu bytes%s", putters, stores[0],
             stores[1], stores[2], shape->slots, (unsigned long)shape->slot_size, others_between ? ", others between" : "");
    struct world *w = world_make(shape);
    for (uint32_t i = 0; i < (shape->slots == 1 ? ~putters & 1 : 1); i++) put_new(w, &w->survivor, FIRST | SECOND);
    for (int i = 0; i < 3; i++) {
        expect_of_role(w, 1, GONE | (putters >> i & 1 ? FIRST | SECOND : 0));
        w->next++;
        died[i] = die_as(w, putters >> i & 1 ? &one_putter : &one_receiver, NULL, stores[i]);
        if (others_between && shmq_ring_length(&w->survivor) < w->segment.geometry.slots) put_new(w, &w->survivor, FIRST | SECOND);
        if (others_between) receive_one(w);
    }
    w->of_role_count = 0;
    survive(w, false);
    world_unmake(w);
    return died[0] && died[1] && died[2];
}

static void crowd(unsigned putters) {
    unsigned deaths = 0;
    for (int s = 0; s < 2; s++) {
        bool died[3] = {true, true, true}, others_between = s == 1 && putters % 2;
        for (unsigned a = 1; died[0]; a++, died[1] = true)
            for (unsigned b = 1; died[1]; b++, died[2] = true)
                for (unsigned c = 1; died[2]; c++) deaths += crowd_of(putters, &shapes[s], others_between, (unsigned[]){a, b, c}, died);
    }
    printf("%u deaths\n", deaths);
}

/* -- asleep --------------------------------------------------------------------------------------------------------------- */

static pid_t sleeper(struct world *w, int number) {
    pid_t pid = fork_child();
    if (pid) return pid;
    struct shmq_queue_port port;
    struct shmq_patience patience = {.spun = true};
    uint32_t cell;
    attach(w, &port);
    while (receive(&port, &cell) != SHMQ_OK) shmq_await(&port, SHMQ_ITEMS, SHMQ_FOREVER, &patience);
    told->received[number] = true;
    ack(&port, cell);
    shmq_port_detach(&port);
    _exit(0);
}

/* Two sleep, one message comes. Whatever the killed one was doing, it is not lost, and the other one gets it without any
 * further message, unless the killed one had received it. */
static void asleep(void) {
    for (int round = 0; round < 10; round++) {
        snprintf(context, sizeof context, "asleep, round %d", round);
        struct world *w = world_make(&shapes[1]);
        told->received[0] = told->received[1] = false;
        pid_t doomed = sleeper(w, 0), other = sleeper(w, 1);
        while (shmq_load_seq(&w->survivor.port.header->items_waiters) < 2) usleep(200);
        if (round % 2) kill(doomed, SIGKILL);
        put_new(w, &w->survivor, FIRST);
        if (round % 2 == 0) kill(doomed, SIGKILL); /* perhaps it was the one who was woken, and has not run yet */
        child_was_killed(doomed);
        if (told->received[0]) put_new(w, &w->survivor, FIRST);
        CHECK(!child_was_killed(other), "the other sleeper was killed");
        CHECK(told->received[1], "the other sleeper received nothing");
        shmq_reap(&w->survivor.port);
        while (receive_one(w)) {}
        check_cells(w);
        check_whole(w);
        world_unmake(w);
    }
}

int main(int argc, char **argv) {
    watchdog(WATCHDOG_SECONDS);
    CHECK(shmq_owner_self() != 0);
    told = shared_memory(sizeof *told, PROT_READ | PROT_WRITE);
    if (argc == 2 && strcmp(argv[1], "asleep") == 0) asleep();
    else if (argc == 3 && strcmp(argv[1], "crowd") == 0) crowd((unsigned)atoi(argv[2]));
    else if (argc == 3 && strcmp(argv[1], "passes") == 0) passes(role_of(argv[2]));
    else if (argc == 5 && strcmp(argv[1], "kill") == 0) kill_at(role_of(argv[2]), argv[3], (unsigned)atoi(argv[4]));
    else if (argc == 3 && strcmp(argv[1], "scan") == 0) scan(role_of(argv[2]));
    else if (argc == 3 && strcmp(argv[1], "pairs") == 0) pairs(role_of(argv[2]));
    else {
        fprintf(stderr, "usage: see the head of %s\n", __FILE__);
        return 2;
    }
    return 0;
}
