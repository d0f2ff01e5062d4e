#define _GNU_SOURCE
#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#define PATH_BYTES 320 /* of a semaphore of a queue with a name of 200 characters there are 265 */

bool shmq_file_is_ours(const struct stat *found, mode_t kind) {
    return (found->st_mode & S_IFMT) == kind && found->st_uid == geteuid() && !(found->st_mode & 077) && found->st_nlink <= 1;
}

int shmq_file_open(const char *path, int flags, mode_t kind) {
    struct stat found;
    int fd = open(path, flags | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) return -1;
    if (fstat(fd, &found) == 0 && shmq_file_is_ours(&found, kind)) return fd;
    close(fd);
    return errno = EPERM, -1;
}

bool shmq_file_remove(const char *path) {
    struct stat found;
    return lstat(path, &found) == 0 && found.st_uid == geteuid() && unlink(path) == 0;
}

bool shmq_file_remove_side(const char *path_prefix, const char key[SHMQ_SIDE_KEY_BYTES]) {
    char path[PATH_BYTES];
    for (int i = 0; i < SHMQ_SIDE_KEY_BYTES; i++)
        if (!(key[i] >= '0' && key[i] <= '9') && !(key[i] >= 'a' && key[i] <= 'f')) return false; /* no way out of the folder */
    int length = snprintf(path, sizeof path, "%s.%.*s", path_prefix, SHMQ_SIDE_KEY_BYTES, key);
    return length > 0 && (size_t)length < sizeof path && shmq_file_remove(path);
}

sem_t *shmq_semaphore_open(const char *name) {
    char path[PATH_BYTES];
    struct stat before, after;
    int length = snprintf(path, sizeof path, "/dev/shm/sem.%s", name + 1);
    if (length < 0 || (size_t)length >= sizeof path) return errno = ENAMETOOLONG, NULL;
    if (lstat(path, &before) != 0) return NULL;
    if (!shmq_file_is_ours(&before, S_IFREG)) return errno = EPERM, NULL;
    sem_t *semaphore = sem_open(name, 0);
    if (semaphore == SEM_FAILED) return NULL;
    if (lstat(path, &after) == 0 && after.st_ino == before.st_ino && after.st_dev == before.st_dev) return semaphore;
    sem_close(semaphore);
    return errno = ENOENT, NULL;
}
