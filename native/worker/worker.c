/* The worker loop; see worker.h. */
#include "worker/worker.h"

#include <errno.h>
#include <sched.h>
#include <time.h>

#include "stack/directory.h"
#include "stack/engine_ops.h"
#include "stack/eth.h"
#include "stack/socket.h"
#include "stack/steer.h"
#include "stack/tx.h"
#include "worker/rx.h"
#include "worker/wait.h"

enum {
    SLEEP_MIN_US = 20, /* a shorter sleep costs more than it saves */
};

static const char *const phases[] = {"idle",   "rx", "input", "services", "timers",
                                     "output", "tx", "sleep", "adopt"};
_Static_assert(sizeof(phases) / sizeof(phases[0]) == PHASE_COUNT, "a name for each phase");

const char *worker_phase_name(enum worker_phase phase)
{
    return phase < PHASE_COUNT ? phases[phase] : NULL;
}

uint64_t worker_clock_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void enter(struct stack *stack, enum worker_phase phase)
{
    stack->stats->phase = phase;
}

/*
 * Ring and verdicts are counted apart. What they differ by after a kill is booked once: verdicts
 * that a worker never wrote as worker_died, frames that its ring never counted on the ring.
 */
static void settle_books(struct stack *stack)
{
    struct stats_page *stats = stack->stats;
    uint64_t seen = stack->port->counters->rx_frames + stats->counter[COUNTER_steered_in];
    uint64_t told = stats_verdict_sum(stats) + rx_pending(stack);

    if (seen > told) {
        stats->verdict[VERDICT_worker_died] += seen - told;
    } else {
        stack->port->counters->rx_frames += told - seen;
    }
}

int worker_adopt(struct worker *worker, uint64_t now_us, uint32_t *adopted, uint32_t *dropped)
{
    struct stack *stack = &worker->stack;
    bool fresh = arena_header(&stack->arena)->generation == 0;
    int error = 0;

    *adopted = 0;
    *dropped = 0;
    stack->now_us = now_us;
    if (!fresh) {
        stats_add(stack->stats, COUNTER_undone_lines, undo_rollback(&stack->arena));
        error = stack->port->ops->recover(stack->port);
    }
    if (error == 0) {
        error = stack_attach(stack, fresh);
    }
    if (error == 0 && stack->engine) {
        error = stack->engine->open(stack);
    }
    if (error != 0) {
        return error;
    }
    if (!fresh) {
        enter(stack, PHASE_ADOPT);
        if (stack->config->shards > 1) {
            directory_forget_tentative(stack->cluster->directory, stack->shard);
        }
        rx_release(stack);
        settle_books(stack);
        if (stack->engine) {
            *dropped = stack->engine->forget(stack);
        } else {
            engine_adopt(stack, adopted, dropped);
        }
    } else {
        stack->shared->rx_cursor = stack->port->rx->head;
    }
    stats_add(stack->stats, COUNTER_adoptions, 1);
    stack->stats->adopted_us = now_us;
    arena_header(&stack->arena)->generation++;
    return 0;
}

/* How many frames a pass received, in classes that double. */
static void count_batch(struct stack *stack, uint32_t n)
{
    _Static_assert(BURST_MAX == 64 && COUNTER_batch_64 - COUNTER_batch_1 == 6, "a class for each");

    if (n > 0) {
        stats_add(stack->stats, COUNTER_batch_1 + (enum counter)(31 - __builtin_clz(n)), 1);
    }
}

static uint32_t receive(struct stack *stack)
{
    uint32_t n = rx_collect(stack);

    count_batch(stack, n);
    if (unlikely(stack->engine != NULL)) {
        enter(stack, PHASE_INPUT);
        classify_burst(stack, stack->frames, n);
        steer_burst(stack, stack->frames, n);
        stack->engine->input(stack, stack->frames, n);
    } else if (n > 0) {
        enter(stack, PHASE_INPUT);
        classify_burst(stack, stack->frames, n);
        steer_burst(stack, stack->frames, n);
        engine_input(stack, stack->frames, n);
    }
    return n;
}

static void run_timers(struct stack *stack)
{
    if (unlikely(stack->engine != NULL)) {
        stack->engine->timers(stack);
        return;
    }
    engine_timers(stack);
    if (stack->shared->sweep < stack->config->conns_max) {
        engine_sweep(stack);
    }
}

static int transmit(struct stack *stack)
{
    enter(stack, PHASE_OUTPUT);
    if (unlikely(stack->engine != NULL)) {
        stack->engine->output(stack);
    } else {
        engine_output(stack);
    }
    stack_commit(stack); /* the turn is one transaction; nothing of it is visible before */
    enter(stack, PHASE_TX);
    tx_publish(stack);
    return stack->port->ops->tx_sync(stack->port, stack->now_us);
}

static void publish(struct stack *stack)
{
    struct stats_page *stats = stack->stats;

    stats_set(stats, COUNTER_conns_active, stack->shared->conns_active - stack->shared->time_wait);
    stats_set(stats, COUNTER_conns_time_wait, stack->shared->time_wait);
    stats_set(stats, COUNTER_chunks_free, stack->shared->chunk_free_n);
    atomic_thread_fence(memory_order_release); /* who sees the beat sees what was counted before */
    stats->heartbeat++;
    stats->heartbeat_us = stack->now_us;
}

int worker_turn(struct worker *worker, uint64_t now_us)
{
    struct stack *stack = &worker->stack;
    uint32_t first_slot = stack->port->tx->head;
    uint32_t work;
    int error;

    stack->now_us = now_us;
    enter(stack, PHASE_RX);
    error = stack->port->ops->rx_sync(stack->port, stack->now_us);
    if (error != 0) {
        return error;
    }
    tx_begin(stack); /* the usual request is answered while it is received */
    work = receive(stack);
    enter(stack, PHASE_TIMERS);
    run_timers(stack);
    enter(stack, PHASE_SERVICES);
    work += stack->ready_n;
    engine_services(stack);
    error = transmit(stack);
    work += stack->tx.next != first_slot;
    rx_release(stack);
    publish(stack);
    stats_add(stack->stats, COUNTER_turns, 1);
    stats_add(stack->stats, COUNTER_turns_busy, work > 0);
    return error != 0 ? error : (int)min_u32(work, INT32_MAX);
}

/* Idle: spin for a while, then sleep until the next timer or the end of the slice. */
static void idle(struct worker *worker, uint64_t end_us)
{
    struct stack *stack = &worker->stack;
    uint64_t until =
        stack->engine ? stack->engine->next_deadline(stack) : engine_next_deadline(stack);

    if (stack->now_us - worker->idle_since_us < worker->spin_us) {
        return;
    }
    until = until < end_us ? until : end_us;
    if (until < stack->now_us + SLEEP_MIN_US) {
        sched_yield(); /* what there is to do waits for somebody who may need this CPU */
        return;
    }
    enter(stack, PHASE_SLEEP);
    wait_for_work(stack, until - stack->now_us);
    worker->idle_since_us = worker_clock_us();
}

int worker_run(struct worker *worker, uint64_t for_us)
{
    struct stack *stack = &worker->stack;
    uint64_t end_us = worker_clock_us() + for_us;

    do {
        int work = worker_turn(worker, worker_clock_us());

        if (work < 0) {
            return work;
        }
        if (work > 0) {
            worker->idle_since_us = stack->now_us;
        } else {
            idle(worker, end_us);
        }
    } while (stack->now_us < end_us);
    enter(stack, PHASE_IDLE);
    return 0;
}

int worker_abort_all(struct worker *worker)
{
    struct stack *stack = &worker->stack;
    int aborted = 0;

    for (uint32_t conn = 0; conn < stack->config->conns_max; conn++) {
        uint8_t state = stack->hot[conn].state;

        if (state == CONN_FREE) {
            continue;
        }
        if (stack->replies_n == REPLIES_MAX && worker_turn(worker, worker_clock_us()) < 0) {
            break; /* the ring takes no more RSTs */
        }
        if (state == CONN_TIME_WAIT) {
            continue;
        }
        socket_abort(stack, conn);
        stack_commit(stack);
        aborted++;
    }
    return worker_turn(worker, worker_clock_us()) < 0 ? -EIO : aborted;
}
