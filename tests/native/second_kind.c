/* Another kind of segment, made for this test: a number that many read and anybody may raise. It uses only what is below a queue: ports,
 * waking, sleeping, bells, ports of the dead. So that a second kind needs no word of its own in any of these.
 *
 *     second_kind NAME    the test of that name passes, or says what was not so
 */
#include "child.h"
#include "segment.h"
#include "single.h"

enum { KIND = 77, PORTS = 4 };

/* Behind the header and the ports of such a segment. */
struct notice {
    shmq_word number;
    shmq_word held[PORTS]; /* by port: what its owner holds; a reaper takes it back */
};

static struct notice *notice_of(const struct shmq_port *port) {
    return (struct notice *)(port->base + sizeof(struct shmq_header) + PORTS * sizeof(struct shmq_port_record));
}

static uint64_t seen; /* of this process */
static uint32_t recovered;

static bool promising(struct shmq_port *port, enum shmq_side side, bool stays) {
    return (void)stays, side == SHMQ_ITEMS && shmq_load_seq(&notice_of(port)->number) != seen;
}
static bool worth_waking(const struct shmq_port *port, uint64_t now) { return (void)port, (void)now, true; }
static bool recover(struct shmq_port *port, uint32_t dead) {
    shmq_store_seq(&notice_of(port)->held[dead], 0);
    return ++recovered;
}
static const struct shmq_behaviour behaviour_of_notice = {promising, worth_waking, recover};

static struct {
    unsigned char *base;
    sem_t *semaphores;
    uint64_t nbytes;
} made;

static void make(void) {
    static const uint8_t boot_id[16];
    made.nbytes = sizeof(struct shmq_header) + PORTS * sizeof(struct shmq_port_record) + sizeof(struct notice);
    made.base = shared_memory(made.nbytes, PROT_READ | PROT_WRITE);
    made.semaphores = shared_memory(SHMQ_PAGE, PROT_READ | PROT_WRITE);
    for (int side = 0; side < 2; side++) CHECK_EQUAL(sem_init(&made.semaphores[side], 1, 0), 0);
    shmq_segment_begin(made.base, (enum shmq_segment_kind)KIND, made.nbytes, PORTS, shmq_owner_self(), boot_id, shmq_owner_self(), shmq_owner_lock_inode());
    CHECK_EQUAL(shmq_segment_look(made.base, made.nbytes, (enum shmq_segment_kind)KIND), SHMQ_WOULD_BLOCK);
    shmq_segment_ready(made.base);
}

static struct shmq_port attached(void) {
    struct shmq_port port;
    shmq_port_point(&port, made.base, PORTS, &behaviour_of_notice);
    CHECK_EQUAL(shmq_port_claim(&port, shmq_owner_self()), SHMQ_OK);
    for (int side = 0; side < 2; side++) port.semaphores[side] = &made.semaphores[side];
    return port;
}

static void raise_number(struct shmq_port *port) {
    shmq_add_seq(&notice_of(port)->number, 1);
    shmq_wake_after(port, SHMQ_ITEMS);
}

/* No function of a queue takes it for one, and none of its own takes a queue. */
TEST(checked) {
    struct shmq_geometry geometry;
    struct segment queue;
    make();
    CHECK_EQUAL(shmq_segment_look(made.base, made.nbytes, (enum shmq_segment_kind)KIND), SHMQ_OK);
    CHECK_EQUAL(shmq_segment_check(made.base, made.nbytes, &geometry), SHMQ_UNKNOWN_KIND);
    segment_make(&queue, 4, 64, 2, 2);
    CHECK_EQUAL(shmq_segment_look(queue.base, queue.geometry.segment_bytes, (enum shmq_segment_kind)KIND), SHMQ_UNKNOWN_KIND);
    CHECK_EQUAL(shmq_segment_check(queue.base, queue.geometry.segment_bytes, &geometry), SHMQ_OK);
}

/* As many handles as it has ports, and each port is free again when its handle has left. */
TEST(attachment) {
    struct shmq_port ports[PORTS], more;
    make();
    for (int i = 0; i < PORTS; i++) ports[i] = attached();
    shmq_port_point(&more, made.base, PORTS, &behaviour_of_notice);
    CHECK_EQUAL(shmq_port_claim(&more, shmq_owner_self()), SHMQ_NO_PORTS);
    CHECK_EQUAL(shmq_ports_used(&ports[0]), PORTS);
    shmq_port_free(&ports[2]);
    CHECK_EQUAL(shmq_port_claim(&more, shmq_owner_self()), SHMQ_OK);
    CHECK_EQUAL(more.index, 2);
}

/* A sleeper is woken by whoever raises the number, and sleeps no longer than its time where nobody does. */
TEST(waking) {
    make();
    struct shmq_port mine = attached();
    struct shmq_patience patience = {0};
    CHECK_EQUAL(shmq_wait_park(&mine, SHMQ_ITEMS, shmq_now_ns() + 1000000, SHMQ_FOREVER, &patience), SHMQ_TIMED_OUT);
    pid_t child = fork_child();
    if (child == 0) {
        struct shmq_port port = attached();
        while (shmq_load_seq(shmq_waiters(&port, SHMQ_ITEMS)) == 0) usleep(100);
        raise_number(&port);
        shmq_port_free(&port);
        _exit(0);
    }
    while (!promising(&mine, SHMQ_ITEMS, false)) shmq_wait_park(&mine, SHMQ_ITEMS, SHMQ_FOREVER, SHMQ_FOREVER, &patience);
    CHECK_EQUAL(shmq_load_seq(&notice_of(&mine)->number), 1);
    CHECK_EQUAL(shmq_load_seq(shmq_waiters(&mine, SHMQ_ITEMS)), 0);
    CHECK(!child_was_killed(child));
}

/* What one that was killed held is taken back, and its port is free. */
TEST(death) {
    make();
    struct shmq_port mine = attached();
    pid_t child = fork_child();
    if (child == 0) {
        struct shmq_port port = attached();
        shmq_store_seq(&notice_of(&port)->held[port.index], 5);
        shmq_add_seq(&port.record->asleep[SHMQ_ITEMS], 1);
        shmq_add_seq(shmq_waiters(&port, SHMQ_ITEMS), 1);
        raise(SIGKILL);
    }
    CHECK(child_was_killed(child));
    CHECK_EQUAL(shmq_load_seq(&notice_of(&mine)->held[1]), 5);
    CHECK_EQUAL(shmq_reap(&mine), 1);
    CHECK_EQUAL(recovered, 1);
    CHECK_EQUAL(shmq_load_seq(&notice_of(&mine)->held[1]), 0);
    CHECK_EQUAL(shmq_load_seq(&mine.records[1].owner), 0);
    CHECK_EQUAL(shmq_load_seq(shmq_waiters(&mine, SHMQ_ITEMS)), 0);
    CHECK_EQUAL(shmq_reap(&mine), 0);
}

/* A listener's bell is rung, and goes with its port. */
TEST(listening) {
    char prefix[64], heard;
    snprintf(prefix, sizeof prefix, "/dev/shm/shmq-%lu.kinds+%d", (unsigned long)geteuid(), (int)getpid());
    make();
    struct shmq_port mine = attached(), other = attached();
    mine.path_prefix = other.path_prefix = prefix;
    int bell = shmq_bell_make(&mine);
    CHECK(bell >= 0);
    CHECK(!shmq_bell_arm(&mine, SHMQ_ITEMS));
    raise_number(&other);
    CHECK_EQUAL(read(bell, &heard, 1), 1);
    CHECK(shmq_bell_is_there(&mine, bell));
    shmq_port_free(&mine);
    CHECK(!shmq_bell_is_there(&other, bell));
}

int main(int argc, char **argv) { return run_single(argc, argv, WATCHDOG_SECONDS); }
