/* Receive-side scaling: the Toeplitz hash over a 40-byte key, and a 128-entry indirection table. */
#pragma once
#include "base/compiler.h"

enum {
    RSS_KEY_LEN = 40,
    RSS_TABLE_LEN = 128,
    RSS_INPUT_LEN = 12, /* source, destination, ports: IPv4 with TCP or UDP */
};

struct rss {
    uint8_t key[RSS_KEY_LEN];
    uint8_t table[RSS_TABLE_LEN];
    uint32_t lookup[RSS_INPUT_LEN][256]; /* each input byte's share of the hash */
};

/* The key that drivers ship with, and queues in turn. */
void rss_init(struct rss *rss, uint32_t queues);
void rss_set_key(struct rss *rss, const uint8_t key[RSS_KEY_LEN]);
uint32_t rss_hash(const struct rss *rss, const uint8_t *input, uint32_t len);
/* The queue of an Ethernet frame: 4-tuple for TCP and UDP, addresses for other IPv4, else 0. */
uint32_t rss_queue(const struct rss *rss, const uint8_t *frame, uint32_t len);
