#define _GNU_SOURCE
#include "owner.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IDENTITY_BITS 62
#define IDENTITY_MASK ((UINT64_C(1) << IDENTITY_BITS) - 1)
#define HELD_LOCKS 16

uint64_t shmq_owner_forks;

static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint64_t self;               /* 0: none yet in this process */
static int lock_file = -1;
static uint64_t lock_inode;
static dev_t lock_device;
static uid_t lock_user;             /* whose lock file it is */
static uint64_t run;                /* of this process: see shmq_owner_run */
static uint64_t held[HELD_LOCKS];   /* named locks of this process: the kernel does not tell its threads apart */
static bool registered;

static void before_fork(void) { pthread_mutex_lock(&guard); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&guard); }
static void after_fork_in_child(void) {
    self = 0; /* the descriptor is inherited, its locks are not */
    for (int i = 0; i < HELD_LOCKS; i++) held[i] = 0;
    shmq_owner_forks++;
    pthread_mutex_unlock(&guard);
}

bool shmq_owner_random(void *out, unsigned nbytes) { return getrandom(out, nbytes, 0) == (ssize_t)nbytes; }

static bool set_lock(short type, uint64_t offset) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};
    return fcntl(lock_file, F_SETLK, &lock) == 0;
}

static bool open_lock_file(void) {
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/.shmq-%lu.lock", (unsigned long)geteuid());
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return false;
    struct stat found;
    if (fstat(fd, &found) != 0 || !S_ISREG(found.st_mode) || found.st_uid != geteuid()) {
        close(fd); /* no lock of ours can be on it yet */
        errno = EPERM;
        return false;
    }
    lock_file = fd;
    lock_inode = (uint64_t)found.st_ino;
    lock_device = found.st_dev;
    lock_user = found.st_uid;
    return true;
}

/* Somebody may have closed all descriptors (daemons do, between fork and the first use here), and the number may be
 * another file's by now. */
static bool is_lock_file(int fd) {
    struct stat found;
    return fd >= 0 && fstat(fd, &found) == 0 && (uint64_t)found.st_ino == lock_inode && found.st_dev == lock_device &&
           S_ISREG(found.st_mode);
}

#define PF_EXITING 4u /* of the kernel's task flags: its locks are gone already, and it will not run again */

/* The kernel's own number of a process, never given again before the next boot (Linux 6.9 and later: the inode of a pidfd); of
 * older kernels the same for all. */
static uint64_t number_of(pid_t pid) {
    int fd = (int)syscall(SYS_pidfd_open, pid, 0);
    struct stat found = {0};
    if (fd < 0) return 0;
    if (fstat(fd, &found) != 0) found.st_ino = 0;
    close(fd);
    return (uint64_t)found.st_ino;
}

/* The run of a process that is not at its end, or 0. Fields of its /proc/PID/stat are numbered as in proc(5). */
static uint64_t run_of(pid_t pid) {
    char path[64], line[1024];
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    ssize_t length = read(fd, line, sizeof line - 1);
    close(fd);
    if (length <= 0) return 0;
    line[length] = 0;
    char *field = strrchr(line, ')'); /* the name before it may hold anything */
    if (field == NULL || field[1] == 0 || strchr("ZX", field[2])) return 0;
    uint64_t started = 0, stack = 0;
    field += 2;
    for (int number = 3; number <= 28; number++) {
        if (number == 9 && strtoul(field, NULL, 10) & PF_EXITING) return 0;
        if (number == 22) started = strtoull(field, NULL, 10);
        if (number == 28) stack = strtoull(field, NULL, 10);
        field = strchr(field, ' ');
        if (field == NULL) return 0;
        field++;
    }
    /* The tick of the start alone would be the same for two children of one moment, and so would the stack. */
    uint64_t mixed = (started ^ stack << 16 ^ number_of(pid) << 8) * UINT64_C(0x9e3779b97f4a7c15);
    return mixed ^ (uint64_t)pid;
}

uint64_t shmq_owner_self(void) {
    if (self != 0) return self; /* a fork may only reset it in the child, before anybody can call */
    pthread_mutex_lock(&guard);
    if (!registered) registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
    if (self == 0 && registered && (is_lock_file(lock_file) || open_lock_file())) {
        uint64_t drawn = 0;
        while (drawn == 0 && shmq_owner_random(&drawn, sizeof drawn)) drawn &= IDENTITY_MASK;
        if (drawn != 0 && set_lock(F_WRLCK, drawn)) {
            run = run_of(getpid());
            self = drawn;
        }
    }
    uint64_t result = self;
    pthread_mutex_unlock(&guard);
    return result;
}

uint64_t shmq_owner_lock_inode(void) { return lock_inode; }

bool shmq_owner_is_this_user(void) {
    pthread_mutex_lock(&guard);
    if (self == 0 && lock_user != geteuid()) {
        if (is_lock_file(lock_file)) close(lock_file); /* inherited: there is no lock of ours on it */
        lock_file = -1;
    }
    bool same = lock_file < 0 || lock_user == geteuid();
    pthread_mutex_unlock(&guard);
    return same;
}

uint64_t shmq_owner_run(void) { return run; }

bool shmq_owner_runs(uint64_t pid, uint64_t its_run) {
    if (pid == 0 || pid > INT32_MAX || its_run == 0) return false;
    return run_of((pid_t)pid) == its_run;
}

bool shmq_owner_can_judge(void) { return is_lock_file(lock_file); }

bool shmq_owner_alive(uint64_t identity) {
    if (identity == self) return true; /* F_GETLK never reports one's own lock */
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(identity & IDENTITY_MASK), .l_len = 1};
    if (lock_file < 0 || fcntl(lock_file, F_GETLK, &lock) != 0) return true;
    return lock.l_type != F_UNLCK;
}

/* Is the lock file at hand? A process that has closed all its descriptors (daemons do, and so may a task of a worker) has lost
 * it and what it held by it; it has both again from here on. Another file under the name is none of ours. */
static bool at_hand(void) {
    uint64_t before = lock_inode;
    if (lock_file < 0 || is_lock_file(lock_file)) return lock_file >= 0;
    if (!open_lock_file()) return false;
    if (lock_inode != before) {
        close(lock_file);
        lock_file = -1;
        lock_inode = before;
        return false;
    }
    if (self != 0) set_lock(F_WRLCK, self);
    for (int i = 0; i < HELD_LOCKS; i++)
        if (held[i] != 0) set_lock(F_WRLCK, held[i]);
    return true;
}

bool shmq_owner_lock(uint64_t key) {
    key = (key & IDENTITY_MASK) | UINT64_C(1) << IDENTITY_BITS;
    bool taken = false;
    pthread_mutex_lock(&guard);
    int place = -1;
    for (int i = 0; i < HELD_LOCKS; i++) {
        if (held[i] == key) place = HELD_LOCKS;
        if (held[i] == 0 && place < 0) place = i;
    }
    if (place >= 0 && place < HELD_LOCKS && at_hand() && set_lock(F_WRLCK, key)) {
        held[place] = key;
        taken = true;
    }
    pthread_mutex_unlock(&guard);
    return taken;
}

void shmq_owner_unlock(uint64_t key) {
    key = (key & IDENTITY_MASK) | UINT64_C(1) << IDENTITY_BITS;
    pthread_mutex_lock(&guard);
    for (int i = 0; i < HELD_LOCKS; i++)
        if (held[i] == key) {
            held[i] = 0;
            set_lock(F_UNLCK, key);
        }
    pthread_mutex_unlock(&guard);
}
