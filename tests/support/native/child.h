/* Children of a test: each has an identity of its own, dies with its parent, and says when it hangs. */
#ifndef SHMQ_TEST_CHILD_H
#define SHMQ_TEST_CHILD_H

#include "check.h"

#include <errno.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "owner.h"

static inline pid_t fork_child(void) {
    fflush(NULL);
    pid_t parent = getpid(), child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) _exit(3);
        watchdog(WATCHDOG_SECONDS);
        CHECK(shmq_owner_self() != 0);
    }
    return child;
}

/* Its wait status, as soon as it has ended, or has stopped. */
static inline int wait_for_child(pid_t child) {
    int status;
    pid_t found;
    while ((found = waitpid(child, &status, WUNTRACED)) < 0 && errno == EINTR) {}
    CHECK_EQUAL(found, child);
    return status;
}

static inline bool was_killed(int status) { return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL; }
static inline bool ended_well(int status) { return WIFEXITED(status) && WEXITSTATUS(status) == 0; }

/* True: it was killed; false: it ended, and well. */
static inline bool child_was_killed(pid_t child) {
    int status = wait_for_child(child);
    CHECK(was_killed(status) || ended_well(status), "a child ended with %#x", (unsigned)status);
    return was_killed(status);
}

static inline void kill_child(pid_t child) {
    kill(child, SIGKILL);
    CHECK(was_killed(wait_for_child(child)));
}

#endif
