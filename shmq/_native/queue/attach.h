/* A queue in a segment: made, checked, attached and detached. */
#ifndef SHMQ_ATTACH_H
#define SHMQ_ATTACH_H

#include "port.h"

/* Fill a new segment of at least geometry->segment_bytes zeroed bytes. Everything but `magic`, which the caller stores
 * with shmq_segment_ready() once semaphores and the like exist too. */
void shmq_segment_format(void *base, const struct shmq_geometry *geometry, uint64_t nonce, uint32_t flags,
                         const char *codec, const uint8_t boot_id[16], uint64_t creator, uint64_t lock_inode,
                         const struct shmq_policy *policy);

/* Check a mapped header of `file_bytes` bytes. Post: OK and *out; WOULD_BLOCK: not ready yet (or abandoned half-made);
 * MISMATCH: another format, version or byte order; UNKNOWN_KIND: no queue; CORRUPT: the numbers contradict each other or the file's size. */
shmq_status shmq_segment_check(const void *base, uint64_t file_bytes, struct shmq_geometry *out);

/* Note where all parts are. Takes no port: enough to look at a segment, also one that is mapped for reading only. */
void shmq_port_map(struct shmq_queue_port *queue, void *base, const struct shmq_geometry *geometry);

/* Take a free port and its cell. Pre: `base` was checked. Post: OK or NO_PORTS.
 * Killed here: a claimed port that holds nothing, or one cell; the reaper frees both. */
shmq_status shmq_port_attach(struct shmq_queue_port *queue, void *base, const struct shmq_geometry *geometry, uint64_t owner);

/* Detach: leased cells become ORPHAN, and no failed delivery is counted; the rest becomes SPARE. The port is free afterwards. */
void shmq_port_detach(struct shmq_queue_port *queue);

#endif
