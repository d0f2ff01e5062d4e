/* Everything that the engine declares. */
#ifndef SHMQ_TEST_ENGINE_H
#define SHMQ_TEST_ENGINE_H

#include "bell.h"
#include "owner.h"
#include "queue/attach.h"
#include "queue/await.h"
#include "queue/cell.h"
#include "queue/deliver.h"
#include "queue/lease.h"
#include "queue/look.h"
#include "queue/pace.h"
#include "queue/resting.h"
#include "queue/ring.h"
#include "queue/snapshot.h"
#include "queue/view.h"
#include "reap.h"
#include "wake.h"

/* A whole snapshot. Whatever is in the segment, it ends, and no row leads out: false where one does. */
static inline bool snapshot_holds(const struct shmq_queue_port *port) {
    const struct shmq_geometry *g = &port->geometry;
    struct shmq_occupied_row occupied;
    struct shmq_exchange_row exchange;
    uint64_t counters[SHMQ_COUNTERS], at = 0;
    uint32_t rows = 0;
    char key[SHMQ_SIDE_KEY_BYTES];
    for (uint32_t i = 0; i < g->cells; i++) shmq_cell_row(port, i);
    for (uint32_t i = 0; shmq_find_occupied(port, &i, &occupied); i++, rows++)
        if (i >= g->cells || occupied.cell.slot >= g->total_slots) return false;
    for (uint32_t i = 0; shmq_find_exchange(port, &i, &exchange); i++, rows++)
        if (i >= g->ports) return false;
    while (shmq_find_side(port, &at, key)) rows++;
    shmq_counted(port, counters);
    shmq_waiting(port, SHMQ_ITEMS), shmq_waiting(port, SHMQ_SPACE), shmq_came_back(port), shmq_unfinished(port);
    return rows <= 2 * (uint64_t)g->cells + 2 * g->ports + g->slots;
}

#endif
