#define _GNU_SOURCE
#include "wait.h"

#include <errno.h>
#include <sched.h>
#include <unistd.h>

#include "bell.h"
#include "queue/lease.h"
#include "owner.h"
#include "reap.h"
#include "queue/ring.h"

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

bool shmq_nothing_comes(struct shmq_port *port, bool stays) {
    /* In the order in which a message goes its way: backlog, ring, an exchange that is open, cells. What a thread of this process is about
     * to give back is no lease of its own: none may be in the middle of that between the two ends of this look. [end] */
    const uint64_t ended = shmq_load_seq(&shmq_owner_ended);
    if (shmq_load_seq(&port->header->backlog) || shmq_ring_has_item(port)) return false;
    for (uint32_t i = 0; stays && i < shmq_ports_used(port); i++)
        if (shmq_intent_operation(shmq_load_seq(&port->records[i].intent)) == SHMQ_GETTING && port->records[i].owner != port->owner) return false;
    for (uint32_t i = 0; i < port->geometry.cells; i++) {
        uint64_t word = shmq_load_seq(&port->cells[i].word);
        uint32_t slot = shmq_word_slot(word), owner = shmq_cell_owner(word);
        if (slot >= port->geometry.total_slots) continue;
        if (shmq_cell_state(word) == SHMQ_ORPHAN) {
            if (!shmq_message_exhausted(port, shmq_load_relaxed(&shmq_slot_at(port, slot)->deliveries))) return false;
        } else if (stays && shmq_state_leased(shmq_cell_state(word)) && owner < port->geometry.ports) {
            if (shmq_load_acquire(&port->records[owner].owner) != port->owner) return false;
            if (shmq_load_seq(&port->cells[i].word) != word) return false; /* the port may have been another's, and the cell with it */
        }
    }
    return !stays || shmq_load_seq(&shmq_owner_begun) == ended;
}

bool shmq_all_wait(const struct shmq_port *port) {
    for (uint32_t i = 0; i < port->geometry.ports; i++) {
        const struct shmq_port_record *record = &port->records[i];
        bool waits = shmq_load_seq(&record->asleep[SHMQ_ITEMS]) || shmq_load_seq(&record->asleep[SHMQ_SPACE]) ||
                     (shmq_load_seq(&record->bell) & (SHMQ_BELL_MADE - 1));
        if (i != port->index && shmq_load_seq(&record->owner) && !waits) return false;
    }
    return true;
}

bool shmq_wait_over(struct shmq_port *port, bool stays) {
    return shmq_unlikely(shmq_load_seq(&port->header->shut)) && shmq_nothing_comes(port, stays); /* [park] */
}

static bool promising(struct shmq_port *port, enum shmq_side side, bool stays) {
    if (side == SHMQ_SPACE) return shmq_ring_has_space(port) || shmq_load_seq(&port->header->shut); /* [park] */
    if (side == SHMQ_DONE) return shmq_all_done(port);
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

/* -- who looks for the dead ------------------------------------------------------------------------------------------- */

#define NS_PER_MS UINT64_C(1000000)
#define LOOK_NS (SHMQ_SLICE_MS * NS_PER_MS)
#define LATE_NS (10 * NS_PER_MS) /* so late a sleeper may wake, and still have its duty */

/* What a sleeper has taken upon itself. */
enum duty { NO_DUTY = 0, WATCH = 1, DEPUTY = 2 };

/* Is a time of the header to come? One that is too far off is a scribbler's, or of a process whose monotonic clock differs: it
 * binds nobody. */
static bool is_to_come(uint64_t time, uint64_t now) { return time - now - 1 < 2 * LOOK_NS; }

/* A duty is a time in shared memory until when somebody has it: it ends by itself where its holder is killed or stopped. */
static void take_duty(struct shmq_port *port, uint64_t now, struct shmq_patience *patience) {
    patience->duty = NO_DUTY;
    for (enum duty duty = WATCH; duty <= DEPUTY; duty++) {
        shmq_word *until = &port->header->watch[duty - WATCH];
        uint64_t before = shmq_load_relaxed(until);
        if (is_to_come(before, now)) continue;
        patience->duty_until = now + LOOK_NS + (duty == DEPUTY ? SHMQ_DEPUTY_MS * NS_PER_MS : 0) + LATE_NS;
        if (!shmq_swap_seq(until, &before, patience->duty_until)) continue;
        patience->duty = duty;
        return;
    }
}

static void end_duty(struct shmq_port *port, struct shmq_patience *patience) {
    uint64_t mine = patience->duty_until;
    if (patience->duty != NO_DUTY) shmq_swap_seq(&port->header->watch[patience->duty - WATCH], &mine, 0); /* by now it may be another's */
    patience->duty = NO_DUTY;
}

static uint64_t end_of_slice(const struct shmq_port *port, enum shmq_side side, uint64_t now, struct shmq_patience *patience) {
    uint64_t due = shmq_load_relaxed(&port->header->look_due);
    uint64_t look = due - now - 1 < LOOK_NS ? due : now + LOOK_NS;
    uint64_t end = patience->duty == WATCH ? look : patience->duty == DEPUTY ? look + SHMQ_DEPUTY_MS * NS_PER_MS
                                                                            : now + SHMQ_SLICE_MOST_MS * NS_PER_MS;
    if (side == SHMQ_ITEMS) return end;
    /* A producer's first slices are short, because a consumer does not announce every freed cell. */
    if (patience->slice_ms < SHMQ_SLICE_MOST_MS) patience->slice_ms = patience->slice_ms ? patience->slice_ms * 2 : 1;
    uint64_t soon = now + patience->slice_ms * NS_PER_MS;
    return soon < end ? soon : end;
}

shmq_status shmq_wait_park(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience) {
    shmq_half *waiters = shmq_waiters(port, side);
    uint64_t now = shmq_now_ns();
    if (now >= deadline_ns) return SHMQ_TIMED_OUT;
    shmq_add_seq(&port->record->asleep[side], 1); /* first: who is killed in between is one too few in the count, and that heals */
    SHMQ_CRASH_POINT(park_noted);
    shmq_add_seq(waiters, 1); /* [park] */
    uint64_t slice_end = end_of_slice(port, side, now, patience);
    if (slice_end > port->expiry_ns) slice_end = port->expiry_ns;
    if (slice_end > port->due_ns && side == SHMQ_ITEMS) slice_end = port->due_ns;
    SHMQ_CRASH_POINT(park_announced);
    int result = EAGAIN;
    if (!promising(port, side, patience->stays))
        result = wait_until(port->semaphores[side], slice_end < deadline_ns ? slice_end : deadline_ns) ? errno : 0;
    if (!shmq_port_is_ours(port)) return SHMQ_OK; /* taken away while we slept, and with it what counted us: the caller finds out */
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

/* The look is due, and ours: whoever moves the time looks. Not where we can judge nobody: another one must. */
static bool claim_look(struct shmq_port *port, uint64_t now) {
    if (now < port->look_ns) return false;
    uint64_t due = shmq_load_relaxed(&port->header->look_due);
    bool is_others = due - now - 1 < LOOK_NS;
    port->look_ns = is_others ? due : now + LOOK_NS;
    return !is_others && shmq_owner_can_judge() && shmq_swap_seq(&port->header->look_due, &due, now + LOOK_NS);
}

static bool take_back_if_due(struct shmq_port *port, uint64_t now) {
    if (shmq_unlikely(claim_look(port, now))) return take_back(port);
    if (shmq_likely(port->expiry_ns == SHMQ_FOREVER)) return false;
    return shmq_now_ns() >= port->expiry_ns && shmq_lease_expire(port); /* one of which this handle knows */
}

bool shmq_reap_now_and_then(struct shmq_port *port) { return take_back_if_due(port, shmq_now_coarse_ns()); }

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
    take_duty(port, shmq_now_ns(), patience);
    if (patience->duty != WATCH) port->expiry_ns = SHMQ_FOREVER; /* whose lease is over when is the business of the watch */
    else if (shmq_lease_expire(port) && worth_a_look(deadline_ns, patience)) { /* and it finds out how long it may sleep */
        end_duty(port, patience);
        return SHMQ_OK;
    }
    shmq_status status = shmq_wait_park(port, side, deadline_ns, patience);
    end_duty(port, patience);
    if (status != SHMQ_TIMED_OUT) return status;
    uint64_t now = shmq_now_ns();
    if (now >= deadline_ns) return SHMQ_TIMED_OUT;
    take_back_if_due(port, now);
    return SHMQ_OK;
}

shmq_status shmq_wait_for_cell(struct shmq_port *port, uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_now_ns() >= deadline_ns) return SHMQ_TIMED_OUT;
    uint32_t shift = patience->slice_ms < 8 ? patience->slice_ms++ : 8;
    struct timespec pause = {.tv_nsec = 50000l << (shift < 7 ? shift : 7)};
    if (shift == 8) take_back_if_due(port, shmq_now_ns());
    return clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL) == EINTR ? SHMQ_INTERRUPTED : SHMQ_OK;
}

static uint64_t taken_by(const struct shmq_port *port, uint32_t index) { return shmq_load_relaxed(&port->records[index].counters[SHMQ_GETS]); }

bool shmq_has_taken(const struct shmq_port *port, uint64_t count) {
    const uint32_t ports = shmq_ports_used(port), begin = port->index < ports ? port->index : 0;
    uint64_t taken = 0;
    for (uint32_t n = 0, i = begin; n < ports && taken < count; n++, i = i + 1 < ports ? i + 1 : 0) taken += taken_by(port, i);
    return taken >= count;
}

/* Taken by get, and not said to be done. What is done is read before what was taken. */
static uint64_t worked_on(const struct shmq_port *port) {
    uint64_t done = shmq_load_seq(&port->header->done), taken = 0;
    for (uint32_t i = 0; i < shmq_ports_used(port); i++) taken += taken_by(port, i);
    return taken > done ? taken - done : 0;
}

static bool is_getting(const struct shmq_port *port, uint32_t index) {
    return shmq_intent_operation(shmq_load_seq(&port->records[index].intent)) == SHMQ_GETTING;
}

static bool is_unfinished(const struct shmq_port *port, uint32_t cell) {
    unsigned state = shmq_cell_state(shmq_load_seq(&port->cells[cell].word));
    return shmq_state_leased(state) || state == SHMQ_ORPHAN;
}

/* In the order in which a message goes its way, so that one which moves meanwhile is seen twice rather than overlooked: backlog,
 * ring, an exchange that is open, cells, work on what get took. */
uint64_t shmq_unfinished(const struct shmq_port *port) {
    uint64_t unfinished = shmq_load_seq(&port->header->backlog) + shmq_ring_length(port);
    for (uint32_t i = 0; i < shmq_ports_used(port); i++) unfinished += is_getting(port, i);
    for (uint32_t i = 0; i < port->geometry.cells; i++) unfinished += is_unfinished(port, i);
    return unfinished + worked_on(port);
}

bool shmq_all_done(struct shmq_port *port) {
    const uint32_t cells = port->geometry.cells, begin = port->unfinished_hint < cells ? port->unfinished_hint : 0;
    if (is_unfinished(port, begin)) return false; /* whoever is done with that looks again */
    if (shmq_load_seq(&port->header->backlog) || shmq_ring_length(port)) return false;
    for (uint32_t i = 0; i < shmq_ports_used(port); i++)
        if (is_getting(port, i)) return false;
    for (uint32_t n = 0, i = begin; n < cells; n++, i = i + 1 < cells ? i + 1 : 0)
        if (is_unfinished(port, i)) return port->unfinished_hint = i, false;
    return worked_on(port) == 0;
}

void shmq_tell_if_done(struct shmq_port *port) {
    if (!shmq_bell_is_armed(port, SHMQ_DONE)) {
        /* Nobody waits any more: take the flag away, and look again, since some may have armed before that. Who arms later gives
         * it anew, and then looks whether all is done. [park] */
        shmq_and_seq(&port->header->done_waiters, ~SHMQ_BELLS);
        if (!shmq_bell_is_armed(port, SHMQ_DONE)) return;
        shmq_or_seq(&port->header->done_waiters, SHMQ_BELLS);
    }
    if (shmq_all_done(port)) shmq_wake_all(port, SHMQ_DONE);
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
