/* Where the cells and slots of a queue are. */
#ifndef SHMQ_SLOTS_H
#define SHMQ_SLOTS_H

#include "port.h"

/* My own cell's word. */
static inline uint64_t shmq_cell_load(const struct shmq_queue_port *queue, uint32_t cell) {
    return shmq_load_relaxed(&queue->cells[cell].word); /* mine: no other port stores to it */
}

/* Change the state of my own cell; the slot stays. */
static inline void shmq_cell_become(struct shmq_queue_port *queue, uint32_t cell, enum shmq_cell_state state) {
    uint64_t word = shmq_cell_load(queue, cell);
    /* [hand] */
    shmq_store_release(&queue->cells[cell].word, shmq_cell_next(word, state, queue->port.index, shmq_word_slot(word)));
}

static inline struct shmq_slot *shmq_slot_at(const struct shmq_queue_port *queue, uint32_t slot) {
    return (struct shmq_slot *)(queue->port.base + queue->geometry.slot_offset + slot * queue->geometry.slot_stride);
}
static inline unsigned char *shmq_payload_at(const struct shmq_queue_port *queue, uint32_t slot) {
    return queue->port.base + queue->geometry.payload_offset + slot * queue->geometry.payload_stride;
}

/* Id and time for the message about to be published in my cell's slot; everything else is the caller's. */
static inline void shmq_slot_stamp(struct shmq_queue_port *queue, struct shmq_slot *slot) {
    slot->id = shmq_next_id(&queue->port);
    slot->published_ns = shmq_now_coarse_ns();
    shmq_store_relaxed(&slot->deliveries, 0); /* published by the exchange */
}

#endif
