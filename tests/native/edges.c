/* The engine, one thread, at its edges: full and empty, first and last lap, sequences that lag, late settlements, limits. */
#include "harness.h"

static struct segment segment;
static struct shmq_port one, two;

static struct shmq_header *header(void) { return (struct shmq_header *)segment.base; }

static void open_two(uint32_t slots, uint64_t slot_size, uint32_t in_flight) {
    segment_make(&segment, slots, slot_size, in_flight, 2);
    CHECK_EQUAL(port_attach(&one, &segment), SHMQ_OK);
    CHECK_EQUAL(port_attach(&two, &segment), SHMQ_OK);
}

static void close_two(void) {
    shmq_port_detach(&one);
    shmq_port_detach(&two);
    segment_check(&segment);
    segment_unmake(&segment);
}

static void get_expecting(struct shmq_port *port, uint32_t number) {
    struct message message;
    CHECK_EQUAL(try_get(port, &message), SHMQ_OK);
    CHECK_EQUAL(message.number, number);
}

static void expect_empty(struct shmq_port *port) {
    struct message message;
    CHECK_EQUAL(try_get(port, &message), SHMQ_WOULD_BLOCK);
    CHECK_EQUAL(shmq_ring_length(port), 0);
    CHECK(!shmq_ring_has_item(port) && shmq_ring_has_space(port));
}

/* Numbers 0 … count - 1, from a fill that may be told to do something else in the middle. */
struct batch {
    uint32_t next, end, meddle_at;
    void (*meddle)(void);
};

static bool fill(void *context, struct shmq_port *port, uint32_t slot) {
    struct batch *batch = context;
    if (batch->meddle != NULL && batch->next == batch->meddle_at) batch->meddle();
    if (batch->next == batch->end) return false;
    message_write(port, slot, 0, batch->next++);
    return true;
}

static uint32_t put_many(struct shmq_port *port, struct batch *batch, shmq_status *status) {
    uint32_t cell;
    CHECK_EQUAL(shmq_cell_take(port, SHMQ_TO_WRITE, &cell), SHMQ_OK);
    uint32_t done = shmq_ring_put_many(port, cell, fill, batch, status);
    shmq_cell_return(port, cell, *status != SHMQ_OK);
    return done;
}

/* -- the ring -------------------------------------------------------------------------------------------------------- */

static void fill_and_drain(uint32_t slots, uint64_t slot_size, bool edge) {
    segment_make(&segment, slots, slot_size, 2, 2);
    if (edge) segment_age_to_the_edge(&segment);
    CHECK_EQUAL(port_attach(&one, &segment), SHMQ_OK);
    CHECK_EQUAL(port_attach(&two, &segment), SHMQ_OK);
    for (uint32_t lap = 0, number = 0; lap < 6; lap++) { /* from lap to lap the ring begins at another index */
        expect_empty(&two);
        for (uint32_t i = 0; i < slots; i++) {
            CHECK(shmq_ring_has_space(&one));
            CHECK_EQUAL(try_put(&one, 0, number + i), SHMQ_OK);
            CHECK_EQUAL(shmq_ring_length(&two), i + 1);
            CHECK_EQUAL(shmq_ring_estimate(&two), i + 1);
        }
        CHECK_EQUAL(try_put(&one, 0, 99), SHMQ_WOULD_BLOCK);
        CHECK(!shmq_ring_has_space(&one) && shmq_ring_has_item(&one));
        for (uint32_t i = 0; i < slots; i++) get_expecting(&two, number + i);
        expect_empty(&two);
        CHECK_EQUAL(try_put(&one, 0, 77), SHMQ_OK);
        get_expecting(&one, 77);
        number += slots;
    }
    close_two();
}

TEST(a_ring_of_one_slot_holds_one_message) { fill_and_drain(1, 64, false); }
TEST(a_ring_of_two_slots_holds_two_messages) { fill_and_drain(2, 64, false); }
TEST(a_ring_of_three_slots_holds_three_messages) { fill_and_drain(3, 100, false); }
TEST(a_ring_of_64_pages_holds_64_messages) { fill_and_drain(64, 4096, false); }
TEST(a_ring_of_one_slot_survives_the_last_lap_and_generation) { fill_and_drain(1, 64, true); }
TEST(a_ring_of_three_slots_survives_the_last_lap_and_generation) { fill_and_drain(3, 64, true); }
TEST(a_ring_of_two_pages_survives_the_last_lap_and_generation) { fill_and_drain(2, 5000, true); }

TEST(batches_stop_at_a_full_and_at_an_empty_ring) {
    open_two(5, 64, 8);
    for (uint32_t lap = 0; lap < 7; lap++) {
        struct batch batch = {.end = 9};
        shmq_status status;
        CHECK_EQUAL(put_many(&one, &batch, &status), 5);
        CHECK_EQUAL(status, SHMQ_WOULD_BLOCK);
        uint32_t cells[9], got;
        for (int i = 0; i < 8; i++) CHECK_EQUAL(shmq_cell_take(&two, SHMQ_TO_GIVE, &cells[i]), SHMQ_OK);
        got = shmq_ring_get_many(&two, cells, 3, &status);
        CHECK_EQUAL(got, 3);
        CHECK_EQUAL(status, SHMQ_OK);
        got += shmq_ring_get_many(&two, cells + 3, 5, &status);
        CHECK_EQUAL(got, 5);
        CHECK_EQUAL(shmq_ring_get_many(&two, cells + 5, 3, &status), 0);
        CHECK_EQUAL(status, SHMQ_WOULD_BLOCK);
        for (uint32_t i = 0; i < 5; i++) CHECK_EQUAL(message_read(&two, slot_of(&two, cells[i])).number, i);
        for (uint32_t i = 0; i < 8; i++) shmq_cell_return(&two, cells[i], true);
        expect_empty(&one);
        CHECK_EQUAL(try_put(&one, 0, lap), SHMQ_OK); /* shift the laps */
        get_expecting(&one, lap);
    }
    close_two();
}

static uint64_t write_seq_before;

static void others_put_three(void) {
    for (uint32_t i = 0; i < 3; i++) CHECK_EQUAL(try_put(&two, 1, i), SHMQ_OK);
    write_seq_before = header()->write_seq;
}

TEST(a_batch_that_others_overtake_at_its_end_does_not_move_write_seq_back) {
    open_two(64, 64, 4);
    struct batch batch = {.end = 4, .meddle_at = 4, .meddle = others_put_three};
    shmq_status status;
    CHECK_EQUAL(put_many(&one, &batch, &status), 4);
    CHECK(header()->write_seq >= write_seq_before);
    CHECK_EQUAL(shmq_ring_estimate(&one), 7);
    close_two();
}

TEST(a_batch_that_others_overtake_in_its_middle_does_not_move_write_seq_back) {
    open_two(64, 64, 4);
    struct batch batch = {.end = 5, .meddle_at = 3, .meddle = others_put_three};
    shmq_status status;
    CHECK_EQUAL(put_many(&one, &batch, &status), 5);
    CHECK(header()->write_seq >= write_seq_before);
    CHECK_EQUAL(shmq_ring_estimate(&one), 8);
    for (uint32_t i = 0; i < 3; i++) get_expecting(&two, i);
    close_two();
}

static void others_go_far(void) {
    for (uint32_t i = 0; i < 5000; i++) {
        CHECK_EQUAL(try_put(&two, 1, i), SHMQ_OK);
        if (i < 3) get_expecting(&two, i); /* what the batch has published so far */
        else get_expecting(&two, i - 3);
    }
}

TEST(a_batch_that_was_left_thousands_of_messages_behind_finds_room_where_there_is_room) {
    open_two(64, 64, 4);
    struct batch batch = {.end = 5, .meddle_at = 3, .meddle = others_go_far};
    shmq_status status;
    CHECK_EQUAL(put_many(&one, &batch, &status), 5);
    CHECK_EQUAL(status, SHMQ_OK);
    close_two();
}

TEST(what_was_published_is_found_although_write_seq_lags) {
    open_two(4, 64, 4);
    for (uint32_t lap = 0; lap < 5; lap++) {
        uint64_t write_seq = header()->write_seq;
        for (uint32_t i = 0; i < 4; i++) CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
        header()->write_seq = write_seq; /* as if four publishers had died between two stores */
        CHECK_EQUAL(shmq_ring_length(&two), 4);
        CHECK_EQUAL(try_put(&one, 0, 9), SHMQ_WOULD_BLOCK);
        header()->write_seq = write_seq;
        get_expecting(&two, 0);
        get_expecting(&two, 1);
        CHECK_EQUAL(try_put(&one, 0, 4), SHMQ_OK); /* past one that was taken, two that were not */
        for (uint32_t i = 2; i < 5; i++) get_expecting(&two, i);
        expect_empty(&two);
    }
    close_two();
}

TEST(what_was_taken_is_passed_although_read_seq_lags) {
    open_two(4, 64, 4);
    for (uint32_t lap = 0; lap < 5; lap++) {
        for (uint32_t i = 0; i < 4; i++) CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
        uint64_t read_seq = header()->read_seq;
        for (uint32_t i = 0; i < 3; i++) get_expecting(&two, i);
        header()->read_seq = read_seq;
        CHECK_EQUAL(shmq_ring_length(&two), 1);
        struct shmq_slot slot;
        struct message peeked;
        bool moved;
        CHECK(shmq_ring_peek(&two, 0, &slot, &peeked, sizeof peeked, &moved) && peeked.number == 3);
        CHECK_EQUAL(try_put(&one, 0, 4), SHMQ_OK);
        get_expecting(&two, 3);
        get_expecting(&two, 4);
        expect_empty(&two);
    }
    close_two();
}

TEST(peek_shows_what_is_there_in_order_and_takes_nothing) {
    open_two(3, 64, 4);
    segment_check(&segment);
    for (uint32_t lap = 0; lap < 4; lap++) {
        for (uint32_t i = 0; i < 3; i++) CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
        struct shmq_slot slot;
        struct message peeked;
        bool moved;
        for (uint32_t i = 0; i < 3; i++) {
            CHECK(shmq_ring_peek(&two, i, &slot, &peeked, sizeof peeked, &moved));
            CHECK(!moved && peeked.number == i && slot.kind == SHMQ_BYTES);
        }
        CHECK(!shmq_ring_peek(&two, 3, &slot, &peeked, sizeof peeked, &moved) && !moved);
        for (uint32_t i = 0; i < 3; i++) get_expecting(&two, i);
        CHECK(!shmq_ring_peek(&two, 0, &slot, &peeked, sizeof peeked, &moved) && !moved);
        CHECK_EQUAL(try_put(&one, 0, 0), SHMQ_OK);
        get_expecting(&two, 0);
    }
    close_two();
}

TEST(a_look_ahead_tells_whether_the_nth_cell_is_filled_or_free) {
    open_two(8, 64, 4);
    for (uint32_t lap = 0; lap < 5; lap++) {
        for (uint32_t i = 0; i < 3; i++) CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
        for (uint32_t i = 0; i < 8; i++) CHECK_EQUAL(shmq_ring_has_items(&one, i), i < 3);
        for (uint32_t i = 0; i < 8; i++) CHECK_EQUAL(shmq_ring_has_spaces(&one, i), i < 5);
        CHECK(!shmq_ring_has_items(&one, 8) && !shmq_ring_has_spaces(&one, 8) && !shmq_ring_has_items(&one, UINT32_MAX));
        for (uint32_t i = 0; i < 3; i++) get_expecting(&two, i);
    }
    close_two();
}

/* -- leases ---------------------------------------------------------------------------------------------------------- */

static uint32_t lease_one(struct shmq_port *port, uint32_t number) {
    uint32_t cell;
    CHECK_EQUAL(try_take(port, true, &cell), SHMQ_OK);
    CHECK_EQUAL(message_read(port, slot_of(port, cell)).number, number);
    CHECK_EQUAL(shmq_cell_state(shmq_cell_load(port, cell)), SHMQ_LEASED);
    return cell;
}

TEST(a_nacked_message_comes_back_first_and_counts_a_released_one_does_not) {
    open_two(4, 64, 4);
    for (uint32_t i = 0; i < 3; i++) CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
    uint32_t cell = lease_one(&one, 0);
    CHECK_EQUAL(delivery_count(&one, cell), 1);
    CHECK_EQUAL(shmq_lease_give_back(&one, cell, shmq_cell_load(&one, cell), true), SHMQ_OK);
    cell = lease_one(&two, 0);
    CHECK_EQUAL(delivery_count(&two, cell), 2);
    CHECK_EQUAL(shmq_lease_give_back(&two, cell, shmq_cell_load(&two, cell), false), SHMQ_OK);
    cell = lease_one(&one, 0);
    CHECK_EQUAL(delivery_count(&one, cell), 2);
    CHECK_EQUAL(shmq_lease_ack(&one, cell, shmq_cell_load(&one, cell), false), SHMQ_OK);
    shmq_cell_return(&one, cell, true);
    get_expecting(&two, 1);
    get_expecting(&two, 2);
    close_two();
}

TEST(a_message_that_is_put_again_into_a_slot_that_failed_begins_at_one_delivery) {
    open_two(1, 64, 1);
    for (uint32_t i = 0; i < 20; i++) { /* each slot is used several times */
        CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
        uint32_t cell = lease_one(&two, i);
        CHECK_EQUAL(delivery_count(&two, cell), 1);
        CHECK_EQUAL(shmq_lease_give_back(&two, cell, shmq_cell_load(&two, cell), true), SHMQ_OK);
        cell = lease_one(&two, i);
        CHECK_EQUAL(delivery_count(&two, cell), 2);
        CHECK_EQUAL(shmq_lease_ack(&two, cell, shmq_cell_load(&two, cell), false), SHMQ_OK);
        shmq_cell_return(&two, cell, true);
    }
    close_two();
}

TEST(a_failed_delivery_counts_once_for_one_lease_and_stops_at_the_top) {
    open_two(1, 64, 1);
    CHECK_EQUAL(try_put(&one, 0, 0), SHMQ_OK);
    uint32_t cell = lease_one(&one, 0);
    uint64_t leased = shmq_cell_load(&one, cell);
    for (int i = 0; i < 3; i++) shmq_delivery_failed(&one, leased, cell);
    CHECK_EQUAL(delivery_count(&one, cell), 2);
    struct shmq_slot *slot = shmq_slot_at(&one, shmq_word_slot(leased));
    slot->deliveries = 0xffff;
    shmq_delivery_failed(&one, leased, cell);
    CHECK_EQUAL(shmq_deliveries_failed(slot->deliveries), 0xffff);
    close_two();
}

TEST(a_late_ack_or_nack_is_lost_and_changes_nothing) {
    open_two(2, 64, 2);
    CHECK_EQUAL(try_put(&one, 0, 0), SHMQ_OK);
    uint32_t cell = lease_one(&one, 0);
    uint64_t leased = shmq_cell_load(&one, cell);
    CHECK_EQUAL(shmq_lease_give_back(&one, cell, leased, true), SHMQ_OK);
    CHECK_EQUAL(shmq_lease_ack(&one, cell, leased, false), SHMQ_LOST);
    CHECK_EQUAL(lease_one(&two, 0), cell); /* adopted where it lies: same cell, same slot, another generation */
    uint64_t adopted = shmq_cell_load(&two, cell);
    CHECK_EQUAL(shmq_lease_ack(&one, cell, leased, true), SHMQ_LOST);
    CHECK_EQUAL(shmq_lease_give_back(&one, cell, leased, true), SHMQ_LOST);
    CHECK_EQUAL(shmq_cell_load(&two, cell), adopted);
    CHECK_EQUAL(delivery_count(&two, cell), 2);
    CHECK_EQUAL(shmq_lease_ack(&two, cell, adopted, false), SHMQ_OK);
    CHECK_EQUAL(shmq_lease_ack(&two, cell, adopted, false), SHMQ_LOST);
    shmq_cell_return(&two, cell, true);
    close_two();
}

TEST(what_a_port_holds_when_it_detaches_goes_to_the_others_uncounted) {
    open_two(4, 64, 6);
    for (uint32_t i = 0; i < 4; i++) CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
    lease_one(&one, 0);
    uint32_t held = lease_one(&one, 1), loaned;
    CHECK_EQUAL(shmq_lease_ack(&one, held, shmq_cell_load(&one, held), true), SHMQ_OK);
    CHECK_EQUAL(shmq_cell_take_for_long(&one, SHMQ_TO_WRITE, &loaned), SHMQ_OK);
    shmq_cell_become(&one, loaned, SHMQ_LOANED);
    shmq_port_detach(&one);
    segment_check(&segment);
    uint32_t cell = lease_one(&two, 0);
    CHECK_EQUAL(delivery_count(&two, cell), 1);
    lease_one(&two, 2);
    lease_one(&two, 3);
    CHECK_EQUAL(port_attach(&one, &segment), SHMQ_OK);
    CHECK_EQUAL(one.index, 0);
    close_two();
}

/* -- cells and ports -------------------------------------------------------------------------------------------------- */

static void leases_take_all(uint64_t slot_size) {
    open_two(8, slot_size, 3);
    for (uint32_t i = 0; i < 8; i++) CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
    uint32_t cells[3], none;
    for (uint32_t i = 0; i < 3; i++) cells[i] = lease_one(i % 2 ? &one : &two, i);
    CHECK_EQUAL(shmq_cell_take_for_long(&one, SHMQ_TO_WRITE, &none), SHMQ_NO_CELLS);
    CHECK_EQUAL(try_take(&two, true, &none), SHMQ_NO_CELLS);
    for (uint32_t i = 3; i < 8; i++) get_expecting(&two, i); /* put and get go on */
    for (uint32_t i = 0; i < 20; i++) {
        CHECK_EQUAL(try_put(i % 2 ? &one : &two, 0, i), SHMQ_OK);
        get_expecting(&one, i);
    }
    for (uint32_t i = 0; i < 3; i++) CHECK_EQUAL(shmq_lease_give_back(i % 2 ? &one : &two, cells[i], one.cells[cells[i]].word, true), SHMQ_OK);
    for (uint32_t i = 0; i < 3; i++) {
        struct message message;
        CHECK_EQUAL(try_get(&one, &message), SHMQ_OK);
    }
    expect_empty(&one);
    close_two();
}

TEST(put_and_get_go_on_while_leases_hold_every_other_cell) { leases_take_all(64); }
TEST(put_and_get_go_on_while_leases_hold_every_other_cell_of_large_slots) { leases_take_all(4096); }

TEST(large_slots_that_were_just_released_are_written_first) {
    open_two(64, 4096, 4);
    uint8_t touched[64 + 6] = {0};
    uint32_t count = 0;
    for (uint32_t i = 0; i < 200; i++) {
        CHECK_EQUAL(try_put(&one, 0, i), SHMQ_OK);
        uint32_t cell;
        CHECK_EQUAL(try_take(&two, false, &cell), SHMQ_OK);
        count += !touched[slot_of(&two, cell)];
        touched[slot_of(&two, cell)] = 1;
        shmq_cell_return(&two, cell, true);
    }
    CHECK(count <= 2); /* one frame in flight: two slots, however long the ring is */
    close_two();
}

TEST(there_are_as_many_ports_as_were_asked_for_and_each_is_used_again) {
    segment_make(&segment, 4, 64, 4, 3);
    struct shmq_port ports[3], another;
    for (uint32_t round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < 3; i++) {
            CHECK_EQUAL(port_attach(&ports[i], &segment), SHMQ_OK);
            CHECK_EQUAL(ports[i].index, i);
            CHECK_EQUAL(ports[i].next_id >> 40, round * 3 + i); /* ids differ from those of any port before */
        }
        CHECK_EQUAL(port_attach(&another, &segment), SHMQ_NO_PORTS);
        for (uint32_t i = 0; i < 3; i++) shmq_port_detach(&ports[i]);
        segment_check(&segment);
    }
    segment_unmake(&segment);
}

TEST(the_living_are_not_reaped) {
    open_two(4, 64, 4);
    CHECK_EQUAL(try_put(&one, 0, 0), SHMQ_OK);
    uint32_t cell = lease_one(&one, 0);
    CHECK_EQUAL(shmq_reap(&two), 0);
    CHECK_EQUAL(shmq_lease_ack(&one, cell, shmq_cell_load(&one, cell), false), SHMQ_OK);
    shmq_cell_return(&one, cell, true);
    close_two();
}

/* -- format ---------------------------------------------------------------------------------------------------------- */

TEST(the_parts_of_a_segment_do_not_overlap_and_are_aligned) {
    static const uint64_t sizes[] = {1, 63, 64, 65, 1000, 4095, 4096, 4097, 1 << 20};
    static const uint32_t counts[] = {1, 2, 3, 7, 64, 1000};
    for (uint32_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (uint32_t n = 0; n < sizeof counts / sizeof *counts; n++) {
            struct shmq_geometry g;
            CHECK(shmq_geometry(counts[n], sizes[s], counts[n] + 8, 5, &g));
            CHECK(g.ports_offset >= sizeof(struct shmq_header));
            CHECK(g.cells_offset >= g.ports_offset + g.ports * sizeof(struct shmq_port_record));
            CHECK(g.ring_offset >= g.cells_offset + g.cells * sizeof(struct shmq_cell));
            CHECK(g.slot_offset >= g.ring_offset + g.slots * sizeof(shmq_word));
            CHECK(g.slot_stride >= sizeof(struct shmq_slot) && g.payload_stride >= g.slot_size);
            CHECK_EQUAL(g.ports_offset % SHMQ_LINE | g.cells_offset % SHMQ_LINE | g.ring_offset % SHMQ_LINE | g.slot_offset % SHMQ_LINE, 0);
            CHECK_EQUAL(g.payload_offset % SHMQ_LINE | g.payload_stride % SHMQ_LINE, 0);
            if (g.paged) {
                CHECK_EQUAL(g.payload_offset % SHMQ_PAGE | g.payload_stride % SHMQ_PAGE, 0);
                CHECK(g.payload_offset >= g.slot_offset + g.total_slots * g.slot_stride);
            } else {
                CHECK_EQUAL(g.payload_offset, g.slot_offset + sizeof(struct shmq_slot));
                CHECK(g.payload_stride >= sizeof(struct shmq_slot) + g.slot_size);
            }
            CHECK(g.segment_bytes >= g.payload_offset + (g.total_slots - 1) * g.payload_stride + g.slot_size);
        }
}

TEST(a_geometry_beyond_the_bounds_is_refused) {
    struct shmq_geometry g;
    CHECK(shmq_geometry(SHMQ_MAX_SLOTS - SHMQ_MAX_CELLS, UINT64_C(1) << 38, SHMQ_MAX_CELLS, SHMQ_MAX_PORTS - 1, &g));
    CHECK(g.total_slots < (1u << SHMQ_SLOT_BITS) && g.segment_bytes < UINT64_C(1) << 63);
    CHECK(!shmq_geometry(0, 64, 8, 2, &g) && !shmq_geometry(8, 0, 8, 2, &g) && !shmq_geometry(8, 64, 0, 2, &g));
    CHECK(!shmq_geometry(8, 64, 8, 0, &g) && !shmq_geometry(8, 64, 2, 2, &g) && !shmq_geometry(8, 4096, 2, 5, &g));
    CHECK(!shmq_geometry(8, 64, SHMQ_MAX_CELLS + 1, 2, &g) && !shmq_geometry(8, 64, 2000, SHMQ_MAX_PORTS, &g));
    CHECK(!shmq_geometry(SHMQ_MAX_SLOTS - SHMQ_MAX_CELLS + 1, 64, 8, 2, &g));
    CHECK(!shmq_geometry(8, (UINT64_C(1) << 38) + 1, 8, 2, &g) && !shmq_geometry(UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, &g));
}

TEST(a_segment_is_attached_only_where_its_header_tells_the_truth) {
    segment_make(&segment, 4, 64, 4, 2);
    uint64_t bytes = segment.geometry.segment_bytes;
    struct shmq_geometry g;
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes, &g), SHMQ_OK);
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes + 4096, &g), SHMQ_OK);
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes - 1, &g), SHMQ_CORRUPT);
    CHECK_EQUAL(shmq_segment_check(segment.base, sizeof(struct shmq_header) - 1, &g), SHMQ_MISMATCH);
    CHECK_EQUAL(shmq_segment_check(segment.base, 0, &g), SHMQ_WOULD_BLOCK);
    header()->slots++;
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes, &g), SHMQ_CORRUPT);
    header()->slots = UINT32_MAX;
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes, &g), SHMQ_CORRUPT);
    header()->slots = 4;
    header()->version++;
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes, &g), SHMQ_MISMATCH);
    header()->version--;
    header()->endian = __builtin_bswap32(header()->endian);
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes, &g), SHMQ_MISMATCH);
    header()->magic = 1;
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes, &g), SHMQ_MISMATCH);
    header()->magic = 0;
    CHECK_EQUAL(shmq_segment_check(segment.base, bytes, &g), SHMQ_WOULD_BLOCK);
    segment_unmake(&segment);
}

int main(int argc, char **argv) { return argc == 2 ? run_test(argv[1]) : 2; }
