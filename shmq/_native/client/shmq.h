/* shmq for C programs: produce into and consume from a queue that a Python program (or `shmq`) has made.
 *
 *     DIR=$(python -c "import shmq; print(shmq.get_include())")
 *     cc -I"$DIR" program.c "$DIR"/shmq.c -lrt -lpthread
 *
 * A handle is used by one thread at a time; open one per thread. After fork() the child opens its own. Every call
 * returns 0 or an error of `enum shmq_error`; shmq_strerror() says it in words. Time-outs are nanoseconds: 0 tries once,
 * a negative value waits for ever. What a process holds when it dies, however it dies, goes back to the queue.
 */
#ifndef SHMQ_H
#define SHMQ_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct shmq_queue shmq_queue;

enum shmq_error {
    SHMQ_ERROR_NONE = 0,
    SHMQ_ERROR_TIMED_OUT = 3,   /* empty, or full, until the time-out */
    SHMQ_ERROR_NO_CELLS = 2,    /* every in-flight cell is loaned or leased */
    SHMQ_ERROR_LOST = 5,        /* the lease is no longer yours */
    SHMQ_ERROR_CORRUPT = 6,
    SHMQ_ERROR_NO_PORTS = 7,    /* as many handles attached as the queue has ports */
    SHMQ_ERROR_TOO_LARGE = 8,
    SHMQ_ERROR_NOT_FOUND = 9,
    SHMQ_ERROR_MISMATCH = 10,   /* another format, version or byte order; a queue without a bound (overflow="grow"); a shape that NumPy has
                                 * not, or that has more or fewer bytes */
    SHMQ_ERROR_FOREIGN = 11,    /* another user's */
    SHMQ_ERROR_SYSTEM = 12,     /* errno tells */
    SHMQ_ERROR_UNKNOWN_KIND = 15, /* the segment holds no queue, but something that this version does not know */
    SHMQ_ERROR_SHUT = 14,       /* the queue was shut down: no message goes in any more, and for a receive: it is empty */
};

/* Raw bytes, or an array: `dtype` is NumPy's kind letter ('u', 'i', 'f', 'c', 'b'), native byte order, C order. */
typedef struct shmq_shape {
    char dtype;
    uint32_t itemsize;
    uint32_t ndim;              /* 0 with dtype 0: bytes; 1 to 4 dimensions */
    uint32_t shape[4];
} shmq_shape;

/* A slot that you have loaned or received. `data` points into the shared segment. */
typedef struct shmq_message {
    void *data;
    uint64_t nbytes;
    uint64_t id;
    uint64_t published_ns;      /* CLOCK_MONOTONIC, to the tick of the kernel */
    uint32_t delivery_count;    /* 1: first delivery */
    uint32_t kind;              /* 0 bytes, 1 array, 2 UTF-8 text; from 3 on what only Python reads: other objects, arrays in
                                 * another order or with records, messages in a side segment */
    shmq_shape shape;           /* of an array */
    uint64_t cell, word;        /* the library's */
} shmq_message;

int shmq_attach(const char *name, shmq_queue **queue);
void shmq_detach(shmq_queue *queue);
uint64_t shmq_slot_size(const shmq_queue *queue);

/* Copy in, publish. `shape` may be NULL: bytes. */
int shmq_put(shmq_queue *queue, const void *data, uint64_t nbytes, const shmq_shape *shape, int64_t timeout_ns);

/* Write in place: lend an empty slot, fill message->data, then publish or abandon it. SHMQ_ERROR_NO_CELLS: every
 * in-flight cell is loaned, leased or holds a message that came back. For cells that other calls are about to free it waits, up to 50 ms. */
int shmq_loan(shmq_queue *queue, uint64_t nbytes, const shmq_shape *shape, shmq_message *message);
int shmq_publish(shmq_queue *queue, shmq_message *message, int64_t timeout_ns);
int shmq_abandon(shmq_queue *queue, shmq_message *message);

/* Take with responsibility: read message->data, then ack. A nack gives the message back and counts a failed delivery,
 * after which it rests as long as the queue's policy says. Where the queue has a lease_timeout, the message goes to another consumer
 * when that is over, and the ack is SHMQ_ERROR_LOST. shmq_extend moves the end of the lease to so many nanoseconds from now. A message that has failed
 * max_deliveries times is not received here: it waits for a consumer in Python, or `shmq doctor`, to make it a dead letter. */
int shmq_receive(shmq_queue *queue, shmq_message *message, int64_t timeout_ns);
int shmq_ack(shmq_queue *queue, shmq_message *message);
int shmq_nack(shmq_queue *queue, shmq_message *message);
int shmq_extend(shmq_queue *queue, shmq_message *message, int64_t nanoseconds);

const char *shmq_strerror(int error);

#ifdef __cplusplus
}
#endif
#endif
