/* Conversations with an echo service; see talk.h. */
#include "talk.h"

#include <string.h>

#include "base/hash.h"
#include "check.h"

enum {
    CONNS_MAX = 2048,
};

/* What a client's connection has sent and verified. Indexed by connection. */
struct talk {
    uint64_t total; /* bytes to send */
    uint64_t seed;
    uint64_t sent[CONNS_MAX];
    uint64_t received[CONNS_MAX];
    uint64_t wrong;
    uint32_t done;
    uint32_t closed[8]; /* by reason */
};

static struct talk talk;

static uint8_t pattern(uint32_t conn, uint64_t offset)
{
    uint64_t state = talk.seed ^ ((uint64_t)conn << 40) ^ (offset / 8);

    return (uint8_t)(splitmix64(&state) >> (offset % 8 * 8));
}

static void verify(struct stack *stack, uint32_t conn)
{
    uint32_t len;
    const uint8_t *bytes;

    while ((bytes = socket_peek(stack, conn, &len)) != NULL) {
        for (uint32_t i = 0; i < len; i++) {
            talk.wrong += bytes[i] != pattern(conn, talk.received[conn] + i);
        }
        talk.received[conn] += len;
        socket_consume(stack, conn, len);
    }
}

static void send_more(struct stack *stack, uint32_t conn)
{
    uint8_t piece[1000];

    while (talk.sent[conn] < talk.total) {
        uint64_t left = talk.total - talk.sent[conn];
        uint32_t len = left < sizeof(piece) ? (uint32_t)left : (uint32_t)sizeof(piece);
        uint32_t done;

        for (uint32_t i = 0; i < len; i++) {
            piece[i] = pattern(conn, talk.sent[conn] + i);
        }
        done = socket_write(stack, conn, piece, len);
        talk.sent[conn] += done;
        if (done < len) {
            return;
        }
    }
    socket_shutdown(stack, conn);
}

static bool talk_step(struct stack *stack, uint32_t conn)
{
    verify(stack, conn);
    send_more(stack, conn);
    return false;
}

static void talk_closed(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    (void)stack;
    talk.closed[reason]++;
    talk.done += talk.received[conn] == talk.total;
}

static const struct service talk_service = {
    .name = "talk", .step = talk_step, .closed = talk_closed};
static const struct service *const talk_table[] = {&talk_service, NULL};

bool talk_echo(struct sim *sim, uint32_t conns, uint64_t bytes, uint64_t limit_us)
{
    memset(&talk, 0, sizeof(talk));
    talk.total = bytes;
    talk.seed = 42;
    sim_client_service(sim, 0, talk_table, NULL);
    for (uint32_t i = 0; i < conns; i++) {
        CHECK(sim_connect(sim, 0, (uint16_t)(20000 + i), 7) != CONN_NONE);
    }
    for (uint64_t end = sim->now_us + limit_us; sim->now_us < end && talk.done < conns;) {
        sim_step(sim);
    }
    CHECK_EQ(talk.wrong, 0);
    CHECK_EQ(talk.done, conns);
    CHECK_EQ(talk.closed[CLOSE_DONE], conns);
    if (talk.done != conns) {
        sim_print(sim);
    }
    return talk.done == conns;
}
