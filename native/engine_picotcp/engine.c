/*
 * The engine of picoTCP behind the seam (stack/engine_ops.h). A turn: frames pass the filter,
 * picoTCP works, its events become bytes and states of connections, services run, what they wrote
 * is pumped back, picoTCP works again.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "base/hash.h"
#include "engine_picotcp/picotcp.h"
#include "stack/arp.h"
#include "stack/tcp/tcp.h"
#include "stack/tx.h"

enum {
    SWEEP_US = 50000,
    HALF_OPEN_US = 5000000, /* picoTCP would keep a SYN for 30 s */
    CLOSING_US = 60000000,  /* a peer that vanished after its FIN: picoTCP would keep it for ever */
    IDLE_BUSY_US = 1000,    /* frames wait for room in the ring */
    IDLE_OPEN_US = 5000,    /* as picoTCP's own loop */
    IDLE_EMPTY_US = 100000,
};

static uint32_t draw(void *host)
{
    struct picotcp *engine = host;

    engine->drawn++;
    return (uint32_t)siphash24(engine->key, &engine->drawn, sizeof(engine->drawn));
}

static void engine_free(struct picotcp *engine)
{
    if (engine->library.api) {
        engine->library.api->close();
    }
    picotcp_library_close(&engine->library);
    free(engine->conns);
    free(engine->changed);
    free(engine->ended);
    free(engine);
}

static int start(struct picotcp *engine)
{
    const struct stack_config *config = engine->stack->config;
    struct picotcp_setup setup = {.host = engine,
                                  .mtu = config->mtu,
                                  .ip = config->ip,
                                  .netmask = config->netmask,
                                  .gateway = config->gateway,
                                  .buffer = PICOTCP_BUFFER,
                                  .linger_ms = PICOTCP_LINGER_MS,
                                  .backlog = UINT16_MAX, /* the filter's is smaller */
                                  .send = picotcp_send,
                                  .event = picotcp_event,
                                  .random = draw};
    int error;

    memcpy(setup.mac, config->mac, sizeof(setup.mac));
    tx_begin(engine->stack);
    error = engine->api->open(&setup, engine->stack->now_us);
    for (uint32_t i = 0; i < config->listeners_n && error == 0; i++) {
        error = engine->api->listen(config->listeners[i].tcp_port);
    }
    tx_publish(engine->stack);
    return error;
}

/* The one that was opened before the fork, or one more copy. */
static int take_library(struct picotcp *engine)
{
    struct picotcp_library *given = engine->stack->engine_library;
    char sentence[PORT_ERROR_MAX];

    if (given && given->handle) {
        engine->library = *given;
        *given = (struct picotcp_library){.fd = -1};
        return 0;
    }
    return picotcp_library_open(&engine->library, sentence, sizeof(sentence));
}

static int open_engine(struct stack *stack)
{
    struct picotcp *engine = calloc(1, sizeof(*engine));
    uint32_t conns = stack->config->conns_max;
    int error = 0;

    if (!engine) {
        return -ENOMEM;
    }
    engine->stack = stack;
    engine->library.fd = -1;
    engine->conns = calloc(conns, sizeof(*engine->conns));
    engine->changed = calloc(conns, sizeof(uint32_t));
    engine->ended = calloc(conns, sizeof(uint32_t));
    if (!engine->conns || !engine->changed || !engine->ended) {
        error = -ENOMEM;
    } else if (getrandom(engine->key, sizeof(engine->key), 0) < 0) {
        error = -errno;
    } else {
        error = take_library(engine);
    }
    engine->api = engine->library.api;
    error = error ? error : start(engine);
    if (error != 0) {
        engine_free(engine);
        return error;
    }
    stack->engine_state = engine;
    return 0;
}

static void close_engine(struct stack *stack)
{
    if (stack->engine_state) {
        engine_free(picotcp_of(stack));
        stack->engine_state = NULL;
    }
}

/* picoTCP's state was in the dead worker's memory: its peers are told when they speak again. */
static uint32_t forget(struct stack *stack)
{
    uint32_t dropped = 0;

    for (uint32_t conn = 0; conn < stack->config->conns_max; conn++) {
        uint8_t state = stack->hot[conn].state;

        if (state != CONN_FREE) {
            dropped += state != CONN_SYN_RCVD && state != CONN_TIME_WAIT;
            tcp_drop(stack, conn, CLOSE_ABORTED);
            stack_commit(stack);
        }
    }
    stats_add(stack->stats, COUNTER_conns_dropped, dropped);
    return dropped;
}

static void input(struct stack *stack, struct frame *frames, uint32_t n)
{
    struct picotcp *engine = picotcp_of(stack);

    engine->pings = 0;
    engine_begin(stack);
    for (uint32_t i = 0; i < n; i++) {
        if (frames[i].verdict == VERDICT_NONE) {
            frames[i].verdict = (uint8_t)picotcp_take(engine, &frames[i]);
        }
        engine_settle(stack, &frames[i]);
    }
    picotcp_run(engine);
}

/* What picoTCP does not do: half-open connections end soon, a lost FIN goes again. */
static void sweep(struct picotcp *engine, uint32_t conn)
{
    struct stack *stack = engine->stack;
    const struct picotcp_conn *own = &engine->conns[conn];
    uint64_t silent_us = stack->now_us - own->heard_us;

    switch (stack->hot[conn].state) {
    case CONN_FREE:
    case CONN_ESTABLISHED:
    case CONN_TIME_WAIT:
        return;
    case CONN_SYN_RCVD:
        if (silent_us > HALF_OPEN_US) {
            picotcp_end(engine, conn, CLOSE_TIMEOUT);
        }
        return;
    default:
        picotcp_fin_again(engine, conn);
        if (silent_us > CLOSING_US) {
            picotcp_end(engine, conn, CLOSE_TIMEOUT);
        }
    }
}

static void timers(struct stack *stack)
{
    struct picotcp *engine = picotcp_of(stack);

    if (stack->now_us - engine->swept_us >= SWEEP_US) {
        engine->swept_us = stack->now_us;
        for (uint32_t conn = 0; conn < stack->config->conns_max; conn++) {
            sweep(engine, conn);
        }
    }
    picotcp_reap(engine, false);
}

static void output(struct stack *stack)
{
    struct picotcp *engine = picotcp_of(stack);
    uint32_t n = stack->output_n;

    engine_send_replies(stack);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t conn = stack->output[i];

        stack->marks[conn] &= (uint8_t)~CONN_MARK_OUTPUT;
        picotcp_pump(engine, conn);
    }
    memmove(stack->output, stack->output + n, (stack->output_n - n) * sizeof(uint32_t));
    stack->output_n -= n;
    picotcp_run(engine);
    picotcp_reap(engine, false);
}

static uint64_t next_deadline(const struct stack *stack)
{
    const struct picotcp *engine = picotcp_of(stack);

    if (stack->ready_n || stack->output_n || stack->replies_n) {
        return stack->now_us;
    }
    if (engine->api->queued() > 0) {
        return stack->now_us + IDLE_BUSY_US;
    }
    return stack->now_us + (stack->shared->conns_active > 0 ? IDLE_OPEN_US : IDLE_EMPTY_US);
}

/* picoTCP has no call for it: we say RST, and it forgets. */
static void abort_conn(struct stack *stack, uint32_t conn)
{
    struct picotcp *engine = picotcp_of(stack);
    const struct picotcp_conn *own = &engine->conns[conn];
    struct reply *reply;

    if (own->flags & OWN_ENDED) {
        return;
    }
    reply = reply_add(stack, REPLY_TCP);
    if (reply) {
        reply->tuple = stack->hot[conn].tuple;
        reply->tcp_flags = TCP_RST | TCP_ACK;
        reply->seq = own->snd_max;
        reply->ack = own->rcv_nxt;
        stats_add(stack->stats, COUNTER_rsts_sent, 1);
    }
    picotcp_end(engine, conn, CLOSE_ABORTED);
}

const struct engine_ops engine_picotcp = {
    .name = "picotcp",
    .open = open_engine,
    .close = close_engine,
    .forget = forget,
    .input = input,
    .timers = timers,
    .output = output,
    .next_deadline = next_deadline,
    .abort = abort_conn,
};
