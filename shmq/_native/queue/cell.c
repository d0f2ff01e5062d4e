#define _GNU_SOURCE
#include "cell.h"

#include "view.h"

bool shmq_cell_claim(struct shmq_queue_port *queue, uint32_t cell, unsigned wanted) {
    uint64_t word = shmq_load_acquire(&queue->cells[cell].word); /* [hand] */
    if (shmq_cell_state(word) != wanted || shmq_word_slot(word) >= queue->geometry.total_slots) return false;
    /* [hand] */
    if (!shmq_swap_seq(&queue->cells[cell].word, &word, shmq_cell_next(word, SHMQ_IDLE, queue->port.index, shmq_word_slot(word)))) return false;
    shmq_store_relaxed(&queue->cells[cell].leased_ns, 0); /* seen by each port that sees it leased: see shmq_cells_move */
    return true;
}

/* Any free cell from `first` on. */
static shmq_status claim_from(struct shmq_queue_port *queue, uint32_t first, enum shmq_purpose purpose, uint32_t *cell) {
    const uint32_t cells = queue->geometry.cells;
    if (!queue->geometry.paged) {
        uint32_t i = queue->hint >= first ? queue->hint : first;
        for (uint32_t n = first; n < cells; n++, i = i + 1 < cells ? i + 1 : first)
            if (shmq_cell_claim(queue, i, SHMQ_SPARE)) {
                *cell = i;
                queue->hint = i + 1 < cells ? i + 1 : first;
                return SHMQ_OK;
            }
        return SHMQ_NO_CELLS;
    }
    const unsigned preferred = purpose == SHMQ_TO_WRITE ? SHMQ_WARM : SHMQ_SPARE;
    for (uint32_t i = first; i < cells; i++)
        if (shmq_cell_claim(queue, i, preferred)) return *cell = i, SHMQ_OK;
    for (uint32_t i = first; i < cells; i++) {
        uint32_t other = purpose == SHMQ_TO_WRITE ? i : cells - 1 - (i - first); /* give away the warm slot that would be claimed last */
        if (shmq_cell_claim(queue, other, preferred == SHMQ_WARM ? SHMQ_SPARE : SHMQ_WARM)) return *cell = other, SHMQ_OK;
    }
    return SHMQ_NO_CELLS;
}

shmq_status shmq_cell_take_for_long(struct shmq_queue_port *queue, enum shmq_purpose purpose, uint32_t *cell) {
    return claim_from(queue, queue->geometry.reserved, purpose, cell);
}

void shmq_cell_free(struct shmq_queue_port *queue, uint32_t cell, bool warm) {
    uint64_t word = shmq_cell_load(queue, cell);
    unsigned state = warm && queue->geometry.paged ? SHMQ_WARM : SHMQ_SPARE;
    if (shmq_unlikely(shmq_load_seq(&queue->cells[cell].viewers))) { /* [view] */
        shmq_cell_free_or_hand(queue, cell, word, state);
        return;
    }
    shmq_store_release(&queue->cells[cell].word, shmq_cell_next(word, state, SHMQ_NO_PORT, shmq_word_slot(word))); /* [hand] */
    queue->hint = cell;
}

shmq_status shmq_cell_take(struct shmq_queue_port *queue, enum shmq_purpose purpose, uint32_t *cell) {
    if (shmq_unlikely(queue->kept == SHMQ_NO_CELL)) {
        /* The kept one is in use by another call of this handle, or slots are large. Reserved cells of other ports are not ours … */
        if (queue->geometry.paged) { /* the reserved ones last: see shmq_cell_take_for_long */
            shmq_status status = claim_from(queue, queue->geometry.reserved, purpose, cell);
            return status == SHMQ_OK ? status : claim_from(queue, 0, purpose, cell);
        }
        if (!shmq_cell_claim(queue, queue->port.index, SHMQ_SPARE)) {
            /* … unless every other is taken. A message that could not be decoded may lie in ours, and the cell of a port that
             * is not attached serves as well. */
            shmq_status status = claim_from(queue, queue->geometry.reserved, purpose, cell);
            return status == SHMQ_OK ? status : claim_from(queue, 0, purpose, cell);
        }
        *cell = queue->port.index;
        return SHMQ_OK;
    }
    /* Only a scribbler changes it: the caller that reads the slot must not be led out of the segment. */
    if (shmq_unlikely(shmq_word_slot(shmq_cell_load(queue, queue->kept)) >= queue->geometry.total_slots)) return SHMQ_CORRUPT;
    *cell = queue->kept;
    queue->kept = SHMQ_NO_CELL;
    return SHMQ_OK;
}

void shmq_cell_return(struct shmq_queue_port *queue, uint32_t cell, bool warm) {
    /* [view] */
    if (shmq_unlikely(queue->kept != SHMQ_NO_CELL || queue->geometry.paged || cell != queue->port.index || shmq_load_seq(&queue->cells[cell].viewers))) {
        shmq_cell_free(queue, cell, warm);
        return;
    }
    if (shmq_cell_state(shmq_cell_load(queue, cell)) != SHMQ_IDLE) shmq_cell_become(queue, cell, SHMQ_IDLE);
    queue->kept = cell;
}
