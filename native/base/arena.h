/*
 * The arena: one sealed memfd that holds all state of a shard, and its undo log.
 *
 * A kill may fall between any two instructions. Every step that changes state (one frame, one
 * timer, one service step, one connection's output) is a transaction: undo_save() of each 64-byte
 * line before its first write, then undo_commit(). A successor calls undo_rollback() and finds the
 * state before or after the step, never a third. Inside the arena there are only indices and
 * offsets. Start reading at undo_save.
 */
#pragma once
#include <string.h>

#include "base/compiler.h"

enum {
    ARENA_MAGIC = 0x53485244,
    ARENA_VERSION = 1,
    UNDO_LINES_MAX = 2048,    /* lines one transaction may change */
    UNDO_SAVED_ENTRIES = 512, /* lines remembered as saved, a power of two */
};

struct undo_log {
    _Alignas(CACHE_LINE) volatile uint32_t count; /* 0: nothing is in progress */
    uint32_t pad[15];
    uint32_t line[UNDO_LINES_MAX]; /* line number within the arena */
    _Alignas(CACHE_LINE) uint8_t image[UNDO_LINES_MAX][CACHE_LINE];
};

struct arena_header {
    uint32_t magic;
    uint32_t version;
    uint64_t size;
    uint64_t used; /* bytes carved so far; fixed once the shard runs */
    uint32_t shard;
    uint32_t generation; /* workers that have adopted this arena */
    _Alignas(CACHE_LINE) struct undo_log undo;
};

/* A process's view of an arena. */
struct arena {
    uint8_t *base;
    size_t size;
    struct undo_log *undo;
    int fd;
    uint64_t transaction;               /* commits of this process << 32 */
    uint64_t saved[UNDO_SAVED_ENTRIES]; /* transaction | line: saved already */
};

/* Creates a sealed memfd of `size` bytes and maps it MAP_SHARED. 0 or -errno. */
int arena_create(struct arena *arena, size_t size, uint32_t shard);
void arena_destroy(struct arena *arena);
/* The part of `bytes` (rounded up to a line) behind those in `used`; aborts if the sizing was
 * wrong.
 */
void *arena_carve(const struct arena *arena, size_t *used, size_t bytes);
/* Maps an anonymous sealed memfd MAP_SHARED (directory, lanes, statistics). NULL: errno is set. */
void *arena_shared_map(const char *name, size_t size);
/* Rolls an unfinished transaction back; returns how many lines it restored. */
uint32_t undo_rollback(struct arena *arena);

static inline struct arena_header *arena_header(const struct arena *arena)
{
    return (struct arena_header *)(void *)arena->base;
}

/* Saves the line that holds `object` before its first change in this transaction. */
static inline void undo_save(struct arena *arena, const void *object)
{
    struct undo_log *undo = arena->undo;
    uint32_t line = (uint32_t)((size_t)((const uint8_t *)object - arena->base) / CACHE_LINE);
    uint64_t *saved = &arena->saved[line % UNDO_SAVED_ENTRIES];
    uint64_t mark = arena->transaction | line;
    uint32_t n;

    if (*saved == mark) {
        return;
    }
    n = undo->count;
    *saved = mark;
    ENSURE(n < UNDO_LINES_MAX);
    memcpy(undo->image[n], arena->base + (size_t)line * CACHE_LINE, CACHE_LINE);
    undo->line[n] = line;
    compiler_barrier();
    undo->count = n + 1;
    compiler_barrier();
}

/* Makes everything since the last commit permanent, by one store. */
static inline void undo_commit(struct arena *arena)
{
    compiler_barrier();
    arena->undo->count = 0;
    arena->transaction += (uint64_t)1 << 32;
    compiler_barrier();
}
