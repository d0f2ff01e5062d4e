/* A snapshot: what a queue holds, row by row, for people and for checks.
 *
 * It takes no port and no lock, waits for no process, stores nothing and takes nothing back; so it may be taken of a queue whose ports
 * are all in use, through a mapping that is read-only. Each row is of one moment; together they are of one look, in which messages move on.
 * Whatever a scribbler writes meanwhile, no row leads out of the segment.
 */
#ifndef SHMQ_SNAPSHOT_H
#define SHMQ_SNAPSHOT_H

#include "../files.h"
#include "port.h"

/* -- cells ----------------------------------------------------------------------------------------------------------- */

/* An in-flight cell. */
struct shmq_cell_row {
    enum shmq_cell_state state;
    uint32_t owner;      /* index of the port, or SHMQ_NO_PORT */
    uint32_t slot;
    uint64_t leased_ns;  /* when the lease began, if it did */
};
struct shmq_cell_row shmq_cell_row(const struct shmq_queue_port *queue, uint32_t cell);

/* An in-flight cell that is loaned, leased, held, or has a message that came back. */
struct shmq_occupied_row {
    struct shmq_cell_row cell;
    uint64_t id;         /* of the message; of a loan: of an earlier one, as all that follows */
    uint64_t ends_ns;    /* when the lease ends, or when what came back is due; 0: no time is set */
    uint64_t nbytes;     /* of the payload; of one that spilled see `described` */
    uint32_t described;  /* bytes of description behind the payload; where it spilled, in the side segment */
    uint32_t failed;     /* failed deliveries */
    bool begun;          /* the owner has begun with the message */
    bool spilled;
    char key[SHMQ_SIDE_KEY_BYTES]; /* of the side segment, where it spilled */
};
/* The next such cell from *cell on; *cell is its index. False: there is none. One that changes while it is read is left out. */
bool shmq_find_occupied(const struct shmq_queue_port *queue, uint32_t *cell, struct shmq_occupied_row *found);

/* -- where each slot is ---------------------------------------------------------------------------------------------- */

/* For each ring cell: the slot that it names, and how many half laps it is ahead of the first one (shmq_ring_ahead). */
void shmq_ring_rows(const struct shmq_queue_port *queue, uint32_t *slots, int64_t *half_laps);

/* An exchange that is begun, and perhaps not done. */
struct shmq_exchange_row { uint32_t cell, gives, takes; };

/* The next port from *index on that is in an exchange; *index is its index. False: there is none. */
bool shmq_find_exchange(const struct shmq_queue_port *queue, uint32_t *index, struct shmq_exchange_row *found);

/* The next side segment to which a message leads. *at begins with 0, and moves on. False: there is none.
 *
 * In the order in which messages move: ring, open exchanges, cells. On the way between the first and the last a message is in neither,
 * however long its consumer is stopped there: its open intent tells of it. */
bool shmq_find_side(const struct shmq_queue_port *queue, uint64_t *at, char key[SHMQ_SIDE_KEY_BYTES]);

/* -- numbers --------------------------------------------------------------------------------------------------------- */

/* What all ports have counted, over all who ever had them. */
void shmq_counted(const struct shmq_queue_port *queue, uint64_t counters[SHMQ_COUNTERS]);

/* How many consumers (side ITEMS) or producers (SPACE) wait, asleep or for their bell. */
uint64_t shmq_waiting(const struct shmq_queue_port *queue, enum shmq_side side);

#endif
