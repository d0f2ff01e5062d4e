/* The engine, as one translation unit: what the extension module and C programs (client/shmq.c) compile. */
#include "files.c"
#include "owner.c"
#include "port.c"
#include "queue/lease.c"
#include "queue/ring.c"
#include "bell.c"
#include "reap.c"
#include "wait.c"
