/* Delivery: what is offered, taken and looked at, before and after a shutdown.
 *
 *     delivery_test NAME    the test of that name passes, or says what was not so */
#include "call.h"
#include "single.h"

/* What is offered is taken in the order in which it was put, what came back first; each is counted, and looks agree with what is there. */
TEST(delivering) {
    struct segment segment;
    segment_make(&segment, 4, 64, 4, 3);
    struct shmq_queue_port port, other;
    uint32_t cell, many[8];
    shmq_status status;
    const uint64_t hour = UINT64_C(3600000000000);
    must_attach(&port, &segment);
    must_attach(&other, &segment);
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_WOULD_BLOCK && shmq_ready(&port) == 0 && shmq_room(&port) == 4, "empty");
    for (uint32_t number = 0; number < 4; number++) {
        cell = take_cell(&port, SHMQ_TO_WRITE, false);
        message_write(&port, slot_in(&port, cell), 0, number);
        CHECK(shmq_offer(&port, cell, true) == SHMQ_OK, "offer");
        shmq_cell_return(&port, cell, false);
        CHECK(shmq_ready(&other) == number + 1 && shmq_room(&other) == 3 - number, "looks after a put");
    }
    cell = take_cell(&port, SHMQ_TO_WRITE, false);
    CHECK(shmq_offer(&port, cell, true) == SHMQ_WOULD_BLOCK && shmq_offer(&port, cell, false) == SHMQ_WOULD_BLOCK, "full");
    CHECK(shmq_load_relaxed(&port.port.record->counters[SHMQ_PUTS]) == 4, "what was not put is not counted");
    shmq_cell_return(&port, cell, true);
    CHECK(shmq_verdict(&port, SHMQ_SPACE, SHMQ_WOULD_BLOCK, false) == SHMQ_WOULD_BLOCK && shmq_worth(&port, SHMQ_SPACE) == 0, "it may wait");

    /* The first comes back at once, the second rests: the first, the third, and, when it is due, the second. */
    CHECK(shmq_take(&other, true, hour, &cell) == SHMQ_OK && shmq_cell_state(shmq_cell_load(&other, cell)) == SHMQ_TIMED, "timed");
    CHECK(shmq_lease_give_back(&other, cell, shmq_cell_load(&other, cell), SHMQ_RELEASED, 0) == SHMQ_OK, "released");
    CHECK(shmq_came_back(&port).due == 1 && shmq_ready(&port) == 3 && shmq_worth(&port, SHMQ_ITEMS) == 4, "one came back");
    CHECK(shmq_take(&port, false, 0, &cell) == SHMQ_OK && message_in(&port, cell).number == 0, "what came back is first");
    ack(&port, cell);
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_OK && message_in(&port, cell).number == 1, "then what is new");
    CHECK(shmq_lease_give_back(&port, cell, shmq_cell_load(&port, cell), SHMQ_NACKED, hour) == SHMQ_OK, "nacked");
    struct shmq_came_back rests = shmq_came_back(&other);
    CHECK(rests.due == 0 && rests.resting == 1 && rests.exhausted == 0 && rests.next_due_ns - shmq_now_ns() <= hour, "it rests");
    uint32_t done = shmq_take_many(&other, many, 8, &status); /* the released one was taken: nothing that came back is due */
    CHECK(done == 2 && message_in(&other, many[0]).number == 2 && message_in(&other, many[1]).number == 3, "a batch");
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_WOULD_BLOCK && shmq_unfinished(&port) == 3, "two are leased, and one rests");
    while (done) ack(&other, many[--done]);

    /* After a shutdown nothing new goes in; what waited in the backlog does, uncounted; and who waits learns of it. */
    shmq_store_seq(&port.header->shut, SHMQ_SHUT_FOR_PUTS);
    cell = take_cell(&port, SHMQ_TO_WRITE, false);
    message_write(&port, slot_in(&port, cell), 0, 4);
    CHECK(shmq_offer(&port, cell, true) == SHMQ_SHUT && shmq_offer(&port, cell, false) == SHMQ_OK, "shut");
    shmq_cell_return(&port, cell, false);
    CHECK(shmq_load_relaxed(&port.port.record->counters[SHMQ_PUTS]) == 4, "it was counted when it came to the backlog");
    CHECK(shmq_verdict(&port, SHMQ_SPACE, SHMQ_WOULD_BLOCK, false) == SHMQ_SHUT && shmq_worth(&port, SHMQ_SPACE) == SHMQ_MAX_SLOTS, "for producers");
    CHECK(shmq_verdict(&port, SHMQ_ITEMS, SHMQ_WOULD_BLOCK, false) == SHMQ_WOULD_BLOCK, "there is still something");
    CHECK(shmq_take(&port, true, 0, &cell) == SHMQ_OK, "take");
    ack(&port, cell);
    CHECK(shmq_orphan_claim(&port, SHMQ_TO_DISCARD, &cell), "what rests");
    ack(&port, cell);
    CHECK(shmq_verdict(&port, SHMQ_ITEMS, SHMQ_WOULD_BLOCK, false) == SHMQ_SHUT && shmq_verdict(&port, SHMQ_ITEMS, SHMQ_NO_CELLS, false) == SHMQ_NO_CELLS, "for consumers");
    CHECK(shmq_worth(&port, SHMQ_DONE) == SHMQ_MAX_SLOTS, "all is done");
    shmq_port_detach(&other);
    shmq_port_detach(&port);
    segment_unmake(&segment);
}

/* Each thing that a queue can hold is a row, also where a look has no port. */
TEST(snapshots) {
    struct segment segment;
    segment_make(&segment, 3, 64, 4, 2);
    struct shmq_queue_port port, look;
    uint32_t cells[4], slots[3], i = 0;
    uint64_t at = 0, counters[SHMQ_COUNTERS], hour = UINT64_C(3600) * 1000000000;
    int64_t half_laps[3];
    struct shmq_occupied_row row;
    struct shmq_exchange_row exchange;
    char key[SHMQ_SIDE_KEY_BYTES];
    must_attach(&port, &segment);
    shmq_port_map(&look, segment.base, &segment.geometry);
    CHECK(!shmq_find_occupied(&look, &i, &row) && !shmq_find_exchange(&look, &i, &exchange) && !shmq_find_side(&look, &at, key), "nothing yet");
    for (uint32_t number = 0; number < 3; number++) {
        cells[0] = take_cell(&port, SHMQ_TO_WRITE, false);
        uint32_t slot = slot_in(&port, cells[0]);
        message_write(&port, slot, 0, number);
        shmq_slot_at(&port, slot)->flags = SHMQ_SPILLED;
        memset(shmq_payload_at(&port, slot), 'a' + (int)number, SHMQ_SIDE_KEY_BYTES);
        CHECK(shmq_offer(&port, cells[0], true) == SHMQ_OK, "put");
        shmq_cell_return(&port, cells[0], false);
    }
    for (int n = 0; n < 2; n++) CHECK(shmq_take(&port, true, n ? hour : 0, &cells[n]) == SHMQ_OK, "take");
    CHECK(shmq_lease_give_back(&port, cells[0], shmq_cell_load(&port, cells[0]), SHMQ_NACKED, hour) == SHMQ_OK, "give back");
    cells[2] = take_cell(&port, SHMQ_TO_WRITE, true);
    shmq_cell_become(&port, cells[2], SHMQ_LOANED);
    const uint64_t now = shmq_now_ns();
    for (i = 0; shmq_find_occupied(&look, &i, &row); i++) {
        const bool is_loan = i == cells[2];
        CHECK(row.cell.state == (is_loan ? SHMQ_LOANED : i == cells[1] ? SHMQ_TIMED : SHMQ_ORPHAN), "state of cell %u", i);
        CHECK(row.cell.owner == (i == cells[0] ? SHMQ_NO_PORT : port.port.index) && row.cell.slot == slot_in(&port, i), "owner of cell %u", i);
        CHECK(is_loan ? row.ends_ns == 0 : row.ends_ns - now <= hour && row.ends_ns > now - hour / 2, "end of cell %u", i);
        CHECK(row.spilled == !is_loan && (is_loan || row.key[0] == (i == cells[0] ? 'a' : 'b')), "key of cell %u", i);
        CHECK(is_loan || (row.failed == (i == cells[0]) && row.begun), "deliveries of cell %u", i);
        cells[3] = i;
    }
    CHECK(cells[3] >= segment.geometry.reserved + 2, "three of them");
    at = 0;
    for (const char *expected = "cab"; *expected; expected++) /* the ring first */
        CHECK(shmq_find_side(&look, &at, key) && (key[0] == *expected || *expected != 'c'), "side segment %c", *expected);
    CHECK(!shmq_find_side(&look, &at, key) && !shmq_find_side(&look, &at, key), "no other side segment");
    shmq_ring_rows(&look, slots, half_laps);
    CHECK(half_laps[0] == 0 && half_laps[1] == 0 && half_laps[2] == -1, "two are emptied, one is ready");
    shmq_store_relaxed(&port.port.record->expected, shmq_ring_word(0, SHMQ_READY, slots[2]));
    shmq_store_seq(&port.port.record->intent, shmq_intent_word(SHMQ_GETTING, cells[2], 2, slot_in(&port, cells[2])));
    i = at = 0;
    CHECK(shmq_find_exchange(&look, &i, &exchange) && i == port.port.index && exchange.cell == cells[2], "exchange");
    CHECK(exchange.takes == slots[2] && exchange.gives == slot_in(&port, cells[2]), "its slots");
    for (int n = 0; n < 2; n++) CHECK(shmq_find_side(&look, &at, key) && key[0] == 'c', "the ring's, and that of the exchange");
    shmq_store_seq(&port.port.record->intent, 0);
    shmq_counted(&look, counters);
    CHECK(counters[SHMQ_PUTS] == 3 && counters[SHMQ_NACKS] == 1 && counters[SHMQ_ACKS] == 0, "counters");
    port.port.record->bell = 1u << SHMQ_SPACE;
    port.port.header->space_waiters = 2 | SHMQ_BELLS;
    CHECK(shmq_waiting(&look, SHMQ_SPACE) == 3 && shmq_waiting(&look, SHMQ_ITEMS) == 0, "who waits");
    port.cells[cells[1]].word = SHMQ_SLOT_MASK | port.cells[cells[1]].word;
    CHECK(snapshot_holds(&look), "a slot outside");
    segment_unmake(&segment);
}

/* A queue that was shut is over when nothing is there, nothing rests, and for those who stay when no other process may give anything back. */
TEST(shutting) {
    struct segment segment;
    segment_make(&segment, 4, 64, 4, 3);
    struct shmq_queue_port port, mine, others;
    uint32_t cell, number;
    must_attach(&port, &segment);
    must_attach(&mine, &segment);
    CHECK(shmq_port_attach(&others, segment.base, &segment.geometry, shmq_owner_self() + 1) == SHMQ_OK, "no port"); /* of another process */
    struct shmq_queue_port *holders[] = {&port, &mine, &others};
    CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, and not shut");
    for (int i = 0; i < 3; i++) {
        snprintf(context, sizeof context, "held by %d", i);
        shmq_store_seq(&port.header->shut, SHMQ_NOT_SHUT);
        CHECK(ring_put(&port, 0, 7) == SHMQ_OK, "put");
        shmq_store_seq(&port.header->shut, SHMQ_SHUT_FOR_PUTS);
        CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, with a message in the ring");
        cell = ring_lease(holders[i]);
        CHECK(shmq_is_over(&port, false), "a lease is somebody's");
        CHECK(shmq_is_over(&port, true) == (i != 2), "what another process holds may come back");
        CHECK(shmq_lease_give_back(holders[i], cell, shmq_cell_load(holders[i], cell), SHMQ_NACKED, UINT64_C(3600000000000)) == SHMQ_OK, "nack");
        CHECK(shmq_orphan_adopt(&port, 0, &number) == SHMQ_WOULD_BLOCK && !shmq_promising(&port, SHMQ_ITEMS, false), "it rests");
        CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, with a message that rests");
        CHECK(!shmq_orphan_claim(&port, SHMQ_TO_DEAD_LETTER, &number), "it has not failed too often");
        CHECK(shmq_orphan_claim(&port, SHMQ_TO_DISCARD, &number) && number == cell, "what rests can be discarded");
        CHECK(shmq_is_over(&port, true), "mine");
        shmq_delivery_ended(&port, cell, shmq_cell_load(&port, cell), SHMQ_REJECTED, 0);
        CHECK(shmq_lease_give_back(&port, cell, shmq_cell_load(&port, cell), SHMQ_RELEASED, UINT64_C(3600000000000)) == SHMQ_OK, "back");
        CHECK(shmq_is_over(&port, false) && shmq_is_over(&port, true), "a dead letter that could not be written is not waited for");
        CHECK(shmq_orphan_claim(&port, SHMQ_TO_DISCARD, &number) && number == cell, "and can be discarded");
        ack(&port, cell);
    }
    shmq_store_seq(&others.port.record->intent, shmq_intent_word(SHMQ_GETTING, 0, 0, 0));
    CHECK(shmq_is_over(&port, false) && !shmq_is_over(&port, true), "another process is about to take");
    shmq_store_seq(&others.port.record->intent, 0);
    shmq_store_seq(&port.header->backlog, 1);
    CHECK(!shmq_is_over(&port, false) && !shmq_is_over(&port, true), "over, with a message in the backlog");
    shmq_store_seq(&port.header->backlog, 0);
    CHECK(shmq_promising(&port, SHMQ_ITEMS, false) && shmq_promising(&port, SHMQ_SPACE, false), "nobody is told");
    shmq_port_detach(&others);
    shmq_port_detach(&mine);
    end(&segment, &port);
}

int main(int argc, char **argv) { return run_single(argc, argv, 100); }
