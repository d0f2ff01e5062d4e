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

static const struct shmq_behaviour behaviour_of_queue = {shmq_promising, shmq_worth_waking, shmq_queue_recover};

void shmq_segment_format(void *base, const struct shmq_geometry *g, uint64_t nonce, uint32_t flags, const char *codec,
                         const uint8_t boot_id[16], uint64_t creator, uint64_t lock_inode, const struct shmq_policy *policy) {
    struct shmq_header *header = base;
    shmq_segment_begin(base, SHMQ_KIND_QUEUE, g->segment_bytes, g->ports, nonce, boot_id, creator, lock_inode);
    header->slot_size = g->slot_size;
    header->slots = g->slots;
    header->cells = g->cells;
    header->flags = flags;
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
    const struct shmq_header *header = base;
    shmq_status status = shmq_segment_look(base, file_bytes, SHMQ_KIND_QUEUE);
    if (status != SHMQ_OK) return status;
    if (!shmq_geometry(header->slots, header->slot_size, header->cells, header->ports, out)) return SHMQ_CORRUPT;
    if (out->segment_bytes != header->segment_bytes || out->segment_bytes > file_bytes) return SHMQ_CORRUPT;
    return SHMQ_OK;
}

void shmq_port_map(struct shmq_port *port, void *base, const struct shmq_geometry *g) {
    shmq_port_point(port, base, g->ports, &behaviour_of_queue);
    port->geometry = *g;
    port->cells = (struct shmq_cell *)(port->base + g->cells_offset);
    port->ring = (shmq_word *)(port->base + g->ring_offset);
    port->kept = SHMQ_NO_CELL;
    port->policy = shmq_policy_of(port->header);
}

shmq_status shmq_port_attach(struct shmq_port *port, void *base, const struct shmq_geometry *g, uint64_t owner) {
    shmq_port_map(port, base, g);
    port->linger_probe = 16;
    port->spins = shmq_wait_cpus() > 1;
    port->spin_ns[0] = port->spin_ns[1] = SHMQ_SPIN_NS;
    if (shmq_port_claim(port, owner) != SHMQ_OK) return SHMQ_NO_PORTS;
    port->hint = g->reserved + (uint32_t)((uint64_t)port->index * (g->cells - g->reserved) / g->ports); /* each port begins its look elsewhere */
    if (!g->paged && shmq_cell_claim(port, port->index, SHMQ_SPARE)) port->kept = port->index;
    return SHMQ_OK;
}

void shmq_port_detach(struct shmq_port *port) {
    for (uint32_t i = 0; i < port->geometry.cells; i++) {
        shmq_view_forget(port, i, port->index); /* before the look: a port that hands it the cell later finds that this one has gone */
        uint64_t word = shmq_load_seq(&port->cells[i].word); /* [view] */
        if (shmq_cell_owner(word) != port->index) continue;
        if (shmq_state_leased(shmq_cell_state(word))) shmq_lease_give_back(port, i, word, SHMQ_RELEASED, 0);
        else shmq_cell_let_go(port, i, word, SHMQ_SPARE);
        SHMQ_CRASH_POINT(detach_cell);
    }
    shmq_port_leave(port);
}
