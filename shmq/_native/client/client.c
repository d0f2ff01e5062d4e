/* The C interface of shmq.h: opens a segment by name, and the blocking loops around the engine. */
#define _GNU_SOURCE
#include "shmq.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../files.h"
#include "../owner.h"
#include "../queue/attach.h"
#include "../queue/await.h"
#include "../queue/deliver.h"
#include "../queue/lease.h"
#include "../queue/look.h"
#include "../reap.h"
#include "../wake.h"

/* shmq.h states the numbers so that it needs no other header; they must equal the engine's. */
_Static_assert((int)SHMQ_ERROR_TIMED_OUT == SHMQ_TIMED_OUT && (int)SHMQ_ERROR_NO_CELLS == SHMQ_NO_CELLS, "errors");
_Static_assert((int)SHMQ_ERROR_LOST == SHMQ_LOST && (int)SHMQ_ERROR_CORRUPT == SHMQ_CORRUPT, "errors");
_Static_assert((int)SHMQ_ERROR_NO_PORTS == SHMQ_NO_PORTS && (int)SHMQ_ERROR_TOO_LARGE == SHMQ_TOO_LARGE, "errors");
_Static_assert((int)SHMQ_ERROR_NOT_FOUND == SHMQ_NOT_FOUND && (int)SHMQ_ERROR_MISMATCH == SHMQ_MISMATCH, "errors");
_Static_assert((int)SHMQ_ERROR_SHUT == SHMQ_SHUT && (int)SHMQ_ERROR_UNKNOWN_KIND == SHMQ_UNKNOWN_KIND, "errors");
_Static_assert((int)SHMQ_ERROR_FOREIGN == SHMQ_FOREIGN && (int)SHMQ_ERROR_SYSTEM == SHMQ_SYSTEM, "errors");

struct shmq_queue {
    struct shmq_queue_port port;
    uint64_t mapped_bytes;
    char path_prefix[256]; /* of port.path_prefix */
};

static sem_t *open_semaphore(const char *name, uint64_t nonce, const char *side) {
    char path[256];
    if ((size_t)snprintf(path, sizeof path, "/shmq-%lu.%s+%016llx.%s", (unsigned long)geteuid(), name,
                         (unsigned long long)nonce, side) >= sizeof path) return NULL;
    return shmq_semaphore_open(path);
}

static int map_segment(const char *name, void **base, struct shmq_geometry *geometry, uint64_t *mapped) {
    char path[256];
    if (strchr(name, '/') || (size_t)snprintf(path, sizeof path, "/shmq-%lu.%s", (unsigned long)geteuid(), name) >= sizeof path)
        return SHMQ_NOT_FOUND;
    int fd = shm_open(path, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0);
    if (fd < 0 && (errno == ELOOP || errno == EINVAL)) return SHMQ_MISMATCH; /* a link, which is not followed; a folder */
    if (fd < 0) return errno == ENOENT ? SHMQ_NOT_FOUND : errno == EACCES ? SHMQ_FOREIGN : SHMQ_SYSTEM;
    struct stat found;
    int status = SHMQ_SYSTEM;
    if (fstat(fd, &found) == 0) {
        status = !S_ISREG(found.st_mode) ? SHMQ_MISMATCH : SHMQ_OK;
        if (status == SHMQ_OK && !shmq_file_is_ours(&found, S_IFREG)) status = SHMQ_FOREIGN; /* or other users may write to it */
        if (status == SHMQ_OK && (uint64_t)found.st_size < sizeof(struct shmq_header)) status = SHMQ_NOT_FOUND;
    }
    if (status == SHMQ_OK) {
        *mapped = (uint64_t)found.st_size;
        *base = mmap(NULL, *mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        status = *base == MAP_FAILED ? SHMQ_SYSTEM : (int)shmq_segment_check(*base, *mapped, geometry);
        if (status != SHMQ_OK && *base != MAP_FAILED) munmap(*base, *mapped);
        if (status == SHMQ_WOULD_BLOCK) status = SHMQ_NOT_FOUND;
    }
    close(fd);
    return status;
}

int shmq_attach(const char *name, shmq_queue **out) {
    if (!shmq_owner_is_this_user()) return SHMQ_FOREIGN;
    uint64_t own = shmq_owner_self();
    if (own == 0) return SHMQ_SYSTEM;
    void *base;
    struct shmq_geometry geometry;
    uint64_t mapped;
    int status = map_segment(name, &base, &geometry, &mapped);
    if (status != SHMQ_OK) return status;
    shmq_queue *queue = calloc(1, sizeof *queue);
    if (queue == NULL) status = SHMQ_SYSTEM;
    else if (((struct shmq_header *)base)->lock_inode != shmq_owner_lock_inode()) status = SHMQ_MISMATCH;
    else if (((struct shmq_header *)base)->flags & SHMQ_GROWS) status = SHMQ_MISMATCH; /* this client neither reads nor writes a backlog */
    else {
        status = (int)shmq_port_attach(&queue->port, base, &geometry, own);
        if (status == SHMQ_NO_PORTS && shmq_reap(&queue->port.port)) status = (int)shmq_port_attach(&queue->port, base, &geometry, own);
    }
    if (status == SHMQ_OK) {
        queue->mapped_bytes = mapped;
        if ((size_t)snprintf(queue->path_prefix, sizeof queue->path_prefix, "/dev/shm/shmq-%lu.%s+%016llx",
                             (unsigned long)geteuid(), name, (unsigned long long)queue->port.port.nonce) < sizeof queue->path_prefix)
            queue->port.port.path_prefix = queue->path_prefix;
        int failure = 0;
        for (int side = 0; side < 2; side++) {
            queue->port.port.semaphores[side] = open_semaphore(name, queue->port.port.nonce, side == SHMQ_ITEMS ? "items" : "space");
            if (queue->port.port.semaphores[side] == NULL) failure = errno ? errno : ENAMETOOLONG;
        }
        shmq_reap(&queue->port.port);
        if (failure == 0) {
            *out = queue;
            return SHMQ_OK;
        }
        shmq_detach(queue);
        return failure == EPERM ? SHMQ_FOREIGN : SHMQ_CORRUPT;
    }
    munmap(base, mapped);
    free(queue);
    return status;
}

void shmq_detach(shmq_queue *queue) {
    if (queue == NULL) return;
    if (queue->port.port.owner == shmq_owner_self()) shmq_port_detach(&queue->port); /* a forked child only unmaps */
    for (int side = 0; side < 2; side++)
        if (queue->port.port.semaphores[side]) sem_close(queue->port.port.semaphores[side]);
    munmap(queue->port.port.base, queue->mapped_bytes);
    free(queue);
}

uint64_t shmq_slot_size(const shmq_queue *queue) { return queue->port.geometry.slot_size; }

static uint64_t deadline_of(int64_t timeout_ns) { return timeout_ns < 0 ? SHMQ_FOREVER : shmq_now_ns() + (uint64_t)timeout_ns; }

/* The waiting half of every blocking call. Signals end a sleep, not the call. */
static int wait_on(shmq_queue *queue, int status, enum shmq_side side, uint64_t deadline, struct shmq_patience *patience) {
    status = (int)shmq_verdict(&queue->port, side, (shmq_status)status, false);
    if (status == SHMQ_WOULD_BLOCK) status = (int)shmq_await(&queue->port, side, deadline, patience);
    else if (status == SHMQ_NO_CELLS) {
        if (!patience->begun_ns) patience->begun_ns = shmq_now_ns();
        uint64_t moment = patience->begun_ns + SHMQ_CELL_PATIENCE_NS;
        status = (int)shmq_await_cell(&queue->port, deadline < moment && shmq_cells_move(&queue->port, true) ? moment : deadline, patience);
        /* A message that rests will come, but not yet. */
        if (status == SHMQ_TIMED_OUT) return side == SHMQ_ITEMS && queue->port.due_ns != SHMQ_FOREVER ? SHMQ_TIMED_OUT : SHMQ_NO_CELLS;
    } else return status;
    return status == SHMQ_INTERRUPTED ? SHMQ_OK : status;
}

/* Has NumPy items of this kind and size? Python could not read others. */
static bool is_item(char dtype, uint32_t itemsize) {
    bool is_power = itemsize && !(itemsize & (itemsize - 1));
    switch (dtype) {
    case 'b': return itemsize == 1;
    case 'u':
    case 'i': return is_power && itemsize <= 8;
    case 'f': return is_power && itemsize >= 2 && itemsize <= 16;
    case 'c': return is_power && itemsize >= 8 && itemsize <= 32;
    case 'S':
    case 'V': return itemsize > 0;
    case 'U': return itemsize > 0 && itemsize % 4 == 0;
    default: return false;
    }
}

static int describe(struct shmq_slot *slot, uint64_t nbytes, const shmq_shape *shape) {
    slot->nbytes = nbytes;
    slot->described = 0;
    slot->flags = 0;
    slot->kind = SHMQ_BYTES;
    if (shape == NULL || shape->dtype == 0) return SHMQ_OK;
    if (shape->ndim > SHMQ_INLINE_DIMS) return SHMQ_TOO_LARGE;
    uint64_t total = shape->itemsize;
    for (uint32_t i = 0; i < shape->ndim; i++) {
        slot->shape[i] = shape->shape[i];
        if (__builtin_mul_overflow(total, (uint64_t)shape->shape[i], &total)) return SHMQ_TOO_LARGE;
    }
    if (total != nbytes || !is_item(shape->dtype, shape->itemsize)) return SHMQ_MISMATCH;
    slot->kind = SHMQ_ARRAY;
    slot->ndim = (uint8_t)shape->ndim;
    slot->dtype = (uint8_t)shape->dtype;
    slot->itemsize = shape->itemsize;
    return SHMQ_OK;
}

/* The slot of one of this handle's cells, checked: false where a scribbler has changed the cell. */
static bool checked_slot(const shmq_queue *queue, uint32_t cell, uint32_t *slot) {
    *slot = shmq_word_slot(shmq_cell_load(&queue->port, cell));
    return *slot < queue->port.geometry.total_slots;
}

int shmq_loan(shmq_queue *queue, uint64_t nbytes, const shmq_shape *shape, shmq_message *message) {
    if (nbytes > queue->port.geometry.slot_size) return SHMQ_TOO_LARGE;
    struct shmq_patience patience = {0};
    uint32_t cell;
    int status;
    while ((status = (int)shmq_cell_take_for_long(&queue->port, SHMQ_TO_WRITE, &cell)) != SHMQ_OK)
        if ((status = wait_on(queue, status, SHMQ_SPACE, 0, &patience)) != SHMQ_OK) return status;
    uint32_t slot;
    status = checked_slot(queue, cell, &slot) ? describe(shmq_slot_at(&queue->port, slot), nbytes, shape) : SHMQ_CORRUPT;
    if (status != SHMQ_OK) {
        shmq_cell_return(&queue->port, cell, true);
        return status;
    }
    shmq_cell_become(&queue->port, cell, SHMQ_LOANED);
    memset(message, 0, sizeof *message);
    message->word = shmq_cell_load(&queue->port, cell);
    message->data = shmq_payload_at(&queue->port, slot);
    message->nbytes = nbytes;
    message->cell = cell;
    return SHMQ_OK;
}

/* Give the claimed or loaned cell's slot to the ring, waiting for room. On error the cell is still the caller's. */
static int publish(shmq_queue *queue, uint32_t cell, uint64_t deadline) {
    struct shmq_patience patience = {0};
    uint32_t slot;
    if (!checked_slot(queue, cell, &slot)) return SHMQ_CORRUPT;
    shmq_slot_stamp(&queue->port, shmq_slot_at(&queue->port, slot));
    for (;;) {
        int status = (int)shmq_offer(&queue->port, cell, true);
        if (status == SHMQ_OK) break;
        status = wait_on(queue, status, SHMQ_SPACE, deadline, &patience);
        if (status != SHMQ_OK) return status;
    }
    shmq_cell_return(&queue->port, cell, false);
    return SHMQ_OK;
}

/* Is it a loan of this handle's that was neither published nor abandoned, through this message or a copy of it? */
static bool is_lent(const shmq_queue *queue, const shmq_message *message) {
    const struct shmq_queue_port *port = &queue->port;
    return message->data != NULL && message->cell < port->geometry.cells
        && shmq_cell_load(port, (uint32_t)message->cell) == message->word
        && shmq_cell_state(message->word) == SHMQ_LOANED && shmq_cell_owner(message->word) == port->port.index;
}

int shmq_publish(shmq_queue *queue, shmq_message *message, int64_t timeout_ns) {
    if (!is_lent(queue, message)) return SHMQ_LOST;
    int status = publish(queue, (uint32_t)message->cell, deadline_of(timeout_ns));
    if (status == SHMQ_OK) message->data = NULL;
    return status;
}

int shmq_abandon(shmq_queue *queue, shmq_message *message) {
    if (!is_lent(queue, message)) return SHMQ_LOST;
    shmq_cell_return(&queue->port, (uint32_t)message->cell, true);
    message->data = NULL;
    return SHMQ_OK;
}

int shmq_put(shmq_queue *queue, const void *data, uint64_t nbytes, const shmq_shape *shape, int64_t timeout_ns) {
    if (nbytes > queue->port.geometry.slot_size) return SHMQ_TOO_LARGE;
    uint64_t deadline = deadline_of(timeout_ns);
    struct shmq_patience patience = {0};
    uint32_t cell;
    int status;
    while ((status = (int)shmq_cell_take(&queue->port, SHMQ_TO_WRITE, &cell)) != SHMQ_OK)
        if ((status = wait_on(queue, status, SHMQ_SPACE, deadline, &patience)) != SHMQ_OK) return status;
    uint32_t slot;
    status = checked_slot(queue, cell, &slot) ? describe(shmq_slot_at(&queue->port, slot), nbytes, shape) : SHMQ_CORRUPT;
    if (status == SHMQ_OK) {
        if (nbytes) memcpy(shmq_payload_at(&queue->port, slot), data, nbytes);
        status = publish(queue, cell, deadline);
    }
    if (status != SHMQ_OK) shmq_cell_return(&queue->port, cell, true);
    return status;
}

#define LOSSES 16

int shmq_receive(shmq_queue *queue, shmq_message *message, int64_t timeout_ns) {
    struct shmq_queue_port *port = &queue->port;
    struct shmq_patience patience = {0};
    uint64_t deadline = deadline_of(timeout_ns), lease_ns = port->policy.lease_timeout_ns;
    enum shmq_cell_state leased = lease_ns ? SHMQ_TIMED : SHMQ_LEASED;
    uint32_t cell, lost = 0;
    for (;;) {
        int status = (int)shmq_take(port, true, lease_ns, &cell);
        if (status == SHMQ_OK) {
            message->word = shmq_cell_load(port, cell);
            if (shmq_cell_owner(message->word) == port->port.index && shmq_cell_state(message->word) == leased) break;
            /* This thread was stopped for so long that the lease was over before it could be used. That can happen, but not again
             * and again: a scribbler must not keep this call from looking at the clock. */
            if (lost++ < LOSSES) continue;
            status = SHMQ_WOULD_BLOCK;
        }
        status = wait_on(queue, status, SHMQ_ITEMS, deadline, &patience);
        if (status != SHMQ_OK) return status;
    }
    shmq_store_relaxed(&port->cells[cell].leased_ns, shmq_now_coarse_ns());
    shmq_count(&port->port.record->counters[SHMQ_RECEIVES], 1);
    message->cell = cell;
    if (shmq_word_slot(message->word) >= port->geometry.total_slots) return SHMQ_CORRUPT;
    struct shmq_slot slot = *shmq_slot_at(port, shmq_word_slot(message->word));
    if (slot.nbytes > port->geometry.payload_room || slot.ndim > SHMQ_INLINE_DIMS) {
        shmq_lease_give_back(port, cell, message->word, SHMQ_NACKED, SHMQ_BY_POLICY);
        return SHMQ_CORRUPT;
    }
    message->data = shmq_payload_at(port, shmq_word_slot(message->word));
    message->nbytes = slot.nbytes;
    message->id = slot.id;
    message->published_ns = slot.published_ns;
    message->delivery_count = shmq_deliveries_failed(shmq_load_relaxed(&slot.deliveries)) + 1;
    /* A message that these fields cannot describe must not look like one that they can. */
    bool plain = !(slot.flags & (SHMQ_FORTRAN | SHMQ_SWAPPED | SHMQ_DESCRIBED | SHMQ_SPILLED));
    message->kind = plain ? slot.kind : SHMQ_KINDS;
    message->shape = (shmq_shape){.dtype = (char)slot.dtype, .itemsize = slot.itemsize, .ndim = slot.ndim};
    memcpy(message->shape.shape, slot.shape, sizeof slot.shape);
    return SHMQ_OK;
}

int shmq_ack(shmq_queue *queue, shmq_message *message) {
    char key[SHMQ_SIDE_KEY_BYTES] = ""; /* of the side segment, which goes with the message; read while the lease lasts */
    uint32_t slot = shmq_word_slot(message->word);
    if (slot < queue->port.geometry.total_slots && shmq_slot_at(&queue->port, slot)->flags & SHMQ_SPILLED)
        memcpy(key, shmq_payload_at(&queue->port, slot), sizeof key);
    int status = (int)shmq_lease_ack(&queue->port, (uint32_t)message->cell, message->word, false);
    if (status == SHMQ_OK) {
        if (key[0] && queue->port.port.path_prefix) shmq_file_remove_side(queue->port.port.path_prefix, key);
        shmq_cell_return(&queue->port, (uint32_t)message->cell, true);
        shmq_wake_if_done(&queue->port.port);
    }
    message->data = NULL;
    return status;
}

int shmq_nack(shmq_queue *queue, shmq_message *message) {
    message->data = NULL;
    return (int)shmq_lease_give_back(&queue->port, (uint32_t)message->cell, message->word, SHMQ_NACKED, SHMQ_BY_POLICY);
}

int shmq_extend(shmq_queue *queue, shmq_message *message, int64_t nanoseconds) {
    if (message->data == NULL || nanoseconds < 0) return SHMQ_LOST;
    return (int)shmq_lease_extend(&queue->port, (uint32_t)message->cell, &message->word, shmq_now_ns() + (uint64_t)nanoseconds);
}

const char *shmq_strerror(int error) {
    static const char *const words[] = {
        [SHMQ_OK] = "success",
        [SHMQ_WOULD_BLOCK] = "would block",
        [SHMQ_NO_CELLS] = "every in-flight cell of the queue is loaned or leased",
        [SHMQ_TIMED_OUT] = "timed out",
        [SHMQ_INTERRUPTED] = "interrupted by a signal",
        [SHMQ_LOST] = "the message is no longer yours",
        [SHMQ_CORRUPT] = "the segment is corrupt",
        [SHMQ_NO_PORTS] = "every port of the queue is in use: close a handle, or create it with more ports",
        [SHMQ_TOO_LARGE] = "the message is larger than a slot of the queue",
        [SHMQ_NOT_FOUND] = "there is no queue of this name",
        [SHMQ_MISMATCH] = "the segment is of another format, version or machine, or the shape does not fit the bytes",
        [SHMQ_FOREIGN] = "the segment belongs to another user",
        [SHMQ_EXHAUSTED] = "the message has failed too often",
        [SHMQ_SHUT] = "the queue was shut down: no message goes in any more",
        [SHMQ_UNKNOWN_KIND] = "the segment holds no queue, but something that this version of shmq does not know",
    };
    if (error == SHMQ_SYSTEM) return strerror(errno);
    return error >= 0 && (unsigned)error < sizeof words / sizeof *words && words[error] ? words[error] : "unknown error";
}
