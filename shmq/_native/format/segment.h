/* The format of a segment, version 5: what is in each, whatever it holds. A queue's part is in queue.h.
 *
 *   +--------+--------+----------------------+
 *   | header | ports  | what the kind lays out |
 *   +--------+--------+----------------------+
 *   0        1024     + 128 * ports
 *
 * All integers are little-endian and naturally aligned; there are no pointers.
 */
#ifndef SHMQ_FORMAT_SEGMENT_H
#define SHMQ_FORMAT_SEGMENT_H

#include <stddef.h>

#include "../sync.h"

#define SHMQ_MAGIC UINT64_C(0x31676e6972716d73) /* "smqring1" */
#define SHMQ_VERSION 5u
#define SHMQ_ENDIAN 0x01020304u
#define SHMQ_PAGE 4096u

#define SHMQ_MAX_PORTS ((1u << 10) - 1)
#define SHMQ_NO_PORT SHMQ_MAX_PORTS

/* -- ports ---------------------------------------------------------------------------------------------------------- */

/* In a count of waiters: some port may have a bell armed for that side. A hint: a producer or consumer that finds none armed clears it. */
#define SHMQ_BELLS (UINT32_C(1) << 31)
#define SHMQ_BELL_MADE UINT64_C(8)

/* Whether messages still go in: not after a shutdown. */
enum shmq_shut { SHMQ_NOT_SHUT = 0, SHMQ_SHUT_FOR_PUTS = 1 };

/* What a port has counted. Counters have one writer each; a reader adds the ports up. The next owner of a port counts on. Moving the
 * counts of the last owner elsewhere would take two stores, between which a reader sees them twice or not at all; and join waits for
 * an exact sum. */
enum shmq_counter { SHMQ_PUTS, SHMQ_GETS, SHMQ_RECEIVES, SHMQ_ACKS, SHMQ_NACKS, SHMQ_REDELIVERIES, SHMQ_COUNTERS };

struct shmq_port_record {
    /* line 0: the owner; written at attach, read by reapers and by people */
    shmq_word owner;          /*  0  0: free. Otherwise the owner's identity (owner.h): one CAS claims and identifies */
    shmq_word pid;            /*  8  for people, as its owner sees it; only `owner` tells whether it lives */
    shmq_word pid_namespace;  /* 16  in which that pid is counted: the inode of /proc/self/ns/pid; 0: not known */
    shmq_word serial;         /* 24  from header.attachments: the high part of the ids that the owner gives; no other port has it */
    shmq_word bell;           /* 32  for which sides (bit n: enum shmq_side) its bell is to be rung; SHMQ_BELL_MADE: there is one.
                               *     Armed by: owner; cleared by: owner, the port that rings it, reaper [bell] */
    shmq_half asleep[2];      /* 40  of the sleepers in the side's count, how many are this port's: a reaper takes them off [asleep] */
    shmq_word serial_before;  /* 48  the serial before this one: a message on its way may still have an id of it */
    uint8_t reserved[8];
    /* line 1: the exchange; written by the owner with every message */
    shmq_word intent;         /* 64  operation (2) | in-flight cell (14) | ring index (24) | give (24); 0: nothing open */
    shmq_word expected;       /* 72  the ring word that the exchange expects: names `take` and the lap */
    shmq_word counters[SHMQ_COUNTERS]; /* 80 … 127 */
};

/* -- header --------------------------------------------------------------------------------------------------------- */

/* What the segment holds. A kind that a build does not know is attached by none of its functions. */
enum shmq_segment_kind { SHMQ_KIND_QUEUE = 1 };

enum shmq_segment_flag {
    SHMQ_SPILLS = 1,        /* payloads above slot_size go to a side segment. So does one without room for its description, flag or not */
    SHMQ_PICKLES = 2,       /* pickle is allowed */
    SHMQ_WITH_CREATOR = 4,  /* the name goes when the creator does */
    SHMQ_WITH_HANDLES = 8,  /* the name goes when the last handle does */
    SHMQ_ANONYMOUS = 16,    /* its name is not meant to be found */
    SHMQ_GROWS = 32,        /* messages that find the ring full wait in a log beside the segment (shmq/_store/backlog.py) */
};

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

struct shmq_header {
    /* written once by the creator, before `magic` */
    shmq_word magic;          /*   0  [ready] */
    uint32_t version;         /*   8 */
    uint32_t endian;          /*  12 */
    uint64_t segment_bytes;   /*  16 */
    uint64_t nonce;           /*  24  random; names the semaphores and the side segments of this segment */
    uint64_t slot_size;       /*  32 */
    uint32_t slots;           /*  40 */
    uint32_t cells;           /*  44 */
    uint32_t ports;           /*  48 */
    uint32_t flags;           /*  52 */
    uint64_t creator;         /*  56  identity, as in a port's `owner` */
    uint64_t creator_pid;     /*  64 */
    uint64_t created_unix_ns; /*  72 */
    uint64_t lock_inode;      /*  80  of the lock file: identities mean nothing in another one */
    uint8_t boot_id[16];      /*  88 */
    char codec[32];           /* 104  name of the codec, zero-padded */
    struct shmq_policy policy; /* 136 */
    uint32_t kind;            /* 184  enum shmq_segment_kind */
    uint8_t reserved0[68];
    /* one line each for the words that all ports write */
    _Alignas(SHMQ_LINE) shmq_word write_seq;      /* 256 */
    _Alignas(SHMQ_LINE) shmq_word read_seq;       /* 320 */
    _Alignas(SHMQ_LINE) shmq_half items_waiters;  /* 384  consumers asleep (31 bits) | SHMQ_BELLS; read by every publisher [park] */
    shmq_half space_waiters;                      /* 388  producers asleep | SHMQ_BELLS; read by every consumer [park] */
    shmq_word orphan_changes;                     /* 392  moves whenever a cell became ORPHAN [orphan] */
    shmq_half done_waiters;                       /* 400  SHMQ_BELLS where a port waits for the last message to be done [park] */
    shmq_half shut;                               /* 404  enum shmq_shut; read by every publisher [park] */
    shmq_word backlog;                            /* 408  messages that found the ring full and wait beside the segment [park] */
    _Alignas(SHMQ_LINE) shmq_word space_woken_ns; /* 448  when a producer was last woken: see queue/look.c */
    shmq_word attachments;                        /* 456  serials that ports have drawn: for each attachment, and each 2^20 ids */
    /* the watch for the dead and for expired leases: see watch.h. Times of CLOCK_MONOTONIC */
    _Alignas(SHMQ_LINE) shmq_word look_due;       /* 512  when the next look is due; the port that moves it looks [look] */
    shmq_word watch[2];                           /* 520  until when a sleeper is on watch; until when another one is its deputy [duty] */
    shmq_half ports_used;                         /* 536  no port from this one on was ever attached; raised before one is claimed [used] */
    shmq_half spilled;                            /* 540  1 once a message was larger than a slot; until then no reaper looks for side segments */
    shmq_word sides_reaped;                       /* 544  the count of deaths, `events`, after which side segments of the dead were last looked for */
    uint8_t reserved2[24];
    _Alignas(SHMQ_LINE) shmq_word events[SHMQ_EVENTS]; /* 576  enum shmq_event */
    shmq_word timing;                             /* 600  1 once a lease had a time-out; until then no port looks for expired ones [timing] */
    _Alignas(SHMQ_LINE) shmq_word done;           /* 640  messages that a get took, and for which task_done was called [park] */
    uint8_t reserved1[376];
};

_Static_assert(sizeof(struct shmq_port_record) == 128, "layout");
_Static_assert(offsetof(struct shmq_port_record, intent) == 64, "layout");
_Static_assert(offsetof(struct shmq_header, policy) == 136, "layout");
_Static_assert(offsetof(struct shmq_header, kind) == 184, "layout");
_Static_assert(offsetof(struct shmq_header, write_seq) == 256, "layout");
_Static_assert(offsetof(struct shmq_header, backlog) == 408, "layout");
_Static_assert(offsetof(struct shmq_header, sides_reaped) == 544, "layout");
_Static_assert(offsetof(struct shmq_header, done) == 640, "layout");
_Static_assert(offsetof(struct shmq_header, events) == 576, "layout");
_Static_assert(sizeof(struct shmq_header) == 1024, "layout");

#endif
