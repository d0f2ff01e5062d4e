#define _GNU_SOURCE
#include "owner.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

#define IDENTITY_BITS 62
#define IDENTITY_MASK ((UINT64_C(1) << IDENTITY_BITS) - 1)
#define HELD_LOCKS 1024 /* one for each thread that opens a name, reaps or is at a backlog at this moment; more of them wait */
#define ANCHOR_BYTES 4096

uint64_t shmq_owner_forks;
shmq_word shmq_owner_begun, shmq_owner_ended;

/* The guard is of all that follows. But `lock` and `pid_namespace` stay what they are once there is an identity: who has seen that reads
 * them without it. */
static pthread_mutex_t guard = PTHREAD_MUTEX_INITIALIZER;
static _Atomic uint64_t self;               /* 0: none yet in this process [self] */
static int lock_file = -1;                  /* a descriptor of it, unless the program closed that */
static struct lock { uint64_t inode; dev_t device; uid_t user; } lock; /* which file it is, and whose */
static uint64_t pid_namespace;
static uint64_t held[HELD_LOCKS];   /* named locks of this process: the kernel does not tell its threads apart */
static unsigned held_end;           /* behind the last of them */
static bool registered;

static void before_fork(void) { pthread_mutex_lock(&guard); }
static void after_fork_in_parent(void) { pthread_mutex_unlock(&guard); }
static void after_fork_in_child(void) {
    self = 0; /* [self]: the descriptor is inherited, its locks are not */
    for (unsigned i = 0; i < held_end; i++) held[i] = 0;
    held_end = 0;
    shmq_owner_forks++;
    shmq_owner_ended = shmq_owner_begun; /* [end] */
    pthread_mutex_unlock(&guard);
}

bool shmq_owner_random(void *out, unsigned nbytes) { return getrandom(out, nbytes, 0) == (ssize_t)nbytes; }

static bool set_lock(short type, uint64_t offset) {
    struct flock asked = {.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)offset, .l_len = 1};
    return fcntl(lock_file, F_SETLK, &asked) == 0;
}

/* A descriptor of the lock file that there is now, and which file that is; -1 and errno where it cannot be opened or is not ours. */
static int open_lock_file(struct lock *opened) {
    char path[64];
    snprintf(path, sizeof path, "/dev/shm/.shmq-%lu.lock", (unsigned long)geteuid());
    int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600);
    if (fd < 0) return -1;
    struct stat found;
    if (fstat(fd, &found) != 0 || !shmq_file_is_ours(&found, S_IFREG)) {
        close(fd); /* no lock of ours can be on it yet */
        errno = EPERM;
        return -1;
    }
    *opened = (struct lock){(uint64_t)found.st_ino, found.st_dev, found.st_uid};
    return fd;
}

/* The program may have closed all descriptors (daemons do, between fork and the first use here), and the number may be
 * another file's. */
static bool is_lock_file(int fd) {
    struct stat found;
    return fd >= 0 && fstat(fd, &found) == 0 && (uint64_t)found.st_ino == lock.inode && found.st_dev == lock.device &&
           S_ISREG(found.st_mode);
}

/* Lock my byte, and keep it locked by a mapping of the open file, not by a descriptor. The kernel gives the lock back when the
 * last reference to that open file goes, and this mapping is the only one. No program closes it, a forked child does not
 * inherit it, and it ends with the process, or with an exec. */
static bool hold_identity(uint64_t identity) {
    int fd = open_lock_file(&lock); /* another one where it was made again meanwhile: then that is ours from now on */
    if (fd < 0) return false;
    struct flock mine = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)identity, .l_len = 1};
    void *anchor = fcntl(fd, F_OFD_SETLK, &mine) == 0 ? mmap(NULL, ANCHOR_BYTES, PROT_NONE, MAP_SHARED, fd, 0) : MAP_FAILED;
    bool held_by_me = anchor != MAP_FAILED && madvise(anchor, ANCHOR_BYTES, MADV_DONTFORK) == 0;
    int failure = errno;
    if (anchor != MAP_FAILED && !held_by_me) munmap(anchor, ANCHOR_BYTES);
    close(fd); /* drops the named locks of this process: it has none before it has an identity */
    errno = failure;
    return held_by_me;
}

uint64_t shmq_owner_self(void) {
    if (self != 0) return self; /* [self]: only a fork resets it, in the child, before any call there */
    pthread_mutex_lock(&guard);
    if (!registered) registered = pthread_atfork(before_fork, after_fork_in_parent, after_fork_in_child) == 0;
    if (self == 0 && registered && (is_lock_file(lock_file) || (lock_file = open_lock_file(&lock)) >= 0)) { /* [self] */
        uint64_t drawn = 0;
        while (drawn == 0 && shmq_owner_random(&drawn, sizeof drawn)) drawn &= IDENTITY_MASK;
        struct stat found;
        pid_namespace = stat("/proc/self/ns/pid", &found) == 0 ? (uint64_t)found.st_ino : 0;
        if (drawn != 0 && hold_identity(drawn)) self = drawn; /* [self] */
    }
    uint64_t result = self; /* [self] */
    pthread_mutex_unlock(&guard);
    return result;
}

uint64_t shmq_owner_lock_inode(void) { return lock.inode; }

uint64_t shmq_owner_namespace(void) { return pid_namespace; }

bool shmq_owner_is_this_user(void) {
    pthread_mutex_lock(&guard);
    if (self == 0 && lock.user != geteuid()) { /* [self] */
        if (is_lock_file(lock_file)) close(lock_file); /* inherited: there is no lock of ours on it */
        lock_file = -1;
    }
    bool same = lock_file < 0 || lock.user == geteuid();
    pthread_mutex_unlock(&guard);
    return same;
}

/* Is the lock file at hand? A process that has closed all its descriptors (daemons do, and so may a task of a worker) has lost
 * it, and the named locks that it held by it. It has both again from here on. Another file under that name is not used. */
static bool at_hand(void) {
    if (lock_file < 0 || is_lock_file(lock_file)) return lock_file >= 0;
    if (lock.user != geteuid()) return false;
    struct lock there;
    int fd = open_lock_file(&there);
    if (fd < 0) return false;
    if (there.inode != lock.inode || there.device != lock.device) {
        close(fd);
        return false;
    }
    lock_file = fd;
    for (unsigned i = 0; i < held_end; i++)
        if (held[i] != 0) set_lock(F_WRLCK, held[i]);
    return true;
}

bool shmq_owner_alive(uint64_t identity) {
    if (identity == self) return true; /* [self]: F_GETLK never reports one's own lock */
    const struct flock asked = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)(identity & IDENTITY_MASK), .l_len = 1};
    bool alive = true;
    pthread_mutex_lock(&guard); /* another thread may be opening the lock file again, and its number be another file's */
    for (int tries = 0; tries < 2; tries++) {
        struct flock found = asked;
        bool told = fcntl(lock_file, F_GETLK, &found) == 0;
        if (told && found.l_type != F_UNLCK) break;
        if (is_lock_file(lock_file)) {
            alive = !told;
            break;
        }
        if (!at_hand()) break; /* that number's locks say nothing */
    }
    pthread_mutex_unlock(&guard);
    return alive;
}

bool shmq_owner_can_judge(void) {
    pthread_mutex_lock(&guard);
    bool can = at_hand();
    pthread_mutex_unlock(&guard);
    return can;
}

static uint64_t byte_of(uint64_t key) { return (key & IDENTITY_MASK) | UINT64_C(1) << IDENTITY_BITS; }

/* Where the lock is in `held`, or held_end. Under the guard. */
static unsigned held_at(uint64_t byte) {
    unsigned i = 0;
    while (i < held_end && held[i] != byte) i++;
    return i;
}

bool shmq_owner_lock(uint64_t key) {
    uint64_t byte = byte_of(key);
    bool taken = false;
    pthread_mutex_lock(&guard);
    unsigned index = held_at(0);
    if (held_at(byte) == held_end && index < HELD_LOCKS && at_hand() && set_lock(F_WRLCK, byte)) {
        held[index] = byte;
        if (index == held_end) held_end++;
        taken = true;
    }
    pthread_mutex_unlock(&guard);
    return taken;
}

void shmq_owner_unlock(uint64_t key) {
    pthread_mutex_lock(&guard);
    unsigned index = held_at(byte_of(key));
    if (index < held_end) {
        set_lock(F_UNLCK, held[index]);
        held[index] = 0;
        while (held_end > 0 && held[held_end - 1] == 0) held_end--;
    }
    pthread_mutex_unlock(&guard);
}

int64_t shmq_owner_holder(uint64_t key) {
    struct flock asked = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = (off_t)byte_of(key), .l_len = 1};
    pthread_mutex_lock(&guard);
    int64_t pid = held_at(byte_of(key)) < held_end ? getpid() : 0; /* the kernel never reports a process's own locks to it */
    if (pid == 0 && at_hand() && fcntl(lock_file, F_GETLK, &asked) == 0 && asked.l_type != F_UNLCK) pid = asked.l_pid;
    pthread_mutex_unlock(&guard);
    return pid;
}
