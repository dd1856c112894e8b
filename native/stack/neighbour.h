/*
 * The neighbour table, shared by all shards: whoever receives an ARP frame writes it, everybody
 * reads. An entry is two words that carry a check of each other, so that a reader meeting a torn
 * write (two writers, or a kill) sees a miss and asks again; no lock exists that a death could
 * hold.
 */
#pragma once
#include "base/compiler.h"

struct neighbour_table;

size_t neighbour_bytes(uint32_t entries);
struct neighbour_table *neighbour_init(void *memory, uint32_t entries);
/* True when the address has a MAC; `ask` tells that it is time to (re)ask, at most once a second.
 */
bool neighbour_lookup(struct neighbour_table *table, uint32_t ip, uint8_t mac[6], uint64_t now_us,
                      bool *ask);
/* Creates the entry if `create`, else changes one that exists. True when the table knows it now. */
bool neighbour_update(struct neighbour_table *table, uint32_t ip, const uint8_t mac[6],
                      uint64_t now_us, bool create);
