/*
 * Load over a mem: device: our own stack as the client, one link, one arena of its own. The
 * connections' talk is a service like any other. Start reading at load_run_mem.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/load.h"
#include "stack/arp.h"
#include "stack/ipv4.h"
#include "stack/socket.h"
#include "worker/server.h"
#include "worker/wait.h"

enum {
    FIRST_PORT = 1024,
    PORTS = 64000,
    RESOLVE_US = 5000000,
    PIECE = 4096,
    NAP_US = 1000,
    TICK_TURNS = 256, /* turns between two looks for silent connections */
};

struct mem_client {
    struct load load;
    struct mem_attachment *attachment;
    struct port port;
    struct device device;
    struct server *server;
    struct worker worker;
    uint32_t *index_of; /* stack connection -> load connection */
    uint32_t *conn_of;  /* and back */
};

static struct mem_client *client_of(struct stack *stack)
{
    return stack->service_data;
}

static void read_all(struct stack *stack, uint32_t conn, uint32_t index)
{
    struct mem_client *client = client_of(stack);
    uint32_t len;
    const uint8_t *bytes;

    while ((bytes = socket_peek(stack, conn, &len)) != NULL) {
        load_received(&client->load, index, bytes, len, load_clock_ns());
        socket_consume(stack, conn, len);
    }
}

static void write_some(struct stack *stack, uint32_t conn, uint32_t index)
{
    struct mem_client *client = client_of(stack);
    const struct load_conn *talk = &client->load.conns[index];
    uint64_t wants;

    while ((wants = load_wants(&client->load, index)) > 0) {
        uint8_t piece[PIECE];
        uint32_t len = wants < PIECE ? (uint32_t)wants : PIECE;
        uint32_t done;

        pattern_fill(talk->pattern, talk->sent, piece, len);
        done = socket_write(stack, conn, piece, len);
        if (done == 0) {
            return;
        }
        load_sent(&client->load, index, done, load_clock_ns());
    }
    if (load_is_over(&client->load, index)) {
        socket_shutdown(stack, conn);
        client->load.conns[index].state = LOAD_ENDING;
    }
}

static bool talk_step(struct stack *stack, uint32_t conn)
{
    struct mem_client *client = client_of(stack);
    uint32_t index = client->index_of[conn];
    struct load_conn *talk = &client->load.conns[index];

    if (talk->state == LOAD_CONNECTING) {
        load_opened(&client->load, index, stack->now_us);
    }
    read_all(stack, conn, index);
    write_some(stack, conn, index);
    if (socket_eof(stack, conn)) {
        bool whole = talk->state == LOAD_ENDING && talk->received == talk->sent;

        load_done(&client->load, index,
                  whole ? &client->load.stats->finished : &client->load.stats->resets);
        socket_shutdown(stack, conn);
    }
    return false;
}

static void talk_closed(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    struct mem_client *client = client_of(stack);
    struct ss_load_stats *stats = client->load.stats;
    uint64_t *counter = &stats->resets;

    if (reason == CLOSE_REFUSED) {
        counter = &stats->refused;
    } else if (reason == CLOSE_TIMEOUT) {
        counter = &stats->timeouts;
    }
    load_done(&client->load, client->index_of[conn], counter);
}

static const struct service talk = {.name = "load", .step = talk_step, .closed = talk_closed};
static const struct service *const talk_table[] = {&talk, NULL};

static void make_config(const struct mem_client *client, const struct ss_load_options *options,
                        struct stack_config *config)
{
    uint32_t link = mem_attachment_link(client->attachment);
    uint32_t own = (options->ip & 0xffff0000u) | (link + 1) << 8 | 1;
    uint32_t chunks = options->connections * 3 + 4096;

    *config = (struct stack_config){
        .ip = htonl(options->source_ip ? options->source_ip : own),
        .netmask = htonl(0xffff0000u),
        .mtu = (uint16_t)mem_attachment_mtu(client->attachment),
        .shards = 1,
        .conns_max = options->connections + 64,
        .actives_max = options->connections + 64,
        .chunks_max = chunks,
        .rcv_buf = 262144,
        .snd_buf = 262144,
        .backlog_max = 1,
        .rto_min_us = 200000,
        .rto_initial_us = 1000000,
        .delack_us = 40000,
        .time_wait_us = 1000000,
        .retries_max = 15,
        .nodelay = 1,
    };
    memcpy(config->mac, mem_attachment_mac(client->attachment, false), 6);
}

static int open_stack(struct mem_client *client, const struct ss_load_options *options, char *error)
{
    static const uint64_t no_secret[2];
    struct stack_config config;
    uint32_t unused;
    int code;

    make_config(client, options, &config);
    client->device = (struct device){.rings = 1};
    snprintf(client->device.name, sizeof(client->device.name), "mem:%.50s", options->device);
    client->device.ports[0] = client->port;
    code = server_create(&client->server, &client->device, &config, no_secret, error);
    if (code != 0) {
        return code;
    }
    server_worker_init(client->server, 0, &client->worker);
    code = worker_adopt(&client->worker, worker_clock_us(), &unused, &unused);
    client->worker.stack.services = talk_table;
    client->worker.stack.service_data = client;
    client->index_of = calloc(config.conns_max, sizeof(uint32_t));
    client->conn_of = calloc(options->connections, sizeof(uint32_t));
    return code == 0 && (!client->index_of || !client->conn_of) ? -ENOMEM : code;
}

static void close_all(struct mem_client *client)
{
    free(client->index_of);
    free(client->conn_of);
    if (client->server) {
        stack_detach(&client->worker.stack);
        server_destroy(client->server);
    }
    faulty_unwrap(&client->port);
    if (client->attachment) {
        mem_detach(client->attachment);
    }
    load_free(&client->load);
}

static int turn(struct mem_client *client)
{
    int work = worker_turn(&client->worker, worker_clock_us());

    if (work == 0) {
        wait_for_work(&client->worker.stack, NAP_US);
    }
    return work < 0 ? work : 0;
}

/* Asks for the server's MAC first, so that no SYN waits for it. */
static int resolve(struct mem_client *client, char *error)
{
    struct stack *stack = &client->worker.stack;
    const struct ss_load_options *options = client->load.options;
    uint64_t end_us = worker_clock_us() + RESOLVE_US;
    uint32_t hop = stack_next_hop(stack->config, htonl(options->ip));

    while (!arp_resolve(stack, hop)) {
        int code = turn(client);

        if (code == 0 && worker_clock_us() > end_us) {
            snprintf(error, SS_ERROR_MAX,
                     "mem:%s: nobody answers for the target address: is the server running, and "
                     "on this address?",
                     options->device);
            return -EHOSTUNREACH;
        }
        if (code != 0) {
            return code;
        }
    }
    return 0;
}

static void connect_next(struct mem_client *client)
{
    struct stack *stack = &client->worker.stack;
    const struct ss_load_options *options = client->load.options;
    uint32_t index = client->load.opened;
    struct tuple tuple = {.laddr = stack->config->ip,
                          .raddr = htonl(options->ip),
                          .lport = htons((uint16_t)(FIRST_PORT + index % PORTS)),
                          .rport = htons((uint16_t)options->tcp_port)};
    uint32_t conn = socket_connect(stack, &tuple, 0);

    stack_commit(stack);
    client->load.opened++;
    if (conn == CONN_NONE) {
        load_done(&client->load, index, &client->load.stats->refused);
        return;
    }
    client->index_of[conn] = index;
    client->conn_of[index] = conn;
    load_begun(&client->load, index, stack->now_us);
}

/* Connections that wait for `go`, for the end, or that fell silent. */
static void look_at_all(struct mem_client *client, uint64_t now_us)
{
    struct stack *stack = &client->worker.stack;
    struct load *load = &client->load;

    for (uint32_t i = 0; i < load->opened; i++) {
        struct load_conn *talk_conn = &load->conns[i];
        bool waits = talk_conn->state == LOAD_CONNECTING || talk_conn->sent > talk_conn->received ||
                     talk_conn->state == LOAD_ENDING;

        if (talk_conn->state == LOAD_DONE || talk_conn->state == LOAD_IDLE) {
            continue;
        }
        if (load->options->timeout_us && waits &&
            now_us > talk_conn->active_us + load->options->timeout_us) {
            load_done(load, i, &load->stats->timeouts);
            socket_abort(stack, client->conn_of[i]);
            stack_commit(stack);
        } else if (talk_conn->state == LOAD_OPEN) {
            conn_mark_ready(stack, client->conn_of[i]);
        }
    }
}

static int run(struct mem_client *client, char *error)
{
    struct load *load = &client->load;
    bool was_ending = false;
    bool was_going = false;
    uint32_t turns = 0;

    while (load_goes_on(load, worker_clock_us())) {
        uint64_t now_us = worker_clock_us();
        bool going = *(volatile uint64_t *)&load->stats->go;
        int code;

        while (load_may_connect(load)) {
            connect_next(client);
        }
        if (load->ending != was_ending || going != was_going || ++turns % TICK_TURNS == 0) {
            was_ending = load->ending;
            was_going = going;
            look_at_all(client, now_us);
        }
        code = turn(client);
        if (code == 0 && turns % TICK_TURNS == 0 && !mem_attachment_alive(client->attachment)) {
            code = -EPIPE;
        }
        if (code != 0) {
            snprintf(error, SS_ERROR_MAX, "mem:%s: the device is gone: its server has ended",
                     load->options->device);
            return code;
        }
    }
    return 0;
}

/* Lets the last ACKs out: a peer should not wait for them. */
static void linger(struct mem_client *client)
{
    uint64_t end_us = worker_clock_us() + 20000;

    while (worker_clock_us() < end_us && turn(client) == 0) {
        continue;
    }
    for (uint32_t i = 0; i < client->load.options->connections; i++) {
        if (client->load.conns[i].state != LOAD_DONE && client->load.conns[i].state != LOAD_IDLE) {
            load_done(&client->load, i, &client->load.stats->timeouts);
        }
    }
}

int load_run_mem(const struct ss_load_options *options, struct ss_load_stats *stats, char *error)
{
    struct mem_client *client = calloc(1, sizeof(*client));
    int code = client ? load_init(&client->load, options, stats, error) : -ENOMEM;

    if (code == 0) {
        code = mem_attach(&client->attachment, options->device, error);
    }
    if (code == 0) {
        client->port = *mem_attachment_port(client->attachment);
        if (options->faults[0] != '\0') {
            code = faulty_wrap(&client->port, options->faults, options->seed, error);
        }
    }
    if (code == 0) {
        code = open_stack(client, options, error);
    }
    if (code == 0) {
        code = resolve(client, error);
    }
    if (code == 0) {
        code = run(client, error);
    }
    if (code == 0) {
        linger(client);
    }
    if (client) {
        close_all(client);
        free(client);
    }
    return code;
}
