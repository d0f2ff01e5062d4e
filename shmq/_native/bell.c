#define _GNU_SOURCE
#include "bell.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

#define PATH_BYTES 320 /* of a name of 200 characters there are 260 */

static bool path_of(const struct shmq_port *port, uint32_t index, char path[PATH_BYTES]) {
    if (port->path_prefix == NULL) return false;
    int length = snprintf(path, PATH_BYTES, "%s.%u.bell", port->path_prefix, index);
    return length > 0 && length < PATH_BYTES;
}

static uint64_t bit_of(enum shmq_side side) { return UINT64_C(1) << side; }

int shmq_bell_make(struct shmq_port *port) {
    char path[PATH_BYTES];
    if (!path_of(port, port->index, path)) return errno = ENAMETOOLONG, -1;
    shmq_or_seq(&port->record->bell, SHMQ_BELL_MADE); /* [bell]: before there is one: a process that is killed in between leaves it to its reaper */
    shmq_file_remove(path); /* of the port's last owner, whose reaper was killed */
    SHMQ_CRASH_POINT(bell_marked);
    if (mkfifo(path, 0600) != 0 || chmod(path, 0600) != 0) return -1; /* whatever the umask left of it */
    SHMQ_CRASH_POINT(bell_made);
    return shmq_file_open(path, O_RDWR, S_IFIFO); /* for both: it must not end when a writer goes */
}

bool shmq_bell_is_there(const struct shmq_port *port, int fd) {
    char path[PATH_BYTES];
    struct stat ours, there;
    return path_of(port, port->index, path) && fstat(fd, &ours) == 0 && lstat(path, &there) == 0 && ours.st_ino == there.st_ino &&
           ours.st_dev == there.st_dev;
}

void shmq_bell_remove(struct shmq_port *port, uint32_t index) {
    char path[PATH_BYTES];
    if (!(shmq_load_relaxed(&port->records[index].bell) & SHMQ_BELL_MADE)) {
        shmq_store_seq(&port->records[index].bell, 0); /* [bell]: armed without a bell: only a scribbler does that */
        return;
    }
    if (path_of(port, index, path)) shmq_file_remove(path);
    SHMQ_CRASH_POINT(bell_unlinked);
    shmq_store_seq(&port->records[index].bell, 0); /* [bell] */
}

bool shmq_bell_arm(struct shmq_port *port, enum shmq_side side) {
    bool was_armed = shmq_or_seq(&port->record->bell, bit_of(side)) & bit_of(side); /* [bell] */
    SHMQ_CRASH_POINT(bell_armed);
    shmq_or_seq(shmq_waiters(port, side), SHMQ_BELLS); /* [park] [bell] */
    return was_armed;
}

bool shmq_bell_disarm(struct shmq_port *port, enum shmq_side side) {
    return shmq_and_seq(&port->record->bell, ~bit_of(side)) & bit_of(side); /* [bell] */
}

/* A bell's two ends. The reading one is ours as well while we write: a listener that closes its own at that moment must not kill a
 * C program by SIGPIPE. */
struct rope { int write, read; };

/* False, and errno, where no process listens, or none can be reached. */
static bool grasp(const struct shmq_port *port, uint32_t index, struct rope *rope) {
    char path[PATH_BYTES];
    if (!path_of(port, index, path)) return errno = ENOENT, false;
    rope->write = shmq_file_open(path, O_WRONLY, S_IFIFO); /* ENXIO: no process reads */
    if (rope->write < 0) return false;
    rope->read = shmq_file_open(path, O_RDONLY, S_IFIFO);
    if (rope->read >= 0) return true;
    int failure = errno;
    close(rope->write);
    return errno = failure, false;
}

static void close_rope(const struct rope *rope) {
    close(rope->read);
    close(rope->write);
}

static bool pull(const struct rope *rope) {
    bool heard = write(rope->write, "", 1) == 1 || errno == EAGAIN; /* full: it has been rung, and not yet heard */
    close_rope(rope);
    return heard;
}

/* It is this process that cannot ring any bell now: that says nothing about listeners. */
static bool are_out_of_descriptors(int failure) { return failure == EMFILE || failure == ENFILE || failure == ENOMEM; }

bool shmq_bell_is_armed(struct shmq_port *port, enum shmq_side side) {
    const uint32_t ports = shmq_ports_used(port), begin = port->bell_hint < ports ? port->bell_hint : 0;
    for (uint32_t n = 0, i = begin; n < ports; n++, i = i + 1 < ports ? i + 1 : 0)
        if (shmq_load_seq(&port->records[i].bell) & bit_of(side)) { /* [bell] */
            port->bell_hint = i;
            return true;
        }
    return false;
}

bool shmq_bell_ring(struct shmq_port *port, enum shmq_side side) {
    const uint32_t ports = shmq_ports_used(port), begin = port->bell_hint < ports ? port->bell_hint : 0;
    const uint64_t bit = bit_of(side);
    bool rung = false;
    for (int look = 0; look < 2 && !rung; look++) {
        for (uint32_t n = 0, i = begin; n < ports; n++, i = i + 1 < ports ? i + 1 : 0) {
            struct rope rope;
            if (!(shmq_load_seq(&port->records[i].bell) & bit)) continue; /* [bell] */
            bool grasped = grasp(port, i, &rope);
            if (!grasped && are_out_of_descriptors(errno)) return rung; /* and they stay armed, for other ports */
            bool mine = shmq_and_seq(&port->records[i].bell, ~bit) & bit; /* [bell]: otherwise another port rings it */
            if (!grasped) continue;
            if (!mine) {
                close_rope(&rope);
                continue;
            }
            SHMQ_CRASH_POINT(bell_claimed);
            if (!pull(&rope)) continue;
            port->bell_hint = i + 1;
            rung = true;
            /* In the second look all of them: while the flag was clear other ports may have published, and rung none. */
            if (look == 0) return true;
        }
        /* None: clear the flag, and look again, since some may have armed before that. A waiter that arms later sets it again, and
         * then looks at the ring. */
        if (look == 0) shmq_and_seq(shmq_waiters(port, side), ~SHMQ_BELLS); /* [park] [bell] */
    }
    return rung;
}
