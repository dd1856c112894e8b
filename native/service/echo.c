/* echo (RFC 862): what comes goes back; after the peer's FIN the rest, then ours. */
#include "service/builtin.h"

static bool echo_step(struct stack *stack, uint32_t conn)
{
    uint32_t moved = socket_echo(stack, conn);

    if (likely(moved > 0 && !socket_peer_closed(stack, conn))) {
        return false;
    }
    if (socket_eof(stack, conn)) {
        socket_shutdown(stack, conn);
        return false;
    }
    return moved == 0 && socket_readable(stack, conn) > 0 && socket_writable(stack, conn) > 0;
}

const struct service service_echo = {
    .name = "echo", .default_port = 7, .mirror = true, .step = echo_step};
