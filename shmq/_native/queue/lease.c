#define _GNU_SOURCE
#include "lease.h"

#include "../owner.h"
#include "../wake.h"
#include "look.h"
#include "slots.h"

#define UNSAID_NS UINT64_C(30000000000) /* for an owner that was stopped before it could write until when */

/* -- while it lasts -------------------------------------------------------------------------------------------------- */

void shmq_lease_time(struct shmq_queue_port *queue, uint32_t cell, uint64_t deadline_ns) {
    shmq_lease_begin_timing(queue, deadline_ns);
    uint64_t generation = shmq_cell_generation(shmq_cell_load(queue, cell)) + 1; /* the exchange moves it on */
    shmq_store_relaxed(&queue->cells[cell].expires, shmq_expires_word(generation, deadline_ns)); /* released by the exchange */
}

shmq_status shmq_lease_extend(struct shmq_queue_port *queue, uint32_t cell, uint64_t *leased, uint64_t deadline_ns) {
    struct shmq_cell *mine = &queue->cells[cell];
    uint64_t word = *leased, next = shmq_cell_next(word, SHMQ_TIMED, queue->port.index, shmq_word_slot(word));
    /* [deadline] */
    uint64_t expires = shmq_load_acquire(&mine->expires), wanted = shmq_expires_word(shmq_cell_generation(next), deadline_ns);
    bool begun = shmq_lease_begun(queue, cell, word);
    shmq_lease_begin_timing(queue, deadline_ns);
    /* The deadline first, for the word to come. Until that stands, a look for expired leases takes the deadline for this lease's
     * (shmq_expires_ahead). A swap, since the cell may be another port's, and the deadline that of another lease. */
    if (shmq_cell_state(word) == SHMQ_TIMED && shmq_expires_ahead(expires, word) != 0) return SHMQ_LOST;
    /* [hand] [deadline] */
    if (shmq_load_acquire(&mine->word) != word || !shmq_swap_seq(&mine->expires, &expires, wanted)) return SHMQ_LOST;
    uint64_t marked = word;
    if (!begun) shmq_swap_seq(&mine->prefetched, &marked, next); /* [mark]: the mark may be another lease's, too */
    SHMQ_CRASH_POINT(extend_written);
    if (!shmq_swap_seq(&mine->word, &word, next)) return SHMQ_LOST; /* [hand] */
    *leased = next;
    return SHMQ_OK;
}

void shmq_lease_mark(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, bool begun) {
    struct shmq_cell *mine = &queue->cells[cell];
    /* Where the time of the lease is over, the cell may be another port's, and the mark that of another lease. */
    uint64_t before = begun ? leased : shmq_load_acquire(&mine->prefetched); /* [mark] */
    if (!begun && shmq_cell_owner(shmq_load_acquire(&mine->word)) != queue->port.index) return; /* [hand] */
    shmq_swap_seq(&mine->prefetched, &before, begun ? 0 : leased); /* [mark] */
}

bool shmq_lease_begun(const struct shmq_queue_port *queue, uint32_t cell, uint64_t leased) {
    uint64_t prefetched = shmq_load_acquire(&queue->cells[cell].prefetched); /* [mark] */
    /* One generation ahead: the lease is being extended. One behind: it was taken over a moment ago, since its time was over or its
     * owner was dead. The words of another lease lie further off, since no lease follows another at once. */
    uint64_t ahead_and_one = (shmq_cell_generation(prefetched) - shmq_cell_generation(leased) + 1) & (UINT64_MAX >> 37);
    return prefetched == 0 || ahead_and_one > 2 || shmq_word_slot(prefetched) != shmq_word_slot(leased);
}

/* -- how it ends ----------------------------------------------------------------------------------------------------- */

shmq_status shmq_lease_ack(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, bool looking) {
    uint64_t next = shmq_cell_next(leased, looking ? SHMQ_HELD : SHMQ_IDLE, queue->port.index, shmq_word_slot(leased));
    SHMQ_CRASH_POINT(ack_begun);
    if (!shmq_swap_seq(&queue->cells[cell].word, &leased, next)) return SHMQ_LOST; /* [hand] [park] */
    SHMQ_CRASH_POINT(ack_done);
    shmq_count(&queue->port.record->counters[SHMQ_ACKS], 1);
    return SHMQ_OK;
}

shmq_status shmq_lease_take_over(struct shmq_queue_port *queue, uint32_t cell, uint64_t *leased) {
    uint64_t word = *leased, next = shmq_cell_next(word, SHMQ_LEASED, queue->port.index, shmq_word_slot(word));
    if (!shmq_swap_seq(&queue->cells[cell].word, &word, next)) return SHMQ_LOST; /* [hand] [end] [view] */
    SHMQ_CRASH_POINT(lease_taken_over);
    *leased = next;
    return SHMQ_OK;
}

void shmq_delivery_ended(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns) {
    uint64_t deliveries = 0;
    if (shmq_word_slot(leased) >= queue->geometry.total_slots) return;
    if (cause != SHMQ_RELEASED) {
        struct shmq_slot *slot = shmq_slot_at(queue, shmq_word_slot(leased));
        uint64_t before = shmq_load_acquire(&slot->deliveries); /* [failed] */
        /* The highest bit tells a tag from none: generation 0 of cell 0 comes round, too. */
        uint64_t tag = UINT64_C(1) << 63 | shmq_cell_generation(leased) << 30 | (uint64_t)cell << 16;
        const uint64_t of_tag = ~(UINT64_C(7) << 57 | 0xffff);
        uint32_t failed = shmq_deliveries_failed(before);
        deliveries = before;
        /* Otherwise the process that died between this and the next step had counted already; or it died while it wrote the dead letter,
         * which is no delivery. The cause stays what it was, and a rejected message becomes a dead letter, whichever process writes it. */
        if ((before & of_tag) != tag && !shmq_message_exhausted(queue, before)) {
            if (failed == 0) {
                uint64_t now = shmq_now_coarse_ns(), age_ms = now > slot->published_ns ? (now - slot->published_ns) / 1000000 : 0;
                slot->first_failed_ms = age_ms < UINT32_MAX ? (uint32_t)age_ms : UINT32_MAX;
            }
            if (failed < 0xffff) failed++;
            deliveries = tag | (uint64_t)cause << 57 | failed;
            shmq_swap_seq(&slot->deliveries, &before, deliveries); /* [failed] */
        }
        if (delay_ns == SHMQ_BY_POLICY) delay_ns = shmq_policy_rest_ns(&queue->policy, failed, slot->id ^ failed ^ shmq_now_ns());
    } else if (delay_ns == SHMQ_BY_POLICY) delay_ns = 0;
    uint64_t due = delay_ns && !shmq_message_exhausted(queue, deliveries) ? /* what is to become a dead letter need not rest */
        shmq_now_ns() + (delay_ns < SHMQ_LONGEST_NS ? delay_ns : SHMQ_LONGEST_NS) : 0;
    shmq_store_relaxed(&queue->cells[cell].due_ns, due); /* released by the word that makes it ORPHAN */
    /* A deadline of long ago must not be taken for that of the next lease, when the generations come round to its 16 bits. */
    shmq_store_relaxed(&queue->cells[cell].expires, shmq_expires_word(shmq_cell_generation(leased) + 0x8000, 0));
    SHMQ_CRASH_POINT(delivery_ended);
}

shmq_status shmq_lease_give_back(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased, enum shmq_cause cause, uint64_t delay_ns) {
    if (shmq_cell_state(leased) == SHMQ_TIMED && shmq_lease_take_over(queue, cell, &leased) != SHMQ_OK) return SHMQ_LOST;
    if (shmq_load_acquire(&queue->cells[cell].word) != leased) return SHMQ_LOST; /* [hand] */
    shmq_delivery_ended(queue, cell, leased, cause, delay_ns);
    /* [hand] [end] [park] */
    if (!shmq_swap_seq(&queue->cells[cell].word, &leased, shmq_cell_next(leased, SHMQ_ORPHAN, SHMQ_NO_PORT, shmq_word_slot(leased))))
        return SHMQ_LOST; /* [hand] */
    SHMQ_CRASH_POINT(lease_orphaned);
    shmq_add_seq(&queue->header->orphan_changes, 1); /* [orphan] */
    if (cause == SHMQ_NACKED) shmq_count(&queue->port.record->counters[SHMQ_NACKS], 1);
    shmq_wake(&queue->port, SHMQ_ITEMS);
    return SHMQ_OK;
}

uint32_t shmq_lease_expire(struct shmq_queue_port *queue) {
    uint32_t expired = 0;
    queue->expiry_ns = SHMQ_FOREVER;
    if (!shmq_load_acquire(&queue->header->timing)) return 0; /* [timing] */
    uint64_t now = shmq_now_ns(), word;
    for (uint32_t i = 0; shmq_find_cell(queue, SHMQ_IN_STATE(SHMQ_TIMED), &i, &word); i++) {
        struct shmq_cell *cell = &queue->cells[i];
        uint64_t expires = shmq_load_acquire(&cell->expires), deadline = shmq_expires_ns(expires); /* [deadline] */
        if (shmq_expires_ahead(expires, word) > 1) {
            /* Its owner adopted it and has not yet written until when: perhaps it was stopped there. Start its clock for it. */
            deadline = now + (queue->policy.lease_timeout_ns ? queue->policy.lease_timeout_ns : UNSAID_NS);
            shmq_swap_seq(&cell->expires, &expires, shmq_expires_word(shmq_cell_generation(word), deadline)); /* [deadline] */
        }
        if (deadline > now) {
            if (deadline < queue->expiry_ns) queue->expiry_ns = deadline;
            continue;
        }
        if (shmq_word_slot(word) >= queue->geometry.total_slots) continue;
        enum shmq_cause cause = shmq_lease_begun(queue, i, word) ? SHMQ_EXPIRED : SHMQ_RELEASED;
        shmq_add_seq(&shmq_owner_begun, 1); /* [end] */
        if (shmq_lease_take_over(queue, i, &word) == SHMQ_OK) { /* else acked, extended, or another port was quicker */
            shmq_add_relaxed(&queue->header->events[SHMQ_EXPIRIES], 1);
            expired += shmq_lease_give_back(queue, i, word, cause, SHMQ_BY_POLICY) == SHMQ_OK;
        }
        shmq_add_seq(&shmq_owner_ended, 1); /* [end] */
    }
    return expired;
}
