/* Who looks for the dead, and for leases that are over.
 *
 * Somebody looks for the dead, and for leases that are over, after this long, and sleepers share that: one of a segment's keeps the
 * watch, and wakes when the next look is due. A deputy wakes a little later, and looks in its stead where it has not: it was
 * killed, stopped, or woken by a message. All others sleep for longer, which is what a lost wake-up can cost while the
 * watch sleeps, too; a look is a system call for each attached port, and is taken by whoever is awake and moves `look_due`.
 */
#ifndef SHMQ_WATCH_H
#define SHMQ_WATCH_H

#include "port.h"

#define SHMQ_SLICE_MS 80u /* with what it takes to be scheduled, a death is noticed within 0.1 s */
#define SHMQ_DEPUTY_MS 15u
#define SHMQ_SLICE_MOST_MS 250u

#define SHMQ_NS_PER_MS UINT64_C(1000000)

/* What a sleeper has taken upon itself, and until when: a time in shared memory, so that it ends by itself where its holder is killed
 * or stopped. */
struct shmq_duty {
    enum { SHMQ_NO_DUTY = 0, SHMQ_WATCH = 1, SHMQ_DEPUTY = 2 } what;
    uint64_t until;
};

/* Before a sleep: take a duty that nobody has; and give it back after it. */
void shmq_duty_take(struct shmq_port *port, uint64_t now, struct shmq_duty *duty);
void shmq_duty_end(struct shmq_port *port, struct shmq_duty *duty);

/* When a sleeper of this duty is to look. */
uint64_t shmq_duty_look(const struct shmq_port *port, uint64_t now, const struct shmq_duty *duty);

/* The look is due, and ours: whoever moves the time looks. Not where we can judge nobody: another one must. */
bool shmq_claim_look(struct shmq_port *port, uint64_t now);

#endif
