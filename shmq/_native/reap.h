/* Ports of the dead: found, and free again.
 *
 * What such a port held is taken back by the queue, or whatever else the segment holds (struct shmq_behaviour).
 */
#ifndef SHMQ_REAP_H
#define SHMQ_REAP_H

#include "port.h"

/* Recover every port whose owner is dead; there is one reaper per segment at a time, and others return at once. Post: how many ports
 * were freed. Killed here: every step is one word, and the next reaper goes on. */
uint32_t shmq_reap(struct shmq_port *port);

#endif
