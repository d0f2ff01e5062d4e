/* A port: one attached handle of one process, whatever the segment holds.
 *
 * `struct shmq_port` is private memory: where the segment is mapped, and what this handle remembers. All that
 * other processes must know after this one's death is in the segment (format/).
 *
 * A port is used by one thread at a time. A program that shares a handle among threads serialises the calls; the Python binding
 * does so by the GIL or a critical section. Different ports never wait for each other.
 */
#ifndef SHMQ_PORT_H
#define SHMQ_PORT_H

#include <semaphore.h>

#include "format/segment.h"

typedef enum shmq_status {
    SHMQ_OK = 0,
    SHMQ_WOULD_BLOCK,      /* empty, or full: try again later */
    SHMQ_NO_CELLS,         /* every in-flight cell is in use */
    SHMQ_TIMED_OUT,
    SHMQ_INTERRUPTED,      /* a signal arrived while waiting */
    SHMQ_LOST,             /* the lease is no longer this port's */
    SHMQ_CORRUPT,          /* a word in the segment is outside what the format allows */
    SHMQ_NO_PORTS,         /* every port is in use by the living */
    SHMQ_TOO_LARGE,
    SHMQ_NOT_FOUND,
    SHMQ_MISMATCH,         /* no segment of this format, version or machine */
    SHMQ_FOREIGN,          /* the segment belongs to another user */
    SHMQ_SYSTEM,           /* errno tells */
    SHMQ_EXHAUSTED,        /* a message that has failed too often: make it a dead letter */
    SHMQ_SHUT,             /* no message goes in any more, since the queue was shut down */
    SHMQ_UNKNOWN_KIND,     /* the segment holds something that this build does not know, or that the function is not for */
} shmq_status;

#define SHMQ_FOREVER UINT64_MAX

/* What a waiter waits for: a message, room, or that every message is done. At the first two, the ring's ends, it may also
 * sleep on a semaphore. */
enum shmq_side { SHMQ_ITEMS = 0, SHMQ_SPACE = 1, SHMQ_DONE = 2, SHMQ_SIDES = 3 };

struct shmq_port;

/* What attachment, waking, waiting and reaping ask of a queue, or of whatever else the segment holds: their only calls up. */
struct shmq_behaviour {
    /* Is it worth a try at this side? `stays`: see struct shmq_patience. */
    bool (*promising)(struct shmq_port *port, enum shmq_side side, bool stays);
    /* Is it worth waking a producer that waits for room? */
    bool (*worth_waking)(const struct shmq_port *port, uint64_t now);
    /* Take back what the dead port `dead` held, and make every consumer look. False: what it held cannot be told yet. Under the
     * reaper's lock. Killed here: the next reaper calls it again. */
    bool (*recover)(struct shmq_port *port, uint32_t dead);
};

/* A kind of segment has a struct of its own that begins with this one: a queue's is struct shmq_queue_port. */
struct shmq_port {
    unsigned char *base;
    struct shmq_header *header;
    struct shmq_port_record *records, *record;
    uint64_t owner;                  /* identity of this process at attach */
    uint64_t nonce;
    uint32_t index;                  /* of `record` */
    uint32_t ports;                  /* how many the segment has */
    uint64_t serial, next_id;
    sem_t *semaphores[2];            /* by side; NULL: no thread sleeps here */
    const char *path_prefix;         /* what the paths of the bells begin with, or NULL: none is rung. The caller's memory */
    const struct shmq_behaviour *behaviour;
    uint32_t bell_hint;              /* where the next armed bell is looked for */
    bool spins;                      /* more than one CPU */
    uint64_t look_ns;                /* no look for the dead is due before then, as far as this handle knows */
};

/* Write what the header of each segment says, into zeroed bytes: everything but `magic`, which the creator stores with
 * shmq_segment_ready() once all else is there. */
void shmq_segment_begin(void *base, enum shmq_segment_kind kind, uint64_t segment_bytes, uint32_t ports, uint64_t nonce,
                        const uint8_t boot_id[16], uint64_t creator, uint64_t lock_inode);

/* Does the header of a segment of `file_bytes` bytes say that this build can read it? OK; WOULD_BLOCK: not ready yet (or abandoned
 * half-made); MISMATCH: another format, version or byte order; UNKNOWN_KIND: it does not hold a `kind`. */
shmq_status shmq_segment_look(const void *base, uint64_t file_bytes, enum shmq_segment_kind kind);

/* The segment is complete: from now on it can be attached. */
void shmq_segment_ready(void *base);

/* Note where the parts are that every segment has. Takes no port. */
void shmq_port_point(struct shmq_port *port, void *base, uint32_t ports, const struct shmq_behaviour *behaviour);

/* Take a free port for this process. Post: OK or NO_PORTS. Killed here: a claimed port that holds nothing; the reaper frees it. */
shmq_status shmq_port_claim(struct shmq_port *port, uint64_t owner);

/* Draw a serial for the ids to come. Killed here: one is never used. */
void shmq_port_draw_serial(struct shmq_port *port);

/* Does this handle still have its port? Not where its process gave the port back while a thread slept at it. */
static inline bool shmq_port_is_ours(const struct shmq_port *port) {
    return shmq_load_acquire(&port->record->owner) == port->owner && shmq_load_relaxed(&port->record->serial) == port->serial; /* [port] */
}

/* How many ports, from the first one on, may be or have been attached. All walks over ports end here, so that they grow with the
 * handles that a queue has had, not with those that it could have. */
static inline uint32_t shmq_ports_used(const struct shmq_port *port) {
    uint32_t used = shmq_load_acquire(&port->header->ports_used); /* [used] */
    return used < port->ports ? used : port->ports; /* a scribbler may raise it */
}

/* An id for a message, or a side segment, of this port. */
static inline uint64_t shmq_next_id(struct shmq_port *port) {
    if (shmq_unlikely((port->next_id & ((UINT64_C(1) << SHMQ_ID_BITS) - 1)) == 0)) shmq_port_draw_serial(port);
    return port->next_id++;
}

/* The count of a side's waiters. */
static inline shmq_half *shmq_waiters(const struct shmq_port *port, enum shmq_side side) {
    struct shmq_header *header = port->header;
    return side == SHMQ_ITEMS ? &header->items_waiters : side == SHMQ_SPACE ? &header->space_waiters : &header->done_waiters;
}

#endif
