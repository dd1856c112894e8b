/*
 * The worker loop of one shard: take a burst, feed the stack, run ready services and timers, send,
 * publish, sync; sleep when there is nothing. Start reading at worker_turn.
 */
#pragma once
#include "stack/conn.h"

enum worker_phase {
    PHASE_IDLE,
    PHASE_RX,
    PHASE_INPUT,
    PHASE_SERVICES,
    PHASE_TIMERS,
    PHASE_OUTPUT,
    PHASE_TX,
    PHASE_SLEEP,
    PHASE_ADOPT,
    PHASE_COUNT,
};

struct worker {
    struct stack stack;
    uint32_t spin_us; /* idle polling before a sleep */
    uint64_t idle_since_us;
    bool running;
};

const char *worker_phase_name(enum worker_phase phase);
/* CLOCK_MONOTONIC in microseconds. */
uint64_t worker_clock_us(void);
/* Takes the arena over: rolls back, settles the books, begins to serve. 0 or -errno. */
int worker_adopt(struct worker *worker, uint64_t now_us, uint32_t *adopted, uint32_t *dropped);
/* One pass at the time `now_us`. Positive: there was something to do; 0: nothing; -errno: the port
 * is dead. */
int worker_turn(struct worker *worker, uint64_t now_us);
/* Turns for `for_us` microseconds, sleeping when idle. 0 or -errno. */
int worker_run(struct worker *worker, uint64_t for_us);
/* Resets every connection; returns how many. */
int worker_abort_all(struct worker *worker);
