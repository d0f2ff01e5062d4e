/* Kill a process at any instruction of the engine as it is released, and look at what the survivors find.
 *
 *     every_instruction roles               the names of the roles, one a line
 *     every_instruction scan ROLE EVERY    every state that outlives it; real deaths at every EVERYth instruction besides
 *     every_instruction pairs ROLE SHAPE    somebody reaps what ROLE left in each state, and dies in each of its own; one shape
 *
 * What a kill after n instructions leaves is what is in shared memory after n instructions, and the bells that there are then
 * in the file system: nothing else survives but what the kernel does at death, which is to drop the locks. So a child is
 * single-stepped once through the whole operation, and a copy is taken whenever the segment, its semaphores or the bells have
 * changed. When the child is dead, each copy is put back in turn, and the survivor recovers from it. That this is the same as a
 * kill is proved and not assumed: children are really killed before and after each change, before and after each system call,
 * and at every EVERYth instruction. Each of them must leave what the stepped one had left there (but for identities and times),
 * unchanged by the death, and the survivor must find the same.
 *
 * Prints "N instructions N addresses N states N kills N system_calls N astray", over all shapes of queue: how many were
 * executed, how many different ones those were; `astray` are kills that did not come at the instruction they were meant for.
 * Status 77: this system does not let us trace.
 *
 * With EVERY = 1 a child is killed at every single instruction. It runs at full speed to the last place before that where it
 * had not been before, where a breakpoint of the processor stops it, and is stepped from there.
 *
 * Not for aarch64: an exception between a load-exclusive and its store-exclusive makes the store fail, at each try. */
#include "roles.h"

#include <fcntl.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/user.h>

#include "child.h"

enum { NOT_HERE = 77 };

static unsigned instructions, addresses, kills, system_calls, astray, states;

/* In place of the C library's, whose code (the kernel's vdso) has a loop that depends on what time it is: a second child would
 * not be where the first one was after n instructions. */
int clock_gettime(clockid_t clock, struct timespec *now) { return (int)syscall(SYS_clock_gettime, clock, now); }

/* -- what outlives a process: memory, and bells ---------------------------------------------------------------------------- */

static uint64_t state_bytes(const struct world *w) { return w->segment.geometry.segment_bytes + 2 * sizeof(sem_t) + PORTS; }

static void copy_out(const struct world *w, unsigned char *bytes) {
    memcpy(bytes, w->segment.base, w->segment.geometry.segment_bytes);
    memcpy(bytes += w->segment.geometry.segment_bytes, w->segment.semaphores, 2 * sizeof(sem_t));
    bytes += 2 * sizeof(sem_t);
    for (uint32_t i = 0; i < PORTS; i++) bytes[i] = bell_is_there(w, i);
}
static void copy_in(struct world *w, const unsigned char *bytes) {
    memcpy(w->segment.base, bytes, w->segment.geometry.segment_bytes);
    memcpy(w->segment.semaphores, bytes += w->segment.geometry.segment_bytes, 2 * sizeof(sem_t));
    bytes += 2 * sizeof(sem_t);
    for (uint32_t i = 0; i < PORTS; i++) { /* an earlier trial may have ended with the removal of any, and have rung the survivor's */
        char path[96];
        bell_path(w, i, path);
        unlink(path);
        CHECK(!bytes[i] || mkfifo(path, 0600) == 0, "no bell");
        if (i != w->survivor.port.index || w->bell < 0) continue;
        close(w->bell);
        CHECK((w->bell = open(path, O_RDWR | O_NONBLOCK)) >= 0, "no bell");
    }
}
static bool is_as(const struct world *w, const unsigned char *bytes) {
    return memcmp(w->segment.base, bytes, w->segment.geometry.segment_bytes) == 0 &&
           memcmp(w->segment.semaphores, bytes + w->segment.geometry.segment_bytes, 2 * sizeof(sem_t)) == 0;
}
static bool has_bells_as(const struct world *w, const unsigned char *bytes) {
    bytes += state_bytes(w) - PORTS;
    for (uint32_t i = 0; i < PORTS; i++)
        if (bell_is_there(w, i) != bytes[i]) return false;
    return true;
}

static void *allocated(uint64_t nbytes) {
    void *memory = malloc(nbytes);
    CHECK(memory, "memory");
    return memory;
}

/* Before the child: what outlives it, and what the survivor knows. Each trial begins from here. */
struct start { unsigned char *bytes; struct world w; };

static struct start start_of(const struct world *w) {
    struct start start = {allocated(state_bytes(w)), *w};
    copy_out(w, start.bytes);
    return start;
}

/* Blank what differs between two runs of the same operation: identities and times. */
static void make_comparable(const struct world *w, unsigned char *bytes) {
    struct shmq_port_record *records = (struct shmq_port_record *)(bytes + w->segment.geometry.ports_offset);
    struct shmq_cell *cells = (struct shmq_cell *)(bytes + w->segment.geometry.cells_offset);
    struct shmq_header *header = (struct shmq_header *)bytes;
    header->space_woken_ns = 0;
    header->look_due = header->watch[0] = header->watch[1] = 0;
    for (uint32_t i = 0; i < w->segment.geometry.ports; i++) {
        if (records[i].owner && records[i].owner != w->survivor.port.owner) records[i].owner = 1;
        if (i == w->survivor.port.index) continue;
        records[i].pid = 0;
    }
    for (uint32_t i = 0; i < w->segment.geometry.cells; i++) {
        cells[i].leased_ns = 0;
        cells[i].due_ns = cells[i].due_ns != 0;
        cells[i].expires &= ~(UINT64_MAX >> 16);
    }
    for (uint32_t i = 0; i < w->segment.geometry.total_slots; i++) {
        struct shmq_slot *slot = (struct shmq_slot *)(bytes + w->segment.geometry.slot_offset + i * w->segment.geometry.slot_stride);
        slot->published_ns = 0;
        slot->first_failed_ms = 0;
    }
}

/* -- a child on a leash --------------------------------------------------------------------------------------------------- */

/* It stands still where the danger begins. */
static pid_t fork_on_leash(struct world *w, const struct role *role) {
    pid_t pid = fork_child();
    if (pid == 0) {
        struct shmq_queue_port port;
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) _exit(NOT_HERE);
        if (role->prepare) {
            attach(w, &port);
            role->prepare(w, &port);
        }
        __asm__ volatile("int3" ::: "memory");
        role->act(w, &port);
        _exit(0);
    }
    int status = wait_for_child(pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_HERE) {
        fprintf(stderr, "ptrace is not allowed here\n");
        exit(NOT_HERE);
    }
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP, "child is not ready: %#x", status);
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_EXITKILL) == 0, "%s", strerror(errno));
    return pid;
}

/* Where it will go on. The parent has the same code at the same address. */
static uint64_t place_of(pid_t pid) {
    errno = 0;
    long place = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), NULL);
    CHECK(errno == 0, "%s", strerror(errno));
    return (uint64_t)place;
}
static bool is_system_call(uint64_t place) { return memcmp((const void *)(uintptr_t)place, "\x0f\x05", 2) == 0; }

/* False: it has ended, and well. */
static bool go_on(pid_t pid, int request) {
    CHECK(ptrace(request, pid, NULL, NULL) == 0, "%s", strerror(errno));
    int status = wait_for_child(pid);
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP) return true;
    CHECK(ended_well(status), "child ended with %#x", (unsigned)status);
    return false;
}

/* Run at full speed to the first visit of `place`, by a breakpoint of the processor: no instruction is changed for it. False:
 * there are no such breakpoints here, or it has ended without having come there. Either way it is of no more use. */
static bool run_to(pid_t pid, uint64_t place) {
    const size_t address = offsetof(struct user, u_debugreg), control = address + 7 * sizeof(long);
    if (ptrace(PTRACE_POKEUSER, pid, address, place) != 0 || ptrace(PTRACE_POKEUSER, pid, control, 1) != 0) {
        kill_child(pid);
        return false;
    }
    if (!go_on(pid, PTRACE_CONT)) return false;
    CHECK(ptrace(PTRACE_POKEUSER, pid, control, 0) == 0, "%s", strerror(errno));
    return true;
}

/* -- one walk through an operation ---------------------------------------------------------------------------------------- */

struct state {
    uint32_t after;            /* so many instructions */
    unsigned char *bytes, *comparable;
    uint32_t found[2][MOST];   /* what the survivor found of the messages, reaping at once or after others went on */
};
struct walk {
    uint64_t *places;          /* of the instructions, in the order of execution */
    uint32_t *newest;          /* for each: the last one up to there that was at a place not visited before */
    uint32_t steps, room, addresses;
    struct state *states;
    uint32_t count, states_room;
};

static void add_state(struct walk *walk, const struct world *w) {
    if (walk->count == walk->states_room) {
        walk->states_room = walk->states_room * 2 + 64;
        walk->states = realloc(walk->states, walk->states_room * sizeof *walk->states);
        CHECK(walk->states, "memory");
    }
    struct state *state = &walk->states[walk->count++];
    memset(state, 0, sizeof *state);
    state->after = walk->steps;
    state->bytes = allocated(state_bytes(w));
    state->comparable = allocated(state_bytes(w));
    copy_out(w, state->bytes);
    memcpy(state->comparable, state->bytes, state_bytes(w));
    make_comparable(w, state->comparable);
}

static void add_step(struct walk *walk, uint64_t place) {
    if (walk->steps == walk->room) {
        walk->room = walk->room * 2 + 4096;
        walk->places = realloc(walk->places, walk->room * sizeof *walk->places);
        walk->newest = realloc(walk->newest, walk->room * sizeof *walk->newest);
        CHECK(walk->places && walk->newest, "memory");
    }
    walk->places[walk->steps++] = place;
}

static int by_place(const void *a, const void *b) {
    const uint64_t *const *x = a, *const *y = b;
    return **x != **y ? **x < **y ? -1 : 1 : *x < *y ? -1 : *x > *y;
}

static void find_newest(struct walk *walk) {
    uint64_t **sorted = allocated(walk->steps * sizeof *sorted);
    for (uint32_t i = 0; i < walk->steps; i++) sorted[i] = &walk->places[i], walk->newest[i] = 0;
    qsort(sorted, walk->steps, sizeof *sorted, by_place);
    for (uint32_t i = 0; i < walk->steps; i++)
        if (i == 0 || *sorted[i] != *sorted[i - 1]) walk->newest[sorted[i] - walk->places] = 1, walk->addresses++;
    for (uint32_t i = 0, last = 0; i < walk->steps; i++) walk->newest[i] = last = walk->newest[i] ? i : last;
    free(sorted);
}

/* The child is dead afterwards: it walked to the end. */
static struct walk walk_through(struct world *w, const struct role *role) {
    struct walk walk = {0};
    pid_t pid = fork_on_leash(w, role);
    add_state(&walk, w);
    bool lives = true;
    while (lives) {
        uint64_t place = place_of(pid);
        add_step(&walk, place);
        lives = go_on(pid, PTRACE_SINGLESTEP);
        const unsigned char *last = walk.states[walk.count - 1].bytes;
        if (!is_as(w, last) || (is_system_call(place) && !has_bells_as(w, last))) add_state(&walk, w);
    }
    find_newest(&walk);
    return walk;
}

static void count(const struct walk *walk) {
    instructions += walk->steps;
    addresses += walk->addresses;
    states += walk->count;
}

static void forget(struct walk *walk) {
    for (uint32_t i = 0; i < walk->count; i++) free(walk->states[i].bytes), free(walk->states[i].comparable);
    free(walk->states), free(walk->places), free(walk->newest);
}

static const char *who; /* role, and which queue */
static void say(const char *what, const struct walk *walk, uint32_t n, bool others_first) {
    snprintf(context, sizeof context, "%s, %s after %u of %u instructions, the last of them at %#lx, %s", who, what, n,
             walk->steps, n ? (unsigned long)walk->places[n - 1] : 0ul, others_first ? "others first" : "reaped first");
}

/* -- trials ------------------------------------------------------------------------------------------------------------------ */

/* In which state of its only exchange the dead one is to be found: its intent stands, and it has happened or not. */
static bool is_at(const struct world *w, const unsigned char *bytes, const char *point) {
    const struct shmq_port_record *records = (const struct shmq_port_record *)(bytes + w->segment.geometry.ports_offset);
    const struct shmq_cell *cells = (const struct shmq_cell *)(bytes + w->segment.geometry.cells_offset);
    const shmq_word *ring = (const shmq_word *)(bytes + w->segment.geometry.ring_offset);
    if (strcmp(point, "bell_armed") == 0) return records[w->survivor.port.index + 1].bell & 1;
    for (uint32_t i = 0; i < w->segment.geometry.ports; i++) {
        uint64_t intent = records[i].intent;
        if (shmq_intent_operation(intent) == SHMQ_NOTHING) continue;
        bool recorded = shmq_word_slot(cells[shmq_intent_cell(intent)].word) != shmq_word_slot(intent);
        bool happened = ring[shmq_intent_index(intent)] != records[i].expected;
        return !recorded && happened == (strcmp(point, "exchange_happened") == 0);
    }
    return false;
}

static struct world *begin(const struct role *role, const struct shape *shape) {
    struct world *w = world_make(shape);
    role->before(w);
    if (role->earlier_role) {
        struct walk earlier = walk_through(w, role_of(role->earlier_role));
        uint32_t i = 0;
        while (i < earlier.count && !is_at(w, earlier.states[i].bytes, role->earlier_point)) i++;
        CHECK(i < earlier.count, "%s is never at %s", role->earlier_role, role->earlier_point);
        copy_in(w, earlier.states[i].bytes);
        forget(&earlier);
    }
    /* From here on every message has an age, be it one tick: a branch depends on it (shmq_delivery_ended), and the children
     * are to take the same one. */
    uint64_t tick = shmq_now_coarse_ns();
    while (shmq_now_coarse_ns() == tick) usleep(1000);
    return w;
}

static void judge(struct world *w, const struct start *start, const unsigned char *bytes, bool others_first) {
    *w = start->w;
    copy_in(w, bytes);
    survive(w, others_first);
}

/* Really kill a child after n instructions. */
static void kill_after(struct world *w, const struct start *start, const struct role *role, const struct walk *walk, uint32_t n) {
    static unsigned char *left, *comparable; /* as large as needed so far */
    static uint64_t room;
    if (room < state_bytes(w)) {
        free(left), free(comparable);
        room = state_bytes(w);
        left = allocated(room), comparable = allocated(room);
    }
    bool others_first = n % 2;
    say("killed", walk, n, others_first);
    if (kills % 256 == 0) watchdog(WATCHDOG_SECONDS);
    *w = start->w;
    copy_in(w, start->bytes);
    pid_t pid = fork_on_leash(w, role);
    uint32_t at = walk->newest[n];
    if (at != 0 && !run_to(pid, walk->places[at])) { /* then step by step */
        at = 0;
        copy_in(w, start->bytes);
        pid = fork_on_leash(w, role);
    }
    for (; at < n; at++) CHECK(go_on(pid, PTRACE_SINGLESTEP), "it ended too early");
    bool off = place_of(pid) != walk->places[n];
    copy_out(w, left);
    kill_child(pid);
    kills++;
    astray += off;
    CHECK(is_as(w, left) && has_bells_as(w, left), "memory or bells changed at the death");
    memcpy(comparable, left, state_bytes(w));
    make_comparable(w, comparable);
    uint32_t low = 0, high = walk->count; /* the last state that began at or before n */
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if (walk->states[middle].after <= n) low = middle;
        else high = middle;
    }
    uint32_t same = low;
    if (off) /* look for the state that it is in */
        for (same = 0; same < walk->count - 1 && memcmp(comparable, walk->states[same].comparable, state_bytes(w)) != 0;) same++;
    CHECK(memcmp(comparable, walk->states[same].comparable, state_bytes(w)) == 0, "not the state in which the stepped one was");
    judge(w, start, left, others_first);
    const uint32_t *in_copy = walk->states[same].found[others_first];
    for (uint32_t i = 0; i < start->w.next; i++)
        CHECK(w->found[i] == in_copy[i], "message %u: found with delivery count %u, in the copy %u", i, w->found[i], in_copy[i]);
}

static void scan(const struct role *role, uint32_t every) {
    for (int s = 0; s < SHAPES; s++) {
        char name[96];
        snprintf(name, sizeof name, "%s, %u slots of %lu bytes", role->name, shapes[s].slots, (unsigned long)shapes[s].slot_size);
        who = name;
        snprintf(context, sizeof context, "%s, alive", name);
        watchdog(WATCHDOG_SECONDS);
        struct world *w = begin(role, &shapes[s]);
        struct start start = start_of(w);
        struct walk walk = walk_through(w, role);
        count(&walk);
        for (int others_first = 0; others_first < 2; others_first++) {
            struct history history = {{0}, {0}};
            for (uint32_t i = 0; i < walk.count; i++) {
                say("state", &walk, walk.states[i].after, others_first);
                judge(w, &start, walk.states[i].bytes, others_first);
                remember(&history, w);
                memcpy(walk.states[i].found[others_first], w->found, sizeof w->found);
            }
        }
        for (uint32_t n = 0, state = 0; n < walk.steps; n++) {
            bool call = is_system_call(walk.places[n]), called = n && is_system_call(walk.places[n - 1]);
            while (state < walk.count && walk.states[state].after < n) state++;
            uint32_t change = state < walk.count ? walk.states[state].after : UINT32_MAX;
            system_calls += call;
            if (call || called || n == change || n + 1 == change || n % every == 0) kill_after(w, &start, role, &walk, n);
        }
        forget(&walk);
        free(start.bytes);
        world_unmake(w);
    }
}

/* Whatever the role left: the one who reaps it dies too, and the survivor takes back what both of them held. */
static void pairs(const struct role *role, const struct shape *shape) {
    static const struct role reaper = {"the reaper", NULL, nothing, reap_it, NULL, NULL};
    char name[96];
    snprintf(context, sizeof context, "%s, alive", role->name);
    watchdog(WATCHDOG_SECONDS);
    struct world *w = begin(role, shape);
    struct start start = start_of(w);
    struct walk first = walk_through(w, role);
    who = name;
    for (uint32_t i = 0; i < first.count; i++) {
        watchdog(WATCHDOG_SECONDS);
        snprintf(name, sizeof name, "%s dead after %u instructions, at %#lx, its reaper", role->name, first.states[i].after,
                 first.states[i].after ? (unsigned long)first.places[first.states[i].after - 1] : 0ul);
        snprintf(context, sizeof context, "%s", name);
        *w = start.w;
        copy_in(w, first.states[i].bytes);
        struct walk second = walk_through(w, &reaper);
        count(&second);
        struct history history = {{0}, {0}};
        for (uint32_t k = 0; k < second.count; k++) {
            say("state", &second, second.states[k].after, i % 2);
            judge(w, &start, second.states[k].bytes, i % 2);
            remember(&history, w);
        }
        forget(&second);
    }
    forget(&first);
    free(start.bytes);
    world_unmake(w);
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "roles") == 0) {
        for (size_t i = 0; i < sizeof roles / sizeof *roles; i++) puts(roles[i].name);
        return 0;
    }
    if (argc == 4 && strcmp(argv[1], "scan") == 0 && atoi(argv[3]) > 0) scan(role_of(argv[2]), (uint32_t)atoi(argv[3]));
    else if (argc == 4 && strcmp(argv[1], "pairs") == 0) pairs(role_of(argv[2]), &shapes[(unsigned)atoi(argv[3]) % SHAPES]);
    else {
        fprintf(stderr, "usage: see the head of %s\n", __FILE__);
        return 2;
    }
    printf("%u instructions %u addresses %u states %u kills %u system_calls %u astray\n", instructions, addresses, states, kills,
           system_calls, astray);
    return 0;
}
