/* The operations of a service on a connection; see socket.h. */
#include "stack/socket.h"

#include <string.h>

#include "base/hash.h"
#include "stack/chunk.h"
#include "stack/engine_ops.h"
#include "stack/flow.h"
#include "stack/tcp/tcp.h"

uint32_t socket_readable(struct stack *stack, uint32_t conn)
{
    const struct conn_active *active = conn_active_of(stack, conn);

    return active ? active->rcv.bytes : 0;
}

bool socket_eof(struct stack *stack, uint32_t conn)
{
    return (stack->hot[conn].flags & CONN_PEER_FIN) && socket_readable(stack, conn) == 0;
}

bool socket_open(struct stack *stack, uint32_t conn)
{
    return stack->hot[conn].state >= CONN_ESTABLISHED;
}

static bool may_write(const struct conn_hot *hot)
{
    return (hot->state == CONN_ESTABLISHED || hot->state == CONN_CLOSE_WAIT) &&
           !(hot->flags & CONN_FIN_QUEUED);
}

static inline uint32_t send_room(const struct stack *stack, const struct conn_hot *hot,
                                 uint32_t used)
{
    return may_write(hot) && used < stack->config->snd_buf ? stack->config->snd_buf - used : 0;
}

uint32_t socket_writable(struct stack *stack, uint32_t conn)
{
    const struct conn_active *active = conn_active_of(stack, conn);

    return send_room(stack, &stack->hot[conn], active ? active->snd.bytes : 0);
}

const uint8_t *socket_peek(struct stack *stack, uint32_t conn, uint32_t *len)
{
    const struct conn_active *active = conn_active_of(stack, conn);
    const struct chunk *chunk;

    *len = 0;
    if (!active || active->rcv.head == NONE) {
        return NULL;
    }
    chunk = chunk_at(stack, active->rcv.head);
    *len = (uint32_t)(chunk->end - chunk->start);
    return chunk_data(stack, active->rcv.head) + chunk->start;
}

bool socket_look(struct stack *stack, uint32_t conn, void *dst, uint32_t len)
{
    const struct conn_active *active = conn_active_of(stack, conn);
    uint8_t *at = dst;
    uint32_t index;

    if (!active || active->rcv.bytes < len) {
        return false;
    }
    for (index = active->rcv.head; len > 0; index = chunk_at(stack, index)->next) {
        const struct chunk *chunk = chunk_at(stack, index);
        uint32_t here = min_u32((uint32_t)(chunk->end - chunk->start), len);

        memcpy(at, chunk_data(stack, index) + chunk->start, here);
        at += here;
        len -= here;
    }
    return true;
}

void socket_consume(struct stack *stack, uint32_t conn, uint32_t len)
{
    struct conn_active *active = conn_active_of(stack, conn);

    ENSURE(active && len <= active->rcv.bytes);
    active = active_touch(stack, stack->hot[conn].active);
    queue_drop(stack, &active->rcv, len);
    stats_add(stack->stats, COUNTER_service_bytes_in, len);
}

uint32_t socket_write(struct stack *stack, uint32_t conn, const void *data, uint32_t len)
{
    uint32_t room = socket_writable(stack, conn);
    struct conn_active *active = room ? conn_activate(stack, conn) : NULL;
    uint32_t done;

    if (!active) {
        return 0;
    }
    done = queue_append(stack, &active->snd, data, min_u32(len, room));
    stats_add(stack->stats, COUNTER_service_bytes_out, done);
    return done;
}

uint32_t socket_echo(struct stack *stack, uint32_t conn)
{
    struct conn_active *active = conn_active_of(stack, conn);
    uint32_t len;

    if (!active) {
        return 0;
    }
    len = min_u32(active->rcv.bytes, send_room(stack, &stack->hot[conn], active->snd.bytes));
    if (len == 0) {
        return 0;
    }
    active = active_touch(stack, stack->hot[conn].active);
    len = queue_move(stack, &active->rcv, &active->snd, len);
    stats_add(stack->stats, COUNTER_service_bytes_in, len);
    stats_add(stack->stats, COUNTER_service_bytes_out, len);
    return len;
}

void socket_shutdown(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = &stack->hot[conn];

    if (!may_write(hot)) {
        return;
    }
    hot = conn_touch(stack, conn);
    hot->flags |= CONN_FIN_QUEUED;
    hot->state = hot->state == CONN_ESTABLISHED ? CONN_FIN_WAIT_1 : CONN_LAST_ACK;
}

void socket_close(struct stack *stack, uint32_t conn)
{
    socket_shutdown(stack, conn);
    if (socket_readable(stack, conn) > 0) { /* unread data at close (SHLD-3) */
        socket_abort(stack, conn);
        return;
    }
    conn_touch(stack, conn)->flags |= CONN_RCV_CLOSED;
}

void socket_abort(struct stack *stack, uint32_t conn)
{
    if (unlikely(stack->engine != NULL)) {
        stack->engine->abort(stack, conn);
        return;
    }
    tcp_send_rst(stack, conn);
    tcp_drop(stack, conn, CLOSE_ABORTED);
}

uint32_t socket_connect(struct stack *stack, const struct tuple *tuple, uint8_t service)
{
    uint64_t hash = flow_hash(stack->cluster->flow_key, tuple);
    uint32_t conn = conn_open(stack, hash);
    struct conn_hot *hot;

    if (conn == NONE) {
        return NONE;
    }
    hot = &stack->hot[conn];
    hot->tuple = *tuple;
    hot->state = CONN_SYN_SENT;
    hot->service = service;
    hot->snd_una = hot->snd_nxt = hot->snd_max = tcp_isn(stack, tuple);
    conn_mark_output(stack, conn);
    return conn;
}
