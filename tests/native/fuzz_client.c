/* A libFuzzer target for shmq_attach: a file in /dev/shm whose content and length are the input's; where it is taken, a message
 * goes through it. fuzz_segment.c does the same to the engine alone, faster, and between fences. */
#include <sanitizer/common_interface_defs.h>
#include <stdlib.h>

#define _Exit(status) abort() /* of a check that fails: libFuzzer then writes the input down */
#include "segment.h"

#include "client/client.c"

#define NONCE UINT64_C(0xf022)
static char name[64], file_path[96], semaphore_paths[2][96];
static int file;
static struct segment whole; /* what the input changes */

static void clean_up(void) {
    shm_unlink(file_path);
    for (int side = 0; side < 2; side++) sem_unlink(semaphore_paths[side]);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    const char *given = getenv("SHMQ_FUZZ_NAME"); /* so that whoever started this can see that nothing is left */
    snprintf(name, sizeof name, "fuzz.%s.%d", given ? given : "client", getpid());
    snprintf(file_path, sizeof file_path, "/shmq-%lu.%s", (unsigned long)geteuid(), name);
    CHECK(shmq_owner_self() != 0);
    for (int side = 0; side < 2; side++) {
        snprintf(semaphore_paths[side], sizeof *semaphore_paths, "/shmq-%lu.%s+%016llx.%s", (unsigned long)geteuid(), name, (unsigned long long)NONCE, side == SHMQ_ITEMS ? "items" : "space");
        sem_t *semaphore = sem_open(semaphore_paths[side], O_CREAT | O_EXCL, 0600, 0);
        CHECK(semaphore != SEM_FAILED);
        sem_close(semaphore);
    }
    file = shm_open(file_path, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(file >= 0);
    atexit(clean_up);
    __sanitizer_set_death_callback(clean_up);
    segment_make(&whole, 2, 64, 2, 2);
    ((struct shmq_header *)whole.base)->nonce = NONCE;
    return 0;
}

/* The input: the file's length as a difference (2 bytes), then offset (2), how many (1), and bytes to put there. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t nbytes) {
    unsigned char image[8192];
    uint64_t whole_bytes = whole.geometry.segment_bytes;
    CHECK(whole_bytes <= sizeof image);
    memcpy(image, whole.base, whole_bytes);
    int64_t length = (int64_t)whole_bytes;
    if (nbytes >= 2) length += (int16_t)(data[0] | data[1] << 8), data += 2, nbytes -= 2;
    if (length < 0) length = 0;
    while (nbytes >= 4) {
        uint64_t offset = (uint64_t)(data[0] | data[1] << 8) % whole_bytes, count = data[2];
        data += 3, nbytes -= 3;
        if (count > nbytes) count = nbytes;
        if (count > whole_bytes - offset) count = whole_bytes - offset;
        memcpy(image + offset, data, count);
        data += count, nbytes -= count;
    }
    CHECK_EQUAL(ftruncate(file, 0), 0);
    CHECK_EQUAL(ftruncate(file, length), 0);
    uint64_t written = (uint64_t)length < whole_bytes ? (uint64_t)length : whole_bytes;
    CHECK_EQUAL(pwrite(file, image, written, 0), written);
    shmq_queue *queue = NULL;
    int status = shmq_attach(name, &queue);
    CHECK((status >= SHMQ_OK && status <= SHMQ_SYSTEM) || status == SHMQ_UNKNOWN_KIND);
    CHECK((status == SHMQ_OK) == (queue != NULL));
    if (status != SHMQ_OK) return 0;
    CHECK(queue->port.geometry.segment_bytes <= (uint64_t)length);
    shmq_message message;
    unsigned char payload[64] = {1};
    status = shmq_put(queue, payload, shmq_slot_size(queue) < sizeof payload ? shmq_slot_size(queue) : sizeof payload, NULL, 0);
    CHECK(status >= SHMQ_OK && (status <= SHMQ_SYSTEM || status == SHMQ_SHUT));
    if (shmq_receive(queue, &message, 0) == SHMQ_OK) {
        static unsigned char copy[1 << 16];
        CHECK(message.nbytes <= sizeof copy);
        memcpy(copy, message.data, message.nbytes);
        status = data != NULL && nbytes ? shmq_nack(queue, &message) : shmq_ack(queue, &message);
        CHECK(status == SHMQ_OK || status == SHMQ_LOST);
    }
    shmq_detach(queue);
    return 0;
}
