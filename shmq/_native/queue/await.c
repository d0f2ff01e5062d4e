#define _GNU_SOURCE
#include "await.h"

#include "../reap.h"
#include "lease.h"
#include "pace.h"

/* Take back what the dead held, and leases whose time is over. */
static bool take_back(struct shmq_queue_port *queue) {
    uint32_t freed = shmq_reap(&queue->port);
    return shmq_lease_expire(queue) + freed != 0;
}

static bool tend(struct shmq_queue_port *queue, uint64_t now) {
    if (shmq_unlikely(shmq_claim_look(&queue->port, now))) return take_back(queue);
    if (shmq_likely(queue->expiry_ns == SHMQ_FOREVER)) return false;
    return shmq_now_ns() >= queue->expiry_ns && shmq_lease_expire(queue); /* a lease of which this handle knows */
}

bool shmq_tend(struct shmq_queue_port *queue) { return tend(queue, shmq_now_coarse_ns()); }

/* A message came back. After the deadline that is worth one look more, not as many as a scribbler lets leases expire. */
static bool worth_a_look(uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_now_ns() < deadline_ns) return true;
    if (patience->late) return false;
    return patience->late = true;
}

shmq_status shmq_await(struct shmq_queue_port *queue, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_tend(queue) && worth_a_look(deadline_ns, patience)) return SHMQ_OK;
    if (!patience->spun) {
        patience->spun = true;
        if (shmq_spin(queue, side, deadline_ns)) return SHMQ_OK;
    }
    shmq_duty_take(&queue->port, shmq_now_ns(), &patience->duty);
    if (patience->duty.what != SHMQ_WATCH) queue->expiry_ns = SHMQ_FOREVER; /* when leases are over is the business of the watch */
    else if (shmq_lease_expire(queue) && worth_a_look(deadline_ns, patience)) { /* the watch finds out how long it may sleep */
        shmq_duty_end(&queue->port, &patience->duty);
        return SHMQ_OK;
    }
    const uint64_t due_ns = side == SHMQ_ITEMS && queue->due_ns < queue->expiry_ns ? queue->due_ns : queue->expiry_ns;
    shmq_status status = shmq_wait_park(&queue->port, side, deadline_ns, due_ns, patience);
    shmq_duty_end(&queue->port, &patience->duty);
    if (status != SHMQ_TIMED_OUT) return status;
    uint64_t now = shmq_now_ns();
    if (now >= deadline_ns) return SHMQ_TIMED_OUT;
    tend(queue, now);
    return SHMQ_OK;
}

shmq_status shmq_await_cell(struct shmq_queue_port *queue, uint64_t deadline_ns, struct shmq_patience *patience) {
    if (patience->slice_ms >= 8 && shmq_now_ns() < deadline_ns) tend(queue, shmq_now_ns());
    return shmq_wait_nap(deadline_ns, patience);
}
