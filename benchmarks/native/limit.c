/* The bare C limit: what two processes can move through shared memory when nothing but the moving is left.
 *
 *   limit ring COUNT                        64-byte messages, copied in and out, ring of 8,192
 *   limit inplace COUNT SLOTS FRAME_BYTES   frames written in place, summed in place
 *   limit copy COUNT SLOTS FRAME_BYTES      frames copied in, copied out, then summed
 *   limit semaphore COUNT                   sem_post to a sleeper, once a millisecond
 *
 * Prints nanoseconds: per message, per frame, or the median from the post to the sleeper's first instruction. The
 * consumer checks what arrived; a wrong total is exit status 1. One producer and one consumer only, no batches, no
 * leases, no recovery: a queue that does more can come near these numbers and not pass them.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "content.h"

#define LINE 64
#define SPINS_BEFORE_YIELD 2000

/* Each position has a line of its own, beside its owner's last look at the other one. */
struct ring {
    _Alignas(LINE) _Atomic uint64_t written;
    uint64_t read_seen;
    _Alignas(LINE) _Atomic uint64_t read;
    uint64_t written_seen;
    _Alignas(LINE) uint64_t slots;
    uint64_t slot_bytes;
    _Alignas(LINE) _Atomic uint32_t ready;
    int64_t began_ns;
    int64_t ended_ns;
    uint64_t total;
    _Alignas(LINE) sem_t ping;
    int64_t posted_ns;
    _Alignas(4096) unsigned char payload[];
};

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static void pause_a_little(unsigned *spins) {
    if (++*spins % SPINS_BEFORE_YIELD == 0)
        sched_yield();
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

static void *shared(size_t nbytes) {
    void *memory = mmap(NULL, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    return memory;
}

static struct ring *ring_make(uint64_t slots, uint64_t slot_bytes) {
    struct ring *ring = shared(sizeof *ring + slots * slot_bytes);
    ring->slots = slots;
    ring->slot_bytes = slot_bytes;
    return ring;
}

/* The slot to write for message `sequence`. Pairs: the acquire of `read` with the release in ring_give_back. */
static unsigned char *ring_room(struct ring *ring, uint64_t sequence) {
    unsigned spins = 0;
    while (sequence - ring->read_seen >= ring->slots) {
        ring->read_seen = atomic_load_explicit(&ring->read, memory_order_acquire);
        if (sequence - ring->read_seen >= ring->slots)
            pause_a_little(&spins);
    }
    return ring->payload + sequence % ring->slots * ring->slot_bytes;
}

static void ring_publish(struct ring *ring, uint64_t sequence) {
    atomic_store_explicit(&ring->written, sequence + 1, memory_order_release);
}

/* The slot that holds message `sequence`. Pairs: the acquire of `written` with the release in ring_publish. */
static const unsigned char *ring_take(struct ring *ring, uint64_t sequence) {
    unsigned spins = 0;
    while (ring->written_seen <= sequence) {
        ring->written_seen = atomic_load_explicit(&ring->written, memory_order_acquire);
        if (ring->written_seen <= sequence)
            pause_a_little(&spins);
    }
    return ring->payload + sequence % ring->slots * ring->slot_bytes;
}

static void ring_give_back(struct ring *ring, uint64_t sequence) {
    atomic_store_explicit(&ring->read, sequence + 1, memory_order_release);
}

static void start_line(struct ring *ring) {
    unsigned spins = 0;
    atomic_fetch_add(&ring->ready, 1);
    while (atomic_load(&ring->ready) % 2 != 0)
        pause_a_little(&spins);
}

/* ---- 64-byte messages ------------------------------------------------------------------------------------------ */

static void messages_write(struct ring *ring, uint64_t first, uint64_t last) {
    unsigned char message[LINE] = {0};
    for (uint64_t i = first; i < last; i++) {
        message[0] = (unsigned char)content_word(i);
        memcpy(ring_room(ring, i), message, sizeof message);
        ring_publish(ring, i);
    }
}

static uint64_t messages_read(struct ring *ring, uint64_t first, uint64_t last) {
    unsigned char message[LINE];
    uint64_t total = 0;
    for (uint64_t i = first; i < last; i++) {
        memcpy(message, ring_take(ring, i), sizeof message);
        ring_give_back(ring, i);
        total += message[0];
    }
    return total;
}

/* ---- frames ---------------------------------------------------------------------------------------------------- */

static void frames_write_in_place(struct ring *ring, uint64_t first, uint64_t last) {
    for (uint64_t i = first; i < last; i++) {
        content_fill(ring_room(ring, i), ring->slot_bytes, i);
        ring_publish(ring, i);
    }
}

static uint64_t frames_read_in_place(struct ring *ring, uint64_t first, uint64_t last) {
    uint64_t total = 0;
    for (uint64_t i = first; i < last; i++) {
        total += content_sum(ring_take(ring, i), ring->slot_bytes);
        ring_give_back(ring, i);
    }
    return total;
}

/* The private copies are made once, as a program does that reads its camera into the same array each time. */
static unsigned char *private_frame(size_t nbytes) {
    static unsigned char *frame;
    if (frame == NULL) {
        if (posix_memalign((void **)&frame, 4096, nbytes) != 0)
            exit(2);
        content_fill(frame, nbytes, 0);
    }
    return frame;
}

static void frames_copy_in(struct ring *ring, uint64_t first, uint64_t last) {
    unsigned char *source = private_frame(ring->slot_bytes);
    for (uint64_t i = first; i < last; i++) {
        *(content_unit *)source = content_word(i);
        memcpy(ring_room(ring, i), source, ring->slot_bytes);
        ring_publish(ring, i);
    }
}

static uint64_t frames_copy_out(struct ring *ring, uint64_t first, uint64_t last) {
    unsigned char *target = private_frame(ring->slot_bytes);
    uint64_t total = 0;
    for (uint64_t i = first; i < last; i++) {
        memcpy(target, ring_take(ring, i), ring->slot_bytes);
        ring_give_back(ring, i);
        total += content_sum(target, ring->slot_bytes);
    }
    return total;
}

/* ---- one flow -------------------------------------------------------------------------------------------------- */

struct flow {
    const char *name;
    void (*write)(struct ring *, uint64_t first, uint64_t last);
    uint64_t (*read)(struct ring *, uint64_t first, uint64_t last);
    uint64_t (*expected)(uint64_t sequence, uint64_t slot_bytes);
};

static uint64_t expected_message(uint64_t sequence, uint64_t slot_bytes) {
    (void)slot_bytes;
    return content_word(sequence);
}

static uint64_t expected_in_place(uint64_t sequence, uint64_t slot_bytes) {
    return content_word(sequence) * (slot_bytes / 8);
}

static uint64_t expected_copy(uint64_t sequence, uint64_t slot_bytes) {
    return content_word(sequence) + slot_bytes / 8 - 1;
}

static const struct flow flows[] = {
    {"ring", messages_write, messages_read, expected_message},
    {"inplace", frames_write_in_place, frames_read_in_place, expected_in_place},
    {"copy", frames_copy_in, frames_copy_out, expected_copy},
};

/* Two laps to touch every page on both sides, then COUNT messages against the clock. */
static int flow_run(const struct flow *flow, uint64_t count, uint64_t slots, uint64_t slot_bytes) {
    struct ring *ring = ring_make(slots, slot_bytes);
    uint64_t warm = 2 * slots, last = warm + count;
    pid_t child = fork();
    if (child < 0)
        return 2;
    if (child == 0) {
        uint64_t total = flow->read(ring, 0, warm);
        start_line(ring);
        total += flow->read(ring, warm, last);
        ring->ended_ns = now_ns();
        ring->total = total;
        _exit(0);
    }
    flow->write(ring, 0, warm);
    start_line(ring);
    ring->began_ns = now_ns();
    flow->write(ring, warm, last);
    int status = 0;
    waitpid(child, &status, 0);
    uint64_t expected = 0;
    for (uint64_t i = 0; i < last; i++)
        expected += flow->expected(i, slot_bytes);
    if (status != 0 || ring->total != expected) {
        fprintf(stderr, "content: expected %llu, read %llu\n", (unsigned long long)expected,
                (unsigned long long)ring->total);
        return 1;
    }
    printf("%.3f\n", (double)(ring->ended_ns - ring->began_ns) / (double)count);
    return 0;
}

/* ---- a sleeper woken ------------------------------------------------------------------------------------------- */

/* Waking up on the waker's CPU and on an idle one are different things: each side has a CPU, if there are two. */
static void pin_to(unsigned number) {
    cpu_set_t all, own;
    CPU_ZERO(&own);
    if (sched_getaffinity(0, sizeof all, &all) != 0)
        return;
    number %= (unsigned)CPU_COUNT(&all);
    for (unsigned cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && number-- == 0)
            CPU_SET(cpu, &own);
    sched_setaffinity(0, sizeof own, &own);
}

static int by_value(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static int semaphore_run(uint64_t count) {
    struct ring *ring = ring_make(1, LINE);
    int64_t *delays = shared(count * sizeof *delays);
    sem_init(&ring->ping, 1, 0);
    pid_t child = fork();
    if (child < 0)
        return 2;
    pin_to(child == 0);
    if (child == 0) {
        for (uint64_t i = 0; i < count; i++) {
            while (sem_wait(&ring->ping) != 0)
                ;
            delays[i] = now_ns() - ring->posted_ns;
        }
        _exit(0);
    }
    const struct timespec millisecond = {0, 1000000};
    for (uint64_t i = 0; i < count; i++) {
        nanosleep(&millisecond, NULL);
        ring->posted_ns = now_ns();
        sem_post(&ring->ping);
    }
    int status = 0;
    waitpid(child, &status, 0);
    if (status != 0)
        return 1;
    qsort(delays, count, sizeof *delays, by_value);
    printf("%.3f\n", (double)delays[count / 2]);
    return 0;
}

int main(int argc, char **argv) {
    uint64_t count = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
    uint64_t slots = argc > 4 ? strtoull(argv[3], NULL, 10) : 8192;
    uint64_t slot_bytes = argc > 4 ? strtoull(argv[4], NULL, 10) : LINE;
    if (count > 0 && slots > 0 && slot_bytes >= LINE) {
        if (strcmp(argv[1], "semaphore") == 0)
            return semaphore_run(count);
        for (size_t i = 0; i < sizeof flows / sizeof *flows; i++)
            if (strcmp(argv[1], flows[i].name) == 0)
                return flow_run(&flows[i], count, slots, slot_bytes);
    }
    fprintf(stderr, "usage: limit ring|inplace|copy|semaphore COUNT [SLOTS FRAME_BYTES]\n");
    return 2;
}
