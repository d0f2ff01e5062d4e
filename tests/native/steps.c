/* How many steps a call takes: accesses to shared memory, and questions to the kernel about locks (fcntl).
 *
 *     steps CALL PORTS IN_FLIGHT HANDLES      as many handles attached as said, this one the last
 *     steps idle SLEEPERS MILLISECONDS        processes that wait for a message, which never comes
 *
 * Prints the accesses and the questions of the second call of two, since the first one finds its way; of sleepers, their
 * questions, how often they lay down to sleep, and how long it took in milliseconds. */
#include "call.h"
#include "child.h"

#include <fcntl.h>

static _Atomic uint64_t *questions, *naps; /* of all processes of the program */

int __real_sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until);
int __wrap_sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *until) {
    ++*naps;
    return __real_sem_clockwait(semaphore, clock, until);
}

int __real_fcntl(int fd, int command, ...);
int __wrap_fcntl(int fd, int command, ...) {
    va_list list;
    va_start(list, command);
    void *argument = va_arg(list, void *);
    va_end(list);
    if (command == F_GETLK) ++*questions;
    return __real_fcntl(fd, command, argument);
}

static struct segment segment;
static struct shmq_queue_port port; /* ours */
static uint32_t cell;
static uint32_t number;

static void put_one(void) { CHECK_EQUAL(try_put(&port, 0, number++), SHMQ_OK); }
static void receive_one(void) { CHECK_EQUAL(try_take(&port, true, &cell), SHMQ_OK); }
static void ack_it(void) {
    ack(&port, cell);
    shmq_wake_if_done(&port.port);
}
static void get(void) {
    CHECK_EQUAL(try_take(&port, false, &cell), SHMQ_OK);
    shmq_count(&port.port.record->counters[SHMQ_GETS], 1);
    shmq_cell_return(&port, cell, true);
}
static void nack_it(void) { give_back(&port, cell, SHMQ_NACKED, SHMQ_BY_POLICY); }
/* As the binding does it. */
static void task_done(void) {
    uint64_t done = shmq_load_relaxed(&port.header->done);
    CHECK(shmq_has_taken(&port, done + 1) && shmq_swap_seq(&port.header->done, &done, done + 1));
    shmq_wake_if_done(&port.port);
}

static void nothing(void) {}
static void put_get(void) { put_one(), get(); }
static void put_receive(void) { put_one(), receive_one(); }
static void put_receive_nack(void) { put_one(), receive_one(), nack_it(); }
static void length(void) { CHECK_EQUAL(shmq_ring_length(&port), 0); }
static void all_done(void) { CHECK(shmq_all_done(&port)); }
static void detach(void) { shmq_port_detach(&port); }
static void attach(void) { must_attach(&port, &segment); }
static void look(void) { CHECK_EQUAL(shmq_reap(&port.port), 0); }
static void poll_again(void) { CHECK(!shmq_tend(&port)); }
static void wake(void) { shmq_wake(&port.port, SHMQ_ITEMS); }
/* Somebody waited for the end of all work, and does no more. */
static void join_ended(void) {
    put_receive();
    shmq_or_seq(&port.port.header->done_waiters, SHMQ_BELLS);
}
static void join_ended_twice(void) {
    join_ended();
    ack_it();
    put_receive();
}
/* Somebody waits for it, with its bell armed, and a message is out all the time. */
static void join_goes_on(void) {
    if (number == 0) put_receive();
    shmq_store_seq(&port.port.records[0].bell, UINT64_C(1) << SHMQ_DONE | SHMQ_BELL_MADE);
    join_ended();
}
static void flag_bells(void) { shmq_or_seq(shmq_waiters(&port.port, SHMQ_ITEMS), SHMQ_BELLS); }
static void someone_dies(void) {
    static struct shmq_queue_port dead;
    must_attach(&dead, &segment);
    dead.port.record->owner ^= 1; /* nobody has this identity */
}
static void reap_one(void) { CHECK_EQUAL(shmq_reap(&port.port), 1); }

static const struct { const char *name; void (*prepare)(void), (*call)(void), (*after)(void); } calls[] = {
    {"put", nothing, put_one, get},
    {"get", put_one, get, nothing},
    {"receive", put_one, receive_one, ack_it},
    {"ack", put_receive, ack_it, nothing},
    {"nack", put_receive, nack_it, nothing},
    {"adopt", put_receive_nack, receive_one, ack_it},
    {"task_done", put_get, task_done, nothing},
    {"first_ack_after_a_join", join_ended, ack_it, nothing},
    {"second_ack_after_a_join", join_ended_twice, ack_it, nothing},
    {"ack_during_a_join", join_goes_on, ack_it, nothing},
    {"qsize", nothing, length, nothing},
    {"join", nothing, all_done, nothing},
    {"attach", detach, attach, nothing},
    {"detach", nothing, detach, attach},
    {"look", nothing, look, nothing},
    {"poll", nothing, poll_again, nothing},
    {"wake", nothing, wake, nothing},
    {"wake_for_bells", flag_bells, wake, nothing},
    {"reap", someone_dies, reap_one, nothing},
};

static int count_steps(const char *name, uint32_t ports, uint32_t in_flight, uint32_t handles) {
    segment_make(&segment, 64, 64, in_flight, ports);
    static struct shmq_queue_port others[SHMQ_MAX_PORTS];
    for (uint32_t i = 0; i + 1 < handles; i++) must_attach(&others[i], &segment);
    attach();
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        if (strcmp(calls[i].name, name) != 0) continue;
        uint64_t steps = 0, asked = 0;
        for (int round = 0; round < 2; round++) {
            calls[i].prepare();
            uint64_t accesses = shmq_accesses, before = *questions;
            calls[i].call();
            steps = shmq_accesses - accesses, asked = *questions - before;
            calls[i].after();
        }
        printf("%llu %llu\n", (unsigned long long)steps, (unsigned long long)asked);
        return 0;
    }
    fprintf(stderr, "there is no call %s\n", name);
    return 2;
}

/* Processes that wait for a message, which never comes. */
static int count_idle(uint32_t sleepers, uint32_t milliseconds) {
    segment_make(&segment, 4, 64, 4, sleepers + 1);
    static pid_t pids[SHMQ_MAX_PORTS];
    attach();
    *questions = 0;
    uint64_t begun = shmq_now_ns(), end = begun + milliseconds * UINT64_C(1000000);
    for (uint32_t i = 0; i < sleepers; i++) {
        if ((pids[i] = fork_child()) != 0) continue;
        struct shmq_queue_port mine;
        struct shmq_patience patience = {0};
        must_attach(&mine, &segment);
        while (shmq_await(&mine, SHMQ_ITEMS, end, &patience) != SHMQ_TIMED_OUT) {}
        _exit(0);
    }
    for (uint32_t i = 0; i < sleepers; i++) CHECK(ended_well(wait_for_child(pids[i])));
    printf("%llu %llu %llu\n", (unsigned long long)*questions, (unsigned long long)*naps,
           (unsigned long long)((shmq_now_ns() - begun) / 1000000));
    return 0;
}

int main(int argc, char **argv) {
    watchdog(WATCHDOG_SECONDS);
    questions = shared_memory(2 * sizeof *questions, PROT_READ | PROT_WRITE);
    naps = questions + 1;
    CHECK(argc >= 4 && shmq_owner_self() != 0);
    uint32_t numbers[3] = {(uint32_t)atoi(argv[2]), (uint32_t)atoi(argv[3]), argc > 4 ? (uint32_t)atoi(argv[4]) : 0};
    if (strcmp(argv[1], "idle") == 0) return count_idle(numbers[0], numbers[1]);
    return count_steps(argv[1], numbers[0], numbers[1], numbers[2]);
}
