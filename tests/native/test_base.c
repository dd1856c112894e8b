/* Checksums, hashes, the undo log, regions and RSS: against definitions and published vectors. */
#include <arpa/inet.h>
#include <string.h>

#include "base/arena.h"
#include "base/csum.h"
#include "base/hash.h"
#include "check.h"
#include "ports/region.h"
#include "ports/rss.h"

/* RFC 1071 word by word. */
static uint16_t plain_sum(const uint8_t *bytes, size_t len)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < len; i++) {
        sum += (uint32_t)bytes[i] << (i % 2 ? 0 : 8);
    }
    while (sum >> 16) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return htons((uint16_t)~sum);
}

static void checksums_agree_with_the_definition(void)
{
    uint8_t bytes[3000];
    uint64_t random = 7;

    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)splitmix64(&random);
    }
    for (size_t len = 0; len < 700; len++) {
        for (size_t at = 0; at < 9; at++) {
            CHECK_EQ(csum_fold(csum_add(bytes + at, len, 0)), plain_sum(bytes + at, len));
        }
    }
    memset(bytes, 0xff, sizeof(bytes)); /* every carry there is */
    for (size_t len = 2; len < sizeof(bytes); len += 2) {
        CHECK_EQ(csum_fold(csum_add(bytes, len, 0)), 0);
    }
}

static void pieces_at_odd_places_add_up(void)
{
    uint8_t bytes[100];

    for (size_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = (uint8_t)(i * 31 + 5);
    }
    for (size_t cut = 1; cut < sizeof(bytes); cut++) {
        uint64_t first = csum_add(bytes, cut, 0);
        uint64_t rest = csum_add(bytes + cut, sizeof(bytes) - cut, 0);
        uint64_t sum = csum_carry(first, cut % 2 ? csum_shift(rest) : rest);

        CHECK_EQ(csum_fold(sum), plain_sum(bytes, sizeof(bytes)));
    }
}

static void siphash_has_its_authors_values(void)
{
    static const uint64_t key[2] = {0x0706050403020100u, 0x0f0e0d0c0b0a0908u};
    uint8_t message[16];

    for (uint8_t i = 0; i < sizeof(message); i++) {
        message[i] = i;
    }
    CHECK_EQ(siphash24(key, message, 0), 0x726fdb47dd0e0e31u);
    CHECK_EQ(siphash24(key, message, 15), 0xa129ca6149be45e5u);
}

static void toeplitz_has_the_published_values(void)
{
    static const struct {
        uint8_t input[12];
        uint32_t with_ports;
        uint32_t addresses;
    } vectors[] = {
        {{66, 9, 149, 187, 161, 142, 100, 80, 2794 >> 8, 2794 & 255, 1766 >> 8, 1766 & 255},
         0x51ccc178,
         0x323e8fc2},
        {{199, 92, 111, 2, 65, 69, 140, 83, 14230 >> 8, 14230 & 255, 4739 >> 8, 4739 & 255},
         0xc626b0ea,
         0xd718262a},
        {{24, 19, 198, 95, 12, 22, 207, 184, 12898 >> 8, 12898 & 255, 38024 >> 8, 38024 & 255},
         0x5c2b394a,
         0xd2d0a5de},
    };
    static struct rss rss;

    rss_init(&rss, 4);
    for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
        CHECK_EQ(rss_hash(&rss, vectors[i].input, 12), vectors[i].with_ports);
        CHECK_EQ(rss_hash(&rss, vectors[i].input, 8), vectors[i].addresses);
    }
}

static void an_undone_step_leaves_the_old_state(void)
{
    struct arena arena;
    size_t used = sizeof(struct arena_header);
    uint64_t *words;

    CHECK_EQ(arena_create(&arena, 1 << 20, 3), 0);
    words = arena_carve(&arena, &used, 4096);
    words[0] = 1;
    words[100] = 2;
    undo_save(&arena, &words[0]);
    words[0] = 10;
    undo_save(&arena, &words[100]);
    words[100] = 20;
    undo_save(&arena, &words[0]); /* again: the first image counts */
    words[0] = 11;
    CHECK_EQ(undo_rollback(&arena), 2);
    CHECK_EQ(words[0], 1);
    CHECK_EQ(words[100], 2);
    undo_save(&arena, &words[0]);
    words[0] = 12;
    undo_commit(&arena);
    CHECK_EQ(undo_rollback(&arena), 0);
    CHECK_EQ(words[0], 12);
    arena_destroy(&arena);
}

static void a_region_is_laid_out_as_netmap_does(void)
{
    static _Alignas(4096) uint8_t memory[1 << 20];
    struct region_spec specs[2] = {{.pairs = 3, .slots = 17}, {.pairs = 1, .slots = 64}};
    struct region region;
    struct nm_if *nifp;

    memset(memory, 0, sizeof(memory));
    region_init(&region, memory, region_rings_bytes(specs, 2), 2 + 2 * (3 * 17 + 64), 256);
    CHECK(region_bytes(&region) <= sizeof(memory));
    nifp = region_add_if(&region, "first", &specs[0]);
    for (uint32_t i = 0; i < 3; i++) {
        struct nm_ring *tx = nm_tx_ring(nifp, i);
        struct nm_ring *rx = nm_rx_ring(nifp, i);

        CHECK_EQ((uintptr_t)tx % 128, 0);
        CHECK_EQ(tx->head + tx->cur, 0);
        CHECK_EQ(tx->tail, 16);
        CHECK_EQ(nm_ring_space(tx), 16);
        CHECK_EQ(rx->head + rx->cur + rx->tail, 0);
        CHECK(nm_ring_empty(rx));
        CHECK_EQ(rx->ringid, i);
        CHECK(tx->slot[0].buf_idx >= NM_BUF_FIRST);
        CHECK_EQ(nm_ring_buf(tx, 0) - memory,
                 region.bufs_offset + (size_t)tx->slot[0].buf_idx * 256);
    }
    CHECK_EQ(nm_ring_next(nm_tx_ring(nifp, 0), 16), 0); /* rings need not be a power of two */
    CHECK_EQ(nifp->ring_ofs[3], 0);                     /* host rings that are not bound */
    CHECK_EQ(nm_ring_distance(nm_tx_ring(nifp, 0), 15, 2), 4);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"checksums agree with the definition", checksums_agree_with_the_definition},
        {"pieces at odd places add up", pieces_at_odd_places_add_up},
        {"SipHash has its authors' values", siphash_has_its_authors_values},
        {"Toeplitz has the published values", toeplitz_has_the_published_values},
        {"an undone step leaves the old state", an_undone_step_leaves_the_old_state},
        {"a region is laid out as netmap does", a_region_is_laid_out_as_netmap_does},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
