/* End to end on virtual time: our stack as the client, our shards as the server, over mem:. */
#include <string.h>

#include "base/hash.h"
#include "check.h"
#include "sim.h"

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

/* `conns` connections echo `bytes` each; true when all came back in time. */
static bool converse(struct sim *sim, uint32_t conns, uint64_t bytes, uint64_t limit_us)
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

static void one_connection_echoes_and_closes(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 1, .clients = 1, .seed = 1});
    converse(&sim, 1, 100, 5000000);
    sim_run(&sim, 3000000);
    CHECK_EQ(sim.worker[0].stack.shared->conns_active, 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void bulk_is_byte_exact_over_two_shards(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2, .clients = 1, .seed = 1});
    converse(&sim, 8, 1000000, 60000000);
    sim_run(&sim, 3000000);
    CHECK(sim.worker[0].stack.stats->counter[COUNTER_conns_accepted] > 0);
    CHECK(sim.worker[1].stack.stats->counter[COUNTER_conns_accepted] > 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void many_connections_share_the_shards(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){
                       .shards = 4, .clients = 1, .conns = 2048, .chunks = 8192, .seed = 1});
    converse(&sim, 1000, 3000, 60000000);
    sim_run(&sim, 3000000);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void a_bad_wire_changes_no_byte(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2,
                                         .clients = 1,
                                         .seed = 7,
                                         .faults = "drop=5%,reorder=5%,dup=2%,corrupt=0.1%"});
    converse(&sim, 16, 200000, 600000000);
    sim_run(&sim, 200000000);
    CHECK(sim.worker[0].stack.stats->verdict[VERDICT_tcp_ooo] > 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"one connection echoes and closes", one_connection_echoes_and_closes},
        {"bulk is byte-exact over two shards", bulk_is_byte_exact_over_two_shards},
        {"many connections share the shards", many_connections_share_the_shards},
        {"a bad wire changes no byte", a_bad_wire_changes_no_byte},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
