/* The engine, as one translation unit: what the extension module and C programs (client/shmq.c) compile.
 *
 * The parts stand in the order of their floors: each includes headers of those above it only, and no other. tests/test_native_floors.py
 * reads this list. */

/* what the kernel keeps for the engine */
#include "files.c"
#include "owner.c"

/* attachment: whatever a segment holds */
#include "port.c"
#include "bell.c"
#include "wake.c"
#include "reap.c"
#include "watch.c"
#include "wait.c"

/* a queue */
#include "queue/policy.c"
#include "queue/look.c"
#include "queue/view.c"
#include "queue/cell.c"
#include "queue/lease.c"
#include "queue/resting.c"
#include "queue/snapshot.c"
#include "queue/ring.c"
#include "queue/deliver.c"
#include "queue/recover.c"
#include "queue/attach.c"
#include "queue/pace.c"
#include "queue/await.c"
