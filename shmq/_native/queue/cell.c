#define _GNU_SOURCE
#include "cell.h"

#include "view.h"

bool shmq_cell_claim(struct shmq_port *port, uint32_t cell, unsigned wanted) {
    uint64_t word = shmq_load_acquire(&port->cells[cell].word); /* [hand] */
    if (shmq_cell_state(word) != wanted || shmq_word_slot(word) >= port->geometry.total_slots) return false;
    /* [hand] */
    if (!shmq_swap_seq(&port->cells[cell].word, &word, shmq_cell_next(word, SHMQ_IDLE, port->index, shmq_word_slot(word)))) return false;
    shmq_store_relaxed(&port->cells[cell].leased_ns, 0); /* seen by each port that sees it leased: see shmq_cells_move */
    return true;
}

/* Any free cell from `first` on. */
static shmq_status claim_from(struct shmq_port *port, uint32_t first, enum shmq_purpose purpose, uint32_t *cell) {
    const uint32_t cells = port->geometry.cells;
    if (!port->geometry.paged) {
        uint32_t i = port->hint >= first ? port->hint : first;
        for (uint32_t n = first; n < cells; n++, i = i + 1 < cells ? i + 1 : first)
            if (shmq_cell_claim(port, i, SHMQ_SPARE)) {
                *cell = i;
                port->hint = i + 1 < cells ? i + 1 : first;
                return SHMQ_OK;
            }
        return SHMQ_NO_CELLS;
    }
    const unsigned preferred = purpose == SHMQ_TO_WRITE ? SHMQ_WARM : SHMQ_SPARE;
    for (uint32_t i = first; i < cells; i++)
        if (shmq_cell_claim(port, i, preferred)) return *cell = i, SHMQ_OK;
    for (uint32_t i = first; i < cells; i++) {
        uint32_t other = purpose == SHMQ_TO_WRITE ? i : cells - 1 - (i - first); /* give away the warm slot that would be claimed last */
        if (shmq_cell_claim(port, other, preferred == SHMQ_WARM ? SHMQ_SPARE : SHMQ_WARM)) return *cell = other, SHMQ_OK;
    }
    return SHMQ_NO_CELLS;
}

shmq_status shmq_cell_take_for_long(struct shmq_port *port, enum shmq_purpose purpose, uint32_t *cell) {
    return claim_from(port, port->geometry.reserved, purpose, cell);
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
        /* The kept one is in use by another call of this handle, or slots are large. Reserved cells of other ports are not ours … */
        if (port->geometry.paged) { /* the reserved ones last: see shmq_cell_take_for_long */
            shmq_status status = claim_from(port, port->geometry.reserved, purpose, cell);
            return status == SHMQ_OK ? status : claim_from(port, 0, purpose, cell);
        }
        if (!shmq_cell_claim(port, port->index, SHMQ_SPARE)) {
            /* … unless every other is taken. A message that could not be decoded may lie in ours, and the cell of a port that
             * is not attached serves as well. */
            shmq_status status = claim_from(port, port->geometry.reserved, purpose, cell);
            return status == SHMQ_OK ? status : claim_from(port, 0, purpose, cell);
        }
        *cell = port->index;
        return SHMQ_OK;
    }
    /* Only a scribbler changes it: the caller that reads the slot must not be led out of the segment. */
    if (shmq_unlikely(shmq_word_slot(shmq_cell_load(port, port->kept)) >= port->geometry.total_slots)) return SHMQ_CORRUPT;
    *cell = port->kept;
    port->kept = SHMQ_NO_CELL;
    return SHMQ_OK;
}

void shmq_cell_return(struct shmq_port *port, uint32_t cell, bool warm) {
    /* [view] */
    if (shmq_unlikely(port->kept != SHMQ_NO_CELL || port->geometry.paged || cell != port->index || shmq_load_seq(&port->cells[cell].viewers))) {
        shmq_cell_release(port, cell, warm);
        return;
    }
    if (shmq_cell_state(shmq_cell_load(port, cell)) != SHMQ_IDLE) shmq_cell_become(port, cell, SHMQ_IDLE);
    port->kept = cell;
}
