/*
 * sockperf: what `sockperf server --tcp` does for its client's ping-pong, under-load and
 * throughput. A message begins with 14 bytes, big endian: number (8), flags (2), length of the
 * whole (4). One that asks for it comes back as it is, without the client's flag; all others are
 * thrown away. No length but from 14 to 65,507 can be one of sockperf's: such a connection is
 * reset, and counted.
 *
 * A message passes piece by piece, however long it is. State: bytes of it that are still to come
 * (low half), how many of these are its header, whether it is answered.
 */
#include <arpa/inet.h>
#include <string.h>

#include "base/wire.h"
#include "service/builtin.h"

enum {
    HEADER_BYTES = 14,
    FLAGS_AT = 8,
    FLAG_LOW_AT = 9, /* the byte with the flags that are known */
    LENGTH_AT = 10,
    MESSAGE_MAX = 65507,
    FLAG_CLIENT = 1,
    FLAG_ASKED = 2,
    FLAG_WARMUP = 4,
    HEADER_SHIFT = 32,
    HEADER_MASK = 0xff,
    ANSWER_SHIFT = 40,
    PIECES_PER_STEP = 1024,
};

/* The message at hand. */
struct message {
    uint32_t left;
    uint32_t header; /* bytes of `left` */
    bool answer;
};

static struct message unpack(uint64_t state)
{
    return (struct message){.left = (uint32_t)state,
                            .header = (uint32_t)(state >> HEADER_SHIFT) & HEADER_MASK,
                            .answer = state >> ANSWER_SHIFT & 1};
}

static uint64_t pack(const struct message *message)
{
    return (uint64_t)message->answer << ANSWER_SHIFT | (uint64_t)message->header << HEADER_SHIFT |
           message->left;
}

/* Looks at the next message once its header is there; false: that is no length. */
static bool begin(struct stack *stack, uint32_t conn, struct message *message)
{
    uint8_t header[HEADER_BYTES];
    uint32_t length;
    uint32_t flags;

    if (!socket_look(stack, conn, header, sizeof(header))) {
        return true;
    }
    flags = ntohs(load_u16(header + FLAGS_AT)) & (FLAG_CLIENT | FLAG_ASKED | FLAG_WARMUP);
    length = ntohl(load_u32(header + LENGTH_AT));
    if (length < HEADER_BYTES || length > MESSAGE_MAX) {
        return false;
    }
    *message = (struct message){
        .left = length, .header = HEADER_BYTES, .answer = flags == (FLAG_CLIENT | FLAG_ASKED)};
    return true;
}

/* Sends a piece back; returns how many bytes were taken. */
static uint32_t answer(struct stack *stack, uint32_t conn, const struct message *message,
                       const uint8_t *bytes, uint32_t len)
{
    uint8_t header[HEADER_BYTES];
    uint32_t at = HEADER_BYTES - message->header;

    if (message->header == 0) {
        return socket_write(stack, conn, bytes, len);
    }
    memcpy(header + at, bytes, len);
    if (at <= FLAG_LOW_AT && at + len > FLAG_LOW_AT) {
        header[FLAG_LOW_AT] &= (uint8_t)~FLAG_CLIENT;
    }
    return socket_write(stack, conn, header + at, len);
}

/* Handles what is there of the message in one piece; false: nothing more can be done now. */
static bool pass(struct stack *stack, uint32_t conn, struct message *message)
{
    uint32_t len;
    const uint8_t *bytes = socket_peek(stack, conn, &len);
    uint32_t most = message->header > 0 ? message->header : message->left;
    uint32_t done;

    len = len < most ? len : most;
    if (!bytes || len == 0) {
        return false;
    }
    done = message->answer ? answer(stack, conn, message, bytes, len) : len;
    socket_consume(stack, conn, done);
    message->left -= done;
    message->header -= message->header > 0 ? done : 0;
    return done == len;
}

/* What is left when the peer has closed in the middle of a header is no message. */
static void end(struct stack *stack, uint32_t conn, const struct message *message)
{
    uint32_t rest = socket_readable(stack, conn);

    if (message->left == 0 && rest > 0 && rest < HEADER_BYTES) {
        socket_consume(stack, conn, rest);
    }
    if (socket_eof(stack, conn)) {
        socket_shutdown(stack, conn);
    }
}

static bool sockperf_step(struct stack *stack, uint32_t conn)
{
    uint64_t *state = service_state_touch(stack, conn);
    struct message message = unpack(*state);
    bool more = true;

    for (uint32_t n = 0; n < PIECES_PER_STEP && more; n++) {
        if (message.left == 0 && !begin(stack, conn, &message)) {
            stats_add(stack->stats, COUNTER_service_refused, 1);
            socket_abort(stack, conn);
            return false;
        }
        more = message.left > 0 && pass(stack, conn, &message);
    }
    *state = pack(&message);
    if (socket_peer_closed(stack, conn)) {
        end(stack, conn, &message);
    }
    return more || (message.left > 0 && socket_readable(stack, conn) > 0 &&
                    socket_writable(stack, conn) > 0);
}

const struct service service_sockperf = {
    .name = "sockperf", .default_port = 11111, .step = sockperf_step};
