/*
 * chargen (RFC 864): lines of 72 of the 95 printable characters, each line shifted by one, for as
 * long as the peer takes them. What it sends us is thrown away. State: bytes written so far.
 */
#include "service/builtin.h"

enum {
    PRINTABLE = 95,
    LINE_CHARS = 72,
    LINE_BYTES = LINE_CHARS + 2, /* CR LF */
    CYCLE_BYTES = LINE_BYTES * PRINTABLE,
    PIECE_BYTES = 1480,
    PIECES_PER_STEP = 32,
};

static void fill(uint8_t *dst, uint32_t len, uint64_t offset)
{
    uint32_t at = (uint32_t)(offset % CYCLE_BYTES);

    for (uint32_t i = 0; i < len; i++, at = at + 1 == CYCLE_BYTES ? 0 : at + 1) {
        uint32_t line = at / LINE_BYTES;
        uint32_t column = at % LINE_BYTES;

        if (column >= LINE_CHARS) {
            dst[i] = column == LINE_CHARS ? '\r' : '\n';
        } else {
            dst[i] = (uint8_t)(' ' + (line + column) % PRINTABLE);
        }
    }
}

static void chargen_write(struct stack *stack, uint32_t conn)
{
    uint64_t *written = service_state_touch(stack, conn);
    uint8_t piece[PIECE_BYTES];

    for (uint32_t n = 0; n < PIECES_PER_STEP; n++) {
        uint32_t room = socket_writable(stack, conn);
        uint32_t len = room < PIECE_BYTES ? room : PIECE_BYTES;
        uint32_t done;

        if (len == 0) {
            return;
        }
        fill(piece, len, *written);
        done = socket_write(stack, conn, piece, len);
        *written += done;
        if (done < len) {
            return;
        }
    }
}

static bool chargen_step(struct stack *stack, uint32_t conn)
{
    uint32_t len = socket_readable(stack, conn);

    if (len > 0) {
        socket_consume(stack, conn, len);
    }
    if (socket_eof(stack, conn)) {
        socket_shutdown(stack, conn);
        return false;
    }
    chargen_write(stack, conn);
    return socket_writable(stack, conn) > 0;
}

const struct service service_chargen = {
    .name = "chargen", .default_port = 19, .step = chargen_step};
