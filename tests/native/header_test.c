/* The header of a segment: where its parts lie, and what is believed of it.
 *
 *     header_test NAME    the test of that name passes, or says what was not so */
#include "call.h"
#include "single.h"

/* The parts of a segment lie behind one another, aligned, and inside it; what the format has no room for is refused. */
TEST(geometries) {
    static const uint64_t sizes[] = {1, 63, 64, 65, 4095, 4096, 4097, 1 << 20};
    struct shmq_geometry g;
    for (uint64_t slots = 1; slots <= 1000; slots = slots * 3 + 1)
        for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
            for (uint64_t ports = 1; ports < 20; ports += 6) {
                uint64_t cells = ports + 5;
                CHECK(shmq_geometry(slots, sizes[s], cells, ports, &g), "refused");
                CHECK(g.total_slots == slots + cells && g.ports_offset == sizeof(struct shmq_header), "start");
                CHECK(g.cells_offset >= g.ports_offset + ports * sizeof(struct shmq_port_record) && g.cells_offset % SHMQ_LINE == 0, "cells");
                CHECK(g.ring_offset >= g.cells_offset + cells * sizeof(struct shmq_cell), "ring");
                CHECK(g.slot_offset >= g.ring_offset + slots * 8 && g.slot_offset % SHMQ_LINE == 0, "slots");
                CHECK(g.slot_stride >= sizeof(struct shmq_slot) && g.payload_stride >= sizes[s], "strides");
                CHECK(g.payload_offset % (sizes[s] >= SHMQ_PAGE ? SHMQ_PAGE : SHMQ_LINE) == 0, "payload");
                CHECK(g.payload_stride % (sizes[s] >= SHMQ_PAGE ? SHMQ_PAGE : SHMQ_LINE) == 0, "payload stride");
                CHECK(g.paged ? g.payload_offset >= g.slot_offset + g.total_slots * g.slot_stride : g.payload_offset == g.slot_offset + 64, "payload");
                CHECK(g.segment_bytes >= g.payload_offset + (g.total_slots - 1) * g.payload_stride + sizes[s], "end");
            }
    static const uint64_t wrong[][4] = {
        {0, 64, 9, 4}, {4, 0, 9, 4}, {4, 64, 0, 4}, {4, 64, 9, 0}, {4, 64, 4, 4}, {4, 4096, 2, 4}, {1 << 24, 64, 9, 4},
        {4, 64, 1 << 14, 4}, {4, 64, 9000, 1023}, {4, UINT64_C(1) << 39, 9, 4}, {UINT64_MAX, 64, 9, 4}, {4, UINT64_MAX, 9, 4},
        {4, 64, UINT64_MAX, 4}, {4, 64, 9, UINT64_MAX},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(!shmq_geometry(wrong[i][0], wrong[i][1], wrong[i][2], wrong[i][3], &g), "number %zu was accepted", i);
    CHECK(shmq_geometry(SHMQ_MAX_SLOTS - SHMQ_MAX_CELLS, UINT64_C(1) << 38, SHMQ_MAX_CELLS, SHMQ_MAX_PORTS - 1, &g), "the largest");
    CHECK(g.segment_bytes > g.payload_offset && g.segment_bytes < UINT64_C(1) << 63, "overflow");
}

/* Field by field: what is between them may be anything. */
static bool same_geometry(const struct shmq_geometry *a, const struct shmq_geometry *b) {
    return a->slot_size == b->slot_size && a->slots == b->slots && a->cells == b->cells && a->ports == b->ports &&
           a->total_slots == b->total_slots && a->reserved == b->reserved && a->paged == b->paged &&
           a->ports_offset == b->ports_offset && a->cells_offset == b->cells_offset && a->ring_offset == b->ring_offset &&
           a->slot_offset == b->slot_offset && a->slot_stride == b->slot_stride && a->payload_offset == b->payload_offset &&
           a->payload_stride == b->payload_stride && a->segment_bytes == b->segment_bytes;
}

/* A header is believed only as far as it agrees with itself, this machine and the size of the file. */
TEST(headers) {
    struct segment segment;
    segment_make(&segment, 4, 64, 4, 2);
    struct shmq_header *header = segment_header(&segment);
    struct shmq_geometry g;
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_OK && same_geometry(&g, &segment.geometry), "its own");
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes + 4096, &g) == SHMQ_OK, "a larger file");
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes - 1, &g) == SHMQ_CORRUPT, "a smaller file");
    CHECK(shmq_segment_check(segment.base, 0, &g) == SHMQ_WOULD_BLOCK && shmq_segment_check(segment.base, 100, &g) == SHMQ_MISMATCH, "tiny files");
    header->magic = 0;
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_WOULD_BLOCK, "half-made");
    header->magic = SHMQ_MAGIC ^ 1;
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_MISMATCH, "magic");
    header->magic = SHMQ_MAGIC;
    header->version++;
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_MISMATCH, "version");
    header->version--;
    header->endian = 0x04030201;
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_MISMATCH, "byte order");
    header->endian = SHMQ_ENDIAN;
    header->kind++;
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_UNKNOWN_KIND, "kind");
    header->kind--;
    for (size_t bit = 8 * 16; bit < 8 * 52; bit++) { /* from segment_bytes to ports, the nonce excepted */
        if (bit >= 8 * 24 && bit < 8 * 32) continue;
        segment.base[bit / 8] ^= (unsigned char)(1 << bit % 8);
        shmq_status status = shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g);
        CHECK(status == SHMQ_CORRUPT || g.segment_bytes == segment.geometry.segment_bytes, "bit %zu: status %d", bit, status);
        segment.base[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    CHECK(shmq_segment_check(segment.base, segment.geometry.segment_bytes, &g) == SHMQ_OK, "its own again");
    segment_unmake(&segment);
}

int main(int argc, char **argv) { return run_single(argc, argv, 100); }
