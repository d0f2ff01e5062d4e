/* Waiting for a queue: reap and expire what is due, then spin, then sleep. */
#ifndef SHMQ_AWAIT_H
#define SHMQ_AWAIT_H

#include "../wait.h"
#include "port.h"

/* Take back what the dead held, and leases whose time is over, if no port of this segment has looked for a slice. So a consumer that
 * only polls notices them, too. True: a message came back, or a port was freed. */
bool shmq_tend(struct shmq_queue_port *queue);

/* Wait until a look is worth it, a message came back, or the deadline has passed. Post: OK: look again;
 * TIMED_OUT: the deadline; INTERRUPTED: a signal. */
shmq_status shmq_await(struct shmq_queue_port *queue, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience);

/* How long a call of a C program waits for a cell that another call holds, whatever its time-out. The other call may have been stopped. */
#define SHMQ_CELL_PATIENCE_NS UINT64_C(50000000)

/* Wait a little for an in-flight cell. Those that become free are not announced: the caller looks again. */
shmq_status shmq_await_cell(struct shmq_queue_port *queue, uint64_t deadline_ns, struct shmq_patience *patience);

#endif
