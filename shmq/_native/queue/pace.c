#define _GNU_SOURCE
#include "pace.h"

#include <sched.h>

#include "../wait.h"
#include "look.h"

#define SPIN_LEAST_NS 6000u  /* the shortest spin; a park and a wake-up cost the two sides more than that */
#define SPIN_ALONE_NS 2000u  /* from then on other processes may have the CPU between two looks */
#define PAUSE_MOST 8
#define LINGER_LEAST_NS 250u
#define LINGER_MOST_NS 8000u
#define LINGER_PROBE_MOST 1024u /* one get in so many tries whether lingering pays; in 16, where it paid lately */
#define LINGER_ENOUGH 96u  /* messages: a dozen cache lines of ring cells */
#define LINGER_WORTH_NS 256u /* less than a message in this time is no stream that a linger would help */
/* A producer that found the ring full waits for this much room (or a quarter of a small ring). It loses nothing, since
 * the consumer has a full ring before it. */
#define SPACE_ENOUGH 32u

void shmq_linger(struct shmq_queue_port *queue) {
    queue->caught_up = false;
    if (!queue->port.spins) return;
    uint32_t linger = queue->linger_ns;
    if (linger == 0) {
        if (++queue->lingers < queue->linger_probe) return;
        queue->lingers = 0;
        linger = LINGER_LEAST_NS;
    }
    uint32_t half = queue->geometry.slots / 2, enough = half < LINGER_ENOUGH ? half : LINGER_ENOUGH;
    uint64_t begun = shmq_now_ns(), written = shmq_load_relaxed(&queue->header->write_seq); /* a hint */
    bool plenty; /* looked for so far ahead that it disturbs no producer */
    do {
        shmq_pause();
        shmq_pause();
        plenty = shmq_ring_has_items(queue, enough);
    } while (!plenty && shmq_now_ns() - begun < linger);
    /* Messages that were there before did not come because this consumer held back: a burst, or a batch of its own. */
    bool came = shmq_load_relaxed(&queue->header->write_seq) != written;
    if (!came || (!plenty && !shmq_ring_has_items(queue, linger / LINGER_WORTH_NS + 1))) {
        queue->linger_ns = linger / 2 < LINGER_LEAST_NS ? 0 : linger / 2;
        if (queue->linger_probe < LINGER_PROBE_MOST) queue->linger_probe *= 2;
        return;
    }
    queue->linger_probe = 16;
    queue->linger_ns = plenty || 2 * linger > LINGER_MOST_NS ? linger : 2 * linger;
}

bool shmq_spin(struct shmq_queue_port *queue, enum shmq_side side, uint64_t deadline_ns) {
    if (!queue->port.spins) return false;
    /* Polling takes the cache line from the process that is about to write it, so the looks grow rarer. A ring that
     * is nearly empty then fills by a few messages between two looks, and one transfer of the line serves them all. */
    uint64_t begun = shmq_now_ns(), limit = queue->spin_ns[side];
    uint32_t quarter = queue->geometry.slots / 4, enough = quarter < SPACE_ENOUGH ? quarter : SPACE_ENOUGH;
    bool patient = side == SHMQ_SPACE && enough > 1; /* for the first microseconds */
    for (unsigned pauses = 1;; pauses = pauses < PAUSE_MOST ? pauses * 2 : pauses) {
        for (unsigned i = 0; i < pauses; i++) shmq_pause();
        if (patient ? shmq_ring_has_spaces(queue, enough) : shmq_promising(queue, side, false)) {
            queue->spin_ns[side] = limit < SHMQ_SPIN_NS ? limit * 2 : limit;
            return true;
        }
        if (pauses < PAUSE_MOST) continue;
        uint64_t now = shmq_now_ns();
        patient = patient && now - begun < SPIN_ALONE_NS;
        if (now - begun > limit || now >= deadline_ns) break;
        if (now - begun > SPIN_ALONE_NS) sched_yield(); /* the producer of the message may be waiting for this CPU */
    }
    queue->spin_ns[side] = limit > 2 * SPIN_LEAST_NS ? limit / 2 : SPIN_LEAST_NS; /* it did not help: less next time */
    return false;
}
