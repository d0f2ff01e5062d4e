/* What a frame holds and how it is read: the same code on both sides of every comparison.
 *
 * The bare C pipelines (limit.c) and the Python loops (content.c) fill and read frames with these functions, so that
 * a ratio between them compares the queues and not two ways to sum an array. Every word of frame `sequence` is
 * content_word(sequence): small numbers, so that a whole run's total fits in 64 bits. Sizes are multiples of 64 bytes.
 */
#ifndef SHMQ_BENCH_CONTENT_H
#define SHMQ_BENCH_CONTENT_H

#include <stddef.h>
#include <stdint.h>

/* A pickled array may start at any address. */
typedef uint64_t __attribute__((aligned(1), may_alias)) content_unit;

static inline uint64_t content_word(uint64_t sequence) {
    return sequence % 251 + 1;
}

/* Writes all bytes. */
static inline void content_fill(void *frame, size_t nbytes, uint64_t sequence) {
    content_unit *words = frame;
    const uint64_t word = content_word(sequence);
    for (size_t i = 0; i < nbytes / 8; i++)
        words[i] = word;
}

/* Reads all bytes; eight independent sums, or the additions and not the memory would be measured. */
static inline uint64_t content_sum(const void *frame, size_t nbytes) {
    const content_unit *words = frame;
    uint64_t sums[8] = {0};
    for (size_t i = 0; i + 8 <= nbytes / 8; i += 8)
        for (size_t lane = 0; lane < 8; lane++)
            sums[lane] += words[i + lane];
    return sums[0] + sums[1] + sums[2] + sums[3] + sums[4] + sums[5] + sums[6] + sums[7];
}

/* Writes the first and the last word only. */
static inline void content_mark(void *frame, size_t nbytes, uint64_t sequence) {
    content_unit *words = frame;
    words[0] = words[nbytes / 8 - 1] = content_word(sequence);
}

static inline uint64_t content_ends(const void *frame, size_t nbytes) {
    const content_unit *words = frame;
    return words[0] + words[nbytes / 8 - 1];
}

#endif
