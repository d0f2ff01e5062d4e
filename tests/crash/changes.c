/* A child is watched at each of its instructions, and killed after the nth change of what it works on: a library for a test in Python.
 *
 * So the child runs what every user's build has. A change is a store to one of some words, which this process has mapped as well, or
 * another size of a file: each state between two steps that another process can see. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { WORDS = 16 };

/* Pre: the child has called ptrace(PTRACE_TRACEME), and stopped itself. Post: 1: it was killed; 0: it ended, after fewer changes; minus
 * errno. It can still be waited for. */
int kill_after(pid_t child, const volatile uint64_t *const *words, int count, int file, int change) {
    uint64_t before[WORDS + 1], now[WORDS + 1];
    int changes = -1; /* the first look finds what there was */
    if (count > WORDS) return -EINVAL;
    for (siginfo_t found = {0};;) {
        struct stat status;
        if (waitid(P_PID, (id_t)child, &found, WSTOPPED | WEXITED | WNOWAIT) != 0) return -errno;
        if (found.si_code != CLD_TRAPPED && found.si_code != CLD_STOPPED) return 0;
        if (changes < 0 && ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_EXITKILL) != 0) return -errno;
        for (int i = 0; i < count; i++) now[i] = *words[i];
        if (fstat(file, &status) != 0) return -errno;
        now[count] = (uint64_t)status.st_size;
        if (changes < 0 || memcmp(now, before, sizeof *now * ((size_t)count + 1)) != 0) changes++;
        memcpy(before, now, sizeof now);
        if (changes == change) return kill(child, SIGKILL) == 0 ? 1 : -errno;
        intptr_t signal = found.si_status == SIGTRAP || found.si_status == SIGSTOP ? 0 : found.si_status;
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, signal) != 0) return errno == ESRCH ? 0 : -errno;
    }
}
