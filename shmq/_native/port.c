#define _GNU_SOURCE
#include "port.h"

#include <string.h>
#include <unistd.h>

#include "bell.h"
#include "queue/lease.h"
#include "owner.h"
#include "wait.h"

/* -- segment --------------------------------------------------------------------------------------------------------- */

void shmq_segment_format(void *base, const struct shmq_geometry *g, uint64_t nonce, uint32_t flags, const char *codec,
                         const uint8_t boot_id[16], uint64_t creator, uint64_t lock_inode, const struct shmq_policy *policy) {
    struct shmq_header *header = base;
    header->version = SHMQ_VERSION;
    header->endian = SHMQ_ENDIAN;
    header->segment_bytes = g->segment_bytes;
    header->nonce = nonce;
    header->slot_size = g->slot_size;
    header->slots = g->slots;
    header->cells = g->cells;
    header->ports = g->ports;
    header->flags = flags;
    header->creator = creator;
    header->lock_inode = lock_inode;
    header->policy = *policy;
    header->created_unix_ns = shmq_clock_ns(CLOCK_REALTIME);
    memcpy(header->boot_id, boot_id, sizeof header->boot_id);
    strncpy(header->codec, codec, sizeof header->codec - 1);
    unsigned char *bytes = base;
    shmq_word *ring = (shmq_word *)(bytes + g->ring_offset);
    for (uint32_t i = 0; i < g->slots; i++) shmq_store_relaxed(&ring[i], shmq_ring_word(0, SHMQ_EMPTY, i));
    struct shmq_cell *cells = (struct shmq_cell *)(bytes + g->cells_offset);
    for (uint32_t i = 0; i < g->cells; i++)
        shmq_store_relaxed(&cells[i].word, shmq_cell_word(1, SHMQ_SPARE, SHMQ_NO_PORT, g->slots + i));
}

void shmq_segment_ready(void *base) {
    shmq_store_release(&((struct shmq_header *)base)->magic, SHMQ_MAGIC); /* [ready] */
}

shmq_status shmq_segment_check(const void *base, uint64_t file_bytes, struct shmq_geometry *out) {
    const struct shmq_header *header = base;
    if (file_bytes < sizeof *header) return file_bytes == 0 ? SHMQ_WOULD_BLOCK : SHMQ_MISMATCH;
    uint64_t magic = shmq_load_acquire(&header->magic); /* [ready] */
    if (magic == 0) return SHMQ_WOULD_BLOCK;
    if (magic != SHMQ_MAGIC || header->version != SHMQ_VERSION || header->endian != SHMQ_ENDIAN) return SHMQ_MISMATCH;
    if (!shmq_geometry(header->slots, header->slot_size, header->cells, header->ports, out)) return SHMQ_CORRUPT;
    if (out->segment_bytes != header->segment_bytes || out->segment_bytes > file_bytes) return SHMQ_CORRUPT;
    return SHMQ_OK;
}

/* -- claiming cells -------------------------------------------------------------------------------------------------- */

static bool claim(struct shmq_port *port, uint32_t cell, unsigned wanted) {
    uint64_t word = shmq_load_acquire(&port->cells[cell].word); /* [hand] */
    if (shmq_cell_state(word) != wanted || shmq_word_slot(word) >= port->geometry.total_slots) return false;
    if (!shmq_swap_seq(&port->cells[cell].word, &word, shmq_cell_next(word, SHMQ_IDLE, port->index, shmq_word_slot(word)))) return false;
    shmq_store_relaxed(&port->cells[cell].leased_ns, 0); /* seen by whoever sees it leased: see shmq_cells_move */
    return true;
}

bool shmq_cells_move(const struct shmq_port *port, bool for_long) {
    for (uint32_t i = for_long || !port->geometry.paged ? port->geometry.reserved : 0; i < port->geometry.cells; i++) {
        uint64_t word = shmq_load_acquire(&port->cells[i].word); /* [hand] */
        uint32_t owner = shmq_cell_owner(word);
        unsigned state = shmq_cell_state(word);
        if (shmq_word_slot(word) >= port->geometry.total_slots) continue; /* nobody takes a cell that was scribbled over */
        if (state == SHMQ_SPARE || (state == SHMQ_WARM && port->geometry.paged)) return true;
        if (state == SHMQ_WARM || owner >= port->geometry.ports || !shmq_load_acquire(&port->records[owner].owner)) continue;
        if (state == SHMQ_IDLE || (shmq_state_leased(state) && shmq_load_relaxed(&port->cells[i].leased_ns) == 0)) return true;
    }
    return false;
}

/* Any free cell from `first` on. */
static shmq_status claim_from(struct shmq_port *port, uint32_t first, enum shmq_purpose purpose, uint32_t *cell) {
    const uint32_t cells = port->geometry.cells;
    if (!port->geometry.paged) {
        uint32_t i = port->hint >= first ? port->hint : first;
        for (uint32_t n = first; n < cells; n++, i = i + 1 < cells ? i + 1 : first)
            if (claim(port, i, SHMQ_SPARE)) {
                *cell = i;
                port->hint = i + 1 < cells ? i + 1 : first;
                return SHMQ_OK;
            }
        return SHMQ_NO_CELLS;
    }
    const unsigned preferred = purpose == SHMQ_TO_WRITE ? SHMQ_WARM : SHMQ_SPARE;
    for (uint32_t i = first; i < cells; i++)
        if (claim(port, i, preferred)) return *cell = i, SHMQ_OK;
    for (uint32_t i = first; i < cells; i++) {
        uint32_t other = purpose == SHMQ_TO_WRITE ? i : cells - 1 - (i - first); /* give away the warm slot that would be used last */
        if (claim(port, other, preferred == SHMQ_WARM ? SHMQ_SPARE : SHMQ_WARM)) return *cell = other, SHMQ_OK;
    }
    return SHMQ_NO_CELLS;
}

shmq_status shmq_cell_take_for_long(struct shmq_port *port, enum shmq_purpose purpose, uint32_t *cell) {
    return claim_from(port, port->geometry.reserved, purpose, cell);
}

/* -- attach and detach ----------------------------------------------------------------------------------------------- */

void shmq_port_map(struct shmq_port *port, void *base, const struct shmq_geometry *g) {
    memset(port, 0, sizeof *port);
    port->base = base;
    port->geometry = *g;
    port->header = base;
    port->records = (struct shmq_port_record *)(port->base + g->ports_offset);
    port->cells = (struct shmq_cell *)(port->base + g->cells_offset);
    port->ring = (shmq_word *)(port->base + g->ring_offset);
    port->nonce = port->header->nonce;
    port->index = SHMQ_NO_PORT;
    port->kept = SHMQ_NO_CELL;
    port->due_ns = port->expiry_ns = SHMQ_FOREVER;
    port->policy = shmq_policy_of(port->header);
}

void shmq_port_draw_serial(struct shmq_port *port) {
    port->serial = shmq_add_relaxed(&port->header->attachments, 1);
    port->next_id = port->serial << SHMQ_ID_BITS | 1; /* 0 is no id */
    shmq_store_relaxed(&port->record->serial_before, shmq_load_relaxed(&port->record->serial));
    shmq_store_release(&port->record->serial, port->serial);
}

static void raise_ports_used(struct shmq_header *header, uint32_t used) {
    uint32_t before = shmq_load_relaxed(&header->ports_used);
    while (before < used && !shmq_swap_seq(&header->ports_used, &before, used)) {} /* each try that fails met a higher one */
}

shmq_status shmq_port_attach(struct shmq_port *port, void *base, const struct shmq_geometry *g, uint64_t owner) {
    shmq_port_map(port, base, g);
    port->owner = owner;
    port->linger_probe = 16;
    port->spins = shmq_wait_cpus() > 1;
    port->spin_ns[0] = port->spin_ns[1] = SHMQ_SPIN_NS;
    for (uint32_t i = 0; i < g->ports; i++) {
        uint64_t free = 0;
        if (shmq_load_relaxed(&port->records[i].owner) != 0) continue;
        raise_ports_used(port->header, i + 1); /* before: a reaper must find whoever is killed behind the next line */
        if (!shmq_swap_seq(&port->records[i].owner, &free, owner)) continue;
        SHMQ_CRASH_POINT(port_claimed);
        port->index = i;
        port->record = &port->records[i];
        shmq_store_relaxed(&port->record->pid, (uint64_t)getpid());
        shmq_store_relaxed(&port->record->pid_namespace, shmq_owner_namespace());
        shmq_port_draw_serial(port);
        shmq_store_relaxed(&port->record->serial_before, port->serial); /* not one of who was here before */
        port->hint = g->reserved + (uint32_t)((uint64_t)i * (g->cells - g->reserved) / g->ports); /* each looks elsewhere first */
        if (!g->paged && claim(port, i, SHMQ_SPARE)) port->kept = i;
        return SHMQ_OK;
    }
    return SHMQ_NO_PORTS;
}

void shmq_port_detach(struct shmq_port *port) {
    for (uint32_t i = 0; i < port->geometry.cells; i++) {
        shmq_view_forget(port, i, port->index); /* before the look: whoever hands us the cell later finds that we have gone */
        uint64_t word = shmq_load_seq(&port->cells[i].word); /* [view] */
        if (shmq_cell_owner(word) != port->index) continue;
        if (shmq_state_leased(shmq_cell_state(word))) shmq_lease_give_back(port, i, word, SHMQ_RELEASED, 0);
        else shmq_cell_let_go(port, i, word, SHMQ_SPARE);
        SHMQ_CRASH_POINT(detach_cell);
    }
    bool belled = shmq_load_relaxed(&port->record->bell) & SHMQ_BELL_MADE;
    shmq_bell_remove(port, port->index);
    shmq_sleepers_forget(port, port->index); /* of threads that slept here when their process took the port away */
    shmq_store_release(&port->record->owner, 0);
    shmq_wake(port, SHMQ_SPACE);
    if (!belled) return;
    shmq_pass_on(port, SHMQ_ITEMS); /* it may have been rung for us */
    shmq_pass_on(port, SHMQ_SPACE);
}

/* -- releasing cells ------------------------------------------------------------------------------------------------- */

void shmq_cell_let_go(struct shmq_port *port, uint32_t cell, uint64_t word, enum shmq_cell_state state) {
    for (int tries = 0; tries < 8; tries++) { /* more than once only if viewers go at this very moment */
        uint32_t viewer = shmq_view_first(port, cell);
        bool handed = viewer != SHMQ_NO_PORT;
        uint64_t next = shmq_cell_next(word, handed ? SHMQ_HELD : state, viewer, shmq_word_slot(word));
        if (handed) shmq_store_relaxed(&port->cells[cell].handed, next); /* released by the word itself */
        if (!shmq_swap_seq(&port->cells[cell].word, &word, next)) return; /* [hand] [view] who was handed it has freed it */
        if (!handed) return;
        SHMQ_CRASH_POINT(cell_handed);
        if (shmq_view_is(port, cell, viewer)) return; /* [view] */
        word = next; /* it may have looked before we handed it over */
    }
}

void shmq_cell_release(struct shmq_port *port, uint32_t cell, bool warm) {
    uint64_t word = shmq_cell_load(port, cell);
    unsigned state = warm && port->geometry.paged ? SHMQ_WARM : SHMQ_SPARE;
    if (shmq_unlikely(shmq_load_seq(&port->cells[cell].viewers))) { /* [view] */
        shmq_cell_let_go(port, cell, word, state);
        return;
    }
    shmq_store_release(&port->cells[cell].word, shmq_cell_next(word, state, SHMQ_NO_PORT, shmq_word_slot(word))); /* [hand] */
    port->hint = cell;
}

shmq_status shmq_cell_take(struct shmq_port *port, enum shmq_purpose purpose, uint32_t *cell) {
    if (shmq_unlikely(port->kept == SHMQ_NO_CELL)) {
        /* The kept one is in use by another call of this handle, or large slots: reserved cells of others are not ours. */
        if (port->geometry.paged) { /* the reserved ones last: see shmq_cell_take_for_long */
            shmq_status status = claim_from(port, port->geometry.reserved, purpose, cell);
            return status == SHMQ_OK ? status : claim_from(port, 0, purpose, cell);
        }
        if (!claim(port, port->index, SHMQ_SPARE)) {
            /* … unless every other is taken: a message that could not be decoded may lie in ours, and one of a port that
             * nobody has attached serves as well. */
            shmq_status status = claim_from(port, port->geometry.reserved, purpose, cell);
            return status == SHMQ_OK ? status : claim_from(port, 0, purpose, cell);
        }
        *cell = port->index;
        return SHMQ_OK;
    }
    /* Only a scribbler changes it: whoever reads the slot below must not be led out of the segment. */
    if (shmq_unlikely(shmq_word_slot(shmq_cell_load(port, port->kept)) >= port->geometry.total_slots)) return SHMQ_CORRUPT;
    *cell = port->kept;
    port->kept = SHMQ_NO_CELL;
    return SHMQ_OK;
}

void shmq_cell_return(struct shmq_port *port, uint32_t cell, bool warm) {
    if (shmq_unlikely(port->kept != SHMQ_NO_CELL || port->geometry.paged || cell != port->index || shmq_load_seq(&port->cells[cell].viewers))) {
        shmq_cell_release(port, cell, warm);
        return;
    }
    if (shmq_cell_state(shmq_cell_load(port, cell)) != SHMQ_IDLE) shmq_cell_become(port, cell, SHMQ_IDLE);
    port->kept = cell;
}
