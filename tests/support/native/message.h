/* Messages that prove themselves: what a message is called says how long it is and what is in it. */
#ifndef SHMQ_TEST_MESSAGE_H
#define SHMQ_TEST_MESSAGE_H

#include "chance.h"
#include "check.h"
#include "engine.h"

enum { MESSAGE_WORDS = 640 }; /* at most, behind its head */

struct head {
    uint32_t producer, number;
    uint64_t checksum; /* of the words behind */
};
struct message {
    struct head head;
    uint64_t words[MESSAGE_WORDS];
};

static inline uint64_t mixed(uint64_t a, uint64_t b) {
    uint64_t state = (a + 1) * UINT64_C(0x9e3779b97f4a7c15) + b + 1;
    return chance(&state);
}

static inline uint64_t message_words(const struct shmq_queue_port *port, uint64_t salt) {
    uint64_t room = (port->geometry.slot_size - sizeof(struct head)) / 8;
    return salt % ((room < MESSAGE_WORDS ? room : MESSAGE_WORDS) + 1);
}

/* The whole message in private memory; how many bytes it has. */
static inline uint64_t message_make(const struct shmq_queue_port *port, struct message *message, uint32_t producer, uint32_t number) {
    uint64_t salt = mixed(producer, number), sum = salt, count = message_words(port, salt);
    for (uint64_t i = 0; i < count; i++) sum += message->words[i] = salt ^ i;
    message->head = (struct head){producer, number, sum};
    return sizeof message->head + count * 8;
}

static inline uint64_t message_checksum(const struct shmq_queue_port *port, uint32_t producer, uint32_t number) {
    struct message message;
    message_make(port, &message, producer, number);
    return message.head.checksum;
}

/* Write it to a slot; its checksum. What ThreadSanitizer sees is one access of the whole payload. */
static inline uint64_t message_write(struct shmq_queue_port *port, uint32_t slot, uint32_t producer, uint32_t number) {
    struct shmq_slot *header = shmq_slot_at(port, slot);
    struct message message;
    uint64_t nbytes = message_make(port, &message, producer, number);
    header->nbytes = nbytes;
    header->kind = SHMQ_BYTES;
    header->flags = header->ndim = 0;
    header->described = 0;
    memcpy(shmq_payload_at(port, slot), &message, nbytes);
    shmq_slot_stamp(port, header);
    return message.head.checksum;
}

/* Read it, and check that it is whole. */
static inline struct head message_read(const struct shmq_queue_port *port, uint32_t slot) {
    uint64_t nbytes = shmq_slot_at(port, slot)->nbytes;
    struct message message;
    CHECK(nbytes >= sizeof message.head && nbytes <= sizeof message && nbytes <= port->geometry.slot_size, "it has %lu bytes",
          (unsigned long)nbytes);
    memcpy(&message, shmq_payload_at(port, slot), nbytes);
    struct head head = message.head;
    uint64_t sum = mixed(head.producer, head.number), count = message_words(port, sum);
    CHECK(nbytes == sizeof head + count * 8, "message %u of %u has %lu bytes", head.number, head.producer, (unsigned long)nbytes);
    for (uint64_t i = 0; i < count; i++) sum += message.words[i];
    CHECK(head.checksum == sum, "message %u of %u is torn", head.number, head.producer);
    return head;
}

#endif
