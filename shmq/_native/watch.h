/* The watch: looking for the dead, and for expired leases.
 *
 * A look is due every SHMQ_SLICE_MS, and the sleepers of a segment share that. One of them keeps the watch, and wakes when the next
 * look is due. Its deputy wakes a little later, and looks where the watch has not: it was killed, stopped, or woken by a message.
 * All others sleep for longer, which is also what a lost wake-up can cost. A look is a system call for each attached port, and is taken
 * by the port that is awake and moves `look_due`.
 */
#ifndef SHMQ_WATCH_H
#define SHMQ_WATCH_H

#include "port.h"

#define SHMQ_SLICE_MS 80u /* with what it takes to be scheduled, a death is noticed within 0.1 s */
#define SHMQ_DEPUTY_MS 15u
#define SHMQ_SLICE_MOST_MS 250u

#define SHMQ_NS_PER_MS UINT64_C(1000000)

/* The duty that a sleeper has taken, and until when. The time stands in shared memory, so that the duty ends by itself where its
 * holder is killed or stopped. */
struct shmq_duty {
    enum { SHMQ_NO_DUTY = 0, SHMQ_WATCH = 1, SHMQ_DEPUTY = 2 } what;
    uint64_t until;
};

/* Before a sleep: take a duty that no other sleeper has. After it: give it back. */
void shmq_duty_take(struct shmq_port *port, uint64_t now, struct shmq_duty *duty);
void shmq_duty_end(struct shmq_port *port, struct shmq_duty *duty);

/* When a sleeper with this duty is to look. */
uint64_t shmq_duty_look(const struct shmq_port *port, uint64_t now, const struct shmq_duty *duty);

/* True: a look is due, and it is the caller's, which has moved the time. False also where this process cannot tell the living from
 * the dead: another one must look. */
bool shmq_claim_look(struct shmq_port *port, uint64_t now);

#endif
