/* The format of a queue in a segment. This file is its specification; what every segment has is in segment.h.
 *
 * Purpose: a queue of fixed-size slots in shared memory, in which any process may be killed at any instruction.
 *
 *   +--------+--------+----------------+------------+-----------------------------+
 *   | header | ports  | in-flight cells | ring cells | slots: 64-byte header + payload |
 *   +--------+--------+----------------+------------+-----------------------------+
 *   0        1024     + 128 * ports     + 64 * cells  + 8 * slots, rounded to a line / a page
 *
 * All integers are little-endian and naturally aligned; there are no pointers. The geometry follows from four numbers
 * (slots, slot_size, cells, ports) by shmq_geometry() alone. A reader recomputes it, compares the total with the size
 * of the file, and never takes an offset from shared memory.
 *
 * Cells. A cell is one 64-bit word that names exactly one slot.
 *
 *   ring cell       bit 63 … 26: lap (38)          25 … 24: EMPTY 0 | READY 1                     23 … 0: slot
 *   in-flight cell  bit 63 … 37: generation (27)   36 … 34: state (3)   33 … 24: owner port (10)  23 … 0: slot
 *   sequence        bit 61 … 24: lap (38)                                                          23 … 0: ring index
 *
 * The lap of a ring cell counts how often it was emptied; laps and generations are compared modulo their width. An
 * in-flight cell's generation moves with every change of the word, so that a late ack never matches another's work.
 *
 *   expires         bit 63 … 48: generation (16)   47 … 0: CLOCK_MONOTONIC in microseconds, for which TIMED word it is
 *
 * Order. A message is put at a position of write_seq and taken at the same one of read_seq. Its in-flight cell keeps that position,
 * `taken_at`, until the message is gone, however often it comes back. So positions tell which of two messages was put first, and
 * messages that came back are delivered again in the order in which they were put.
 *
 * States of an in-flight cell, the ports that may change it, and what its slot holds:
 *
 *   SPARE   nobody's; any port may claim it          nothing
 *   WARM    as SPARE, but just released: in cache    nothing (only in segments of large slots, see queue/cell.h)
 *   IDLE    its owner's, during a call or kept       nothing, or a message that is being written
 *   LOANED  its owner's, lent to the user's code     a message that is being written
 *   LEASED  its owner's                              a message that was delivered and is not acked
 *   TIMED   its owner's until its time is over       as LEASED; afterwards any port may take it over, as LEASED
 *   HELD    its owner's                              a message that is acked, but that its owner still looks at
 *   ORPHAN  nobody's; any consumer may claim it      a message that was delivered and came back
 *
 *   SPARE/WARM -claim-> IDLE -exchange-> LEASED -ack-> IDLE | HELD -last view gone-> IDLE -release-> SPARE/WARM
 *   IDLE -loan-> LOANED -publish/abandon-> IDLE        LEASED -nack, owner died-> ORPHAN -adopt-> LEASED
 *   IDLE -exchange-> TIMED -ack-> IDLE | HELD          TIMED -extend-> TIMED      TIMED -expired, nack, owner died-> LEASED
 *
 * TIMED is the only state that another port may end while the owner lives. To give such a message back takes several steps: count
 * the failed delivery, set the time before which it rests, change the cell. So the port that takes them first makes the cell LEASED,
 * its own, by one compare-and-swap. A late ack finds by another that the generation has moved on.
 *
 * A consumer that loses a lease may still look at the slot. Before that happens it says so in the cell's `viewers`. The port that
 * settles the message then does not free the cell, but hands it to the viewer, HELD. So no slot is used again while a view of it is left.
 *
 * States of a ring cell at lap n:  (n, EMPTY) -put-> (n, READY) -get-> (n+1, EMPTY).
 *
 * Invariants, true between any two instructions of any process:
 *   I1  The slots named by all cells, each port's open exchange settled, are a permutation of 0 … slots + cells - 1.
 *   I2  A message is in exactly one cell: a READY ring cell, or a LEASED, TIMED or ORPHAN in-flight cell.
 *   I3  write_seq never passes a ring cell of its lap that was not yet READY; read_seq never one that was not yet emptied.
 *   I4  A port whose owner lives is changed by its owner alone; its cells too, but for ORPHAN, SPARE, WARM and TIMED ones.
 *   I5  At most one exchange of a port is open, and its intent names it before it happens.
 *
 * What a crash leaves, and what repairs it:
 *   before the exchange         an intent; the cell names `give`. The reaper finds out (queue/recover.h) and clears it.
 *   after it, before the store  the same picture, other answer: `give` is in circulation. The reaper stores `take`.
 *   before a sequence moved     a hint that lags. The next port that meets it helps it forward.
 *   leased, held, loaned, idle  the reaper makes LEASED and TIMED cells ORPHAN, the others SPARE. One failed delivery more is
 *                               counted, where the consumer had begun with the message.
 *   between expiry and return   a LEASED cell of the port that took it over: as above, and the delivery counts once.
 *   while creating              no magic. The next process that opens the name holds the creation lock, sees that, and starts afresh.
 *   while reaping               each step is one word, and repeats harmlessly: the next reaper goes on.
 *
 * Bounds, as shmq_geometry() checks them: slots 1 … 16,760,832, which is 2^24 - 2^14, so that slots + cells < 2^24 with the most cells;
 * cells up to 16,383 (2^14 - 1); ports 1 … 1,022, since 1,023 in a cell says that no port owns it; slot_size 1 byte … 256 GiB (2^38).
 * More cells than the reserved ones: than ports, or, where slots are of a page (4,096 bytes) or more, than 2.
 *
 * Sources: the lap in the cell that tells a full from an empty ring is D. Vyukov's bounded MPMC queue (2010); "exchange
 * instead of copy into a place" and the ownership of every slot by exactly one cell are this project's. Helping lagging
 * sequences is as in M. Michael and M. Scott's queue (PODC 1996).
 */
#ifndef SHMQ_FORMAT_QUEUE_H
#define SHMQ_FORMAT_QUEUE_H

#include "segment.h"

#define SHMQ_SLOT_BITS 24
#define SHMQ_SLOT_MASK ((UINT64_C(1) << SHMQ_SLOT_BITS) - 1)
#define SHMQ_MAX_SLOTS ((uint32_t)SHMQ_SLOT_MASK)
#define SHMQ_MAX_CELLS ((1u << 14) - 1)
#define SHMQ_NO_CELL UINT32_MAX

/* -- header --------------------------------------------------------------------------------------------------------- */

enum shmq_queue_flag {
    SHMQ_SPILLS = 1,        /* payloads above slot_size go to a side segment. So does one without room for its description, flag or not */
    SHMQ_PICKLES = 2,       /* pickle is allowed */
    SHMQ_GROWS = 32,        /* messages that find the ring full wait in a log beside the segment (shmq/_store/backlog.py) */
};

/* Whether messages still go in: not after a shutdown. */
enum shmq_shut { SHMQ_NOT_SHUT = 0, SHMQ_SHUT_FOR_PUTS = 1 };

/* The creator's policy for leases and failures. Read once at attach, and clamped: see shmq_policy_of. */
struct shmq_policy {
    uint64_t lease_timeout_ns;    /* 0: none */
    uint64_t retry_initial_ns;    /* how long a message rests after its first failed delivery */
    uint64_t retry_maximum_ns;    /* how long it rests at most */
    double retry_factor;          /* by which the rest grows with each failure */
    double retry_jitter;          /* the share of the rest that chance may add or take away, 0 … 1 */
    uint64_t max_deliveries;      /* failed deliveries that make a dead letter; 0: never */
};

/* Rare events, counted by the port that brings them about. */
enum shmq_event { SHMQ_EXPIRIES, SHMQ_DEATHS, SHMQ_DEAD_LETTERED, SHMQ_EVENTS };

/* A queue's own part of the header, at the offsets that struct shmq_header leaves to the kind. */
struct shmq_queue_header {
    uint8_t of_segment0[32];
    uint64_t slot_size;       /*  32 */
    uint32_t slots;           /*  40 */
    uint32_t cells;           /*  44 */
    uint8_t of_segment1[56];
    char codec[32];           /* 104  name of the codec, zero-padded */
    struct shmq_policy policy; /* 136 */
    uint8_t of_segment2[72];
    _Alignas(SHMQ_LINE) shmq_word write_seq;      /* 256 */
    _Alignas(SHMQ_LINE) shmq_word read_seq;       /* 320 */
    _Alignas(SHMQ_LINE) uint8_t of_segment3[8];
    shmq_word orphan_changes;                     /* 392  moves whenever a cell became ORPHAN [orphan] */
    uint8_t of_segment4[4];
    shmq_half shut;                               /* 404  enum shmq_shut; read by every publisher [park] */
    shmq_word backlog;                            /* 408  messages that found the ring full and wait beside the segment [park] */
    _Alignas(SHMQ_LINE) uint8_t of_segment5[92];
    shmq_half spilled;                            /* 540  1 once a message was larger than a slot; until then no reaper looks for side segments */
    shmq_word sides_reaped;                       /* 544  the count of deaths, `events`, after which side segments of the dead were last looked for */
    _Alignas(SHMQ_LINE) shmq_word events[SHMQ_EVENTS]; /* 576  enum shmq_event */
    shmq_word timing;                             /* 600  1 once a lease had a time-out; until then no port looks for expired ones [timing] */
    _Alignas(SHMQ_LINE) shmq_word done;           /* 640  messages that a get took, and for which task_done was called [park] */
    uint8_t reserved[376];
};

SHMQ_IS_OF_KIND(struct shmq_queue_header, slot_size, of_kind0);
SHMQ_IS_OF_KIND(struct shmq_queue_header, slots, of_kind0);
SHMQ_IS_OF_KIND(struct shmq_queue_header, cells, of_kind0);
SHMQ_IS_OF_KIND(struct shmq_queue_header, codec, of_kind1);
SHMQ_IS_OF_KIND(struct shmq_queue_header, policy, of_kind1);
SHMQ_IS_OF_KIND(struct shmq_queue_header, write_seq, of_kind2);
SHMQ_IS_OF_KIND(struct shmq_queue_header, read_seq, of_kind2);
SHMQ_IS_OF_KIND(struct shmq_queue_header, orphan_changes, of_kind3);
SHMQ_IS_OF_KIND(struct shmq_queue_header, shut, of_kind4);
SHMQ_IS_OF_KIND(struct shmq_queue_header, backlog, of_kind4);
SHMQ_IS_OF_KIND(struct shmq_queue_header, spilled, of_kind5);
SHMQ_IS_OF_KIND(struct shmq_queue_header, sides_reaped, of_kind5);
SHMQ_IS_OF_KIND(struct shmq_queue_header, events, of_kind5);
SHMQ_IS_OF_KIND(struct shmq_queue_header, timing, of_kind5);
SHMQ_IS_OF_KIND(struct shmq_queue_header, done, of_kind5);
_Static_assert(offsetof(struct shmq_queue_header, policy) == 136, "layout");
_Static_assert(offsetof(struct shmq_queue_header, write_seq) == 256, "layout");
_Static_assert(offsetof(struct shmq_queue_header, backlog) == 408, "layout");
_Static_assert(offsetof(struct shmq_queue_header, sides_reaped) == 544, "layout");
_Static_assert(offsetof(struct shmq_queue_header, events) == 576, "layout");
_Static_assert(offsetof(struct shmq_queue_header, done) == 640, "layout");
_Static_assert(sizeof(struct shmq_queue_header) == sizeof(struct shmq_header), "layout");

/* -- ring cells ---------------------------------------------------------------------------------------------------- */

enum { SHMQ_EMPTY = 0, SHMQ_READY = 1 };

#define SHMQ_LAP_BITS 38
#define SHMQ_LAP_MASK ((UINT64_C(1) << SHMQ_LAP_BITS) - 1)

static inline uint64_t shmq_ring_word(uint64_t lap, unsigned state, uint32_t slot) {
    return lap << 26 | (uint64_t)state << SHMQ_SLOT_BITS | slot;
}
static inline uint64_t shmq_ring_lap(uint64_t word) { return word >> 26; }
static inline unsigned shmq_ring_state(uint64_t word) { return (unsigned)(word >> SHMQ_SLOT_BITS) & 3u; }
static inline uint32_t shmq_word_slot(uint64_t word) { return (uint32_t)(word & SHMQ_SLOT_MASK); }

/* How many laps `word` is ahead of `lap`, modulo the width of a lap. */
static inline int64_t shmq_lap_ahead(uint64_t word_lap, uint64_t lap) {
    return (int64_t)((word_lap - lap) << (64 - SHMQ_LAP_BITS)) >> (64 - SHMQ_LAP_BITS);
}
/* How many half laps the ring cell's word is ahead of another's, modulo the width of a lap. A lap has two: EMPTY, then READY. */
static inline int64_t shmq_ring_ahead(uint64_t word, uint64_t other) {
    return 2 * shmq_lap_ahead(shmq_ring_lap(word), shmq_ring_lap(other)) + (int64_t)shmq_ring_state(word) - (int64_t)shmq_ring_state(other);
}

/* -- sequences ------------------------------------------------------------------------------------------------------ */

static inline uint64_t shmq_seq_word(uint64_t lap, uint32_t index) { return (lap & SHMQ_LAP_MASK) << SHMQ_SLOT_BITS | index; }
static inline uint64_t shmq_seq_lap(uint64_t seq) { return (seq >> SHMQ_SLOT_BITS) & SHMQ_LAP_MASK; }
static inline uint32_t shmq_seq_index(uint64_t seq) { return (uint32_t)(seq & SHMQ_SLOT_MASK); }
/* How far `a` is ahead of `b`; below zero: behind it. Sequences are 62 bits wide, and compared modulo that. */
static inline int64_t shmq_seq_ahead(uint64_t a, uint64_t b) { return (int64_t)((a - b) << 2) >> 2; }
static inline uint64_t shmq_seq_next(uint64_t seq, uint32_t slots) {
    return shmq_unlikely(shmq_seq_index(seq) + 1 >= slots) ? shmq_seq_word(shmq_seq_lap(seq) + 1, 0) : seq + 1;
}

/* -- in-flight cells ------------------------------------------------------------------------------------------------ */

enum shmq_cell_state {
    SHMQ_SPARE = 0,
    SHMQ_WARM = 1,
    SHMQ_IDLE = 2,
    SHMQ_LOANED = 3,
    SHMQ_LEASED = 4,
    SHMQ_HELD = 5,
    SHMQ_ORPHAN = 6,
    SHMQ_TIMED = 7,
};

static inline uint64_t shmq_cell_word(uint64_t generation, unsigned state, uint32_t owner, uint32_t slot) {
    return generation << 37 | (uint64_t)state << 34 | (uint64_t)owner << SHMQ_SLOT_BITS | slot;
}
static inline uint64_t shmq_cell_generation(uint64_t word) { return word >> 37; }
static inline unsigned shmq_cell_state(uint64_t word) { return (unsigned)(word >> 34) & 7u; }
static inline uint32_t shmq_cell_owner(uint64_t word) { return (uint32_t)(word >> SHMQ_SLOT_BITS) & 1023u; }

/* The word that follows `word`: the generation moves on, which its shift keeps within its width. */
static inline uint64_t shmq_cell_next(uint64_t word, unsigned state, uint32_t owner, uint32_t slot) {
    return shmq_cell_word(shmq_cell_generation(word) + 1, state, owner, slot);
}

/* Does a cell in this state hold a message that was delivered to its owner? */
static inline bool shmq_state_leased(unsigned state) { return state == SHMQ_LEASED || state == SHMQ_TIMED; }

/* When the lease of a TIMED cell ends, and of which word: the generation tells a deadline from one of an earlier lease. */
static inline uint64_t shmq_expires_word(uint64_t generation, uint64_t deadline_ns) {
    return generation << 48 | (deadline_ns / 1000 & (UINT64_MAX >> 16));
}
static inline uint64_t shmq_expires_ns(uint64_t expires) { return (expires & (UINT64_MAX >> 16)) * 1000; }
/* How many generations `word` is behind the one that the deadline was written for: 0, or 1 while its owner extends it. */
static inline uint64_t shmq_expires_ahead(uint64_t expires, uint64_t word) {
    return ((expires >> 48) - shmq_cell_generation(word)) & 0xffff;
}

/* One in-flight cell, alone on its cache line: its owner writes it with every message. */
struct shmq_cell {
    shmq_word word;        /*  0  written by: owner, claimant, reaper   read by: all [hand] */
    shmq_word leased_ns;   /*  8  CLOCK_MONOTONIC, when the lease began; 0 from the claim until the user has it; owner
                            *     read by: leases(), stalls, waiters for a cell */
    shmq_word expires;     /* 16  of a TIMED cell; owner, or the port that notices a stopped one   read by: waiters [deadline] */
    shmq_word due_ns;      /* 24  of an ORPHAN cell: not delivered before; the port that gave it back   read by: adopters */
    shmq_word prefetched;  /* 32  the word under which the owner took it without beginning with it, or 0; owner [mark] */
    shmq_word viewers;     /* 40  ports (index + 1, 16 bits each) that look at the slot without owning the cell [view] */
    shmq_word handed;      /* 48  the HELD word under which it was handed to a viewer; the port that handed it over [hand] */
    shmq_word taken_at;    /* 56  the sequence at which its message was taken out of the ring; owner, before the exchange  read by: adopters */
};

/* -- intents --------------------------------------------------------------------------------------------------------- */

enum shmq_operation { SHMQ_NOTHING = 0, SHMQ_PUTTING = 1, SHMQ_GETTING = 2 };

static inline uint64_t shmq_intent_word(unsigned operation, uint32_t cell, uint32_t index, uint32_t give) {
    return (uint64_t)operation << 62 | (uint64_t)cell << 48 | (uint64_t)index << 24 | give;
}
static inline unsigned shmq_intent_operation(uint64_t word) { return (unsigned)(word >> 62); }
static inline uint32_t shmq_intent_cell(uint64_t word) { return (uint32_t)(word >> 48) & SHMQ_MAX_CELLS; }
static inline uint32_t shmq_intent_index(uint64_t word) { return (uint32_t)(word >> 24) & SHMQ_MAX_SLOTS; }

/* -- slots ---------------------------------------------------------------------------------------------------------- */

/* What the payload is. C programs use the first two; the rest belongs to the Python binding. */
enum shmq_kind {
    SHMQ_BYTES = 0,
    SHMQ_ARRAY = 1,     /* dtype and up to 4 dimensions in the header, more behind the payload */
    SHMQ_TEXT = 2,      /* UTF-8 */
    SHMQ_BYTEARRAY = 3,
    SHMQ_PICKLE = 4,    /* protocol 5, out-of-band buffers behind it */
    SHMQ_ENCODED = 5,   /* by the queue's own codec, named in the header of the segment */
    SHMQ_KINDS = 6,
};

enum shmq_slot_flag {
    SHMQ_FORTRAN = 1,       /* the array is in Fortran order */
    SHMQ_SWAPPED = 2,       /* the array's byte order is big-endian */
    SHMQ_DESCRIBED = 4,     /* dtype and shape stand behind the data, as text: structured, more than 4 dimensions, … */
    SHMQ_SPILLED = 8,       /* the payload is the name of a side segment */
};

#define SHMQ_INLINE_DIMS 4

struct shmq_slot {
    uint64_t id;              /*  0  a serial of the port (44) | its count (20): unique in the segment's life. A port draws a serial
                               *     when it is attached, and another one after each 2^20 ids. 2^44 serials last a year of half a
                               *     million attachments a second */
    uint64_t published_ns;    /*  8  CLOCK_MONOTONIC_COARSE */
    uint64_t nbytes;          /* 16  of payload */
    shmq_word deliveries;     /* 24  failed deliveries (16) | tag (48): cell, generation and cause of the last one [failed] */
    uint8_t kind;             /* 32 */
    uint8_t flags;            /* 33 */
    uint8_t ndim;             /* 34 */
    uint8_t dtype;            /* 35  NumPy's kind letter */
    uint32_t itemsize;        /* 36 */
    uint32_t shape[SHMQ_INLINE_DIMS]; /* 40 */
    uint32_t described;       /* 56  bytes of description behind the data */
    uint32_t first_failed_ms; /* 60  when the first delivery failed: milliseconds after published_ns */
};

_Static_assert(sizeof(struct shmq_cell) == 64, "layout");
_Static_assert(sizeof(struct shmq_slot) == 64, "layout");

/* -- geometry ------------------------------------------------------------------------------------------------------- */

#define SHMQ_RESERVED_WHERE_PAGED 2u

/* Where everything is. Small slots lie behind their headers, so that one pair of cache lines holds a short message;
 * payloads of a page or more are page-aligned and their headers stand in a table of their own. */
struct shmq_geometry {
    uint64_t slot_size;
    uint32_t slots, cells, ports;
    uint32_t total_slots;          /* slots + cells */
    uint32_t reserved;             /* so many cells at the front, which loans and leases leave to put and get */
    bool paged;                    /* large slots */
    uint64_t ports_offset, cells_offset, ring_offset;
    uint64_t slot_offset, slot_stride;
    uint64_t payload_offset, payload_stride;
    uint64_t payload_room;         /* what a payload and the description behind it may take: slot_size, rounded up */
    uint64_t segment_bytes;
};

/* Post: true and *out filled, or false where the four numbers are out of bounds or the total overflows. */
static inline bool shmq_geometry(uint64_t slots, uint64_t slot_size, uint64_t cells, uint64_t ports,
                                 struct shmq_geometry *out) {
    if (slots < 1 || cells < 1 || ports < 1 || slot_size < 1) return false;
    if (cells > SHMQ_MAX_CELLS || ports >= SHMQ_MAX_PORTS || slots > SHMQ_MAX_SLOTS - SHMQ_MAX_CELLS) return false;
    if (slot_size > UINT64_C(1) << 38) return false; /* 256 GiB; times 2^24 slots stays below 2^63 */
    struct shmq_geometry g = {.slot_size = slot_size, .slots = (uint32_t)slots, .cells = (uint32_t)cells, .ports = (uint32_t)ports};
    g.total_slots = g.slots + g.cells;
    g.paged = slot_size >= SHMQ_PAGE;
    g.reserved = g.paged ? SHMQ_RESERVED_WHERE_PAGED : g.ports;
    if (g.cells <= g.reserved) return false;
    g.ports_offset = sizeof(struct shmq_header);
    g.cells_offset = g.ports_offset + ports * sizeof(struct shmq_port_record);
    g.ring_offset = g.cells_offset + cells * sizeof(struct shmq_cell);
    uint64_t end = g.ring_offset + slots * sizeof(shmq_word);
    if (g.paged) {
        g.slot_offset = (end + SHMQ_LINE - 1) & ~(uint64_t)(SHMQ_LINE - 1);
        g.slot_stride = sizeof(struct shmq_slot);
        end = g.slot_offset + g.total_slots * g.slot_stride;
        g.payload_offset = (end + SHMQ_PAGE - 1) & ~(uint64_t)(SHMQ_PAGE - 1);
        g.payload_stride = (slot_size + SHMQ_PAGE - 1) & ~(uint64_t)(SHMQ_PAGE - 1);
        g.payload_room = g.payload_stride;
        g.segment_bytes = g.payload_offset + g.total_slots * g.payload_stride;
    } else {
        g.slot_offset = (end + 2 * SHMQ_LINE - 1) & ~(uint64_t)(2 * SHMQ_LINE - 1);
        g.slot_stride = sizeof(struct shmq_slot) + ((slot_size + SHMQ_LINE - 1) & ~(uint64_t)(SHMQ_LINE - 1));
        g.payload_offset = g.slot_offset + sizeof(struct shmq_slot);
        g.payload_stride = g.slot_stride;
        g.payload_room = g.slot_stride - sizeof(struct shmq_slot);
        g.segment_bytes = g.slot_offset + g.total_slots * g.slot_stride;
    }
    *out = g;
    return true;
}

#endif
