/* The pace of a queue's two sides: spinning before a sleep, and holding back behind a quick producer. */
#ifndef SHMQ_PACE_H
#define SHMQ_PACE_H

#include "port.h"

/* Spin until the side looks promising (true) or spinning has ceased to be worth it (false). */
bool shmq_spin(struct shmq_queue_port *queue, enum shmq_side side, uint64_t deadline_ns);

/* Before a get that follows one which took the last message: hold back a moment, if that has paid lately.
 *
 * A consumer on the heels of a producer waits for every cache line while the producer waits to get it back, and a message
 * costs three transfers. A little further back, eight messages share one. Whether messages would come meanwhile
 * (a stream) or not (a ping-pong) is found out by trying: rarely while it does not pay, doubled while it does. */
void shmq_linger(struct shmq_queue_port *queue);

#endif
