/*
 * What an engine's turn costs, in nanoseconds of the server's turns only, on virtual time:
 * engine_cost native|picotcp CONNECTIONS. A client stack and one shard in lockstep over mem:; the
 * client's own turns are left out. Prints one JSON document: requests of 64 bytes over all
 * connections, a bulk echo over eight, connections opened and closed, memory of an idle connection.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine_picotcp/picotcp.h"
#include "sim.h"

enum {
    MESSAGE = 64,
    BATCH = 32, /* requests that lie in the ring when the server's turn begins */
    ROUNDS = 1200,
    BULK_CONNS = 8,
    BULK_BYTES = 2000000, /* by each */
    OPENED = 2048,
    CONNS_MAX = 8192,
};

static struct {
    uint64_t received;
    uint32_t opened;
    uint32_t closed;
    uint64_t to_send; /* bulk: by each connection */
    uint64_t sent[CONNS_MAX];
} seen;

static uint64_t server_ns;
static uint64_t clock_ns; /* what reading the clock adds to a turn */

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static void calibrate(void)
{
    uint64_t from = cpu_ns();

    for (uint32_t i = 0; i < 10000; i++) {
        (void)cpu_ns();
    }
    clock_ns = (cpu_ns() - from) / 10000;
}

static void server_turn(struct sim *sim)
{
    uint64_t from = cpu_ns();
    uint64_t took;

    worker_turn(&sim->worker[0], sim->now_us);
    took = cpu_ns() - from;
    server_ns += took > clock_ns ? took - clock_ns : 0;
}

static void both(struct sim *sim, uint64_t us)
{
    worker_turn(&sim->client[0].worker, sim->now_us);
    server_turn(sim);
    sim->now_us += us;
}

static bool client_step(struct stack *stack, uint32_t conn)
{
    static const uint8_t text[8192];
    uint32_t len = socket_readable(stack, conn);

    if (stack->service_state[conn] == 0) {
        undo_save(&stack->arena, &stack->service_state[conn]);
        stack->service_state[conn] = 1;
        seen.opened++;
    }
    if (len > 0) {
        socket_consume(stack, conn, len);
        seen.received += len;
    }
    while (seen.sent[conn] < seen.to_send && socket_writable(stack, conn) > 0) {
        uint64_t left = seen.to_send - seen.sent[conn];

        seen.sent[conn] +=
            socket_write(stack, conn, text, left < sizeof(text) ? (uint32_t)left : sizeof(text));
    }
    return false;
}

static void client_closed(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    (void)stack;
    (void)conn;
    (void)reason;
    seen.closed++;
}

static const struct service client_service = {
    .name = "bench", .step = client_step, .closed = client_closed};
static const struct service *const client_table[] = {&client_service, NULL};

static void begin(struct sim *sim, uint32_t conns, bool picotcp)
{
    memset(&seen, 0, sizeof(seen));
    sim_open(sim, &(struct sim_options){.shards = 1,
                                        .clients = 1,
                                        .conns = conns,
                                        .chunks = conns * 2 + 8192,
                                        .seed = 1,
                                        .picotcp = picotcp});
    sim_client_service(sim, 0, client_table, NULL);
}

static void open_all(struct sim *sim, uint32_t conns, uint32_t *conn_of)
{
    for (uint32_t i = 0; i < conns; i++) {
        conn_of[i] = sim_connect(sim, 0, (uint16_t)(1024 + i), 7);
        if (i % BATCH == BATCH - 1) {
            both(sim, 20);
        }
    }
    for (int turn = 0; turn < 20000 && seen.opened < conns; turn++) {
        both(sim, 1000);
    }
    if (seen.opened < conns) {
        fprintf(stderr, "engine_cost: %u of %u connections opened\n", seen.opened, conns);
        exit(1);
    }
}

static double request_ns(uint32_t conns, bool picotcp, uint64_t *memory)
{
    static const uint8_t message[MESSAGE] = "sixty-four bytes of a request";
    uint32_t batch = conns < BATCH ? conns : BATCH;
    uint32_t *conn_of = calloc(conns, sizeof(uint32_t));
    uint32_t next = 0;
    struct sim sim;
    struct stack *stack = &sim.client[0].worker.stack;
    const struct picotcp *engine;

    begin(&sim, conns * 2 + 512, picotcp); /* no flow finds its buckets full */
    engine = sim.worker[0].stack.engine_state;
    *memory = engine ? engine->api->memory() : 0;
    open_all(&sim, conns, conn_of);
    *memory = engine ? (engine->api->memory() - *memory) / conns + sizeof(*engine->conns) : 0;
    server_ns = 0;
    seen.received = 0;
    for (uint32_t round = 0; round < ROUNDS; round++) {
        for (uint32_t k = 0; k < batch; k++, next = (next + 1) % conns) {
            socket_write(stack, conn_of[next], message, MESSAGE);
            conn_mark_output(stack, conn_of[next]);
        }
        both(&sim, 20);
        worker_turn(&sim.client[0].worker, sim.now_us);
    }
    sim_close(&sim);
    free(conn_of);
    return (double)server_ns / ((double)seen.received / MESSAGE);
}

/* Nanoseconds of the server's turns per byte echoed. */
static double bulk_ns(bool picotcp)
{
    uint32_t conn_of[BULK_CONNS];
    struct sim sim;

    begin(&sim, 64, picotcp);
    open_all(&sim, BULK_CONNS, conn_of);
    seen.to_send = BULK_BYTES;
    server_ns = 0;
    for (uint32_t i = 0; i < BULK_CONNS; i++) {
        conn_mark_ready(&sim.client[0].worker.stack, conn_of[i]);
    }
    for (int turn = 0; turn < 4000000 && seen.received < BULK_CONNS * BULK_BYTES; turn++) {
        for (uint32_t i = 0; i < BULK_CONNS; i++) {
            conn_mark_ready(&sim.client[0].worker.stack, conn_of[i]);
        }
        both(&sim, 20);
    }
    sim_close(&sim);
    return (double)server_ns / (double)seen.received;
}

/* Opened, and closed by the client; 32 at a time. */
static double connect_ns(bool picotcp)
{
    struct sim sim;
    struct stack *stack = &sim.client[0].worker.stack;
    uint32_t conn[BATCH];

    begin(&sim, 1024, picotcp);
    open_all(&sim, 1, conn);
    seen.closed = 0;
    server_ns = 0;
    for (uint32_t i = 0; i < OPENED; i += BATCH) {
        for (uint32_t k = 0; k < BATCH; k++) {
            conn[k] = sim_connect(&sim, 0, (uint16_t)(2000 + (i + k) % 60000), 7);
        }
        for (int turn = 0; turn < 3; turn++) {
            both(&sim, 20);
        }
        for (uint32_t k = 0; k < BATCH; k++) {
            socket_shutdown(stack, conn[k]);
            conn_mark_output(stack, conn[k]);
        }
        for (int turn = 0; turn < 3; turn++) {
            both(&sim, 20);
        }
        sim.now_us += 1100000; /* past the client's TIME-WAIT */
    }
    both(&sim, 20);
    sim_close(&sim);
    return (double)server_ns / seen.closed;
}

int main(int argc, char **argv)
{
    bool picotcp = argc > 1 && strcmp(argv[1], "picotcp") == 0;
    uint32_t conns = argc > 2 ? (uint32_t)atoi(argv[2]) : 100;
    uint64_t memory;
    double request;

    if (conns < 1 || conns > 4000) {
        fprintf(stderr, "engine_cost: connections must be 1 to 4000\n");
        return 2;
    }
    calibrate();
    request = request_ns(conns, picotcp, &memory);
    printf("{\"request_ns\": %.1f, \"bulk_ns_per_byte\": %.4f, \"connection_ns\": %.0f, "
           "\"idle_bytes\": %llu}\n",
           request, bulk_ns(picotcp), connect_ns(picotcp),
           (unsigned long long)(CONN_IDLE_BYTES + memory));
    return 0;
}
