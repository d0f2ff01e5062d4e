/* Files in /dev/shm, and whose they are. shmq/_segment/files.py and its neighbours do the same for Python programs.
 *
 * /dev/shm is one folder for all users, and each name in it can be read or guessed. So a file is used only if it is this user's, of
 * the expected kind, without permissions for others, and under one name. Another user's file is never removed.
 *
 * The open descriptor is asked for all that. A semaphore has none, so its name is asked before and after it is opened. In a folder
 * with the sticky bit no other user can have replaced this user's file in between.
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

/* Remove the file of this name, if it is this user's. False: it is still there, or there was none. */
bool shmq_file_remove(const char *path);

/* Remove a side segment, named by `path_prefix` and a key of 16 hexadecimal digits. The key was read from shared memory: anything else
 * is refused. */
#define SHMQ_SIDE_KEY_BYTES 16
bool shmq_file_remove_side(const char *path_prefix, const char key[SHMQ_SIDE_KEY_BYTES]);

/* Open the named semaphore ("/NAME"), if it is ours; otherwise NULL and errno, EPERM where something else has its name. */
sem_t *shmq_semaphore_open(const char *name);

#endif
