#define _GNU_SOURCE
#include "lease.h"

#include "../owner.h"
#include "../wait.h"

/* -- policy ---------------------------------------------------------------------------------------------------------- */

#define LONGEST_NS (UINT64_C(86400) * 366 * 1000000000) /* a year: nothing waits longer, and no sum of times overflows */
#define UNSAID_NS UINT64_C(30000000000) /* for a holder that was stopped before it could say until when */

static double clamped(double value, double least, double most) { return value >= least ? value <= most ? value : most : least; }

struct shmq_policy shmq_policy_of(const struct shmq_header *header) {
    struct shmq_policy policy = header->policy;
    if (policy.lease_timeout_ns > LONGEST_NS) policy.lease_timeout_ns = LONGEST_NS;
    if (policy.retry_initial_ns > LONGEST_NS) policy.retry_initial_ns = LONGEST_NS;
    if (policy.retry_maximum_ns > LONGEST_NS) policy.retry_maximum_ns = LONGEST_NS;
    policy.retry_factor = clamped(policy.retry_factor, 1, 1000); /* NaN is the least */
    policy.retry_jitter = clamped(policy.retry_jitter, 0, 1);
    return policy;
}

/* How long a message rests after its nth failed delivery. `salt` is whatever differs from message to message. */
static uint64_t rest_ns(const struct shmq_policy *policy, uint32_t failed, uint64_t salt) {
    double rest = (double)policy->retry_initial_ns, most = (double)policy->retry_maximum_ns;
    if (rest <= 0) return 0;
    for (uint32_t i = 1; i < failed && rest < most; i++) rest *= policy->retry_factor;
    if (rest > most) rest = most;
    salt = (salt ^ salt >> 31) * UINT64_C(0x9e3779b97f4a7c15); /* spread over all bits: Knuth's multiplicative hash */
    double chance = (double)(salt >> 11) / (double)(UINT64_C(1) << 53);
    return (uint64_t)(rest * (1 + policy->retry_jitter * (2 * chance - 1)));
}

/* -- while it lasts -------------------------------------------------------------------------------------------------- */

/* From the first lease with a deadline on, those who wait look for expired ones; at our own we look in time. */
static void begin_timing(struct shmq_port *port, uint64_t deadline_ns) {
    if (shmq_unlikely(!shmq_load_relaxed(&port->header->timing))) shmq_store_release(&port->header->timing, 1);
    if (deadline_ns < port->expiry_ns) port->expiry_ns = deadline_ns;
}

void shmq_lease_time(struct shmq_port *port, uint32_t cell, uint64_t deadline_ns) {
    begin_timing(port, deadline_ns);
    uint64_t generation = shmq_cell_generation(shmq_cell_load(port, cell)) + 1; /* the exchange moves it on */
    shmq_store_relaxed(&port->cells[cell].expires, shmq_expires_word(generation, deadline_ns)); /* released by the exchange */
}

shmq_status shmq_lease_extend(struct shmq_port *port, uint32_t cell, uint64_t *leased, uint64_t deadline_ns) {
    struct shmq_cell *mine = &port->cells[cell];
    uint64_t word = *leased, next = shmq_cell_next(word, SHMQ_TIMED, port->index, shmq_word_slot(word));
    uint64_t expires = shmq_load_acquire(&mine->expires), wanted = shmq_expires_word(shmq_cell_generation(next), deadline_ns);
    bool begun = shmq_lease_begun(port, cell, word);
    begin_timing(port, deadline_ns);
    /* The deadline first, for the word to come; until that stands, whoever looks for expired leases takes it for ours
     * (shmq_expires_ahead). A swap, since the cell may be another's by now, and the deadline that of another lease. */
    if (shmq_cell_state(word) == SHMQ_TIMED && shmq_expires_ahead(expires, word) != 0) return SHMQ_LOST;
    if (shmq_load_acquire(&mine->word) != word || !shmq_swap_seq(&mine->expires, &expires, wanted)) return SHMQ_LOST;
    uint64_t marked = word;
    if (!begun) shmq_swap_seq(&mine->prefetched, &marked, next); /* by now the mark may be another's, too */
    SHMQ_CRASH_POINT(extend_written);
    if (!shmq_swap_seq(&mine->word, &word, next)) return SHMQ_LOST; /* [hand] */
    *leased = next;
    return SHMQ_OK;
}

void shmq_lease_mark(struct shmq_port *port, uint32_t cell, uint64_t leased, bool begun) {
    struct shmq_cell *mine = &port->cells[cell];
    /* Where the time of the lease is over, the cell may be another's by now, and the mark that of another lease. */
    uint64_t before = begun ? leased : shmq_load_acquire(&mine->prefetched);
    if (!begun && shmq_cell_owner(shmq_load_acquire(&mine->word)) != port->index) return;
    shmq_swap_seq(&mine->prefetched, &before, begun ? 0 : leased);
}

bool shmq_lease_begun(const struct shmq_port *port, uint32_t cell, uint64_t leased) {
    uint64_t prefetched = shmq_load_acquire(&port->cells[cell].prefetched);
    /* One generation ahead: it is being extended. One behind: it was taken over a moment ago, since its time was over or its
     * owner dead. The words of another lease lie further off, since no lease follows another at once. */
    uint64_t ahead_and_one = (shmq_cell_generation(prefetched) - shmq_cell_generation(leased) + 1) & (UINT64_MAX >> 37);
    return prefetched == 0 || ahead_and_one > 2 || shmq_word_slot(prefetched) != shmq_word_slot(leased);
}

/* -- who looks ------------------------------------------------------------------------------------------------------- */

#define VIEWERS 4

static uint32_t viewer_at(uint64_t viewers, int place) { return (uint32_t)(viewers >> 16 * place & 0xffff); }

/* Change the first entry that reads `from`. False: there is none. */
static bool change_viewer(struct shmq_port *port, uint32_t cell, uint32_t from, uint32_t to) {
    shmq_word *word = &port->cells[cell].viewers;
    uint64_t before = shmq_load_seq(word);
    for (int place = 0, tries = 0; place < VIEWERS && tries < 64; place++) { /* only a scribbler makes it that many */
        if (viewer_at(before, place) != from) continue;
        uint64_t after = (before & ~(UINT64_C(0xffff) << 16 * place)) | (uint64_t)to << 16 * place;
        if (shmq_swap_seq(word, &before, after)) return true; /* [view] */
        place = -1, tries++;
    }
    return false;
}

shmq_status shmq_view_begin(struct shmq_port *port, uint32_t cell, uint64_t leased) {
    if (!change_viewer(port, cell, 0, port->index + 1)) return SHMQ_NO_CELLS;
    SHMQ_CRASH_POINT(view_begun);
    if (shmq_load_seq(&port->cells[cell].word) == leased) return SHMQ_OK; /* [view] whoever gets it after us sees us */
    shmq_view_end(port, cell);
    return SHMQ_LOST;
}

void shmq_view_end(struct shmq_port *port, uint32_t cell) {
    change_viewer(port, cell, port->index + 1, 0);
    SHMQ_CRASH_POINT(view_ended);
    if (shmq_view_is(port, cell, port->index)) return;
    uint64_t word = shmq_load_seq(&port->cells[cell].word); /* [view] */
    if (shmq_cell_state(word) != SHMQ_HELD || shmq_cell_owner(word) != port->index) return;
    if (shmq_load_acquire(&port->cells[cell].handed) == word) shmq_cell_let_go(port, cell, word, SHMQ_SPARE); /* not acked by me */
}

bool shmq_view_is(const struct shmq_port *port, uint32_t cell, uint32_t viewer) {
    uint64_t viewers = shmq_load_seq(&port->cells[cell].viewers); /* [view] */
    for (int place = 0; place < VIEWERS; place++)
        if (viewer_at(viewers, place) == viewer + 1) return true;
    return false;
}

uint32_t shmq_view_first(struct shmq_port *port, uint32_t cell) {
    uint64_t viewers = shmq_load_seq(&port->cells[cell].viewers); /* [view] */
    for (int place = 0; viewers && place < VIEWERS; place++) {
        uint32_t viewer = viewer_at(viewers, place);
        if (viewer == 0) continue;
        if (viewer <= port->geometry.ports && shmq_load_acquire(&port->records[viewer - 1].owner)) return viewer - 1;
        change_viewer(port, cell, viewer, 0); /* nobody's: it detached, or died, when it was about to end its view */
    }
    return SHMQ_NO_PORT;
}

void shmq_view_forget(struct shmq_port *port, uint32_t cell, uint32_t viewer) {
    if (shmq_likely(shmq_load_seq(&port->cells[cell].viewers) == 0)) return;
    for (int place = 0; place < VIEWERS; place++) change_viewer(port, cell, viewer + 1, 0);
}

void shmq_view_settle(struct shmq_port *port, uint32_t cell) {
    uint64_t word = shmq_load_seq(&port->cells[cell].word); /* [view] after what was forgotten before */
    if (shmq_cell_state(word) != SHMQ_HELD || shmq_load_acquire(&port->cells[cell].handed) != word) return;
    /* The living may be about to do the same: all swap from this very word, and one of them does it. */
    if (!shmq_view_is(port, cell, shmq_cell_owner(word))) shmq_cell_let_go(port, cell, word, SHMQ_SPARE);
}

/* -- how it ends ----------------------------------------------------------------------------------------------------- */

shmq_status shmq_lease_ack(struct shmq_port *port, uint32_t cell, uint64_t leased, bool looking) {
    uint64_t next = shmq_cell_next(leased, looking ? SHMQ_HELD : SHMQ_IDLE, port->index, shmq_word_slot(leased));
    SHMQ_CRASH_POINT(ack_begun);
    if (!shmq_swap_seq(&port->cells[cell].word, &leased, next)) return SHMQ_LOST;
    SHMQ_CRASH_POINT(ack_done);
    shmq_count(&port->record->counters[SHMQ_ACKS], 1);
    return SHMQ_OK;
}

shmq_status shmq_lease_take_over(struct shmq_port *port, uint32_t cell, uint64_t *leased) {
    uint64_t word = *leased, next = shmq_cell_next(word, SHMQ_LEASED, port->index, shmq_word_slot(word));
    if (!shmq_swap_seq(&port->cells[cell].word, &word, next)) return SHMQ_LOST; /* [hand] */
    SHMQ_CRASH_POINT(lease_taken_over);
    *leased = next;
    return SHMQ_OK;
}

void shmq_delivery_ended(struct shmq_port *port, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns) {
    uint64_t deliveries = 0;
    if (shmq_word_slot(leased) >= port->geometry.total_slots) return;
    if (cause != SHMQ_RELEASED) {
        struct shmq_slot *slot = shmq_slot_at(port, shmq_word_slot(leased));
        uint64_t before = shmq_load_acquire(&slot->deliveries);
        /* The highest bit tells a tag from none: generation 0 of cell 0 comes round too. */
        uint64_t tag = UINT64_C(1) << 63 | shmq_cell_generation(leased) << 30 | (uint64_t)cell << 16;
        const uint64_t of_tag = ~(UINT64_C(7) << 57 | 0xffff);
        uint32_t failed = shmq_deliveries_failed(before);
        deliveries = before;
        /* Otherwise whoever died between this and the next step had counted already; or who died was burying it, which is
         * no delivery: the cause stays what it was, and a rejected message is to be buried whatever becomes of its buriers. */
        if ((before & of_tag) != tag && !shmq_message_exhausted(port, before)) {
            if (failed == 0) {
                uint64_t now = shmq_now_coarse_ns(), age_ms = now > slot->published_ns ? (now - slot->published_ns) / 1000000 : 0;
                slot->first_failed_ms = age_ms < UINT32_MAX ? (uint32_t)age_ms : UINT32_MAX;
            }
            if (failed < 0xffff) failed++;
            deliveries = tag | (uint64_t)cause << 57 | failed;
            shmq_swap_seq(&slot->deliveries, &before, deliveries);
        }
        if (delay_ns == SHMQ_BY_POLICY) delay_ns = rest_ns(&port->policy, failed, slot->id ^ failed ^ shmq_now_ns());
    } else if (delay_ns == SHMQ_BY_POLICY) delay_ns = 0;
    uint64_t due = delay_ns && !shmq_message_exhausted(port, deliveries) ? /* who is to be buried need not rest */
        shmq_now_ns() + (delay_ns < LONGEST_NS ? delay_ns : LONGEST_NS) : 0;
    shmq_store_relaxed(&port->cells[cell].due_ns, due); /* released by the word that makes it ORPHAN */
    /* A deadline of long ago must not be taken for that of the next lease, when the generations come round to its 16 bits. */
    shmq_store_relaxed(&port->cells[cell].expires, shmq_expires_word(shmq_cell_generation(leased) + 0x8000, 0));
    SHMQ_CRASH_POINT(delivery_ended);
}

shmq_status shmq_lease_give_back(struct shmq_port *port, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns) {
    if (shmq_cell_state(leased) == SHMQ_TIMED && shmq_lease_take_over(port, cell, &leased) != SHMQ_OK) return SHMQ_LOST;
    if (shmq_load_acquire(&port->cells[cell].word) != leased) return SHMQ_LOST;
    shmq_delivery_ended(port, cell, leased, cause, delay_ns);
    if (!shmq_swap_seq(&port->cells[cell].word, &leased, shmq_cell_next(leased, SHMQ_ORPHAN, SHMQ_NO_PORT, shmq_word_slot(leased))))
        return SHMQ_LOST; /* [hand] */
    SHMQ_CRASH_POINT(lease_orphaned);
    shmq_add_seq(&port->header->orphan_epoch, 1); /* [epoch] */
    if (cause == SHMQ_NACKED) shmq_count(&port->record->counters[SHMQ_NACKS], 1);
    shmq_wake(port, SHMQ_ITEMS);
    return SHMQ_OK;
}

uint32_t shmq_lease_expire(struct shmq_port *port) {
    uint32_t expired = 0;
    port->expiry_ns = SHMQ_FOREVER;
    if (!shmq_load_acquire(&port->header->timing)) return 0;
    uint64_t now = shmq_now_ns();
    for (uint32_t i = 0; i < port->geometry.cells; i++) {
        struct shmq_cell *cell = &port->cells[i];
        uint64_t word = shmq_load_acquire(&cell->word); /* [hand] */
        if (shmq_cell_state(word) != SHMQ_TIMED) continue;
        uint64_t expires = shmq_load_acquire(&cell->expires), deadline = shmq_expires_ns(expires);
        if (shmq_expires_ahead(expires, word) > 1) {
            /* Its holder adopted it and has not yet written until when: perhaps it was stopped there. Start its clock for it. */
            deadline = now + (port->policy.lease_timeout_ns ? port->policy.lease_timeout_ns : UNSAID_NS);
            shmq_swap_seq(&cell->expires, &expires, shmq_expires_word(shmq_cell_generation(word), deadline));
        }
        if (deadline > now) {
            if (deadline < port->expiry_ns) port->expiry_ns = deadline;
            continue;
        }
        if (shmq_word_slot(word) >= port->geometry.total_slots) continue;
        enum shmq_cause cause = shmq_lease_begun(port, i, word) ? SHMQ_EXPIRED : SHMQ_RELEASED;
        shmq_add_seq(&shmq_owner_begun, 1); /* [end] */
        if (shmq_lease_take_over(port, i, &word) == SHMQ_OK) { /* else acked, extended, or somebody was quicker */
            shmq_add_relaxed(&port->header->events[SHMQ_EXPIRIES], 1);
            expired += shmq_lease_give_back(port, i, word, cause, SHMQ_BY_POLICY) == SHMQ_OK;
        }
        shmq_add_seq(&shmq_owner_ended, 1); /* [end] */
    }
    return expired;
}

/* -- what came back -------------------------------------------------------------------------------------------------- */

/* After an adoption that made the cell TIMED: until when, unless somebody already started the clock for us. */
static void write_deadline(struct shmq_port *port, uint32_t cell, uint64_t word, uint64_t deadline_ns) {
    uint64_t before = shmq_load_acquire(&port->cells[cell].expires), wanted = shmq_expires_word(shmq_cell_generation(word), deadline_ns);
    for (int tries = 0; tries < 8 && shmq_expires_ahead(before, word) != 0; tries++) /* only a scribbler loses it more often */
        if (shmq_swap_seq(&port->cells[cell].expires, &before, wanted)) return;
}

/* The oldest of those that may be taken (buried) now: its cell and word. Otherwise SHMQ_NO_CELL, and *next_due is when the first that
 * rests is due, or SHMQ_FOREVER. */
static uint32_t oldest_orphan(const struct shmq_port *port, enum shmq_wish wish, uint64_t *found, bool *exhausted, uint64_t *next_due) {
    uint64_t now = 0, first = 0;
    uint32_t oldest = SHMQ_NO_CELL;
    *next_due = SHMQ_FOREVER;
    for (uint32_t i = 0; i < port->geometry.cells; i++) {
        const struct shmq_cell *cell = &port->cells[i];
        uint64_t word = shmq_load_acquire(&cell->word); /* [hand] */
        if (shmq_cell_state(word) != SHMQ_ORPHAN || shmq_word_slot(word) >= port->geometry.total_slots) continue;
        bool failed = shmq_message_exhausted(port, shmq_load_relaxed(&shmq_slot_at(port, shmq_word_slot(word))->deliveries));
        if (wish == SHMQ_TO_BURY ? !failed : wish == SHMQ_TO_TAKE && failed && !port->buries) continue;
        uint64_t due = wish == SHMQ_TO_DISCARD ? 0 : shmq_load_relaxed(&cell->due_ns), taken_at = shmq_load_relaxed(&cell->taken_at);
        if (due && now == 0) now = shmq_now_ns();
        if (due > now) {
            if (due < *next_due) *next_due = due;
        } else if (oldest == SHMQ_NO_CELL || shmq_seq_ahead(taken_at, first) < 0) {
            oldest = i;
            first = taken_at;
            *found = word;
            *exhausted = failed;
        }
    }
    return oldest;
}

/* How often an adopter finds that another was quicker, before it says that it found nothing: it looks again the next time. */
#define ADOPTIONS 64

shmq_status shmq_orphan_adopt(struct shmq_port *port, uint64_t deadline_ns, uint32_t *cell) {
    uint64_t epoch = shmq_load_seq(&port->header->orphan_epoch); /* [epoch] */
    if (shmq_likely(epoch == port->epoch_seen)) {
        if (shmq_likely(port->due_ns == SHMQ_FOREVER) || shmq_now_ns() < port->due_ns) return SHMQ_WOULD_BLOCK;
    }
    for (int tries = 0; tries < ADOPTIONS; tries++) {
        uint64_t word, next_due;
        bool exhausted;
        uint32_t oldest = oldest_orphan(port, SHMQ_TO_TAKE, &word, &exhausted, &next_due);
        if (oldest == SHMQ_NO_CELL) {
            port->epoch_seen = epoch;
            port->due_ns = next_due;
            return SHMQ_WOULD_BLOCK;
        }
        bool timed = deadline_ns && !exhausted;
        uint64_t mine = shmq_cell_next(word, timed ? SHMQ_TIMED : SHMQ_LEASED, port->index, shmq_word_slot(word));
        if (timed) begin_timing(port, deadline_ns);
        if (!shmq_swap_seq(&port->cells[oldest].word, &word, mine)) continue;
        SHMQ_CRASH_POINT(orphan_adopted);
        if (timed) write_deadline(port, oldest, mine, deadline_ns);
        *cell = oldest;
        if (exhausted) return SHMQ_EXHAUSTED;
        shmq_count(&port->record->counters[SHMQ_REDELIVERIES], 1);
        return SHMQ_OK;
    }
    return SHMQ_WOULD_BLOCK;
}

bool shmq_orphan_due(struct shmq_port *port) {
    uint64_t epoch = shmq_load_seq(&port->header->orphan_epoch), word, next_due; /* [epoch] */
    bool exhausted;
    if (shmq_likely(epoch == port->epoch_seen) && (shmq_likely(port->due_ns == SHMQ_FOREVER) || shmq_now_ns() < port->due_ns)) return false;
    if (oldest_orphan(port, SHMQ_TO_TAKE, &word, &exhausted, &next_due) != SHMQ_NO_CELL) return true;
    port->epoch_seen = epoch; /* as an adoption that found nothing */
    port->due_ns = next_due;
    return false;
}

bool shmq_orphan_claim(struct shmq_port *port, enum shmq_wish wish, uint32_t *cell) {
    uint64_t word, next_due;
    bool exhausted;
    for (int tries = 0; tries < ADOPTIONS; tries++) {
        *cell = oldest_orphan(port, wish, &word, &exhausted, &next_due); /* not one that could not be written a moment ago */
        if (*cell == SHMQ_NO_CELL) return false;
        if (shmq_swap_seq(&port->cells[*cell].word, &word, shmq_cell_next(word, SHMQ_LEASED, port->index, shmq_word_slot(word)))) return true;
    }
    return false;
}
