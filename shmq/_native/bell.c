#define _GNU_SOURCE
#include "bell.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "wait.h"

#define PATH_BYTES 320 /* of a name of 200 characters there are 260 */

static bool path_of(const struct shmq_port *port, uint32_t index, char path[PATH_BYTES]) {
    if (port->place == NULL) return false;
    int length = snprintf(path, PATH_BYTES, "%s.%u.bell", port->place, index);
    return length > 0 && length < PATH_BYTES;
}

static uint64_t bit_of(enum shmq_side side) { return UINT64_C(1) << side; }

/* It is a FIFO of this user, whatever the name says. */
static bool is_bell(int fd) {
    struct stat found;
    return fstat(fd, &found) == 0 && S_ISFIFO(found.st_mode) && found.st_uid == geteuid();
}

int shmq_bell_make(struct shmq_port *port) {
    char path[PATH_BYTES];
    if (!path_of(port, port->index, path)) return errno = ENAMETOOLONG, -1;
    shmq_or_seq(&port->record->bell, SHMQ_BELL_MADE); /* before there is one: who is killed in between leaves it to the reaper */
    unlink(path); /* of a port that was here before, and whose reaper was killed */
    SHMQ_CRASH_POINT(bell_marked);
    if (mkfifo(path, 0600) != 0 || chmod(path, 0600) != 0) return -1; /* whatever the umask left of it */
    SHMQ_CRASH_POINT(bell_made);
    int fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW); /* for both: it must not end when a writer goes */
    if (fd < 0) return -1;
    if (is_bell(fd)) return fd;
    close(fd);
    return errno = EPERM, -1;
}

void shmq_bell_remove(struct shmq_port *port, uint32_t index) {
    char path[PATH_BYTES];
    if (!(shmq_load_relaxed(&port->records[index].bell) & SHMQ_BELL_MADE)) {
        shmq_store_seq(&port->records[index].bell, 0); /* armed without a bell: only a scribbler does that */
        return;
    }
    if (path_of(port, index, path)) unlink(path);
    SHMQ_CRASH_POINT(bell_unlinked);
    shmq_store_seq(&port->records[index].bell, 0);
}

void shmq_bell_arm(struct shmq_port *port, enum shmq_side side) {
    shmq_or_seq(&port->record->bell, bit_of(side));
    SHMQ_CRASH_POINT(bell_armed);
    shmq_or_seq(shmq_waiters(port, side), SHMQ_BELLS); /* [park] */
}

bool shmq_bell_disarm(struct shmq_port *port, enum shmq_side side) {
    return shmq_and_seq(&port->record->bell, ~bit_of(side)) & bit_of(side);
}

/* False where nobody listens. The reading end is ours as well while we write: a listener that closes its own in that moment
 * must not cost a C program its life by SIGPIPE. */
static bool sound(const struct shmq_port *port, uint32_t index) {
    char path[PATH_BYTES];
    if (!path_of(port, index, path)) return false;
    int fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) return false; /* ENXIO: nobody reads */
    bool heard = false;
    if (is_bell(fd)) {
        int guard = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
        if (guard >= 0) {
            heard = write(fd, "", 1) == 1 || errno == EAGAIN; /* full: it has been rung, and not yet heard */
            close(guard);
        }
    }
    close(fd);
    return heard;
}

bool shmq_bell_ring(struct shmq_port *port, enum shmq_side side) {
    const uint32_t ports = port->geometry.ports;
    const uint64_t bit = bit_of(side);
    for (int look = 0; look < 2; look++) {
        for (uint32_t n = 0, i = port->bell_hint; n < ports; n++, i++) {
            if (i >= ports) i = 0;
            if (!(shmq_load_seq(&port->records[i].bell) & bit)) continue;
            if (look) shmq_or_seq(shmq_waiters(port, side), SHMQ_BELLS); /* there may be more of them */
            if (!(shmq_and_seq(&port->records[i].bell, ~bit) & bit)) continue; /* another one rings it */
            SHMQ_CRASH_POINT(bell_claimed);
            if (!sound(port, i)) continue;
            port->bell_hint = i + 1;
            return true;
        }
        /* Nobody: take the hint away, and look again, since one may have armed before that. Who arms later gives it anew, and
         * then looks at the ring. [park] */
        if (look == 0) shmq_and_seq(shmq_waiters(port, side), ~SHMQ_BELLS);
    }
    return false;
}
