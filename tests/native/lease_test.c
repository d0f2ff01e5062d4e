/* Leases, and what comes back of them: counted once, and given to others in the order in which it was put.
 *
 *     lease_test NAME    the test of that name passes, or says what was not so */
#include "call.h"
#include "single.h"

/* A nack counts once whatever generation its lease has, that of the wrap-around included, in every cell. */
TEST(generations) {
    enum { SPAN = 8 };
    for (uint64_t start = (UINT64_C(1) << 27) - SPAN; start < (UINT64_C(1) << 27) + 2; start++)
        for (int kept = 0; kept < 2; kept++) {
            snprintf(context, sizeof context, "generation %#lx, %s cell", (unsigned long)start, kept ? "reserved" : "other");
            struct segment segment;
            segment_make(&segment, 2, 64, 1, 1);
            struct shmq_queue_port port;
            segment_start_at(&segment, 0, start);
            must_attach(&port, &segment);
            CHECK(ring_put(&port, 0, 1) == SHMQ_OK, "put");
            uint32_t cell = take_cell(&port, SHMQ_TO_GIVE, !kept);
            CHECK(shmq_ring_get(&port, cell, SHMQ_LEASED) == SHMQ_OK, "get");
            for (uint32_t failures = 0; failures < 2 * SPAN; failures++) {
                CHECK(failures_of(&port, cell) == failures, "%u failures, not %u", failures_of(&port, cell), failures);
                uint64_t leased = shmq_cell_load(&port, cell);
                CHECK(shmq_lease_give_back(&port, cell, leased, SHMQ_NACKED, 0) == SHMQ_OK, "nack");
                CHECK(shmq_lease_ack(&port, cell, leased, false) == SHMQ_LOST, "acked after a nack");
                CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_OK, "no orphan");
                CHECK(shmq_lease_ack(&port, cell, leased, false) == SHMQ_LOST, "acked another's lease");
            }
            ack(&port, cell);
            end(&segment, &port);
        }
}

/* A delivery that fails is counted once however often the same failure is told, and up to the limit of the counter. */
TEST(failures) {
    struct segment segment;
    segment_make(&segment, 2, 64, 2, 1);
    struct shmq_queue_port port;
    must_attach(&port, &segment);
    CHECK(ring_put(&port, 0, 1) == SHMQ_OK, "put");
    uint32_t cell = ring_lease(&port);
    uint64_t word = shmq_cell_load(&port, cell);
    for (int i = 0; i < 3; i++) shmq_delivery_ended(&port, cell, word, SHMQ_NACKED, 0);
    CHECK(failures_of(&port, cell) == 1, "%u", failures_of(&port, cell));
    shmq_word *deliveries = &shmq_slot_at(&port, shmq_word_slot(word))->deliveries;
    shmq_store_relaxed(deliveries, (shmq_load_relaxed(deliveries) & ~UINT64_C(0xffff)) | 0xfffe);
    for (uint32_t i = 0; i < 3; i++) { /* the first of these was counted before */
        CHECK(shmq_lease_give_back(&port, cell, shmq_cell_load(&port, cell), SHMQ_NACKED, 0) == SHMQ_OK, "nack");
        CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_OK, "no orphan");
        CHECK(failures_of(&port, cell) == (i == 0 ? 0xfffe : 0xffff), "nack %u: %u failures", i, failures_of(&port, cell));
    }
    ack(&port, cell);
    CHECK(ring_put(&port, 0, 2) == SHMQ_OK, "put");
    cell = ring_lease(&port);
    CHECK(failures_of(&port, cell) == 0, "a new message inherits failures");
    ack(&port, cell);
    end(&segment, &port);
}

/* What came back comes before what waits in the ring, to whoever asks, and only where something did come back. */
TEST(orphans) {
    struct segment segment;
    segment_make(&segment, 4, 64, 4, 3);
    struct shmq_queue_port port, other, late;
    uint32_t cell, number;
    must_attach(&port, &segment);
    must_attach(&other, &segment);
    for (uint32_t i = 0; i < 3; i++) CHECK(ring_put(&port, 0, i) == SHMQ_OK, "put");
    CHECK(shmq_orphan_adopt(&port, 0, &cell) == SHMQ_WOULD_BLOCK, "an orphan of nobody");
    uint32_t first = ring_lease(&port), second = ring_lease(&port);
    CHECK(shmq_lease_give_back(&port, first, shmq_cell_load(&port, first), SHMQ_NACKED, 0) == SHMQ_OK, "nack");
    CHECK(shmq_orphan_adopt(&other, 0, &cell) == SHMQ_OK && message_in(&other, cell).number == 0, "not adopted");
    CHECK(shmq_orphan_adopt(&port, 0, &first) == SHMQ_WOULD_BLOCK, "adopted twice");
    CHECK(shmq_lease_give_back(&other, cell, shmq_cell_load(&other, cell), SHMQ_RELEASED, 0) == SHMQ_OK, "release");
    CHECK(shmq_lease_give_back(&port, second, shmq_cell_load(&port, second), SHMQ_RELEASED, 0) == SHMQ_OK, "release");
    must_attach(&late, &segment); /* and to one who was not there when it came back */
    for (int i = 0; i < 2; i++) {
        CHECK(shmq_orphan_adopt(&late, 0, &cell) == SHMQ_OK, "not seen by a late one");
        struct head head = message_in(&late, cell);
        CHECK(head.number < 2 && failures_of(&late, cell) == (head.number == 0), "message %u, %u failures", head.number, failures_of(&late, cell));
        ack(&late, cell);
    }
    CHECK(shmq_orphan_adopt(&late, 0, &cell) == SHMQ_WOULD_BLOCK, "a third one");
    CHECK(ring_get(&port, &number) == SHMQ_OK && number == 2, "the ring");
    shmq_port_detach(&late);
    shmq_port_detach(&other);
    end(&segment, &port);
}

/* What came back is delivered in the order in which it was put, whatever cells it lies in, whoever gave it back, and how often; over
 * the wrap-around of the laps; what rests joins when it is due. */
TEST(ages) {
    enum { MESSAGES = 40, ROUNDS = 50 };
    uint64_t random = 88172645463325252u;
    for (uint32_t slots = 1; slots <= 7; slots++) {
        snprintf(context, sizeof context, "%u slots", slots);
        struct segment segment;
        segment_make(&segment, slots, 64, MESSAGES, 2);
        struct shmq_queue_port ports[2];
        uint32_t holders[MESSAGES], cells[MESSAGES], count = MESSAGES, number;
        segment_start_at(&segment, SHMQ_LAP_MASK - 1, 3);
        for (int i = 0; i < 2; i++) must_attach(&ports[i], &segment);
        for (uint32_t i = 0; i < MESSAGES; i++) { /* from a cell anywhere */
            ports[0].hint = segment.geometry.reserved + chance_below(&random, MESSAGES);
            CHECK(ring_put(&ports[0], 0, i) == SHMQ_OK, "put");
            cells[i] = ring_lease(&ports[holders[i] = 0]);
        }
        for (uint32_t i = 0; i < slots; i++) CHECK(ring_put(&ports[0], 0, MESSAGES + i) == SHMQ_OK, "put");
        for (int round = 0; round < ROUNDS; round++) {
            bool back[MESSAGES] = {false}, rests[MESSAGES] = {false};
            uint32_t returned = 0;
            for (uint32_t i = 0; i < count; i++) { /* the half of them, in any order */
                uint32_t n = chance_below(&random, count), by = chance_below(&random, 3);
                struct shmq_queue_port *holder = &ports[holders[n]];
                if (back[n]) continue;
                uint64_t delay = by == 2 ? UINT64_C(3600000000000) : 0;
                CHECK(shmq_lease_give_back(holder, cells[n], shmq_cell_load(holder, cells[n]), by ? SHMQ_NACKED : SHMQ_RELEASED, delay) == SHMQ_OK, "back");
                back[n] = true;
                rests[n] = delay != 0;
                returned += delay == 0;
            }
            for (int time = 0; time < 2; time++) {
                for (uint32_t i = 0, last = 0; i < returned; i++) {
                    uint32_t cell, by = chance_below(&random, 2);
                    CHECK(shmq_orphan_adopt(&ports[by], 0, &cell) == SHMQ_OK, "not given");
                    number = message_in(&ports[by], cell).number;
                    CHECK(number < MESSAGES && back[number] && rests[number] == time && (i == 0 || number > last), "%u after %u", number, last);
                    last = number;
                    holders[number] = by;
                    CHECK(cells[number] == cell, "another cell");
                }
                returned = 0;
                for (uint32_t i = 0; i < count; i++) /* now it is due */
                    if (rests[i] && time == 0) {
                        shmq_store_relaxed(&ports[0].cells[cells[i]].due_ns, 1);
                        returned++;
                    }
                shmq_add_seq(&ports[0].header->orphan_changes, 1);
            }
        }
        for (uint32_t i = 0; i < MESSAGES; i++) ack(&ports[holders[i]], cells[i]);
        for (uint32_t i = 0; i < slots; i++) CHECK(ring_get(&ports[1], &number) == SHMQ_OK && number == MESSAGES + i, "%u", number);
        shmq_port_detach(&ports[1]);
        end(&segment, &ports[0]);
    }
}

int main(int argc, char **argv) { return run_single(argc, argv, 100); }
