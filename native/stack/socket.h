/*
 * What a service may do with a connection, within its step: read, write, move, close. All of it is
 * part of the step's transaction; nothing is sent before the output phase.
 */
#pragma once
#include "stack/conn.h"
#include "stack/events.h"

/* Bytes in order and unread. */
uint32_t socket_readable(struct stack *stack, uint32_t conn);
/* True when the peer has closed and everything before was read. */
bool socket_eof(struct stack *stack, uint32_t conn);
/* True when the peer has closed; there may still be something to read. */
static inline bool socket_peer_closed(const struct stack *stack, uint32_t conn)
{
    return stack->hot[conn].flags & CONN_PEER_FIN;
}

/* Bytes that may be written now; 0 after shutdown. */
uint32_t socket_writable(struct stack *stack, uint32_t conn);
/* True once established (and not reset). */
bool socket_open(struct stack *stack, uint32_t conn);
/* The next unread bytes, contiguous; NULL: none. */
const uint8_t *socket_peek(struct stack *stack, uint32_t conn, uint32_t *len);
/* Copies the first `len` unread bytes, which stay unread; false: not as many are there. */
bool socket_look(struct stack *stack, uint32_t conn, void *dst, uint32_t len);
void socket_consume(struct stack *stack, uint32_t conn, uint32_t len);
/* Returns how many bytes were taken. */
uint32_t socket_write(struct stack *stack, uint32_t conn, const void *data, uint32_t len);
/* Moves unread bytes to the send queue, as many as fit; returns how many. */
uint32_t socket_echo(struct stack *stack, uint32_t conn);
/* Ends our direction after what was written (FIN). */
void socket_shutdown(struct stack *stack, uint32_t conn);
/* Ends both: data that still comes is answered with RST. */
void socket_close(struct stack *stack, uint32_t conn);
/* RST now. The connection is gone when this returns. */
void socket_abort(struct stack *stack, uint32_t conn);
/* Opens a connection from `tuple`; NONE: no room. Its service's step runs once it is open. */
uint32_t socket_connect(struct stack *stack, const struct tuple *tuple, uint8_t service);
