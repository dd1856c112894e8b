/* discard (RFC 863): reads everything, says nothing. */
#include "service/builtin.h"

static bool discard_step(struct stack *stack, uint32_t conn)
{
    uint32_t len = socket_readable(stack, conn);

    if (len > 0) {
        socket_consume(stack, conn, len);
    }
    if (socket_eof(stack, conn)) {
        socket_shutdown(stack, conn);
    }
    return false;
}

const struct service service_discard = {.name = "discard", .default_port = 9, .step = discard_step};
