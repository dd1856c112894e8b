/*
 * http: a fixed reply to every request (RFC 9112 framing), keep-alive and pipelining included. A
 * request ends at an empty line; bodies are not read. State: bytes of CR LF CR LF seen so far (low
 * byte), and what is left to write of replies owed.
 */
#include <string.h>

#include "service/builtin.h"

enum {
    MATCH_MASK = 0xff,
    OWED_SHIFT = 32, /* replies not yet written in full */
    SENT_SHIFT = 8,  /* bytes of the first of them already written */
    SENT_MASK = 0xffff,
    OWED_MAX = 64, /* pipelined requests read ahead */
};

static const char reply[] = "HTTP/1.1 200 OK\r\n"
                            "Server: shardserver\r\n"
                            "Content-Type: text/plain\r\n"
                            "Content-Length: 14\r\n"
                            "\r\n"
                            "Hello, shard.\n";

/* Advances the match of an empty line; true when one ended here. LF alone counts as CR LF. */
static bool match(uint8_t byte, uint32_t *seen)
{
    if (byte == '\n') {
        *seen += *seen % 2 == 0 ? 2 : 1;
    } else if (byte == '\r' && *seen % 2 == 0) {
        *seen += 1;
    } else {
        *seen = 0;
    }
    if (*seen < 4) {
        return false;
    }
    *seen = 0;
    return true;
}

/* Reads requests; returns false when nothing is left to read. */
static bool read_requests(struct stack *stack, uint32_t conn, uint32_t *seen, uint32_t *owed)
{
    uint32_t len;
    const uint8_t *bytes = socket_peek(stack, conn, &len);
    uint32_t used = 0;

    if (!bytes || *owed >= OWED_MAX) {
        return false;
    }
    while (used < len && *owed < OWED_MAX) {
        *owed += match(bytes[used++], seen);
    }
    socket_consume(stack, conn, used);
    return true;
}

static void write_replies(struct stack *stack, uint32_t conn, uint32_t *sent, uint32_t *owed)
{
    while (*owed > 0) {
        uint32_t left = (uint32_t)sizeof(reply) - 1 - *sent;
        uint32_t done = socket_write(stack, conn, reply + *sent, left);

        *sent += done;
        if (done < left) {
            return;
        }
        *sent = 0;
        *owed -= 1;
    }
}

static bool http_step(struct stack *stack, uint32_t conn)
{
    uint64_t *state = service_state_touch(stack, conn);
    uint32_t seen = (uint32_t)(*state & MATCH_MASK);
    uint32_t sent = (uint32_t)(*state >> SENT_SHIFT & SENT_MASK);
    uint32_t owed = (uint32_t)(*state >> OWED_SHIFT);
    bool more = true;

    while (more && owed < OWED_MAX) {
        more = read_requests(stack, conn, &seen, &owed);
    }
    write_replies(stack, conn, &sent, &owed);
    *state = (uint64_t)owed << OWED_SHIFT | (uint64_t)sent << SENT_SHIFT | seen;
    if (owed == 0 && socket_eof(stack, conn)) {
        socket_shutdown(stack, conn);
    }
    return owed > 0 && socket_writable(stack, conn) > 0;
}

const struct service service_http = {.name = "http", .default_port = 80, .step = http_step};
