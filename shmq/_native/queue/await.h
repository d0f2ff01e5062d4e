/* Waiting for a queue: what came back in the meantime is tended to, then spin, then sleep. */
#ifndef SHMQ_AWAIT_H
#define SHMQ_AWAIT_H

#include "../wait.h"

/* Take back what the dead held and what was held too long, if nobody of this segment has looked for a slice: so that a consumer
 * that only polls notices them too. True: something came back. */
bool shmq_tend(struct shmq_port *port);

/* Wait until a look is worth it, something came back, or the deadline has passed. Post: OK: look again;
 * TIMED_OUT: the deadline; INTERRUPTED: a signal. */
shmq_status shmq_await(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience);

/* How long a call of a C program waits for a cell that another call holds, whatever its time-out: that one may have been stopped. */
#define SHMQ_CELL_PATIENCE_NS UINT64_C(50000000)

/* Wait a little for an in-flight cell. Nobody announces those, so that the caller looks again. */
shmq_status shmq_await_cell(struct shmq_port *port, uint64_t deadline_ns, struct shmq_patience *patience);

#endif
