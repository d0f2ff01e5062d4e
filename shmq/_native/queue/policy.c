#define _GNU_SOURCE
#include "policy.h"

static double clamped(double value, double least, double most) { return value >= least ? value <= most ? value : most : least; }

struct shmq_policy shmq_policy_of(const struct shmq_queue_header *header) {
    struct shmq_policy policy = header->policy;
    if (policy.lease_timeout_ns > SHMQ_LONGEST_NS) policy.lease_timeout_ns = SHMQ_LONGEST_NS;
    if (policy.retry_initial_ns > SHMQ_LONGEST_NS) policy.retry_initial_ns = SHMQ_LONGEST_NS;
    if (policy.retry_maximum_ns > SHMQ_LONGEST_NS) policy.retry_maximum_ns = SHMQ_LONGEST_NS;
    policy.retry_factor = clamped(policy.retry_factor, 1, 1000); /* NaN is the least */
    policy.retry_jitter = clamped(policy.retry_jitter, 0, 1);
    return policy;
}

uint64_t shmq_policy_rest_ns(const struct shmq_policy *policy, uint32_t failed, uint64_t salt) {
    double rest = (double)policy->retry_initial_ns, most = (double)policy->retry_maximum_ns;
    if (rest <= 0) return 0;
    for (uint32_t i = 1; i < failed && rest < most; i++) rest *= policy->retry_factor;
    if (rest > most) rest = most;
    salt = (salt ^ salt >> 31) * UINT64_C(0x9e3779b97f4a7c15); /* spread over all bits: Knuth's multiplicative hash */
    double chance = (double)(salt >> 11) / (double)(UINT64_C(1) << 53);
    return (uint64_t)(rest * (1 + policy->retry_jitter * (2 * chance - 1)));
}
