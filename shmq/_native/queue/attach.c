#define _GNU_SOURCE
#include "attach.h"

#include <string.h>

#include "../wait.h"
#include "../wake.h"
#include "cell.h"
#include "lease.h"
#include "look.h"
#include "recover.h"
#include "view.h"

static bool queue_promising(struct shmq_port *port, enum shmq_side side, bool stays) { return shmq_promising(shmq_queue_of(port), side, stays); }
static bool queue_worth_waking(const struct shmq_port *port, uint64_t now) { return shmq_worth_waking(shmq_const_queue_of(port), now); }
static bool queue_recover(struct shmq_port *port, uint32_t dead) { return shmq_queue_recover(shmq_queue_of(port), dead); }
static const struct shmq_behaviour behaviour_of_queue = {queue_promising, queue_worth_waking, queue_recover};

void shmq_segment_format(void *base, const struct shmq_geometry *g, uint64_t nonce, uint32_t flags, const char *codec,
                         const uint8_t boot_id[16], uint64_t creator, uint64_t lock_inode, const struct shmq_policy *policy) {
    struct shmq_queue_header *header = base;
    shmq_segment_begin(base, SHMQ_KIND_QUEUE, g->segment_bytes, g->ports, nonce, boot_id, creator, lock_inode);
    header->slot_size = g->slot_size;
    header->slots = g->slots;
    header->cells = g->cells;
    ((struct shmq_header *)base)->flags = flags;
    header->policy = *policy;
    strncpy(header->codec, codec, sizeof header->codec - 1);
    unsigned char *bytes = base;
    shmq_word *ring = (shmq_word *)(bytes + g->ring_offset);
    for (uint32_t i = 0; i < g->slots; i++) shmq_store_relaxed(&ring[i], shmq_ring_word(0, SHMQ_EMPTY, i));
    struct shmq_cell *cells = (struct shmq_cell *)(bytes + g->cells_offset);
    for (uint32_t i = 0; i < g->cells; i++)
        shmq_store_relaxed(&cells[i].word, shmq_cell_word(1, SHMQ_SPARE, SHMQ_NO_PORT, g->slots + i));
}

shmq_status shmq_segment_check(const void *base, uint64_t file_bytes, struct shmq_geometry *out) {
    const struct shmq_header *segment = base;
    const struct shmq_queue_header *header = base;
    shmq_status status = shmq_segment_look(base, file_bytes, SHMQ_KIND_QUEUE);
    if (status != SHMQ_OK) return status;
    if (!shmq_geometry(header->slots, header->slot_size, header->cells, segment->ports, out)) return SHMQ_CORRUPT;
    if (out->segment_bytes != segment->segment_bytes || out->segment_bytes > file_bytes) return SHMQ_CORRUPT;
    return SHMQ_OK;
}

void shmq_port_map(struct shmq_queue_port *queue, void *base, const struct shmq_geometry *g) {
    memset(queue, 0, sizeof *queue);
    shmq_port_point(&queue->port, base, g->ports, &behaviour_of_queue);
    queue->header = base;
    queue->geometry = *g;
    queue->cells = (struct shmq_cell *)(queue->port.base + g->cells_offset);
    queue->ring = (shmq_word *)(queue->port.base + g->ring_offset);
    queue->kept = SHMQ_NO_CELL;
    queue->policy = shmq_policy_of(queue->header);
    queue->due_ns = queue->expiry_ns = SHMQ_FOREVER;
}

shmq_status shmq_port_attach(struct shmq_queue_port *queue, void *base, const struct shmq_geometry *g, uint64_t owner) {
    shmq_port_map(queue, base, g);
    queue->linger_probe = 16;
    queue->port.spins = shmq_wait_cpus() > 1;
    queue->spin_ns[0] = queue->spin_ns[1] = SHMQ_SPIN_NS;
    if (shmq_port_claim(&queue->port, owner) != SHMQ_OK) return SHMQ_NO_PORTS;
    queue->hint = g->reserved + (uint32_t)((uint64_t)queue->port.index * (g->cells - g->reserved) / g->ports); /* each port begins its look elsewhere */
    if (!g->paged && shmq_cell_claim(queue, queue->port.index, SHMQ_SPARE)) queue->kept = queue->port.index;
    return SHMQ_OK;
}

void shmq_port_detach(struct shmq_queue_port *queue) {
    for (uint32_t i = 0; i < queue->geometry.cells; i++) {
        shmq_view_clear(queue, i, queue->port.index); /* before the look: a port that hands it the cell later finds that this one has gone */
        uint64_t word = shmq_load_seq(&queue->cells[i].word); /* [view] */
        if (shmq_cell_owner(word) != queue->port.index) continue;
        if (shmq_state_leased(shmq_cell_state(word))) shmq_lease_give_back(queue, i, word, SHMQ_RELEASED, 0);
        else shmq_cell_free_or_hand(queue, i, word, SHMQ_SPARE);
        SHMQ_CRASH_POINT(detach_cell);
    }
    shmq_port_free(&queue->port);
}
