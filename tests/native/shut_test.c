/* A consumer of shmq.h looks into an empty queue; before it looks whether the queue was shut, somebody puts a message and shuts it. The
 * window is between two calls of client.c, which is included here; `shut_test NAME` passes or says what was not so. */
#include "check.h"

#include "client/client.c"

int main(int argc, char **argv) {
    shmq_queue *consumer, *producer;
    shmq_message message;
    struct shmq_patience patience = {0};
    CHECK(argc == 2 && shmq_attach(argv[1], &consumer) == 0 && shmq_attach(argv[1], &producer) == 0);
    CHECK(shmq_receive(consumer, &message, 0) == SHMQ_TIMED_OUT);
    CHECK(shmq_put(producer, "x", 1, NULL, 0) == 0);
    shmq_store_seq(&producer->port.header->shut, SHMQ_SHUT_FOR_PUTS);
    CHECK(wait_on(consumer, SHMQ_WOULD_BLOCK, SHMQ_ITEMS, SHMQ_FOREVER, &patience) == SHMQ_OK);
    CHECK(shmq_put(producer, "x", 1, NULL, 0) == SHMQ_SHUT);
    CHECK(shmq_receive(consumer, &message, -1) == 0);
    CHECK(shmq_nack(consumer, &message) == 0);
    CHECK(shmq_receive(consumer, &message, -1) == 0 && message.delivery_count == 2);
    CHECK(wait_on(producer, SHMQ_WOULD_BLOCK, SHMQ_ITEMS, SHMQ_FOREVER, &patience) == SHMQ_SHUT);
    CHECK(shmq_ack(consumer, &message) == 0);
    CHECK(shmq_receive(consumer, &message, -1) == SHMQ_SHUT);
    shmq_detach(consumer);
    shmq_detach(producer);
    return 0;
}
