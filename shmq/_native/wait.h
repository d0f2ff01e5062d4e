/* Waiting at the ring's ends: spin -> park, and waking those who parked.
 *
 * A waiter first spins for a short, bounded time (only where there is more than one CPU), then announces itself in the
 * header's waiter count, looks again, and sleeps on the named POSIX semaphore of its side. Who publishes (frees a cell)
 * looks at the count after its exchange, takes one waiter off it and posts once. The semaphore is a hint only: under
 * SIGKILL it may lose a wake-up or keep one too many, so every sleep is sliced and the ring is looked at again. Who waits for
 * several things at once does not sleep here, but arms a bell (bell.h).
 */
#ifndef SHMQ_WAIT_H
#define SHMQ_WAIT_H

#include "port.h"

/* Somebody looks for the dead, and for leases that are over, after this long, and sleepers share that: one of a segment's keeps the
 * watch, and wakes when the next look is due. A deputy wakes a little later, and looks in its stead where it has not: it was
 * killed, stopped, or woken by a message. All others sleep for longer, which is what a lost wake-up can cost while the
 * watch sleeps, too; a look is a system call for each attached port, and is taken by whoever is awake and moves `look_due`. */
#define SHMQ_SLICE_MS 80u /* with what it takes to be scheduled, a death is noticed within 0.1 s */
#define SHMQ_DEPUTY_MS 15u
#define SHMQ_SLICE_MOST_MS 250u
#define SHMQ_SPIN_NS 40000u    /* the longest spin */

/* CPUs of this machine. */
unsigned shmq_wait_cpus(void);

/* What one blocking call remembers between its looks. Begin with {0}. */
struct shmq_patience {
    bool spun;
    bool late;   /* it has had its one look after the deadline */
    bool stays;  /* the caller's: after a shutdown it waits for what others may give back, too: see shmq_wait_over */
    bool told;          /* the caller's: it has said that this takes long … */
    uint32_t slice_ms;
    uint32_t duty;      /* enum duty of wait.c, while it sleeps … */
    uint64_t duty_until;
    uint64_t begun_ns;  /* … and when it began */
};

/* Wait until a look is worth it, something came back, or the deadline has passed. Post: OK: look again;
 * TIMED_OUT: the deadline; INTERRUPTED: a signal. */
shmq_status shmq_wait(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience);

/* Take back what the dead held and what was held too long, if nobody of this segment has looked for a slice: so that a consumer
 * that only polls notices them too. True: something came back. */
bool shmq_reap_now_and_then(struct shmq_port *port);

/* How long a call of a C program waits for a cell that another call holds, whatever its time-out: that one may have been stopped. */
#define SHMQ_CELL_PATIENCE_NS UINT64_C(50000000)

/* Wait a little for an in-flight cell: nobody announces those, so this looks again after 50 us, 100 us, … 10 ms. */
shmq_status shmq_wait_for_cell(struct shmq_port *port, uint64_t deadline_ns, struct shmq_patience *patience);

/* Spin until the side looks promising (true) or spinning has ceased to be worth it (false). */
bool shmq_wait_spin(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns);

/* Before a get that follows one which took the last message: hold back a moment, if that has paid lately.
 *
 * A consumer on the heels of a producer waits for every cache line while the producer waits to get it back, and a message
 * costs three transfers. A little further back, eight messages share one. Whether messages would come in the meantime
 * (a stream) or not (a ping-pong) is found out by trying: rarely while it does not pay, doubled while it does. */
void shmq_wait_linger(struct shmq_port *port);

/* Sleep until woken, until the end of a slice, or until `deadline_ns` (CLOCK_MONOTONIC). Post: OK: look again, also after the
 * deadline, since somebody relies on that; TIMED_OUT: the slice or the deadline has passed, and nobody has woken us; INTERRUPTED:
 * a signal. Killed here: the count stays one too high until we are reaped, which costs one wake-up. */
shmq_status shmq_wait_park(struct shmq_port *port, enum shmq_side side, uint64_t deadline_ns, struct shmq_patience *patience);

/* Is it worth a try: is there a message, room, nothing left to be done; or was the queue shut, or corrupted? */
bool shmq_wait_promising(struct shmq_port *port, enum shmq_side side);

/* Was the queue shut, and can nothing come to a consumer any more? Looks at `shut` first and at everything else after it, so that what
 * was put before a shutdown is found; from a look before that nothing follows. What rests will come. What other processes hold
 * may come back: `stays` says to wait for that, as loops do, which hold nothing while they wait; two consumers that collect leases would
 * wait for one another. What this process holds it can give back itself. */
bool shmq_wait_over(struct shmq_port *port, bool stays);

/* The look at everything else: can nothing come, unless somebody puts it? */
bool shmq_nothing_comes(struct shmq_port *port, bool stays);

/* Does every other attached handle wait, asleep or for its bell to be rung? Then nobody is left who would wake them. */
bool shmq_all_wait(const struct shmq_port *port);

/* Messages that are not done: those in the ring, the backlog, in flight, and those taken by get without a task_done so far. */
uint64_t shmq_unfinished(const struct shmq_port *port);

/* Is there none? As shmq_unfinished() == 0, but it ends with the first one that it meets, and begins where it met the last one. */
bool shmq_all_done(struct shmq_port *port);

/* Has get taken so many, over all ports? Begins with this port's own, and ends when there are enough. */
bool shmq_has_taken(const struct shmq_port *port, uint64_t count);

/* Wake one waiter of the side, if there is one (and, for space, if it is worth it): who sleeps, or else whose bell is armed.
 * Never blocks. */
void shmq_wake(struct shmq_port *port, enum shmq_side side);

/* Was woken, and goes without what he was woken for: wake another one, if it is still there. */
void shmq_pass_on(struct shmq_port *port, enum shmq_side side);

/* Take the sleepers of a dead port off the counts. One that the count does not have any more had a post on its way. */
void shmq_sleepers_forget(struct shmq_port *port, uint32_t index);

/* Wake everybody who waits at this side. */
void shmq_wake_all(struct shmq_port *port, enum shmq_side side);

/* The count of a side's waiters. */
static inline shmq_half *shmq_waiters(const struct shmq_port *port, enum shmq_side side) {
    struct shmq_header *header = port->header;
    return side == SHMQ_ITEMS ? &header->items_waiters : side == SHMQ_SPACE ? &header->space_waiters : &header->done_waiters;
}

/* After a put (get): look at the count, which pairs with the announcement [park]. */
static inline void shmq_wake_after(struct shmq_port *port, enum shmq_side side) {
    if (shmq_unlikely(shmq_load_seq(shmq_waiters(port, side)))) shmq_wake(port, side);
}

/* Wake those who wait for the last message to be done, if it is. */
void shmq_tell_if_done(struct shmq_port *port);

/* After what may have been the last step of the last message, where that was a seq_cst access. */
static inline void shmq_wake_if_done(struct shmq_port *port) {
    if (shmq_unlikely(shmq_load_seq(&port->header->done_waiters))) shmq_tell_if_done(port); /* [park] */
}

/* The same where it was a weaker store, which a look alone might overtake. */
static inline void shmq_wake_if_done_after_store(struct shmq_port *port) {
    if (shmq_unlikely(shmq_add_seq(&port->header->done_waiters, 0))) shmq_tell_if_done(port); /* [park] */
}

#endif
