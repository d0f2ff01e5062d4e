/* A port: one attached handle of one process, and the in-flight cells that it owns. What leased ones mean is in lease.h.
 *
 * `struct shmq_port` is private memory: where the segment is mapped, and what this handle remembers. Everything that
 * others must know after this process's death is in the segment (format/queue.h).
 *
 * A port is used by one thread at a time; whoever shares a handle among threads serialises the calls (the Python binding
 * does, by the GIL or a critical section). Different ports never wait for each other.
 *
 * Which cell for which call. Loans and leases take cells behind the first `reserved` ones, so that put and get go on
 * however many of them are out. In segments of small slots there is a reserved cell per port, which keeps the one of its
 * own index (or, while that one holds a message that came back, does without). In segments of large slots ("paged") a cell is claimed for each call
 * and released after it: a claim costs two exchanges, nothing beside a copy of 4 KiB. There a producer claims the slot
 * that was released last (WARM, lowest cell first) and a consumer gives a cold one into the ring, so that with n frames
 * in flight the process walks through n + 1 slots of memory however long the ring is.
 */
#ifndef SHMQ_PORT_H
#define SHMQ_PORT_H

#include <semaphore.h>

#include "format/queue.h"

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
    SHMQ_EXHAUSTED,        /* a message that has failed too often: bury it */
    SHMQ_SHUT,             /* no message goes in any more, since somebody has shut the queue */
} shmq_status;

#define SHMQ_FOREVER UINT64_MAX

/* Who waits for what: for a message, for room (the ring's two ends, where one may also sleep on a semaphore), or for every
 * message to be done. */
enum shmq_side { SHMQ_ITEMS = 0, SHMQ_SPACE = 1, SHMQ_DONE = 2, SHMQ_SIDES = 3 };

/* What the cell is wanted for; matters in segments of large slots only. */
enum shmq_purpose { SHMQ_TO_WRITE, SHMQ_TO_GIVE };

struct shmq_port {
    unsigned char *base;
    struct shmq_header *header;
    struct shmq_port_record *records, *record;
    struct shmq_cell *cells;
    shmq_word *ring;
    struct shmq_geometry geometry;   /* private copy, checked at attach: never read again from the segment */
    uint64_t owner;                  /* identity of this process at attach */
    uint64_t nonce;
    uint32_t index;                  /* of `record` */
    uint32_t kept;                   /* the port's own cell (IDLE), or SHMQ_NO_CELL while a call uses it */
    uint32_t hint;                   /* where the last cell was released: where to look for the next */
    uint64_t serial, next_id;
    uint64_t epoch_seen;
    uint64_t due_ns;                 /* when the first message that rests is due, as of epoch_seen; SHMQ_FOREVER */
    uint64_t expiry_ns;              /* when the first lease ends, as of the last look; SHMQ_FOREVER */
    struct shmq_policy policy;       /* private copy */
    bool buries;                     /* this handle takes messages that have failed too often, to bury them */
    sem_t *semaphores[2];            /* by side; NULL: nobody sleeps here */
    const char *place;               /* what the paths of the bells begin with, or NULL: none is rung. The caller's memory */
    uint32_t bell_hint;              /* where the next armed bell is looked for */
    uint64_t spin_ns[2];             /* how long spinning has been worth it lately, by side */
    bool spins;                      /* more than one CPU */
    bool caught_up;                  /* the last get took the last message */
    uint64_t look_ns;                /* before then nobody need look for the dead, as far as this handle knows */
    uint32_t unfinished_hint;        /* in-flight cell in which something unfinished was seen last */
    uint32_t linger_ns;              /* see shmq_wait_linger */
    uint32_t lingers, linger_probe;
};

/* -- attach ---------------------------------------------------------------------------------------------------------- */

/* Fill a new segment of at least geometry->segment_bytes zeroed bytes. Everything but `magic`, which the caller stores
 * with shmq_segment_ready() once semaphores and the like exist too. */
void shmq_segment_format(void *base, const struct shmq_geometry *geometry, uint64_t nonce, uint32_t flags,
                         const char *codec, const uint8_t boot_id[16], uint64_t creator, uint64_t lock_inode,
                         const struct shmq_policy *policy);
void shmq_segment_ready(void *base);

/* Check a mapped header of `file_bytes` bytes. Post: OK and *out; WOULD_BLOCK: not ready yet (or abandoned half-made);
 * MISMATCH: another format, version or byte order; CORRUPT: the numbers contradict each other or the file's size. */
shmq_status shmq_segment_check(const void *base, uint64_t file_bytes, struct shmq_geometry *out);

/* Note where everything is, and take nothing: enough to look at a segment, also one that is mapped for reading only. */
void shmq_port_map(struct shmq_port *port, void *base, const struct shmq_geometry *geometry);

/* Take a free port and its cell. Pre: `base` was checked. Post: OK or NO_PORTS.
 * Killed here: a claimed port that holds nothing, or one cell; the reaper frees both. */
shmq_status shmq_port_attach(struct shmq_port *port, void *base, const struct shmq_geometry *geometry, uint64_t owner);

/* Draw a serial for the ids to come. Killed here: one is never used. */
void shmq_port_draw_serial(struct shmq_port *port);

/* Does this handle still have its port? Not where its process gave the port back while a thread slept at it. */
static inline bool shmq_port_is_ours(const struct shmq_port *port) {
    return shmq_load_acquire(&port->record->owner) == port->owner && shmq_load_relaxed(&port->record->serial) == port->serial;
}

/* Give everything back: leased cells become ORPHAN, uncounted; the rest SPARE. The port is free afterwards. */
void shmq_port_detach(struct shmq_port *port);

/* -- cells ----------------------------------------------------------------------------------------------------------- */

/* IDLE, mine -> SPARE (or WARM where `warm` and the slots are large). */
void shmq_cell_release(struct shmq_port *port, uint32_t cell, bool warm);

/* The cell for one call: the kept one, or one that is claimed, SPARE or WARM -> IDLE, mine; and its return. Post: OK and
 * *cell; NO_CELLS; CORRUPT. Killed here: an IDLE cell of a dead port. */
shmq_status shmq_cell_take(struct shmq_port *port, enum shmq_purpose purpose, uint32_t *cell);
void shmq_cell_return(struct shmq_port *port, uint32_t cell, bool warm);

/* The cell reads `word` and is ours, or that of a dead port which we reap: free it, as `state`; or hand it to somebody who still
 * looks at its slot. Killed here: freed, handed, or as it was; or handed to one who has just ceased to look, which our
 * reaper puts right (shmq_view_settle). */
void shmq_cell_let_go(struct shmq_port *port, uint32_t cell, uint64_t word, enum shmq_cell_state state);

/* A cell that the caller will hold for long: none of the reserved ones. */
shmq_status shmq_cell_take_for_long(struct shmq_port *port, enum shmq_purpose purpose, uint32_t *cell);

/* Of the cells that leases and loans may take (`for_long`; else: that any call may take), is one free by now, or in the hands of a call that
 * is running, so that it will be free in a moment? Otherwise users hold them all: it takes an ack, a publication, or a message that
 * rests to be due. */
bool shmq_cells_move(const struct shmq_port *port, bool for_long);

/* Of how many messages a batch may consist: of half of these cells, so that others find one. */
static inline uint32_t shmq_batch_limit(const struct shmq_port *port) {
    uint32_t half = (port->geometry.cells - port->geometry.reserved) / 2;
    return half ? half : 1;
}

/* Change the state of my own cell; the slot stays. */
static inline uint64_t shmq_cell_load(const struct shmq_port *port, uint32_t cell) {
    return shmq_load_relaxed(&port->cells[cell].word); /* mine: no other process stores to it */
}
static inline void shmq_cell_become(struct shmq_port *port, uint32_t cell, enum shmq_cell_state state) {
    uint64_t word = shmq_cell_load(port, cell);
    /* [hand] */
    shmq_store_release(&port->cells[cell].word, shmq_cell_next(word, state, port->index, shmq_word_slot(word)));
}

static inline struct shmq_slot *shmq_slot_at(const struct shmq_port *port, uint32_t slot) {
    return (struct shmq_slot *)(port->base + port->geometry.slot_offset + slot * port->geometry.slot_stride);
}
static inline unsigned char *shmq_payload_at(const struct shmq_port *port, uint32_t slot) {
    return port->base + port->geometry.payload_offset + slot * port->geometry.payload_stride;
}

/* How many ports may be, or may have been, attached: the first so many. All walks over ports end here, so that they grow with
 * the handles that a queue has, not with those that it could have. */
static inline uint32_t shmq_ports_used(const struct shmq_port *port) {
    uint32_t used = shmq_load_acquire(&port->header->ports_used);
    return used < port->geometry.ports ? used : port->geometry.ports; /* a scribbler may raise it */
}

/* An id for a message, or a side segment, of this port. */
static inline uint64_t shmq_next_id(struct shmq_port *port) {
    if (shmq_unlikely((port->next_id & ((UINT64_C(1) << SHMQ_ID_BITS) - 1)) == 0)) shmq_port_draw_serial(port);
    return port->next_id++;
}

/* Id and time for the message about to be published in my cell's slot; everything else is the caller's. */
static inline void shmq_slot_stamp(struct shmq_port *port, struct shmq_slot *slot) {
    slot->id = shmq_next_id(port);
    slot->published_ns = shmq_now_coarse_ns();
    shmq_store_relaxed(&slot->deliveries, 0); /* published by the exchange */
}

#endif
