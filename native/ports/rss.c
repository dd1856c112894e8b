/* Receive-side scaling; see rss.h. */
#include "ports/rss.h"

#include <string.h>

#include "base/wire.h"

static const uint8_t usual_key[RSS_KEY_LEN] = {
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
    0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
    0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa};

/* The 32 key bits that begin at `bit`. */
static uint32_t key_window(const uint8_t *key, uint32_t bit)
{
    uint64_t bytes = 0;

    for (uint32_t i = 0; i < 5; i++) {
        bytes = bytes << 8 | key[bit / 8 + i];
    }
    return (uint32_t)(bytes >> (8 - bit % 8));
}

void rss_set_key(struct rss *rss, const uint8_t key[RSS_KEY_LEN])
{
    memcpy(rss->key, key, RSS_KEY_LEN);
    for (uint32_t at = 0; at < RSS_INPUT_LEN; at++) {
        for (uint32_t byte = 0; byte < 256; byte++) {
            uint32_t hash = 0;

            for (uint32_t bit = 0; bit < 8; bit++) {
                hash ^= byte & (0x80u >> bit) ? key_window(key, at * 8 + bit) : 0;
            }
            rss->lookup[at][byte] = hash;
        }
    }
}

void rss_init(struct rss *rss, uint32_t queues)
{
    rss_set_key(rss, usual_key);
    for (uint32_t i = 0; i < RSS_TABLE_LEN; i++) {
        rss->table[i] = (uint8_t)(i % queues);
    }
}

uint32_t rss_hash(const struct rss *rss, const uint8_t *input, uint32_t len)
{
    uint32_t hash = 0;

    for (uint32_t i = 0; i < len && i < RSS_INPUT_LEN; i++) {
        hash ^= rss->lookup[i][input[i]];
    }
    return hash;
}

uint32_t rss_queue(const struct rss *rss, const uint8_t *frame, uint32_t len)
{
    const uint8_t *ip = frame + ETH_HDR_LEN;
    uint8_t input[RSS_INPUT_LEN];
    uint32_t used = 8;
    uint32_t header;

    if (len < ETH_HDR_LEN + IPV4_HDR_LEN || frame[12] != 0x08 || frame[13] != 0x00) {
        return rss->table[0];
    }
    memcpy(input, ip + 12, 8);
    header = (uint32_t)(ip[0] & 15) * 4;
    if ((ip[9] == PROTO_TCP || ip[9] == PROTO_UDP) && len >= ETH_HDR_LEN + header + 4) {
        memcpy(input + 8, ip + header, 4);
        used = RSS_INPUT_LEN;
    }
    return rss->table[rss_hash(rss, input, used) % RSS_TABLE_LEN];
}
