/* From picoTCP's events to connections: opened, readable, closed by the peer, ended. */
#include <arpa/inet.h>

#include "engine_picotcp/picotcp.h"
#include "stack/chunk.h"
#include "stack/tcp/tcp.h"

void picotcp_event(void *host, uint16_t remote_port, void *socket, uint32_t events)
{
    struct picotcp *engine = host;
    uint32_t conn = (uint32_t)ntohs(remote_port) - 1;
    struct picotcp_conn *own;

    if (conn >= engine->stack->config->conns_max) {
        return;
    }
    own = &engine->conns[conn];
    if (engine->stack->hot[conn].state == CONN_FREE || (own->flags & OWN_ENDED) ||
        (own->socket && own->socket != socket)) {
        return;
    }
    own->socket = events & PICOTCP_OPENED ? socket : own->socket;
    own->events |= events;
    if (!(own->flags & OWN_CHANGED)) {
        own->flags |= OWN_CHANGED;
        engine->changed[engine->changed_n++] = conn;
    }
}

static void opened(struct picotcp *engine, uint32_t conn)
{
    struct stack *stack = engine->stack;
    struct conn_hot *hot = conn_touch(stack, conn);

    if (hot->state != CONN_SYN_RCVD) {
        return;
    }
    undo_save(&stack->arena, &stack->shared->syn_rcvd);
    stack->shared->syn_rcvd--;
    hot->state = CONN_ESTABLISHED;
    stats_add(stack->stats, COUNTER_conns_accepted, 1);
    conn_mark_ready(stack, conn);
}

/* Bytes that our queue can take for certain: what is read from picoTCP is gone there. */
static uint32_t room_of(struct stack *stack, uint32_t conn)
{
    const struct conn_active *active = conn_active_of(stack, conn);
    uint32_t used = active ? active->rcv.bytes : 0;
    uint32_t chunks = stack->shared->chunk_free_n;

    if (used >= stack->config->rcv_buf || chunks < 2) {
        return 0;
    }
    return min_u32(min_u32(stack->config->rcv_buf - used, PICOTCP_STAGING),
                   (chunks - 1) * CHUNK_BYTES);
}

static void end_of_stream(struct stack *stack, uint32_t conn)
{
    struct conn_hot *hot = conn_touch(stack, conn);

    if (hot->flags & CONN_PEER_FIN) {
        return;
    }
    hot->flags |= CONN_PEER_FIN;
    if (hot->state == CONN_ESTABLISHED) {
        hot->state = CONN_CLOSE_WAIT;
    }
    conn_mark_ready(stack, conn);
}

/* 0: nothing more for now; otherwise bytes taken. */
static uint32_t pull_once(struct picotcp *engine, uint32_t conn)
{
    struct stack *stack = engine->stack;
    struct picotcp_conn *own = &engine->conns[conn];
    bool deaf = stack->hot[conn].flags & CONN_RCV_CLOSED;
    uint32_t room = deaf ? PICOTCP_STAGING : room_of(stack, conn);
    struct conn_active *active = room == 0 || deaf ? NULL : conn_activate(stack, conn);
    int32_t got;

    own->flags |= OWN_UNREAD;
    if (!active && !deaf) {
        return 0;
    }
    got = engine->api->read(own->socket, engine->staging, room);
    if (got <= 0) {
        own->flags &= (uint8_t)~OWN_UNREAD;
        return 0;
    }
    if (active) {
        ENSURE(queue_append(stack, &active->rcv, engine->staging, (uint32_t)got) == (uint32_t)got);
        conn_mark_ready(stack, conn);
    }
    return (uint32_t)got;
}

void picotcp_pull(struct picotcp *engine, uint32_t conn)
{
    struct stack *stack = engine->stack;
    struct picotcp_conn *own = &engine->conns[conn];

    if (!own->socket || (own->flags & OWN_ENDED)) {
        return;
    }
    while (pull_once(engine, conn) > 0) {
        stack_commit(stack);
    }
    if (!(own->flags & (OWN_UNREAD | OWN_PEER_DONE))) {
        picotcp_open_window(engine, conn);
    }
    if ((own->flags & (OWN_UNREAD | OWN_PEER_DONE)) == OWN_PEER_DONE) {
        end_of_stream(stack, conn);
    }
    stack_commit(stack);
}

void picotcp_end(struct picotcp *engine, uint32_t conn, enum close_reason reason)
{
    struct picotcp_conn *own = &engine->conns[conn];
    const struct tuple *tuple = &engine->stack->hot[conn].tuple;

    if (own->flags & OWN_ENDED) {
        return;
    }
    if (!own->socket) {
        own->socket = engine->api->find(tuple->lport, htons((uint16_t)(conn + 1)));
    }
    if (own->socket && engine->api->alive(own->socket)) {
        engine->api->destroy(own->socket);
    }
    own->socket = NULL;
    own->flags |= OWN_ENDED;
    own->reason = (uint8_t)reason;
    engine->ended[engine->ended_n++] = conn;
}

/* Both sides have closed: picoTCP keeps the socket a while, the service has no more to do. */
static void time_wait(struct picotcp *engine, uint32_t conn)
{
    struct stack *stack = engine->stack;
    struct conn_hot *hot = conn_touch(stack, conn);

    if (hot->state == CONN_TIME_WAIT || hot->state == CONN_SYN_RCVD) {
        return;
    }
    hot->flags |= CONN_PEER_FIN;
    hot->state = CONN_TIME_WAIT;
    undo_save(&stack->arena, &stack->shared->time_wait);
    stack->shared->time_wait++;
}

static enum close_reason reason_of(const struct stack *stack, uint32_t conn)
{
    uint8_t state = stack->hot[conn].state;

    return state == CONN_LAST_ACK || state == CONN_TIME_WAIT || state == CONN_FIN_WAIT_1
               ? CLOSE_DONE
               : CLOSE_TIMEOUT;
}

static void look_at(struct picotcp *engine, uint32_t conn, uint32_t events)
{
    struct picotcp_conn *own = &engine->conns[conn];

    if (events & PICOTCP_OPENED) {
        opened(engine, conn);
    }
    if (events & PICOTCP_PEER_CLOSED) {
        own->flags |= OWN_PEER_DONE;
    }
    if (own->socket && (events & (PICOTCP_READABLE | PICOTCP_PEER_CLOSED))) {
        picotcp_pull(engine, conn);
    }
    if (events & (PICOTCP_ENDED | PICOTCP_FAILED)) {
        if (own->socket && engine->api->alive(own->socket)) {
            time_wait(engine, conn);
        } else {
            picotcp_end(engine, conn, reason_of(engine->stack, conn));
        }
    }
    if (events & PICOTCP_WRITABLE) {
        conn_mark_output(engine->stack, conn);
    }
    stack_commit(engine->stack);
}

void picotcp_settle_events(struct picotcp *engine)
{
    for (uint32_t i = 0; i < engine->changed_n; i++) {
        uint32_t conn = engine->changed[i];
        struct picotcp_conn *own = &engine->conns[conn];

        while (own->events != 0 && !(own->flags & OWN_ENDED)) { /* reading may tell of the end */
            uint32_t events = own->events;

            own->events = 0;
            look_at(engine, conn, events);
        }
        own->flags &= (uint8_t)~OWN_CHANGED;
    }
    engine->changed_n = 0;
}

void picotcp_reap(struct picotcp *engine, bool all)
{
    struct stack *stack = engine->stack;

    if (engine->ended_n == 0 || (!all && engine->api->queued() > 0)) {
        return;
    }
    for (uint32_t i = 0; i < engine->ended_n; i++) {
        uint32_t conn = engine->ended[i];

        tcp_drop(stack, conn, engine->conns[conn].reason);
        stack_commit(stack);
        engine->conns[conn] = (struct picotcp_conn){0};
    }
    engine->ended_n = 0;
}
