/*
 * Exchanging buffers between two slots so that a kill between any two stores loses none: what is
 * about to change is recorded first, in one of two records by turns, so that the last one is always
 * whole. The dead side's successor repeats the last exchange; repeating it changes nothing.
 */
#pragma once
#include "ports/netmap_abi.h"

struct swap_record {
    uint32_t left;      /* slot of the recorder's own ring */
    uint32_t right;     /* position on the other side */
    uint32_t lane;      /* of the other side, where there are several */
    uint32_t left_buf;  /* before */
    uint32_t right_buf; /* before */
    uint32_t more;      /* the frame has slots behind this one */
};

/* Written by one process at a time. */
struct swap_log {
    _Alignas(CACHE_LINE) volatile uint32_t turn; /* record in force: turn & 1; 0: none ever */
    struct swap_record record[2];
};

_Static_assert(sizeof(struct swap_log) == CACHE_LINE, "one line: stores to it cost nothing");

static inline void swap_begin(struct swap_log *log, const struct swap_record *record)
{
    uint32_t turn = log->turn + 1;

    turn += turn == 0; /* 0 is "none ever" */
    log->record[turn & 1] = *record;
    compiler_barrier();
    log->turn = turn;
    compiler_barrier();
}

/* The record in force; NULL: nothing was ever exchanged. */
static inline const struct swap_record *swap_last(const struct swap_log *log)
{
    return log->turn ? &log->record[log->turn & 1] : NULL;
}

static inline bool buf_valid(uint32_t buf_idx, uint32_t bufs)
{
    return buf_idx - NM_BUF_FIRST < bufs - NM_BUF_FIRST;
}

/* A slot's contents may be trusted: the index exists, the length fits. */
static inline bool slot_valid(const struct nm_slot *slot, uint32_t bufs, uint32_t buf_size)
{
    return buf_valid(slot->buf_idx, bufs) && slot->len <= buf_size;
}
