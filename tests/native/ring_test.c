/* The ring: capacity, order, batches, and sequences that lag behind.
 *
 *     ring_test NAME    the test of that name passes, or says what was not so */
#include "call.h"
#include "single.h"

/* Every capacity holds exactly so many, in order, from any position and lap; length, estimate, peek and looks agree. */
TEST(capacities) {
    for (uint32_t slots = 1; slots <= 9; slots++)
        for (uint32_t offset = 0; offset < 2 * slots + 1; offset++) {
            snprintf(context, sizeof context, "capacity %u after %u messages", slots, offset);
            struct segment segment;
            segment_make(&segment, slots, 64, 2, 1);
            struct shmq_queue_port port;
            uint32_t number = 0, sent = 0, next = 0;
            segment_start_at(&segment, SHMQ_LAP_MASK, 5); /* the next lap is 0 */
            must_attach(&port, &segment);
            for (; sent < offset; sent++, next++) CHECK(ring_put(&port, 0, sent) == SHMQ_OK && ring_get(&port, &number) == SHMQ_OK && number == next, "%u", number);
            CHECK(ring_get(&port, &number) == SHMQ_WOULD_BLOCK && !shmq_ring_has_item(&port), "not empty");
            for (uint32_t n = 0; n < slots; n++) {
                CHECK(shmq_ring_length(&port) == n && shmq_ring_estimate(&port) == n && shmq_ring_has_space(&port), "length %u", n);
                CHECK(ring_put(&port, 0, sent++) == SHMQ_OK && shmq_ring_has_item(&port), "no room for %u", n);
                CHECK(shmq_ring_has_items(&port, n) && !shmq_ring_has_items(&port, n + 1), "items %u", n);
                CHECK(n + 1 == slots || (shmq_ring_has_spaces(&port, slots - n - 2) && !shmq_ring_has_spaces(&port, slots - n - 1)), "spaces %u", n);
            }
            CHECK(ring_put(&port, 0, sent) == SHMQ_WOULD_BLOCK && !shmq_ring_has_space(&port), "more than the capacity");
            CHECK(shmq_ring_length(&port) == slots && shmq_ring_estimate(&port) == slots, "length");
            for (uint32_t n = 0; n <= slots; n++) {
                struct shmq_slot slot;
                struct head head;
                bool moved;
                bool there = shmq_ring_peek(&port, n, &slot, &head, sizeof head, &moved);
                CHECK(!moved && there == (n < slots) && (!there || head.number == next + n), "peek at %u", n);
            }
            while (next < sent) CHECK(ring_get(&port, &number) == SHMQ_OK && number == next++, "%u", number);
            CHECK(ring_get(&port, &number) == SHMQ_WOULD_BLOCK && shmq_ring_length(&port) == 0, "not empty again");
            end(&segment, &port);
        }
}

/* Sequences that lag behind, by as much as a batch may leave them, are helped forward by whoever comes. */
TEST(lagging) {
    for (uint32_t slots = 1; slots <= 5; slots++)
        for (uint32_t behind = 0; behind <= slots; behind++)
            for (int which = 0; which < 3; which++) {
                snprintf(context, sizeof context, "%u slots, sequences %u behind, %d", slots, behind, which);
                struct segment segment;
                segment_make(&segment, slots, 64, 2, 1);
                struct shmq_queue_header *header = segment_queue(&segment);
                struct shmq_queue_port port;
                uint32_t number;
                must_attach(&port, &segment);
                uint64_t at = header->write_seq;
                for (uint32_t i = 0; i < behind; i++) CHECK(ring_put(&port, 0, i) == SHMQ_OK, "put");
                header->write_seq = which == 1 ? header->write_seq : at;
                uint32_t taken = which == 0 ? 0 : behind;
                for (uint32_t i = 0; i < taken; i++) CHECK(ring_get(&port, &number) == SHMQ_OK && number == i, "get %u", i);
                if (which) header->read_seq = at;
                if (which == 2) header->write_seq = at; /* the messages have come and gone, and nobody has moved anything */
                CHECK(shmq_ring_length(&port) == behind - taken, "length %u", shmq_ring_length(&port));
                for (uint32_t i = behind - taken; i < slots; i++) CHECK(ring_put(&port, 0, taken + i) == SHMQ_OK, "room for %u", i);
                CHECK(ring_put(&port, 0, 99) == SHMQ_WOULD_BLOCK, "not full");
                for (uint32_t i = 0; i < slots; i++) CHECK(ring_get(&port, &number) == SHMQ_OK && number == taken + i, "%u", number);
                CHECK(ring_get(&port, &number) == SHMQ_WOULD_BLOCK, "not empty");
                end(&segment, &port);
            }
}

/* The same by thousands, as a consumer leaves them that is killed after a large batch, and by many laps of a small ring: one look finds
 * what is there. */
TEST(far_behind) {
    static const struct { uint32_t slots, gone, there; } cases[] = {{20000, 9000, 3}, {20000, 20000, 0}, {9000, 9000, 9000}, {3, 10000, 2}, {1, 5000, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int which = 1; which < 4; which++) {
            uint32_t slots = cases[i].slots, gone = cases[i].gone, there = cases[i].there, number;
            snprintf(context, sizeof context, "%u slots, %u gone, %u there, %d", slots, gone, there, which);
            struct segment segment;
            segment_make(&segment, slots, 64, 2, 1);
            struct shmq_queue_header *header = segment_queue(&segment);
            struct shmq_queue_port port;
            segment_start_at(&segment, SHMQ_LAP_MASK - 1, 5);
            must_attach(&port, &segment);
            uint64_t at = header->write_seq;
            for (uint32_t n = 0; n < gone; n++) CHECK(ring_put(&port, 0, n) == SHMQ_OK && ring_get(&port, &number) == SHMQ_OK && number == n, "%u", n);
            for (uint32_t n = 0; n < there; n++) CHECK(ring_put(&port, 0, gone + n) == SHMQ_OK, "put");
            if (which & 1) header->read_seq = at;
            if (which & 2) header->write_seq = at;
            struct shmq_slot slot;
            struct head head;
            bool moved;
            CHECK(shmq_ring_length(&port) == there, "length %u", shmq_ring_length(&port));
            CHECK(shmq_ring_peek(&port, 0, &slot, &head, sizeof head, &moved) == (there != 0) && !moved, "peek");
            CHECK(!there || head.number == gone, "peek at %u", head.number);
            CHECK(ring_put(&port, 0, gone + there) == (there < slots ? SHMQ_OK : SHMQ_WOULD_BLOCK), "room");
            for (uint32_t n = 0; n < there + (there < slots); n++) CHECK(ring_get(&port, &number) == SHMQ_OK && number == gone + n, "%u", number);
            CHECK(ring_get(&port, &number) == SHMQ_WOULD_BLOCK && shmq_ring_length(&port) == 0, "not empty");
            end(&segment, &port);
        }
}

/* Batches: as many as there is room for, from any position; the one that found no room was not sent. */
TEST(batches) {
    for (uint32_t slots = 1; slots <= 8; slots++)
        for (uint32_t there = 0; there <= slots; there++)
            for (uint32_t wanted = 0; wanted <= 6; wanted++) {
                snprintf(context, sizeof context, "%u slots, %u there, %u more", slots, there, wanted);
                struct segment segment;
                segment_make(&segment, slots, 64, 8, 1);
                struct shmq_queue_port port;
                segment_start_at(&segment, SHMQ_LAP_MASK, 3);
                must_attach(&port, &segment);
                for (uint32_t i = 0; i < there; i++) CHECK(ring_put(&port, 0, i) == SHMQ_OK, "put");
                struct batch batch = {.next = there, .end = there + wanted};
                shmq_status status;
                uint32_t cell = take_cell(&port, SHMQ_TO_WRITE, false), room = slots - there;
                uint32_t sent = shmq_ring_put_many(&port, cell, fill_batch, &batch, &status);
                shmq_cell_return(&port, cell, true);
                CHECK(sent == (wanted < room ? wanted : room), "%u sent", sent);
                CHECK(status == (wanted <= room ? SHMQ_OK : SHMQ_WOULD_BLOCK), "status %d", status);
                uint32_t cells[7], got;
                for (int i = 0; i < 7; i++) cells[i] = take_cell(&port, SHMQ_TO_GIVE, true);
                for (uint32_t next = 0; next < there + sent; next += got) {
                    got = shmq_ring_get_many(&port, cells, 7, SHMQ_LEASED, &status);
                    CHECK(status == SHMQ_OK && got == (there + sent - next < 7 ? there + sent - next : 7), "%u got", got);
                    for (uint32_t i = 0; i < got; i++) {
                        CHECK(message_in(&port, cells[i]).number == next + i, "order");
                        ack(&port, cells[i]);
                        cells[i] = take_cell(&port, SHMQ_TO_GIVE, true);
                    }
                }
                CHECK(shmq_ring_get_many(&port, cells, 7, SHMQ_LEASED, &status) == 0 && status == SHMQ_WOULD_BLOCK, "not empty");
                for (int i = 0; i < 7; i++) shmq_cell_return(&port, cells[i], false);
                end(&segment, &port);
            }
}

/* A batch is held up in the middle, and others go round the ring meanwhile: it must not take the sequence back to where it was. */
struct held_up { struct shmq_queue_port *others; uint32_t filled, meanwhile; uint64_t then; };

static bool fill_held_up(void *held_up_, struct shmq_queue_port *port, uint32_t slot) {
    struct held_up *held_up = held_up_;
    if (held_up->filled++ == 0) {
        message_write(port, slot, 0, 0);
        return true;
    }
    uint32_t number;
    CHECK(ring_get(held_up->others, &number) == SHMQ_OK && number == 0, "the first of the batch");
    for (uint32_t i = 1; i <= held_up->meanwhile; i++)
        CHECK(ring_put(held_up->others, 0, i) == SHMQ_OK && ring_get(held_up->others, &number) == SHMQ_OK && number == i, "%u", number);
    held_up->then = shmq_load_relaxed(&port->header->write_seq);
    return false;
}

TEST(never_back) {
    for (uint32_t slots = 1; slots <= 4; slots++)
        for (uint32_t meanwhile = 0; meanwhile < 9; meanwhile++)
            for (int edge = 0; edge < 2; edge++) {
                snprintf(context, sizeof context, "%u slots, %u messages meanwhile%s", slots, meanwhile, edge ? ", last lap" : "");
                struct segment segment;
                segment_make(&segment, slots, 64, 2, 2);
                struct shmq_queue_port port, others;
                struct held_up held_up = {&others, 0, meanwhile, 0};
                shmq_status status;
                segment_start_at(&segment, edge ? SHMQ_LAP_MASK : 0, 1);
                must_attach(&port, &segment);
                must_attach(&others, &segment);
                uint32_t cell = take_cell(&port, SHMQ_TO_WRITE, false);
                CHECK(shmq_ring_put_many(&port, cell, fill_held_up, &held_up, &status) == 1 && status == SHMQ_OK, "status %d", status);
                shmq_cell_return(&port, cell, true);
                int64_t moved = (int64_t)((port.header->write_seq - held_up.then) << 2) >> 2;
                CHECK(moved >= 0, "write_seq went back from %#lx to %#lx", (unsigned long)held_up.then, (unsigned long)port.header->write_seq);
                CHECK(shmq_ring_length(&port) == 0 && shmq_ring_estimate(&port) == 0, "length %u", shmq_ring_estimate(&port));
                shmq_port_detach(&others);
                end(&segment, &port);
            }
}

/* Words that the protocol never writes are told as such, and nothing is taken or given for them. */
TEST(corruption) {
    enum { SLOTS = 3, LAP = 7 };
    const uint64_t outside = SLOTS + 3 + 1;
    const struct { uint64_t word; shmq_status put, get; } cases[] = {
        {shmq_ring_word(LAP, 2, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},               /* states that there are not */
        {shmq_ring_word(LAP, 3, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},
        {shmq_ring_word(LAP, SHMQ_EMPTY, (uint32_t)outside), SHMQ_CORRUPT, SHMQ_WOULD_BLOCK}, /* slots that there are not */
        {shmq_ring_word(LAP, SHMQ_EMPTY, SHMQ_SLOT_MASK), SHMQ_CORRUPT, SHMQ_WOULD_BLOCK},
        {shmq_ring_word(LAP, SHMQ_READY, (uint32_t)outside), SHMQ_OK, SHMQ_CORRUPT},
        {shmq_ring_word(LAP - 1, SHMQ_EMPTY, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},  /* laps that cannot be */
        {shmq_ring_word(LAP - 2, SHMQ_READY, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},
        {shmq_ring_word(0, SHMQ_EMPTY, 0), SHMQ_CORRUPT, SHMQ_CORRUPT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int side = 0; side < 2; side++) {
            snprintf(context, sizeof context, "corruption %zu", i);
            struct segment segment;
            segment_make(&segment, SLOTS, 64, 2, 1);
            struct shmq_queue_port port;
            segment_start_at(&segment, LAP, 1);
            must_attach(&port, &segment);
            port.ring[0] = cases[i].word;
            uint32_t cell = take_cell(&port, side ? SHMQ_TO_GIVE : SHMQ_TO_WRITE, false);
            uint64_t before = shmq_cell_load(&port, cell);
            if (side == 0) message_write(&port, slot_in(&port, cell), 0, 0);
            shmq_status status = side ? shmq_ring_get(&port, cell, SHMQ_LEASED) : shmq_ring_put(&port, cell);
            CHECK(status == (side ? cases[i].get : cases[i].put), "%s: %d", side ? "get" : "put", status);
            CHECK(status == SHMQ_OK || (shmq_cell_load(&port, cell) == before && port.ring[0] == cases[i].word), "something was exchanged");
            segment_unmake(&segment);
        }
    for (uint32_t index = SLOTS; index < SLOTS + 2; index++) {
        struct segment segment;
        segment_make(&segment, SLOTS, 64, 2, 1);
        struct shmq_queue_port port;
        uint32_t number;
        must_attach(&port, &segment);
        port.header->write_seq = port.header->read_seq = shmq_seq_word(0, index);
        CHECK(ring_put(&port, 0, 0) == SHMQ_CORRUPT && ring_get(&port, &number) == SHMQ_CORRUPT, "index %u", index);
        CHECK(shmq_ring_has_space(&port) && shmq_ring_has_item(&port), "whoever sleeps would never find out");
        end(&segment, &port);
    }
}

int main(int argc, char **argv) { return run_single(argc, argv, 100); }
