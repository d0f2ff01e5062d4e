/* A queue's port: where its parts are mapped, and what this handle remembers of them. */
#ifndef SHMQ_QUEUE_PORT_H
#define SHMQ_QUEUE_PORT_H

#include "../format/queue.h"
#include "../port.h"

struct shmq_queue_port {
    struct shmq_port port;            /* first: see shmq_queue_of */
    struct shmq_queue_header *header; /* the same bytes as port.header, a queue's part of them */
    struct shmq_cell *cells;
    shmq_word *ring;
    struct shmq_geometry geometry;    /* private copy, checked at attach, never read again from the segment */
    struct shmq_policy policy;        /* private copy */
    uint32_t kept;                    /* the port's own cell (IDLE), or SHMQ_NO_CELL while a call uses it */
    uint32_t hint;                    /* where the last cell was released: where to look for the next */
    uint64_t orphan_changes_seen;
    uint64_t due_ns;                  /* when the first message that rests is due, as of orphan_changes_seen; SHMQ_FOREVER */
    uint64_t expiry_ns;               /* when the first lease ends, as of the last look; SHMQ_FOREVER */
    bool writes_dead_letters;         /* this handle takes messages that have failed too often, to make them dead letters */
    bool caught_up;                   /* the last get took the last message */
    uint64_t spin_ns[2];              /* how long spinning has been worth it lately, by side */
    uint32_t unfinished_hint;         /* the in-flight cell in which an unfinished message was seen last */
    uint32_t linger_ns;               /* see shmq_linger */
    uint32_t lingers, linger_probe;
};

/* The queue's port that this one is the beginning of. Pre: it was mapped by shmq_port_map. */
static inline struct shmq_queue_port *shmq_queue_of(struct shmq_port *port) { return (struct shmq_queue_port *)port; }
static inline const struct shmq_queue_port *shmq_const_queue_of(const struct shmq_port *port) { return (const struct shmq_queue_port *)port; }

#endif
