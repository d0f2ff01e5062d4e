/* Failed deliveries: how often, why, and what the creator's policy says about them. */
#ifndef SHMQ_POLICY_H
#define SHMQ_POLICY_H

#include "port.h"

/* Why a delivery ended without an ack. A release is not a failure; a rejected message is never delivered again. */
enum shmq_cause { SHMQ_RELEASED = 0, SHMQ_NACKED = 1, SHMQ_EXPIRED = 2, SHMQ_DIED = 3, SHMQ_REJECTED = 4 };

/* No message rests, and no policy's lease lasts, longer than a year: so no sum of times overflows. */
#define SHMQ_LONGEST_NS (UINT64_C(86400) * 366 * 1000000000)

/* The policy in a header, clamped to what makes sense, since another process wrote it. */
struct shmq_policy shmq_policy_of(const struct shmq_queue_header *header);

/* How long a message rests after its nth failed delivery. `salt` differs from message to message. */
uint64_t shmq_policy_rest_ns(const struct shmq_policy *policy, uint32_t failed, uint64_t salt);

/* The word `deliveries` of a slot: failed deliveries (16) | tag: always 1, cause (3), generation (27), cell (14). */
static inline uint32_t shmq_deliveries_failed(uint64_t word) { return (uint32_t)(word & 0xffff); }
static inline enum shmq_cause shmq_deliveries_cause(uint64_t word) { return (enum shmq_cause)(word >> 57 & 7); }

/* Is a message of these failed deliveries to be a dead letter? */
static inline bool shmq_message_exhausted(const struct shmq_queue_port *queue, uint64_t deliveries) {
    return shmq_deliveries_cause(deliveries) == SHMQ_REJECTED ||
           (queue->policy.max_deliveries && shmq_deliveries_failed(deliveries) >= queue->policy.max_deliveries);
}

#endif
