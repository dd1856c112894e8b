/*
 * From a connection's queue into picoTCP, and picoTCP's own work.
 *
 * It is given no more than the peer's window takes: a segment that does not fit is cut in two by
 * picoTCP, which then forgets to keep the first half. So its own view of the window is open always,
 * and a closed one is probed by a byte of the stream, which it repeats until it is acknowledged.
 */
#include "base/seq.h"
#include "engine_picotcp/picotcp.h"
#include "stack/chunk.h"
#include "stack/tcp/tcp.h"

enum {
    TICKS_MAX = 16,        /* per run: the rest has to wait a turn */
    TICK_SENDS_ALL = 24,   /* fewer frames than a tick may send: it has sent what there was */
    OPTIONS_PER_DATA = 16, /* picoTCP's, in every segment with bytes */
};

/* Copies the first `len` bytes of a queue, which has them. */
static void peek(const struct stack *stack, const struct chunk_queue *queue, uint8_t *to,
                 uint32_t len)
{
    for (uint32_t i = queue->head; len > 0; i = chunk_at(stack, i)->next) {
        const struct chunk *chunk = chunk_at(stack, i);
        uint32_t part = min_u32(len, (uint32_t)(chunk->end - chunk->start));

        memcpy(to, chunk_data(stack, i) + chunk->start, part);
        to += part;
        len -= part;
    }
}

/* Bytes that may be written in one call: a peer that takes smaller segments gets them one by one.
 */
static uint32_t piece_of(const struct stack *stack, const struct picotcp_conn *own)
{
    uint32_t ours = (uint32_t)stack->config->mtu - IPV4_HDR_LEN - TCP_HDR_LEN;

    return own->mss >= ours ? PICOTCP_BUFFER : (uint32_t)own->mss - OPTIONS_PER_DATA;
}

/* Bytes that the peer's window takes now; one beyond it if nothing else would wake the peer. */
static uint32_t allowance(struct picotcp_conn *own)
{
    uint32_t room = own->snd_edge - own->snd_put;

    if ((int32_t)room > 0) {
        return room;
    }
    if (own->snd_una != own->snd_put || (own->flags & OWN_PROBE)) {
        return 0;
    }
    own->flags |= OWN_PROBE;
    return 1;
}

static void write_some(struct picotcp *engine, uint32_t conn)
{
    struct stack *stack = engine->stack;
    struct picotcp_conn *own = &engine->conns[conn];
    struct conn_active *active = active_touch(stack, stack->hot[conn].active);
    bool full = active->snd.bytes >= stack->config->snd_buf;
    uint32_t room;

    while (active->snd.bytes > 0 && (room = allowance(own)) > 0) {
        uint32_t len = min_u32(min_u32(active->snd.bytes, room), piece_of(stack, own));
        int32_t done;

        peek(stack, &active->snd, engine->staging, len);
        done = engine->api->write(own->socket, engine->staging, len);
        if (done <= 0) {
            return; /* full: acknowledged bytes make room, and an event */
        }
        queue_drop(stack, &active->snd, (uint32_t)done);
        own->snd_put += (uint32_t)done;
        engine->fed++;
        if (full) { /* its service waits for room */
            conn_mark_ready(stack, conn);
        }
    }
}

void picotcp_pump(struct picotcp *engine, uint32_t conn)
{
    struct stack *stack = engine->stack;
    struct picotcp_conn *own = &engine->conns[conn];
    const struct conn_hot *hot = &stack->hot[conn];
    const struct conn_active *active;

    if (!own->socket || (own->flags & OWN_ENDED) || hot->state < CONN_ESTABLISHED) {
        return;
    }
    if (own->flags & OWN_UNREAD) {
        picotcp_pull(engine, conn);
    }
    if (hot->active != NONE && hot->state != CONN_TIME_WAIT) {
        write_some(engine, conn);
    }
    active = conn_active_of(stack, conn);
    if ((hot->flags & CONN_FIN_QUEUED) && !(own->flags & OWN_SHUT) &&
        (!active || active->snd.bytes == 0)) {
        own->flags |= OWN_SHUT;
        engine->api->shutdown(own->socket);
        engine->fed++;
    }
    if (active && tcp_quiet(hot, active)) {
        conn_deactivate(stack, conn);
    }
    stack_commit(stack);
}

void picotcp_run(struct picotcp *engine)
{
    const struct stack *stack = engine->stack;
    uint64_t now_ms = stack->now_us / 1000;

    if (engine->fed == 0 && engine->ticked_ms == now_ms && engine->api->queued() == 0) {
        return;
    }
    for (uint32_t i = 0; i < TICKS_MAX; i++) {
        engine->fed = 0;
        engine->sent = 0;
        engine->api->tick(stack->now_us);
        if (stack->tx.left == 0 ||
            (engine->sent < TICK_SENDS_ALL && engine->fed == 0 && engine->api->queued() == 0)) {
            break;
        }
    }
    engine->ticked_ms = now_ms;
    picotcp_settle_events(engine);
}
