/* Taking back what the dead held.
 *
 * One question can be open when a port's owner is dead: did its last exchange happen? The intent names what it wanted to
 * give and to take. If its in-flight cell already names `take`, or there is no intent, nothing is open. Otherwise exactly
 * one of the two slots is in circulation, and the other belongs to the dead port. A sighting of `give` in a ring cell, or
 * in an in-flight cell whose owner is not itself in the same open moment, proves that the exchange happened; a sighting
 * of `take` proves that it did not; neither: scan again a little later. Why the exception: the cell of an owner in an open
 * moment may still name a slot that it has already given away.
 */
#ifndef SHMQ_REAP_H
#define SHMQ_REAP_H

#include "port.h"

/* Recover every port whose owner is dead; one reaper per segment at a time, others return at once. Post: how many ports
 * were freed. Killed here: every step is one word, and the next reaper goes on. */
uint32_t shmq_reap(struct shmq_port *port);

#endif
