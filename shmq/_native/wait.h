/* Sleeping until there may be a message, or room: the only part of the engine that blocks.
 *
 * A waiter announces itself in the header's count of waiters, looks again, and sleeps on the named POSIX semaphore of its side.
 * The semaphore is a hint only: under SIGKILL it may lose a wake-up or keep one too many, so every sleep is sliced and the
 * caller looks again. A waiter for several things at once does not sleep here, but arms a bell (bell.h).
 */
#ifndef SHMQ_WAIT_H
#define SHMQ_WAIT_H

#include "watch.h"

#define SHMQ_SPIN_NS 40000u    /* the longest spin */

/* CPUs of this machine. */
unsigned shmq_wait_cpus(void);

/* What one blocking call remembers between its looks. Begin with {0}. */
struct shmq_patience {
    bool spun;
    bool late;   /* it has had its one look after the deadline */
    bool stays;  /* the caller's: after a shutdown it also waits for messages that others may give back: see shmq_is_over */
    bool told;          /* the caller's: it has said that this takes long */
    uint32_t slice_ms;
    uint64_t begun_ns;  /* when the wait began */
    struct shmq_duty duty; /* while it sleeps */
};

/* Sleep until woken, until the end of a slice, until `due_ns`, when something is due that no port announces (SHMQ_FOREVER: nothing), or
 * until `deadline_ns` (CLOCK_MONOTONIC). Post: OK: look again, also after the
 * deadline, since the port that woke us relies on that; TIMED_OUT: the slice or the deadline has passed without a wake-up; INTERRUPTED:
 * a signal. Killed here: the count stays one too high until this port is reaped, which costs one wake-up. */
shmq_status shmq_wait_park(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, uint64_t due_ns, struct shmq_patience *patience);

/* Sleep a little, for what is not announced: 50 us, 100 us, … 10 ms. Post: OK, TIMED_OUT, INTERRUPTED. */
shmq_status shmq_wait_nap(uint64_t deadline_ns, struct shmq_patience *patience);

#endif
