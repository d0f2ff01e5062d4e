/* Data acquisition in C: writes blocks of samples straight into the slots of a Python program's queue.
 * run.py compiles and starts it; the queue's name is its argument. */
#include <shmq.h>
#include <stdio.h>
#include <stdlib.h>

enum { BLOCKS = 1000, SAMPLES = 1000, CHANNELS = 4 };

static void check(int error, const char *what) {
    if (error) {
        fprintf(stderr, "%s: %s\n", what, shmq_strerror(error));
        exit(1);
    }
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    shmq_queue *queue;
    check(shmq_attach(argv[1], &queue), argv[1]);

    const shmq_shape shape = {.dtype = 'f', .itemsize = sizeof(float), .ndim = 2, .shape = {SAMPLES, CHANNELS}};
    for (int block = 0; block < BLOCKS; block++) {
        shmq_message message;
        check(shmq_loan(queue, sizeof(float[SAMPLES][CHANNELS]), &shape, &message), "loan");
        float (*samples)[CHANNELS] = message.data;
        for (int sample = 0; sample < SAMPLES; sample++)
            for (int channel = 0; channel < CHANNELS; channel++)
                samples[sample][channel] = (float)(block * SAMPLES + sample) * (float)(channel + 1);
        check(shmq_publish(queue, &message, -1), "publish"); /* -1: waits for ever while the queue is full */
    }
    shmq_detach(queue);
    return 0;
}
