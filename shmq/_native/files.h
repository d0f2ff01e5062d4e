/* Files in /dev/shm, and whose they are: what shmq/_segment/files.py is for Python programs.
 *
 * /dev/shm is one folder for all users, and each name in it can be read or guessed. So a file is used only if it is this user's, of
 * the expected kind, without permissions for others, and under one name; and what is another user's is never removed. That is
 * asked of the open descriptor. Of a semaphore, which has none, it is asked of the name before and after it is opened: in a
 * folder with the sticky bit nobody else can have replaced this user's file in between.
 */
#ifndef SHMQ_FILES_H
#define SHMQ_FILES_H

#include <semaphore.h>
#include <stdbool.h>
#include <sys/stat.h>

/* Is this what only this user can have made? `kind`: S_IFREG, S_IFIFO. */
bool shmq_file_is_ours(const struct stat *found, mode_t kind);

/* Open `path`, without following a link, waiting for a writer, or leaving it to a program that is started. Post: a descriptor
 * of a file that is ours; or -1 and errno, EPERM where it is not. */
int shmq_file_open(const char *path, int flags, mode_t kind);

/* Remove what has this name, if it is this user's. False: it is still there, or nothing was. */
bool shmq_file_remove(const char *path);

/* Remove a side segment: `path_prefix`, and a key of 16 hexadecimal digits, which was read from shared memory; anything else is no key. */
#define SHMQ_SIDE_KEY_BYTES 16
bool shmq_file_remove_side(const char *path_prefix, const char key[SHMQ_SIDE_KEY_BYTES]);

/* Open the named semaphore ("/NAME"), if it is ours; otherwise NULL and errno, EPERM where something else has its name. */
sem_t *shmq_semaphore_open(const char *name);

#endif
