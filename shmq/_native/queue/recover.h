/* Reaping: taking back what a dead port held of a queue.
 *
 * One question can be open when a port's owner is dead: did its last exchange happen? The intent names what it wanted to
 * give and to take. If its in-flight cell already names `take`, or there is no intent, nothing is open. Otherwise exactly
 * one of the two slots is in circulation, and the other belongs to the dead port. A sighting of `give` in a ring cell, or
 * in an in-flight cell whose owner has no open exchange of it itself, proves that the exchange happened; a sighting
 * of `take` proves that it did not. After neither, scan again a little later. Why the exception: the cell of an owner whose own
 * exchange is open may still name a slot that it has already given away.
 */
#ifndef SHMQ_RECOVER_H
#define SHMQ_RECOVER_H

#include "port.h"

/* See struct shmq_behaviour. */
bool shmq_queue_recover(struct shmq_queue_port *queue, uint32_t dead);

#endif
