/* Tests by name: a program of them runs the one that its only argument names. */
#ifndef SHMQ_TEST_SINGLE_H
#define SHMQ_TEST_SINGLE_H

#include "check.h"
#include "owner.h"

struct single {
    const char *name;
    void (*run)(void);
    struct single *next;
};
static struct single *singles;

#define TEST(title)                                                       \
    static void title(void);                                              \
    static struct single title##_single = {.name = #title, .run = title}; \
    __attribute__((constructor)) static void title##_register(void) {     \
        title##_single.next = singles;                                    \
        singles = &title##_single;                                        \
    }                                                                     \
    static void title(void)

static inline int run_single(int argc, char **argv, unsigned seconds) {
    watchdog(seconds);
    CHECK(shmq_owner_self() != 0);
    for (struct single *single = singles; argc == 2 && single != NULL; single = single->next) {
        if (strcmp(single->name, argv[1]) != 0) continue;
        snprintf(context, sizeof context, "%s", single->name);
        return single->run(), 0;
    }
    fprintf(stderr, "there is no such test\n");
    return 2;
}

#endif
