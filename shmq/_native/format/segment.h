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
#define SHMQ_ID_BITS 20 /* of the count in an id that a port gives */

/* -- ports ---------------------------------------------------------------------------------------------------------- */

/* In a count of waiters: some port may have a bell armed for that side. A hint: a producer or consumer that finds none armed clears it. */
#define SHMQ_BELLS (UINT32_C(1) << 31)
#define SHMQ_BELL_MADE UINT64_C(8)

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
    /* line 1: the exchange of slots, whatever the kind exchanges them for; written by the owner with every message */
    shmq_word intent;         /* 64  operation (2) | in-flight cell (14) | ring index (24) | give (24); 0: nothing open */
    shmq_word expected;       /* 72  the ring word that the exchange expects: names `take` and the lap */
    shmq_word counters[SHMQ_COUNTERS]; /* 80 … 127 */
};

/* -- header --------------------------------------------------------------------------------------------------------- */

/* What the segment holds. A kind that a build does not know is attached by none of its functions. */
enum shmq_segment_kind { SHMQ_KIND_QUEUE = 1 };

/* Bits 1, 2 and 32 are the kind's own. */
enum shmq_segment_flag {
    SHMQ_WITH_CREATOR = 4,  /* the name goes when the creator does */
    SHMQ_WITH_HANDLES = 8,  /* the name goes when the last handle does */
    SHMQ_ANONYMOUS = 16,    /* its name is not meant to be found */
};

/* What each segment has. The bytes between are the kind's own: a queue's are in queue.h. No field of the one is in the other, so that
 * what knows a segment only cannot name what is in it. */
struct shmq_header {
    /* written once by the creator, before `magic` */
    shmq_word magic;          /*   0  [ready] */
    uint32_t version;         /*   8 */
    uint32_t endian;          /*  12 */
    uint64_t segment_bytes;   /*  16 */
    uint64_t nonce;           /*  24  random; names the semaphores and the side segments of this segment */
    uint8_t of_kind0[16];     /*  32 */
    uint32_t ports;           /*  48 */
    uint32_t flags;           /*  52 */
    uint64_t creator;         /*  56  identity, as in a port's `owner` */
    uint64_t creator_pid;     /*  64 */
    uint64_t created_unix_ns; /*  72 */
    uint64_t lock_inode;      /*  80  of the lock file: identities mean nothing in another one */
    uint8_t boot_id[16];      /*  88 */
    uint8_t of_kind1[80];     /* 104 */
    uint32_t kind;            /* 184  enum shmq_segment_kind */
    uint8_t of_kind2[196];    /* 188 */
    /* one line each for the words that all ports write */
    _Alignas(SHMQ_LINE) shmq_half items_waiters;  /* 384  consumers asleep (31 bits) | SHMQ_BELLS; read by every publisher [park] */
    shmq_half space_waiters;                      /* 388  producers asleep | SHMQ_BELLS; read by every consumer [park] */
    uint8_t of_kind3[8];                          /* 392 */
    shmq_half done_waiters;                       /* 400  SHMQ_BELLS where a port waits for the last message to be done [park] */
    uint8_t of_kind4[44];                         /* 404 */
    _Alignas(SHMQ_LINE) shmq_word space_woken_ns; /* 448  when a producer was last woken: a hint */
    shmq_word attachments;                        /* 456  serials that ports have drawn: for each attachment, and each 2^20 ids */
    /* the watch for the dead and for what is over by the clock: see watch.h. Times of CLOCK_MONOTONIC */
    _Alignas(SHMQ_LINE) shmq_word look_due;       /* 512  when the next look is due; the port that moves it looks [look] */
    shmq_word watch[2];                           /* 520  until when a sleeper is on watch; until when another one is its deputy [duty] */
    shmq_half ports_used;                         /* 536  no port from this one on was ever attached; raised before one is claimed [used] */
    uint8_t of_kind5[484];                        /* 540 */
};

_Static_assert(sizeof(struct shmq_port_record) == 128, "layout");
_Static_assert(offsetof(struct shmq_port_record, intent) == 64, "layout");
_Static_assert(offsetof(struct shmq_header, kind) == 184, "layout");
_Static_assert(offsetof(struct shmq_header, items_waiters) == 384, "layout");
_Static_assert(offsetof(struct shmq_header, done_waiters) == 400, "layout");
_Static_assert(offsetof(struct shmq_header, space_woken_ns) == 448, "layout");
_Static_assert(offsetof(struct shmq_header, ports_used) == 536, "layout");
_Static_assert(sizeof(struct shmq_header) == 1024, "layout");

/* That a field of a kind's own header lies in bytes that are the kind's. */
#define SHMQ_IS_OF_KIND(type, field, area)                                              \
    _Static_assert(offsetof(type, field) >= offsetof(struct shmq_header, area) &&       \
                       offsetof(type, field) + sizeof(((type *)0)->field) <=            \
                           offsetof(struct shmq_header, area) + sizeof(((struct shmq_header *)0)->area), \
                   #field " lies where each segment has something of its own")

#endif
