#define _GNU_SOURCE
#include "await.h"

#include "../reap.h"
#include "lease.h"
#include "pace.h"

/* Take back what the dead held, and leases whose time is over. */
static bool take_back(struct shmq_port *port) {
    uint32_t freed = shmq_reap(port);
    return shmq_lease_expire(port) + freed != 0;
}

static bool tend(struct shmq_port *port, uint64_t now) {
    if (shmq_unlikely(shmq_claim_look(port, now))) return take_back(port);
    if (shmq_likely(port->expiry_ns == SHMQ_FOREVER)) return false;
    return shmq_now_ns() >= port->expiry_ns && shmq_lease_expire(port); /* a lease of which this handle knows */
}

bool shmq_tend(struct shmq_port *port) { return tend(port, shmq_now_coarse_ns()); }

/* A message came back. After the deadline that is worth one look more, not as many as a scribbler lets leases expire. */
static bool worth_a_look(uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_now_ns() < deadline_ns) return true;
    if (patience->late) return false;
    return patience->late = true;
}

shmq_status shmq_await(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience) {
    if (shmq_tend(port) && worth_a_look(deadline_ns, patience)) return SHMQ_OK;
    if (!patience->spun) {
        patience->spun = true;
        if (shmq_spin(port, side, deadline_ns)) return SHMQ_OK;
    }
    shmq_duty_take(port, shmq_now_ns(), &patience->duty);
    if (patience->duty.what != SHMQ_WATCH) port->expiry_ns = SHMQ_FOREVER; /* when leases are over is the business of the watch */
    else if (shmq_lease_expire(port) && worth_a_look(deadline_ns, patience)) { /* the watch finds out how long it may sleep */
        shmq_duty_end(port, &patience->duty);
        return SHMQ_OK;
    }
    shmq_status status = shmq_wait_park(port, side, deadline_ns, patience);
    shmq_duty_end(port, &patience->duty);
    if (status != SHMQ_TIMED_OUT) return status;
    uint64_t now = shmq_now_ns();
    if (now >= deadline_ns) return SHMQ_TIMED_OUT;
    tend(port, now);
    return SHMQ_OK;
}

shmq_status shmq_await_cell(struct shmq_port *port, uint64_t deadline_ns, struct shmq_patience *patience) {
    if (patience->slice_ms >= 8 && shmq_now_ns() < deadline_ns) tend(port, shmq_now_ns());
    return shmq_wait_nap(deadline_ns, patience);
}
