/* A C program that knows nothing but shmq.h, driven line by line over its standard input; see `commands`. Each command is
 * answered by one line, which begins with the number that the library returned. */
#include "shmq.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 64 };

static shmq_queue *queue;
static shmq_message messages[MOST]; /* loaned or received, by the number that the driver gives them */

static int64_t ns(const char *milliseconds) { return milliseconds ? (int64_t)(atof(milliseconds) * 1e6) : 0; }

static shmq_message *message(const char *number) { return &messages[atoi(number) % MOST]; }

static uint64_t unhex(const char *hex, unsigned char *out) {
    uint64_t nbytes = strlen(hex) / 2;
    for (uint64_t i = 0; i < nbytes; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        out[i] = (unsigned char)byte;
    }
    return nbytes;
}

/* "f8:3,4" -> its shape. */
static const shmq_shape *shape_of(const char *text) {
    static shmq_shape shape;
    if (text == NULL) return NULL;
    memset(&shape, 0, sizeof shape);
    char *rest;
    shape.dtype = text[0];
    shape.itemsize = (uint32_t)strtoul(text + 1, &rest, 10);
    while ((*rest == ':' || *rest == ',') && shape.ndim < 4) shape.shape[shape.ndim++] = (uint32_t)strtoul(rest + 1, &rest, 10);
    if (*rest) shape.ndim = 5; /* more than there is room for: for the library to refuse */
    return &shape;
}

static void answer(int error) {
    printf("%d %s\n", error, shmq_strerror(error));
    fflush(stdout);
}

static void attach(char **words) { answer(shmq_attach(words[1], &queue)); }

static void detach(char **words) {
    (void)words;
    shmq_detach(queue);
    queue = NULL;
    answer(0);
}

static void slot_size(char **words) {
    (void)words;
    printf("0 %llu\n", (unsigned long long)shmq_slot_size(queue));
}

static void put(char **words) { /* HEX|- MILLISECONDS [SHAPE] */
    unsigned char *bytes = malloc(strlen(words[1]) + 1);
    uint64_t nbytes = strcmp(words[1], "-") == 0 ? 0 : unhex(words[1], bytes);
    answer(shmq_put(queue, bytes, nbytes, shape_of(words[3]), ns(words[2])));
    free(bytes);
}

static void put_doubles(char **words) { /* ROWS COLUMNS: 0, 0.5, 1, … */
    uint32_t rows = (uint32_t)atoi(words[1]), columns = (uint32_t)atoi(words[2]);
    double *values = malloc(sizeof *values * rows * columns);
    for (uint32_t i = 0; i < rows * columns; i++) values[i] = i * 0.5;
    shmq_shape shape = {.dtype = 'f', .itemsize = sizeof *values, .ndim = 2, .shape = {rows, columns}};
    answer(shmq_put(queue, values, sizeof *values * rows * columns, &shape, -1));
    free(values);
}

static void loan(char **words) { /* NUMBER NBYTES [SHAPE] */
    answer(shmq_loan(queue, strtoull(words[2], NULL, 10), shape_of(words[3]), message(words[1])));
}
static void fill(char **words) { /* NUMBER HEX */
    shmq_message *lent = message(words[1]);
    uint64_t nbytes = unhex(words[2], lent->data);
    answer(nbytes == lent->nbytes ? 0 : -1);
}
static void publish(char **words) { answer(shmq_publish(queue, message(words[1]), ns(words[2]))); }
static void publish_abandon(char **words) { answer(shmq_abandon(queue, message(words[1]))); }

static void copy(char **words) { /* FROM TO */
    *message(words[2]) = *message(words[1]);
    answer(0);
}

static void receive(char **words) { /* NUMBER MILLISECONDS -> kind, deliveries, dtype and shape, bytes */
    shmq_message *got = message(words[1]);
    int error = shmq_receive(queue, got, ns(words[2]));
    if (error) {
        answer(error);
        return;
    }
    printf("0 %u %u ", got->kind, got->delivery_count);
    if (got->kind == 1) {
        printf("%c%u", got->shape.dtype, got->shape.itemsize);
        for (uint32_t i = 0; i < got->shape.ndim; i++) printf("%c%u", i ? ',' : ':', got->shape.shape[i]);
    } else putchar('-');
    putchar(' ');
    for (uint64_t i = 0; i < got->nbytes; i++) printf("%02x", ((const unsigned char *)got->data)[i]);
    putchar('\n');
}
static void about(char **words) { /* NUMBER -> id, age in nanoseconds */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    uint64_t now_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    printf("0 %llu %llu\n", (unsigned long long)message(words[1])->id, (unsigned long long)(now_ns - message(words[1])->published_ns));
}
static void ack(char **words) { answer(shmq_ack(queue, message(words[1]))); }
static void nack(char **words) { answer(shmq_nack(queue, message(words[1]))); }
static void again(char **words) { messages[atoi(words[2])] = *message(words[1]); answer(0); } /* remember what it was */

static void produce(char **words) { /* COUNT: 32-bit numbers from 0 on */
    int error = 0;
    for (uint32_t i = 0; i < (uint32_t)atoi(words[1]) && !error; i++) error = shmq_put(queue, &i, sizeof i, NULL, -1);
    answer(error);
}
static void consume(char **words) { /* COUNT: each must be the next 32-bit number */
    int error = 0;
    for (uint32_t i = 0; i < (uint32_t)atoi(words[1]) && !error; i++) {
        shmq_message got;
        uint32_t number;
        if ((error = shmq_receive(queue, &got, -1)) != 0) break;
        memcpy(&number, got.data, sizeof number);
        if (got.nbytes != sizeof number || number != i) error = -1;
        else error = shmq_ack(queue, &got);
    }
    answer(error);
}
static void in_child(char **words) { /* a forked child lets go of the handle, and opens its own by the name */
    pid_t pid = fork();
    if (pid == 0) {
        shmq_detach(queue);
        uint32_t number = 7;
        int error = shmq_attach(words[1], &queue);
        if (!error) error = shmq_put(queue, &number, sizeof number, NULL, -1);
        if (!error) shmq_detach(queue);
        _exit(error);
    }
    int status;
    waitpid(pid, &status, 0);
    answer(WIFEXITED(status) ? WEXITSTATUS(status) : -1);
}
static void words_for(char **words) { answer(atoi(words[1])); }

static const struct { const char *name; void (*run)(char **); } commands[] = {
    {"attach", attach}, {"detach", detach}, {"slot_size", slot_size}, {"put", put}, {"put_doubles", put_doubles}, {"loan", loan},
    {"fill", fill}, {"publish", publish}, {"abandon", publish_abandon}, {"copy", copy}, {"receive", receive}, {"about", about}, {"ack", ack},
    {"nack", nack}, {"again", again}, {"produce", produce}, {"consume", consume}, {"in_child", in_child}, {"strerror", words_for},
};

int main(void) {
    static char line[1 << 20];
    while (fgets(line, sizeof line, stdin)) {
        char *words[8] = {0};
        int count = 0;
        for (char *word = strtok(line, " \n"); word && count < 7; word = strtok(NULL, " \n")) words[count++] = word;
        if (count == 0) continue;
        size_t i = 0;
        while (i < sizeof commands / sizeof *commands && strcmp(commands[i].name, words[0]) != 0) i++;
        if (i == sizeof commands / sizeof *commands) return 2;
        commands[i].run(words);
        fflush(stdout);
    }
    shmq_detach(queue);
    return 0;
}
