/* Ports and those who own them: what they may take, what they give back, and who is alive.
 *
 *     port_test NAME    the test of that name passes, or says what was not so */
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>

#include "call.h"
#include "single.h"

/* Detaching gives everything back: leases uncounted, loans and held messages for good. */
TEST(detaching) {
    for (int paged = 0; paged < 2; paged++) {
        struct segment segment;
        segment_make(&segment, 4, paged ? 4096 : 64, 4, 2);
        struct shmq_queue_port port, other;
        uint32_t cell;
        must_attach(&port, &segment);
        must_attach(&other, &segment);
        for (uint32_t i = 0; i < 2; i++) CHECK(ring_put(&other, 0, i) == SHMQ_OK, "put");
        uint32_t leased = ring_lease(&port), held = ring_lease(&port), loaned = take_cell(&port, SHMQ_TO_WRITE, true);
        CHECK(shmq_lease_ack(&port, held, shmq_cell_load(&port, held), true) == SHMQ_OK, "ack");
        shmq_cell_become(&port, loaned, SHMQ_LOANED);
        uint64_t word = shmq_cell_load(&port, leased);
        shmq_count(&port.port.record->counters[SHMQ_PUTS], 7);
        shmq_port_detach(&port);
        CHECK(shmq_load_relaxed(&other.port.records[0].counters[SHMQ_PUTS]) == 7, "counters");
        CHECK(shmq_lease_ack(&port, leased, word, false) == SHMQ_LOST, "acked after detaching");
        CHECK(shmq_orphan_adopt(&other, 0, &cell) == SHMQ_OK && failures_of(&other, cell) == 0, "not given back");
        CHECK(message_in(&other, cell).number == 0, "another message");
        ack(&other, cell);
        CHECK(shmq_orphan_adopt(&other, 0, &cell) == SHMQ_WOULD_BLOCK, "the held one came back");
        must_attach(&port, &segment);
        CHECK(shmq_load_relaxed(&port.port.record->counters[SHMQ_PUTS]) == 7 && port.port.next_id >> SHMQ_ID_BITS == 2, "a port of its own");
        shmq_port_detach(&port);
        end(&segment, &other);
    }
}

/* No id is given twice: not after another attachment to the same port, and not when the count of a serial is used up. */
TEST(ids) {
    struct segment segment;
    segment_make(&segment, 4, 64, 4, 3);
    struct shmq_queue_port port, other;
    must_attach(&port, &segment);
    must_attach(&other, &segment);
    const uint64_t count = UINT64_C(1) << SHMQ_ID_BITS;
    CHECK(shmq_next_id(&port.port) == 1 && shmq_next_id(&other.port) == (count | 1), "the first ids");
    port.port.next_id = count - 1;
    CHECK(shmq_next_id(&port.port) == count - 1, "the last one of a serial");
    CHECK(shmq_load_relaxed(&port.port.record->serial) == 0, "its serial, while what has the id may be on its way");
    CHECK(shmq_next_id(&port.port) == (2 * count | 1) && shmq_next_id(&port.port) == (2 * count | 2), "another serial");
    CHECK(shmq_load_relaxed(&port.port.record->serial) == 2 && shmq_load_relaxed(&port.port.record->serial_before) == 0, "the serials of the port");
    shmq_port_detach(&port);
    must_attach(&port, &segment);
    CHECK(port.port.index == 0 && shmq_next_id(&port.port) == (3 * count | 1), "the same port, attached again");
    CHECK(shmq_load_relaxed(&port.port.record->serial_before) == 3, "nothing of its is of who was there before");
    /* At the edge the serials begin again: see `id` in format/queue.h. */
    shmq_store_relaxed(&port.port.header->attachments, (UINT64_C(1) << (64 - SHMQ_ID_BITS)) - 1);
    shmq_port_draw_serial(&port.port);
    CHECK(shmq_next_id(&port.port) == (UINT64_MAX << SHMQ_ID_BITS | 1), "the last serial");
    shmq_port_draw_serial(&port.port);
    CHECK(shmq_next_id(&port.port) == 1, "and then the first again");
    shmq_port_detach(&other);
    end(&segment, &port);
}

static void *sleep_at(void *port_) {
    struct shmq_port *port = port_;
    struct shmq_patience patience = {0};
    shmq_wait_park(port, SHMQ_ITEMS, SHMQ_FOREVER, SHMQ_FOREVER, &patience);
    return NULL;
}

/* A port that is given back while a thread sleeps at it takes its sleeper off the count, and nobody else's. */
TEST(taken_away_asleep) {
    struct segment segment;
    segment_make(&segment, 4, 64, 4, 2);
    struct shmq_queue_port port, other;
    pthread_t threads[2];
    struct shmq_queue_port *ports[2] = {&port, &other};
    shmq_half *waiters = &segment_header(&segment)->items_waiters;
    for (int i = 0; i < 2; i++) {
        must_attach(ports[i], &segment);
        CHECK(pthread_create(&threads[i], NULL, sleep_at, ports[i]) == 0, "thread");
    }
    while (shmq_load_seq(waiters) != 2) sched_yield();
    usleep(20000); /* they have looked, and sleep; where they have not, less is tried */
    shmq_port_detach(&port);
    CHECK((shmq_load_seq(waiters) & ~SHMQ_BELLS) == 1, "who went is still counted");
    struct shmq_queue_port heir;
    must_attach(&heir, &segment);
    CHECK(heir.port.index == port.port.index && shmq_load_seq(&heir.port.record->asleep[SHMQ_ITEMS]) == 0, "the heir is said to sleep");
    CHECK(pthread_join(threads[0], NULL) == 0, "the sleeper of the port that is gone"); /* by the end of its slice, at the latest */
    CHECK(shmq_load_seq(&heir.port.record->asleep[SHMQ_ITEMS]) == 0, "what the heir sleeps: %u", shmq_load_seq(&heir.port.record->asleep[SHMQ_ITEMS]));
    CHECK(pthread_join(threads[1], NULL) == 0 && shmq_load_seq(waiters) == 0, "the other sleeper");
    CHECK(shmq_load_seq(&other.port.record->asleep[SHMQ_ITEMS]) == 0, "what the other one sleeps");
    shmq_port_detach(&heir);
    end(&segment, &other);
}

/* Leases and loans never take the cells that put and get depend on; ports and cells end where the geometry says. */
TEST(limits) {
    for (int paged = 0; paged < 2; paged++) {
        struct segment segment;
        segment_make(&segment, 3, paged ? 4096 : 64, 2, 2);
        struct shmq_queue_port port, other, third;
        uint32_t cells[2], number;
        must_attach(&port, &segment);
        must_attach(&other, &segment);
        CHECK(port_attach(&third, &segment) == SHMQ_NO_PORTS, "a port too many");
        for (int i = 0; i < 2; i++) {
            cells[i] = take_cell(&port, SHMQ_TO_WRITE, true);
            CHECK(cells[i] >= segment.geometry.reserved, "a reserved cell was taken for long");
            shmq_cell_become(&port, cells[i], SHMQ_LOANED);
        }
        uint32_t cell;
        CHECK(shmq_cell_take_for_long(&other, SHMQ_TO_GIVE, &cell) == SHMQ_NO_CELLS, "a cell too many");
        CHECK(ring_put(&port, 0, 1) == SHMQ_OK && ring_put(&other, 0, 2) == SHMQ_OK, "put beside loans");
        CHECK(ring_get(&other, &number) == SHMQ_OK && number == 1 && ring_get(&port, &number) == SHMQ_OK && number == 2, "get beside loans");
        for (int i = 0; i < 2; i++) shmq_cell_return(&port, cells[i], true);
        CHECK(shmq_cell_take_for_long(&other, SHMQ_TO_GIVE, &cell) == SHMQ_OK, "not returned");
        shmq_cell_return(&other, cell, true);
        shmq_port_detach(&other);
        end(&segment, &port);
    }
}

/* In a ring of large slots, n frames in flight walk through n + 1 slots of memory. */
TEST(warm) {
    for (uint32_t in_flight = 1; in_flight <= 4; in_flight++) {
        struct segment segment;
        segment_make(&segment, 64, 4096, 8, 2);
        struct shmq_queue_port producer, consumer;
        unsigned char touched[256] = {0};
        uint32_t count = 0, number, sent = 0;
        must_attach(&producer, &segment);
        must_attach(&consumer, &segment);
        for (int round = 0; round < 500; round++) {
            for (uint32_t i = 0; i < in_flight; i++) {
                uint32_t cell = take_cell(&producer, SHMQ_TO_WRITE, false), slot = slot_in(&producer, cell);
                count += !touched[slot];
                touched[slot] = 1;
                message_write(&producer, slot, 0, sent++);
                CHECK(shmq_ring_put(&producer, cell) == SHMQ_OK, "put");
                shmq_cell_return(&producer, cell, false);
            }
            for (uint32_t i = 0; i < in_flight; i++) CHECK(ring_get(&consumer, &number) == SHMQ_OK, "get");
        }
        CHECK(count <= in_flight + 1, "%u in flight, %u slots touched", in_flight, count);
        shmq_port_detach(&consumer);
        end(&segment, &producer);
    }
}

/* Close whatever the lock might hang on. */
static void close_all_but(int spared, int spared_too) {
    for (int fd = 3; fd < 100; fd++)
        if (fd != spared && fd != spared_too) close(fd);
}
/* Threads that ask at once who lives, after the program has closed the lock file: one of them opens it again. */
static void *ask(void *stranger) {
    for (int i = 0; i < 20; i++) CHECK(!shmq_owner_alive(*(uint64_t *)stranger), "somebody who never was");
    return NULL;
}
TEST(lock_file_closed) {
    uint64_t stranger = shmq_owner_self() ^ 1, inode = shmq_owner_lock_inode();
    CHECK(stranger != 1, "identity");
    for (int round = 0; round < 50; round++) {
        pthread_t threads[3];
        close_all_but(-1, -1);
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, ask, &stranger) == 0, "thread");
        for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    }
    CHECK(shmq_owner_can_judge() && shmq_owner_lock_inode() == inode, "the lock file is another one");
}

/* The kernel says who lives: a child has an identity of its own, and is dead when it is dead; locks go with their holder. */
static void *lock_too(void *taken) {
    *(bool *)taken = shmq_owner_lock(42);
    return NULL;
}
TEST(owners) {
    uint64_t self = shmq_owner_self(), forks = shmq_owner_forks;
    uint64_t key;
    CHECK(self != 0 && shmq_owner_self() == self && shmq_owner_alive(self) && shmq_owner_can_judge(), "self");
    CHECK(!shmq_owner_alive(self ^ 1) && shmq_owner_lock_inode() != 0 && shmq_owner_random(&key, sizeof key), "somebody who never was");
    int from_child[2], to_child[2];
    CHECK(pipe(from_child) == 0 && pipe(to_child) == 0, "pipe");
    pid_t pid = fork();
    CHECK(pid >= 0, "fork");
    if (pid == 0) {
        uint64_t mine = shmq_owner_self();
        pid_t grandchild = fork(); /* it outlives its parent, and keeps nothing of its alive */
        if (grandchild == 0) {
            char *const late[] = {"sleep", "1", NULL};
            execvp(late[0], late);
            _exit(1);
        }
        if (grandchild > 0 && (grandchild = fork()) == 0) {
            sleep(1);
            _exit(0);
        }
        close_all_but(from_child[1], to_child[0]);
        bool fine = mine != 0 && mine != self && shmq_owner_alive(self) && shmq_owner_forks == forks + 1 && shmq_owner_lock(key);
        if (!fine) mine = 0;
        if (write(from_child[1], &mine, sizeof mine) != sizeof mine) _exit(1);
        _exit(read(to_child[0], &mine, 1) != 1);
    }
    uint64_t child;
    CHECK(read(from_child[0], &child, sizeof child) == sizeof child && child != 0, "the child's identity");
    CHECK(shmq_owner_alive(child), "a living child is called dead");
    CHECK(!shmq_owner_lock(key), "the child's lock was taken");
    CHECK(shmq_owner_lock(key ^ 2), "another lock");
    shmq_owner_unlock(key ^ 2);
    CHECK(write(to_child[1], "x", 1) == 1 && waitpid(pid, NULL, 0) == pid, "its end");
    CHECK(!shmq_owner_alive(child) && shmq_owner_alive(self), "a dead child is called alive");
    CHECK(shmq_owner_lock(key), "the dead child's lock is still held");
    shmq_owner_unlock(key);
    pthread_t thread;
    bool taken = true;
    CHECK(shmq_owner_lock(42) && pthread_create(&thread, NULL, lock_too, &taken) == 0 && pthread_join(thread, NULL) == 0, "thread");
    CHECK(!taken, "a lock was taken twice");
    shmq_owner_unlock(42);
    CHECK(pthread_create(&thread, NULL, lock_too, &taken) == 0 && pthread_join(thread, NULL) == 0 && taken, "a free lock was refused");
    shmq_owner_unlock(42);
}

int main(int argc, char **argv) { return run_single(argc, argv, 100); }
