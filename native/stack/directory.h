/*
 * Which shard owns a flow: one table shared by all shards, 8 bytes a flow, written by atomic
 * operations only. The first shard to claim a SYN owns the flow, before any state exists. A worker
 * killed anywhere leaves at most a stale entry, which heals: its owner is asked, and may open anew.
 */
#pragma once
#include "base/compiler.h"

struct directory;

enum directory_claim {
    CLAIM_MINE,  /* now, or before */
    CLAIM_OTHER, /* `owner` has it */
    CLAIM_RACE,  /* another claims it at this instant: let the peer's SYN come again */
    CLAIM_FULL,
};

size_t directory_bytes(uint32_t flows);
struct directory *directory_init(void *memory, uint32_t flows);
enum directory_claim directory_claim(struct directory *directory, uint64_t hash, uint32_t shard,
                                     uint32_t *owner);
bool directory_find(const struct directory *directory, uint64_t hash, uint32_t *owner);
/* Forgets the flow if it is the shard's. */
void directory_clear(struct directory *directory, uint64_t hash, uint32_t shard);
/* Withdraws claims that the shard's dead worker had begun and not confirmed. */
void directory_forget_tentative(struct directory *directory, uint32_t shard);
/* Flows that a shard owns, for tests and audits. */
uint32_t directory_count(const struct directory *directory, uint32_t shard);
