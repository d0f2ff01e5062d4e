#define _GNU_SOURCE
#include "wait.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "bell.h"
#include "lease.h"
#include "reap.h"
#include "ring.h"

/* A producer that waits for space is worth waking for a quarter of the ring (at most this many cells) at once. Waking it
 * for every freed cell would put a context switch (20 to 45 us) behind every message of a full ring. */
#define SPACE_WORTH 256u
/* … or when nobody was woken for this long: a slow consumer frees a cell now and then, and each is announced at once. */
#define SPACE_PATIENCE_NS 200000u
#define SPIN_LEAST_NS 6000u  /* the shortest spin; a park and a wake-up cost the two sides more than that */
#define SPIN_ALONE_NS 2000u  /* from then on others may have the CPU between two looks */
#define PAUSE_MOST 8
#define LINGER_LEAST_NS 250u
#define LINGER_MOST_NS 8000u
#define LINGER_PROBE_MOST 1024u /* one get in so many tries whether lingering pays; in 16, where it paid lately */
#define LINGER_ENOUGH 96u  /* messages: a dozen cache lines of ring cells */
#define LINGER_WORTH_NS 256u /* slower than a message in this time is no stream that a linger would help */
/* A producer that found the ring full waits for this much room (or a quarter of a small ring): it loses nothing, since
 * the consumer has a full ring before it. */
#define SPACE_ENOUGH 32u

unsigned shmq_wait_cpus(void) {
    /* Of the machine, not of this process: two processes that are pinned to a CPU each may well spin for one another. */
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 1 ? (unsigned)online : 1;
}

bool shmq_wait_over(struct shmq_port *port, bool stays) {
    if (shmq_likely(!shmq_load_seq(&port->header->shut))) return false; /* [park] */
    /* In the order in which a message goes its way: backlog, ring, an exchange that is open, cells. */
    if (shmq_load_seq(&port->header->backlog) || shmq_ring_has_item(port)) return false;
    for (uint32_t i = 0; stays && i < port->geometry.ports; i++)
        if (shmq_intent_operation(shmq_load_seq(&port->records[i].intent)) == SHMQ_GETTING && port->records[i].owner != port->owner) return false;
    for (uint32_t i = 0; i < port->geometry.cells; i++) {
        uint64_t word = shmq_load_seq(&port->cells[i].word);
        uint32_t slot = shmq_word_slot(word), owner = shmq_cell_owner(word);
        if (slot >= port->geometry.total_slots) continue;
        if (shmq_cell_state(word) == SHMQ_ORPHAN) {
            if (!shmq_message_exhausted(port, shmq_load_relaxed(&shmq_slot_at(port, slot)->deliveries))) return false;
        } else if (stays && shmq_state_leased(shmq_cell_state(word)) && owner < port->geometry.ports &&
                   shmq_load_relaxed(&port->records[owner].owner) != port->owner) return false;
    }
    return true;
}

static bool promising(struct shmq_port *port, enum shmq_side side, bool stays) {
    if (side == SHMQ_SPACE) return shmq_ring_has_space(port) || shmq_load_seq(&port->header->shut); /* [park] */
    if (side == SHMQ_DONE) return shmq_unfinished(port) == 0;
    if (shmq_unlikely(shmq_load_seq(&port->header->backlog))) return true; /* [park] */
    return shmq_ring_has_item(port) || shmq_load_seq(&port->header->orphan_epoch) != port->epoch_seen ||
           (shmq_unlikely(port->due_ns != SHMQ_FOREVER) && shmq_now_ns() >= port->due_ns) || shmq_wait_over(port, stays);
}

bool shmq_wait_promising(struct shmq_port *port, enum shmq_side side) { return promising(port, side, false); }

void shmq_wait_linger(struct shmq_port *port) {
    port->caught_up = false;
    if (!port->spins) return;
    uint32_t linger = port->linger_ns;
    if (linger == 0) {
        if (++port->lingers < port->linger_probe) return;
        port->lingers = 0;
        linger = LINGER_LEAST_NS;
    }
    uint32_t half = port->geometry.slots / 2, enough = half < LINGER_ENOUGH ? half : LINGER_ENOUGH;
    uint64_t begun = shmq_now_ns(), written = shmq_load_relaxed(&port->header->write_seq); /* a hint */
    bool plenty; /* looked for so far ahead that it disturbs nobody */
    do {
        shmq_pause();
        shmq_pause();
        plenty = shmq_ring_has_items(port, enough);
    } while (!plenty && shmq_now_ns() - begun < linger);
    /* What was there before did not come because we held back: a burst, or a batch of our own. */
    bool came = shmq_load_relaxed(&port->header->write_seq) != written;
    if (!came || (!plenty && !shmq_ring_has_items(port, linger / LINGER_WORTH_NS + 1))) {
        port->linger_ns = linger / 2 < LINGER_LEAST_NS ? 0 : linger / 2;
        if (port->linger_probe < LINGER_PROBE_MOST) port->linger_probe *= 2;
        return;
    }
    port->linger_probe = 16;
    port->linger_ns = plenty || 2 * linger > LINGER_MOST_NS ? linger : 2 * linger;
}

bool shmq_wait_spin(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns) {
    if (!port->spins) return false;
    /* Polling takes the cache line from the very process that is about to write it, so the looks grow rarer: a ring that
     * is nearly empty then fills by a few messages between two looks, and one transfer of the line serves them all. */
    uint64_t begun = shmq_now_ns(), limit = port->spin_ns[side];
    uint32_t quarter = port->geometry.slots / 4, enough = quarter < SPACE_ENOUGH ? quarter : SPACE_ENOUGH;
    bool patient = side == SHMQ_SPACE && enough > 1; /* for the first microseconds */
    for (unsigned pauses = 1;; pauses = pauses < PAUSE_MOST ? pauses * 2 : pauses) {
        for (unsigned i = 0; i < pauses; i++) shmq_pause();
        if (patient ? shmq_ring_has_spaces(port, enough) : shmq_wait_promising(port, side)) {
            port->spin_ns[side] = limit < SHMQ_SPIN_NS ? limit * 2 : limit;
            return true;
        }
        if (pauses < PAUSE_MOST) continue;
        uint64_t now = shmq_now_ns();
        patient = patient && now - begun < SPIN_ALONE_NS;
        if (now - begun > limit || now >= deadline_ns) break;
        if (now - begun > SPIN_ALONE_NS) sched_yield(); /* whoever could bring the message may be waiting for this CPU */
    }
    port->spin_ns[side] = limit > 2 * SPIN_LEAST_NS ? limit / 2 : SPIN_LEAST_NS; /* it did not help: less next time */
    return false;
}

#ifdef __GLIBC__ /* in a line of its own: elsewhere __GLIBC_PREREQ is no macro, and its arguments would not parse */
#if __GLIBC_PREREQ(2, 30)
#define HAVE_SEM_CLOCKWAIT
#endif
#endif

/* sem_clockwait is measured on the monotonic clock, sem_timedwait on the wall clock: where only the latter exists (musl), a
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

/* Others may take theirs off at the same moment, but not for ever: a scribbler must not keep us here. A wake-up that is
 * given up for that is found by the next slice. */
#define TAKES 1024
#define WITHDRAWALS 64 /* half of them naps: 8 ms */

static bool take_one_off(shmq_half *waiters) {
    uint32_t n = shmq_load_seq(waiters);
    for (int tries = 0; n & ~SHMQ_BELLS && tries < TAKES; tries++)
        if (shmq_swap_seq(waiters, &n, n - 1)) return true;
    return false;
}

/* Not woken: no longer among the sleepers. True: we were woken after all.
 *
 * Where somebody else took us off the count, his post is there, or on its way; or another sleeper has had it, who is still
 * counted in our stead. Whoever left that post, or that count, where it is would leave one too many for ever: and a publisher
 * that posts to nobody rings no bell. So try both until one succeeds; within bounds, since he may be stopped, or dead. */
static bool withdraw(struct shmq_port *port, enum shmq_side side) {
    static const struct timespec nap = {.tv_nsec = 250000};
    for (int tries = 0; tries < WITHDRAWALS; tries++) {
        if (take_one_off(shmq_waiters(port, side))) return false;
        if (sem_trywait(port->semaphores[side]) == 0) return true;
        if (tries < WITHDRAWALS / 2) sched_yield();
        else clock_nanosleep(CLOCK_MONOTONIC, 0, &nap, NULL);
    }
    return true;
}

void shmq_sleepers_forget(struct shmq_port *port, uint32_t index) {
    for (int side = 0; side < 2; side++) {
        shmq_half *asleep = &port->records[index].asleep[side];
        for (uint32_t n = shmq_load_seq(asleep); n && n <= TAKES; n--) {
            if (!take_one_off(shmq_waiters(port, (enum shmq_side)side)) && port->semaphores[side]) sem_trywait(port->semaphores[side]);
            shmq_store_seq(asleep, n - 1);
        }
        shmq_store_seq(asleep, 0);
    }
}

shmq_status shmq_wait_park(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience) {
    shmq_half *waiters = shmq_waiters(port, side);
    uint64_t now = shmq_now_ns();
    if (now >= deadline_ns) return SHMQ_TIMED_OUT;
    shmq_add_seq(&port->record->asleep[side], 1); /* first: who is killed in between is one too few in the count, and that heals */
    SHMQ_CRASH_POINT(park_noted);
    uint64_t rank = (shmq_add_seq(waiters, 1) & ~SHMQ_BELLS) + UINT64_C(1); /* [park] */
    uint32_t longest = rank * SHMQ_SLICE_MS < SHMQ_SLICE_MOST_MS ? (uint32_t)rank * SHMQ_SLICE_MS : SHMQ_SLICE_MOST_MS;
    /* A producer's first slices are short, because a consumer does not announce every freed cell. */
    uint32_t longer = patience->slice_ms ? patience->slice_ms * 2 : 1;
    patience->slice_ms = side == SHMQ_ITEMS || longer > longest ? longest : longer;
    uint64_t slice_end = now + patience->slice_ms * UINT64_C(1000000);
    if (slice_end > port->expiry_ns) slice_end = port->expiry_ns;
    if (slice_end > port->due_ns && side == SHMQ_ITEMS) slice_end = port->due_ns;
    SHMQ_CRASH_POINT(park_announced);
    int result = EAGAIN;
    if (!promising(port, side, patience->stays))
        result = wait_until(port->semaphores[side], slice_end < deadline_ns ? slice_end : deadline_ns) ? errno : 0;
    bool woken = result == 0 || withdraw(port, side); /* whoever posted took us off the count */
    shmq_add_seq(&port->record->asleep[side], (uint32_t)-1);
    if (result == EINTR) {
        if (woken) shmq_pass_on(port, side); /* the caller may go */
        return SHMQ_INTERRUPTED;
    }
    return woken || result == EAGAIN ? SHMQ_OK : SHMQ_TIMED_OUT;
}

/* What the dead held, and what was held too long. */
static bool take_back(struct shmq_port *port) {
    uint32_t freed = shmq_reap(port);
    return shmq_lease_expire(port) + freed != 0;
}

bool shmq_reap_now_and_then(struct shmq_port *port) {
    uint64_t now = shmq_now_coarse_ns();
    if (now - port->reaped_ns < SHMQ_SLICE_MS * UINT64_C(1000000)) {
        if (shmq_likely(port->expiry_ns == SHMQ_FOREVER)) return false;
        return shmq_now_ns() >= port->expiry_ns && shmq_lease_expire(port); /* one of which this handle knows */
    }
    port->reaped_ns = now;
    return take_back(port);
}

/* Something came back. After the deadline that is worth one look more, not as many as a scribbler lets leases expire. */
static bool worth_a_look(uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_now_ns() < deadline_ns) return true;
    if (patience->late) return false;
    return patience->late = true;
}

shmq_status shmq_wait(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_reap_now_and_then(port) && worth_a_look(deadline_ns, patience)) return SHMQ_OK;
    if (!patience->spun) {
        patience->spun = true;
        if (shmq_wait_spin(port, side, deadline_ns)) return SHMQ_OK;
    }
    if (shmq_lease_expire(port) && worth_a_look(deadline_ns, patience)) return SHMQ_OK; /* and finds out how long it may sleep */
    shmq_status status = shmq_wait_park(port, side, deadline_ns, patience);
    if (status != SHMQ_TIMED_OUT) return status;
    if (shmq_now_ns() >= deadline_ns) return SHMQ_TIMED_OUT;
    take_back(port);
    return SHMQ_OK;
}

shmq_status shmq_wait_for_cell(struct shmq_port *port, uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_now_ns() >= deadline_ns) return SHMQ_TIMED_OUT;
    uint32_t shift = patience->slice_ms < 8 ? patience->slice_ms++ : 8;
    struct timespec pause = {.tv_nsec = 50000l << (shift < 7 ? shift : 7)};
    if (shift == 8) take_back(port);
    return clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL) == EINTR ? SHMQ_INTERRUPTED : SHMQ_OK;
}

uint64_t shmq_taken(const struct shmq_port *port) {
    uint64_t taken = 0;
    for (uint32_t i = 0; i < port->geometry.ports; i++) taken += shmq_load_relaxed(&port->records[i].counters[SHMQ_GETS]);
    return taken;
}

/* In the order in which a message goes its way, so that one which moves meanwhile is seen twice rather than overlooked: backlog,
 * ring, an exchange that is open, cells; and what is done before what was taken. */
uint64_t shmq_unfinished(const struct shmq_port *port) {
    uint64_t unfinished = shmq_load_seq(&port->header->backlog) + shmq_ring_length(port);
    for (uint32_t i = 0; i < port->geometry.ports; i++)
        unfinished += shmq_intent_operation(shmq_load_seq(&port->records[i].intent)) == SHMQ_GETTING;
    for (uint32_t i = 0; i < port->geometry.cells; i++) {
        unsigned state = shmq_cell_state(shmq_load_seq(&port->cells[i].word));
        unfinished += shmq_state_leased(state) || state == SHMQ_ORPHAN;
    }
    uint64_t done = shmq_load_seq(&port->header->done), taken = shmq_taken(port);
    return unfinished + (taken > done ? taken - done : 0);
}

void shmq_tell_if_done(struct shmq_port *port) {
    if (shmq_unfinished(port) == 0) shmq_wake_all(port, SHMQ_DONE);
}

/* Is there so much room, or was nobody told for so long, that a producer is worth waking? */
static bool worth_waking(const struct shmq_port *port, uint64_t now) {
    uint32_t space = port->geometry.slots - shmq_ring_estimate(port), worth = port->geometry.slots / 4;
    if (space >= (worth < SPACE_WORTH ? worth : SPACE_WORTH)) return true;
    return now - shmq_load_relaxed(&port->header->space_woken_ns) >= SPACE_PATIENCE_NS; /* a hint */
}

static bool post(struct shmq_port *port, enum shmq_side side) {
    if (side == SHMQ_DONE || port->semaphores[side] == NULL || !take_one_off(shmq_waiters(port, side))) return false;
    sem_post(port->semaphores[side]);
    return true;
}

static bool wake_one(struct shmq_port *port, enum shmq_side side) {
    return post(port, side) || (shmq_load_seq(shmq_waiters(port, side)) & SHMQ_BELLS && shmq_bell_ring(port, side));
}

void shmq_wake(struct shmq_port *port, enum shmq_side side) {
    uint64_t now = 0;
    if (shmq_load_seq(shmq_waiters(port, side)) == 0) return;
    if (side == SHMQ_SPACE && !worth_waking(port, now = shmq_now_ns())) return;
    if (wake_one(port, side) && side == SHMQ_SPACE) shmq_store_relaxed(&port->header->space_woken_ns, now);
}

void shmq_pass_on(struct shmq_port *port, enum shmq_side side) {
    if (shmq_load_seq(shmq_waiters(port, side)) != 0 && shmq_wait_promising(port, side)) wake_one(port, side);
}

void shmq_wake_all(struct shmq_port *port, enum shmq_side side) {
    for (int n = 0; n < TAKES && post(port, side); n++) {}
    for (uint32_t n = 0; n < port->geometry.ports && shmq_bell_ring(port, side); n++) {}
}
