#define _GNU_SOURCE
#include "wait.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "wake.h"

unsigned shmq_wait_cpus(void) {
    /* Of the machine, not of this process: two processes that are pinned to one CPU each may well spin for one another. Asked for
     * once in a process: the answer is a file in sysfs, which takes a quarter of an attach to read. */
    static shmq_half known;
    uint32_t cpus = shmq_load_relaxed(&known);
    if (cpus == 0) {
        long online = sysconf(_SC_NPROCESSORS_ONLN);
        cpus = online > 1 ? (uint32_t)online : 1;
        shmq_store_relaxed(&known, cpus);
    }
    return cpus;
}

#ifdef __GLIBC__ /* in a line of its own: elsewhere __GLIBC_PREREQ is no macro, and its arguments would not parse */
#if __GLIBC_PREREQ(2, 30)
#define HAVE_SEM_CLOCKWAIT
#endif
#endif

/* sem_clockwait is measured on the monotonic clock, sem_timedwait on the wall clock. Where only the latter exists (musl), a
 * clock stepped back in the middle of a slice stretches that slice. */
static int wait_until(sem_t *semaphore, uint64_t deadline_ns) {
#ifdef HAVE_SEM_CLOCKWAIT
    struct timespec until = {.tv_sec = (time_t)(deadline_ns / 1000000000u), .tv_nsec = (long)(deadline_ns % 1000000000u)};
    return sem_clockwait(semaphore, CLOCK_MONOTONIC, &until);
#else
    uint64_t now = shmq_now_ns(), wall = shmq_clock_ns(CLOCK_REALTIME) + (deadline_ns > now ? deadline_ns - now : 0);
    struct timespec until = {.tv_sec = (time_t)(wall / 1000000000u), .tv_nsec = (long)(wall % 1000000000u)};
    return sem_timedwait(semaphore, &until);
#endif
}

#define WITHDRAWALS 64 /* half of them naps: 8 ms */

/* The waiter was not woken, and leaves the sleepers. True: it was woken after all.
 *
 * Where another port took it off the count, that one's post is there, or on its way; or another sleeper took the post, and is still
 * counted instead. To leave that post or that count behind would leave one too many for ever, and a producer that posts to no sleeper
 * rings no bell. So try both until one succeeds; within bounds, since the other port may be stopped, or dead. */
static bool withdraw(struct shmq_port *port, enum shmq_side side) {
    static const struct timespec nap = {.tv_nsec = 250000};
    for (int tries = 0; tries < WITHDRAWALS; tries++) {
        if (shmq_take_one_off(shmq_waiters(port, side))) return false;
        if (sem_trywait(port->semaphores[side]) == 0) return true;
        if (tries < WITHDRAWALS / 2) sched_yield();
        else clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
    return true;
}

static uint64_t end_of_slice(const struct shmq_port *port, enum shmq_side side, uint64_t now, struct shmq_patience *patience) {
    uint64_t end = shmq_duty_look(port, now, &patience->duty);
    if (side == SHMQ_ITEMS) return end;
    /* A producer's first slices are short, because a consumer does not announce every freed cell. */
    if (patience->slice_ms < SHMQ_SLICE_MOST_MS) patience->slice_ms = patience->slice_ms ? patience->slice_ms * 2 : 1;
    uint64_t soon = now + patience->slice_ms * SHMQ_NS_PER_MS;
    return soon < end ? soon : end;
}

shmq_status shmq_wait_park(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, uint64_t due_ns, struct shmq_patience *patience) {
    shmq_half *waiters = shmq_waiters(port, side);
    uint64_t now = shmq_now_ns();
    if (now >= deadline_ns) return SHMQ_TIMED_OUT;
    /* [asleep]: first: a waiter that is killed in between is one too few in the count, and that heals */
    shmq_add_seq(&port->record->asleep[side], 1);
    SHMQ_CRASH_POINT(park_noted);
    shmq_add_seq(waiters, 1); /* [park] */
    uint64_t slice_end = end_of_slice(port, side, now, patience);
    if (slice_end > due_ns) slice_end = due_ns;
    SHMQ_CRASH_POINT(park_announced);
    int result = EAGAIN;
    if (!port->behaviour->promising(port, side, patience->stays))
        result = wait_until(port->semaphores[side], slice_end < deadline_ns ? slice_end : deadline_ns) ? errno : 0;
    if (!shmq_port_is_ours(port)) return SHMQ_OK; /* taken away while this thread slept, and with it the count of its sleepers: the caller finds out */
    bool woken = result == 0 || withdraw(port, side); /* the port that posted took this one off the count */
    shmq_add_seq(&port->record->asleep[side], (uint32_t)-1); /* [asleep] */
    if (result == EINTR) {
        if (woken) shmq_pass_on(port, side); /* the caller may go */
        return SHMQ_INTERRUPTED;
    }
    return woken || result == EAGAIN ? SHMQ_OK : SHMQ_TIMED_OUT;
}

shmq_status shmq_wait_nap(uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_now_ns() >= deadline_ns) return SHMQ_TIMED_OUT;
    uint32_t shift = patience->slice_ms < 8 ? patience->slice_ms++ : 8;
    struct timespec pause = {.tv_nsec = 50000l << (shift < 7 ? shift : 7)};
    return clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL) == EINTR ? SHMQ_INTERRUPTED : SHMQ_OK;
}
