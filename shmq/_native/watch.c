#define _GNU_SOURCE
#include "watch.h"

#include "owner.h"

#define LOOK_NS (SHMQ_SLICE_MS * SHMQ_NS_PER_MS)
#define LATE_NS (10 * SHMQ_NS_PER_MS) /* a sleeper that wakes up to this late still has its duty */

/* Is a time of the header to come? One that is too far off is a scribbler's, or of a process whose monotonic clock differs: it
 * binds no port. */
static bool is_to_come(uint64_t time, uint64_t now) { return time - now - 1 < 2 * LOOK_NS; }

void shmq_duty_take(struct shmq_port *port, uint64_t now, struct shmq_duty *mine) {
    mine->what = SHMQ_NO_DUTY;
    for (int duty = SHMQ_WATCH; duty <= SHMQ_DEPUTY; duty++) {
        shmq_word *until = &port->header->watch[duty - SHMQ_WATCH];
        uint64_t before = shmq_load_relaxed(until);
        if (is_to_come(before, now)) continue;
        mine->until = now + LOOK_NS + (duty == SHMQ_DEPUTY ? SHMQ_DEPUTY_MS * SHMQ_NS_PER_MS : 0) + LATE_NS;
        if (!shmq_swap_seq(until, &before, mine->until)) continue; /* [duty] */
        mine->what = duty;
        return;
    }
}

void shmq_duty_end(struct shmq_port *port, struct shmq_duty *mine) {
    uint64_t until = mine->until;
    /* [duty]: it may be another's */
    if (mine->what != SHMQ_NO_DUTY) shmq_swap_seq(&port->header->watch[mine->what - SHMQ_WATCH], &until, 0);
    mine->what = SHMQ_NO_DUTY;
}

uint64_t shmq_duty_look(const struct shmq_port *port, uint64_t now, const struct shmq_duty *duty) {
    uint64_t due = shmq_load_relaxed(&port->header->look_due);
    uint64_t look = due - now - 1 < LOOK_NS ? due : now + LOOK_NS;
    return duty->what == SHMQ_WATCH ? look : duty->what == SHMQ_DEPUTY ? look + SHMQ_DEPUTY_MS * SHMQ_NS_PER_MS
                                                                       : now + SHMQ_SLICE_MOST_MS * SHMQ_NS_PER_MS;
}

bool shmq_claim_look(struct shmq_port *port, uint64_t now) {
    if (now < port->look_ns) return false;
    uint64_t due = shmq_load_relaxed(&port->header->look_due);
    bool is_others = due - now - 1 < LOOK_NS;
    port->look_ns = is_others ? due : now + LOOK_NS;
    return !is_others && shmq_owner_can_judge() && shmq_swap_seq(&port->header->look_due, &due, now + LOOK_NS); /* [look] */
}
