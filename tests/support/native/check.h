/* Checks: one that fails says where and in which trial, and ends the program. A program that hangs says so, too. */
#ifndef SHMQ_TEST_CHECK_H
#define SHMQ_TEST_CHECK_H

#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WATCHDOG_SECONDS 60

static char context[256]; /* which trial this is; empty where a program has one only */

__attribute__((noreturn, format(printf, 4, 5))) static inline void check_failed(const char *file, int line, const char *what,
                                                                                const char *format, ...) {
    va_list details;
    va_start(details, format);
    fprintf(stderr, "%s:%d:%s%s not so: %s", file, line, context[0] ? " " : "", context, what);
    vfprintf(stderr, format, details);
    fputc('\n', stderr);
    fflush(NULL);
    _Exit(1);
}

/* The condition, and perhaps a format with values that say more. */
#define CHECK(condition, ...) ((condition) ? (void)0 : check_failed(__FILE__, __LINE__, #condition, " " __VA_ARGS__))

static inline void check_equal(uint64_t found, uint64_t expected, const char *what, const char *file, int line) {
    if (found != expected)
        check_failed(file, line, what, " is %llu (%#llx), expected %llu (%#llx)", (unsigned long long)found, (unsigned long long)found,
                     (unsigned long long)expected, (unsigned long long)expected);
}
#define CHECK_EQUAL(found, expected) check_equal((uint64_t)(found), (uint64_t)(expected), #found, __FILE__, __LINE__)

static inline void say_that_it_hangs(int signal_) {
    (void)signal_;
    static const char words[] = "hangs: ";
    if (write(2, words, sizeof words - 1) < 0 || write(2, context, strlen(context)) < 0) _exit(4);
    _exit(3);
}

/* From now on, so many seconds: then this process says in which trial it hangs, and ends. */
static inline void watchdog(unsigned seconds) {
    signal(SIGALRM, say_that_it_hangs);
    alarm(seconds);
}

#endif
