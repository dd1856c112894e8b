/*
 * One shard and a client stack in one process, in lockstep over mem:, for counting instructions:
 * rr_server CONNECTIONS REQUESTS [connect]. Only bench_server_turn is to be counted. Prints the
 * number of requests (or of connections opened and closed) that the counted turns served.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim.h"

enum {
    MESSAGE = 64,
    SERVER_CONNS = 16384, /* as `start` has it */
    BATCH = 32,           /* requests that lie in the ring when the server's turn begins */
};

static struct {
    uint32_t replies;
    uint32_t opened;
    uint32_t closed;
    bool quiet; /* do not send on your own */
} seen;

static bool client_step(struct stack *stack, uint32_t conn)
{
    uint32_t len = socket_readable(stack, conn);

    if (stack->service_state[conn] == 0) {
        undo_save(&stack->arena, &stack->service_state[conn]);
        stack->service_state[conn] = 1;
        seen.opened++;
    }
    if (len > 0) {
        socket_consume(stack, conn, len);
        seen.replies += len / MESSAGE;
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

__attribute__((noinline, no_icf)) void bench_server_turn(struct sim *sim);
__attribute__((noinline, no_icf)) void bench_warm_turn(struct sim *sim);

void bench_server_turn(struct sim *sim)
{
    worker_turn(&sim->worker[0], sim->now_us);
}

void bench_warm_turn(struct sim *sim)
{
    worker_turn(&sim->worker[0], sim->now_us);
}

static void client_turn(struct sim *sim)
{
    worker_turn(&sim->client[0].worker, sim->now_us);
    sim->now_us += 20;
}

static void send_request(struct sim *sim, uint32_t conn)
{
    static const uint8_t message[MESSAGE] = "sixty-four bytes of a request, as small messages are";
    struct stack *stack = &sim->client[0].worker.stack;

    if (socket_write(stack, conn, message, MESSAGE) != MESSAGE) {
        fprintf(stderr, "rr_server: a request found no room\n");
        exit(1);
    }
    stack_commit(stack);
    conn_mark_output(stack, conn);
}

static void open_all(struct sim *sim, uint32_t conns, uint32_t *conn_of)
{
    for (uint32_t i = 0; i < conns;) {
        for (uint32_t k = 0; k < BATCH && i < conns; k++, i++) {
            conn_of[i] = sim_connect(sim, 0, (uint16_t)(1024 + i), 7);
        }
        for (int turn = 0; turn < 4; turn++) {
            client_turn(sim);
            bench_warm_turn(sim);
        }
    }
    for (int turn = 0; turn < 20000 && seen.opened < conns; turn++) {
        client_turn(sim);
        bench_warm_turn(sim);
        sim->now_us += 1000; /* the first SYN waited for ARP and is sent again */
    }
}

/* Requests round robin over all connections, a batch in the ring at each counted turn. */
static void request_reply(struct sim *sim, uint32_t conns, uint32_t requests,
                          const uint32_t *conn_of, void (*server_turn)(struct sim *))
{
    uint32_t batch = conns < BATCH ? conns : BATCH;
    uint32_t next = 0;

    for (uint32_t sent = 0; sent < requests; sent += batch) {
        for (uint32_t k = 0; k < batch; k++) {
            send_request(sim, conn_of[next]);
            next = (next + 1) % conns;
        }
        client_turn(sim);
        server_turn(sim);
        client_turn(sim);
    }
}

/* Connections that open, ask nothing and close, a batch at a time. */
static void open_and_close(struct sim *sim, uint32_t conns)
{
    struct stack *stack = &sim->client[0].worker.stack;
    uint32_t conn[BATCH];

    for (uint32_t i = 0; i < conns; i += BATCH) {
        for (uint32_t k = 0; k < BATCH; k++) {
            conn[k] = sim_connect(sim, 0, (uint16_t)(1024 + (i + k) % 60000), 7);
        }
        for (int turn = 0; turn < 3; turn++) {
            client_turn(sim);
            bench_server_turn(sim);
        }
        for (uint32_t k = 0; k < BATCH; k++) {
            socket_shutdown(stack, conn[k]);
            stack_commit(stack);
            conn_mark_output(stack, conn[k]);
        }
        for (int turn = 0; turn < 3; turn++) {
            client_turn(sim);
            bench_server_turn(sim);
        }
        sim->now_us += 1100000; /* past the client's TIME-WAIT */
    }
}

int main(int argc, char **argv)
{
    uint32_t conns = argc > 1 ? (uint32_t)atoi(argv[1]) : 100;
    uint32_t requests = argc > 2 ? (uint32_t)atoi(argv[2]) : 10000;
    bool connect = argc > 3 && strcmp(argv[3], "connect") == 0;
    uint32_t *conn_of = calloc(conns + 1, sizeof(uint32_t));
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 1,
                                         .clients = 1,
                                         .conns = SERVER_CONNS,
                                         .chunks = conns * 2 + 4096,
                                         .seed = 1});
    sim_client_service(&sim, 0, client_table, NULL);
    if (connect) {
        open_and_close(&sim, requests);
        printf("%u\n", seen.closed);
    } else {
        open_all(&sim, conns, conn_of);
        request_reply(&sim, conns, conns > requests / 4 ? conns : requests / 4, conn_of,
                      bench_warm_turn);
        seen.replies = 0;
        request_reply(&sim, conns, requests, conn_of, bench_server_turn);
        printf("%u\n", seen.replies);
    }
    free(conn_of);
    sim_close(&sim);
    return 0;
}
