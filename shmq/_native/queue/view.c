#define _GNU_SOURCE
#include "view.h"

#define VIEWERS 4

static uint32_t viewer_at(uint64_t viewers, int index) { return (uint32_t)(viewers >> 16 * index & 0xffff); }

/* Change the first entry that reads `from`. False: there is none. */
static bool change_viewer(struct shmq_queue_port *queue, uint32_t cell, uint32_t from, uint32_t to) {
    shmq_word *word = &queue->cells[cell].viewers;
    uint64_t before = shmq_load_seq(word); /* [view] */
    for (int index = 0, tries = 0; index < VIEWERS && tries < 64; index++) { /* only a scribbler makes it that many */
        if (viewer_at(before, index) != from) continue;
        uint64_t after = (before & ~(UINT64_C(0xffff) << 16 * index)) | (uint64_t)to << 16 * index;
        if (shmq_swap_seq(word, &before, after)) return true; /* [view] */
        index = -1, tries++;
    }
    return false;
}

bool shmq_view_is(const struct shmq_queue_port *queue, uint32_t cell, uint32_t viewer) {
    uint64_t viewers = shmq_load_seq(&queue->cells[cell].viewers); /* [view] */
    for (int index = 0; index < VIEWERS; index++)
        if (viewer_at(viewers, index) == viewer + 1) return true;
    return false;
}

uint32_t shmq_view_first(struct shmq_queue_port *queue, uint32_t cell) {
    uint64_t viewers = shmq_load_seq(&queue->cells[cell].viewers); /* [view] */
    for (int index = 0; viewers && index < VIEWERS; index++) {
        uint32_t viewer = viewer_at(viewers, index);
        if (viewer == 0) continue;
        if (viewer <= queue->geometry.ports && shmq_load_acquire(&queue->port.records[viewer - 1].owner)) return viewer - 1; /* [port] */
        change_viewer(queue, cell, viewer, 0); /* no port's: it detached, or died, when it was about to end its view */
    }
    return SHMQ_NO_PORT;
}

void shmq_view_clear(struct shmq_queue_port *queue, uint32_t cell, uint32_t viewer) {
    if (shmq_likely(shmq_load_seq(&queue->cells[cell].viewers) == 0)) return; /* [view] */
    for (int index = 0; index < VIEWERS; index++) change_viewer(queue, cell, viewer + 1, 0);
}

void shmq_cell_free_or_hand(struct shmq_queue_port *queue, uint32_t cell, uint64_t word, enum shmq_cell_state state) {
    for (int tries = 0; tries < 8; tries++) { /* more than once only if viewers go at this moment */
        uint32_t viewer = shmq_view_first(queue, cell);
        bool handed = viewer != SHMQ_NO_PORT;
        uint64_t next = shmq_cell_next(word, handed ? SHMQ_HELD : state, viewer, shmq_word_slot(word));
        if (handed) shmq_store_relaxed(&queue->cells[cell].handed, next); /* released by the word itself */
        if (!shmq_swap_seq(&queue->cells[cell].word, &word, next)) return; /* [hand] [view]: the viewer that was handed it has freed it */
        if (!handed) return;
        SHMQ_CRASH_POINT(cell_handed);
        if (shmq_view_is(queue, cell, viewer)) return; /* [view] */
        word = next; /* the viewer may have looked before the cell was handed over */
    }
}

shmq_status shmq_view_begin(struct shmq_queue_port *queue, uint32_t cell, uint64_t leased) {
    if (!change_viewer(queue, cell, 0, queue->port.index + 1)) return SHMQ_NO_CELLS;
    SHMQ_CRASH_POINT(view_begun);
    if (shmq_load_seq(&queue->cells[cell].word) == leased) return SHMQ_OK; /* [view]: a port that gets the cell later sees this viewer */
    shmq_view_release(queue, cell);
    return SHMQ_LOST;
}

void shmq_view_release(struct shmq_queue_port *queue, uint32_t cell) {
    change_viewer(queue, cell, queue->port.index + 1, 0);
    SHMQ_CRASH_POINT(view_ended);
    if (shmq_view_is(queue, cell, queue->port.index)) return;
    uint64_t word = shmq_load_seq(&queue->cells[cell].word); /* [hand] [view] */
    if (shmq_cell_state(word) != SHMQ_HELD || shmq_cell_owner(word) != queue->port.index) return;
    /* [hand]: handed over, not acked by this port */
    if (shmq_load_acquire(&queue->cells[cell].handed) == word) shmq_cell_free_or_hand(queue, cell, word, SHMQ_SPARE);
}

void shmq_view_repair(struct shmq_queue_port *queue, uint32_t cell) {
    uint64_t word = shmq_load_seq(&queue->cells[cell].word); /* [hand] [view]: after shmq_view_clear */
    if (shmq_cell_state(word) != SHMQ_HELD || shmq_load_acquire(&queue->cells[cell].handed) != word) return; /* [hand] */
    /* A living port may be about to do the same: both swap from this word, and one of them does it. */
    if (!shmq_view_is(queue, cell, shmq_cell_owner(word))) shmq_cell_free_or_hand(queue, cell, word, SHMQ_SPARE);
}
