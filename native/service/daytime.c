/* daytime (RFC 867): one line with the time, then the server closes first. State: 1 when said. */
#include <stdio.h>
#include <time.h>

#include "service/builtin.h"

static bool daytime_step(struct stack *stack, uint32_t conn)
{
    char line[64];
    struct tm tm;
    time_t now = time(NULL); /* the wall clock is the service's answer, not the stack's time */
    size_t len;
    uint64_t *said = service_state_touch(stack, conn);

    if (*said == 0) {
        gmtime_r(&now, &tm);
        len = strftime(line, sizeof(line), "%A, %B %d, %Y %H:%M:%S-UTC\r\n", &tm);
        if (socket_write(stack, conn, line, (uint32_t)len) < len) {
            return true; /* nothing was taken: the queue is empty and a line fits, or none does */
        }
        *said = 1;
    }
    socket_close(stack, conn);
    return false;
}

const struct service service_daytime = {
    .name = "daytime", .default_port = 13, .step = daytime_step};
