/* A shard's list of connections as Python gets it: parts, states, what is known of each. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/wire.h"
#include "check.h"
#include "engine_picotcp/picotcp.h"
#include "peer.h"
#include "shardserver.h"
#include "talk.h"

enum {
    LISTENERS = 6, /* sim.c: every service at its usual port */
    DISCARD = 9,
    DAYTIME = 13,
    CHARGEN = 19,
    HELD = 1200,
};

static struct ss_conns_part part;
static struct peer peer;

static const struct ss_server *handle(const struct sim *sim)
{
    return (const struct ss_server *)sim->server;
}

static void read_all(const struct sim *sim)
{
    CHECK_EQ(ss_conns_read(handle(sim), 0, 0, &part), 0);
    CHECK_EQ(part.next, 0);
    CHECK_EQ(part.changing, 0);
}

/* The only connection of the peer's shard, by its state. */
static const struct ss_conn *only_one(const char *state)
{
    static const struct ss_conn none;

    read_all(&peer.sim);
    if (!CHECK_EQ(part.n, LISTENERS + 1)) {
        return &none;
    }
    if (!check_that(strcmp(ss_conn_state_name(part.conn[LISTENERS].state), state) == 0, state,
                    __FILE__, __LINE__)) {
        printf("    it is in %s\n", ss_conn_state_name(part.conn[LISTENERS].state));
    }
    return &part.conn[LISTENERS];
}

static void flags(uint32_t seq, uint32_t ack, uint8_t bits)
{
    peer_send(&peer, &(struct send){.seq = seq, .ack = ack, .flags = bits, .window = 65535});
}

static void end_by_reset(uint32_t seq)
{
    peer_send(&peer, &(struct send){.seq = seq, .flags = TCP_RST});
    peer_close(&peer);
}

static void services_are_listed_first(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2, .seed = 1});
    for (uint32_t shard = 0; shard < 2; shard++) {
        CHECK_EQ(ss_conns_read(handle(&sim), shard, 0, &part), 0);
        CHECK_EQ(part.n, LISTENERS);
        CHECK_EQ(part.next, 0);
        for (uint32_t i = 0; i < part.n; i++) {
            CHECK(strcmp(ss_conn_state_name(part.conn[i].state), "listening") == 0);
            CHECK_EQ(part.conn[i].service, i);
            CHECK_EQ(part.conn[i].laddr, SHARD_IP);
            CHECK(part.conn[i].lport > 0 && part.conn[i].rport == 0);
            CHECK_EQ(part.conn[i].send_q, 1024);
        }
    }
    sim.worker[0].stack.shared->draining = 1;
    read_all(&sim);
    CHECK_EQ(part.n, 0);
    sim_close(&sim);
}

static void arguments_are_checked(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 1, .seed = 1});
    CHECK_EQ(ss_conns_read(NULL, 0, 0, &part), -EINVAL);
    CHECK_EQ(ss_conns_read(handle(&sim), 0, 0, NULL), -EINVAL);
    CHECK_EQ(ss_conns_read(handle(&sim), 1, 0, &part), -EINVAL);
    for (uint32_t shift = 3; shift < 32; shift++) {
        CHECK_EQ(ss_conns_read(handle(&sim), 0, UINT32_MAX >> (31 - shift), &part), 0);
        CHECK_EQ(part.n, 0);
        CHECK_EQ(part.next, 0);
    }
    CHECK(ss_conn_state_name(0) && ss_conn_timer_name(0));
    CHECK(!ss_conn_state_name(11) && !ss_conn_timer_name(SS_CONN_TIMERS));
    sim_close(&sim);
}

/* A client that connects and says nothing. */
static bool mute_step(struct stack *stack, uint32_t conn)
{
    (void)stack, (void)conn;
    return false;
}

static void mute_closed(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    (void)stack, (void)conn, (void)reason;
}

static const struct service mute = {.name = "mute", .step = mute_step, .closed = mute_closed};
static const struct service *const mute_table[] = {&mute, NULL};

static void a_long_list_comes_in_parts_and_holds_each_once(void)
{
    static uint8_t seen[HELD];
    struct sim sim;
    uint32_t from = 0;
    uint32_t parts = 0;

    memset(seen, 0, sizeof(seen));
    sim_open(&sim, &(struct sim_options){.shards = 1, .clients = 1, .conns = 2 * HELD, .seed = 1});
    sim_client_service(&sim, 0, mute_table, NULL);
    for (uint32_t i = 0; i < HELD; i++) {
        CHECK(sim_connect(&sim, 0, (uint16_t)(20000 + i), 7) != CONN_NONE);
        if (i == HELD / 2) { /* the backlog takes no more at once */
            sim_run(&sim, 1500000);
        }
    }
    sim_run(&sim, 1500000);
    CHECK_EQ(sim.worker[0].stack.shared->conns_active, HELD);
    do {
        CHECK_EQ(ss_conns_read(handle(&sim), 0, from, &part), 0);
        CHECK_EQ(part.changing, 0);
        for (uint32_t i = from == 0 ? LISTENERS : 0; i < part.n; i++) {
            CHECK(strcmp(ss_conn_state_name(part.conn[i].state), "established") == 0);
            seen[part.conn[i].rport - 20000]++;
        }
        from = part.next;
        parts++;
    } while (from != 0 && parts < 10);
    CHECK_EQ(parts, 3);
    for (uint32_t i = 0; i < HELD; i++) {
        CHECK_EQ(seen[i], 1);
    }
    sim_close(&sim);
}

static uint32_t resident_pages(const void *start, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t first = ((uintptr_t)start + page - 1) / page * page;
    size_t pages = ((uintptr_t)start + bytes - first) / page;
    unsigned char *in = calloc(pages, 1);
    uint32_t count = 0;

    CHECK_EQ(mincore((void *)first, pages * page, in), 0);
    for (size_t i = 0; i < pages; i++) {
        count += in[i] & 1;
    }
    free(in);
    return count;
}

static void reading_uses_no_memory_that_connections_never_used(void)
{
    struct sim sim;
    size_t bytes = 100000 * sizeof(struct conn_hot);

    sim_open(&sim, &(struct sim_options){.shards = 1, .clients = 1, .conns = 100000, .seed = 1});
    talk_echo(&sim, 3, 100, 5000000);
    sim_run(&sim, 3000000);
    read_all(&sim);
    CHECK_EQ(part.n, LISTENERS);
    CHECK(resident_pages(sim.worker[0].stack.hot, bytes) <= 512); /* one huge page at most */
    sim_close(&sim);
}

static void a_connection_is_seen_from_its_syn_to_its_end(void)
{
    const struct ss_conn *conn;

    peer_open(&peer);
    peer.tcp_port = DAYTIME;
    flags(0, 0, TCP_SYN);
    conn = only_one("syn-recv");
    CHECK_EQ(part.conn[0].recv_q, 1); /* half open, of the shard */
    CHECK_EQ(conn->timer, SS_CONN_RETRANSMIT);
    peer.irs = peer_next(&peer)->seq;
    flags(1, 1, TCP_ACK); /* it says its line and closes */
    conn = only_one("fin-wait-1");
    CHECK_EQ(conn->unacked, conn->send_q + 1);
    CHECK_EQ(conn->knows, SS_CONN_TCP | SS_CONN_ACTIVE | SS_CONN_TIMER);
    flags(1, 1 + conn->unacked, TCP_ACK);
    conn = only_one("fin-wait-2");
    CHECK_EQ(conn->unacked, 0);
    CHECK_EQ(conn->send_q, 0);
    flags(1, 1 + peer_next(&peer)->len + 1, TCP_ACK | TCP_FIN);
    conn = only_one("time-wait");
    CHECK_EQ(conn->timer, SS_CONN_TIMEWAIT);
    peer_run(&peer, 2000000);
    read_all(&peer.sim);
    CHECK_EQ(part.n, LISTENERS);
    peer_close(&peer);
}

static void a_closed_window_is_seen_as_a_full_queue_that_is_probed(void)
{
    const struct ss_conn *conn;

    peer_open(&peer);
    peer_connect(&peer, CHARGEN);
    peer_send(&peer, &(struct send){.seq = 1, .ack = 1, .flags = TCP_ACK, .window = 0});
    peer_run(&peer, 10000);
    conn = only_one("established");
    CHECK(conn->send_q > 0);
    CHECK_EQ(conn->raddr, PEER_IP);
    CHECK_EQ(conn->rport, peer.local_port);
    CHECK_EQ(conn->lport, CHARGEN);
    CHECK_EQ(conn->mss, 1460);
    CHECK(conn->knows & SS_CONN_ACTIVE);
    CHECK_EQ(conn->cwnd % conn->mss, 0);
    peer_send(&peer,
              &(struct send){.seq = 1, .ack = 1 + conn->unacked, .flags = TCP_ACK, .window = 0});
    peer_run(&peer, 10000);
    conn = only_one("established");
    CHECK_EQ(conn->unacked, 0);
    CHECK_EQ(conn->snd_wnd, 0);
    CHECK(conn->send_q > 0);
    CHECK(conn->knows & SS_CONN_TIMER);
    CHECK_EQ(conn->timer, SS_CONN_PERSIST);
    end_by_reset(1);
}

static void bytes_before_a_hole_and_an_unheard_reply_are_seen(void)
{
    const struct ss_conn *conn;

    peer_open(&peer);
    peer_connect(&peer, 7);
    peer_send(
        &peer,
        &(struct send){
            .seq = 101, .ack = 1, .flags = TCP_ACK, .window = 65535, .payload = "after", .len = 5});
    CHECK_EQ(only_one("established")->ooo, 5);
    peer_send(
        &peer,
        &(struct send){
            .seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535, .payload = "here", .len = 4});
    conn = only_one("established");
    CHECK_EQ(conn->unacked, 4);
    CHECK_EQ(conn->send_q, 4);
    CHECK_EQ(conn->retries, 0);
    peer_run(&peer, 4000000); /* time-outs */
    conn = only_one("established");
    CHECK(conn->retries >= 1);
    CHECK(conn->rto_us > 1000000);
    CHECK_EQ(conn->cwnd, conn->mss);
    end_by_reset(5);
}

/* A worker that was taken over may write anything into its arena; who reads it serves others. */
static void nonsense_in_the_arena_stops_no_reader(void)
{
    struct sim sim;
    struct stack *stack;
    uint64_t seed = 4;
    uint64_t described = 0;

    sim_open(&sim, &(struct sim_options){.shards = 1, .clients = 1, .conns = 128, .seed = 1});
    stack = &sim.worker[0].stack;
    for (uint32_t round = 0; round < 40; round++) {
        uint64_t *word = (uint64_t *)(void *)stack->shared;
        uint32_t from = 0;
        uint32_t parts = 0;

        for (; (uint8_t *)word < stack->chunks; word++) {
            uint64_t noise = splitmix64(&seed);

            *word = round % 2 ? noise : noise & 0x0303030303030303; /* many valid small numbers */
        }
        for (uint32_t i = 0; i < 128; i += 2) {
            stack->hot[i].active = NONE;
        }
        stack->arena.undo->count = (uint32_t)splitmix64(&seed);
        do {
            CHECK_EQ(ss_conns_read(handle(&sim), 0, from, &part), 0);
            CHECK(part.n <= 512 && (part.next == 0 || part.next > from));
            for (uint32_t i = 0; i < part.n; i++) {
                CHECK(ss_conn_state_name(part.conn[i].state) != NULL);
                described++;
            }
            from = part.next;
        } while (from != 0 && ++parts < 64);
        CHECK_EQ(from, 0);
    }
    CHECK(described > 100);
    stack->arena.undo->count = 0;
    sim_close(&sim);
}

/* picoTCP's own state is in its worker: what is here is state, addresses and our queues. */
static void with_picotcp_only_what_the_arena_holds_is_told(void)
{
    char error[PORT_ERROR_MAX];
    struct picotcp_library library;
    struct sim sim;

    if (picotcp_library_open(&library, error, sizeof(error)) != 0) {
        check_skip("no picoTCP here: make picotcp");
        return;
    }
    picotcp_library_close(&library);
    sim_open(&sim, &(struct sim_options){
                       .shards = 1, .clients = 1, .conns = 512, .seed = 1, .picotcp = true});
    sim_client_service(&sim, 0, mute_table, NULL);
    for (uint32_t i = 0; i < 300; i++) {
        CHECK(sim_connect(&sim, 0, (uint16_t)(20000 + i), 7) != CONN_NONE);
    }
    sim_connect(&sim, 0, 30000, DAYTIME);
    sim_run(&sim, 6000000);
    read_all(&sim);
    CHECK_EQ(part.conn[0].send_q, PICOTCP_BACKLOG_MAX);
    CHECK_EQ(part.n, LISTENERS + 301);
    for (uint32_t i = LISTENERS; i < part.n; i++) {
        const struct ss_conn *conn = &part.conn[i];
        const char *state = conn->lport == DAYTIME ? "fin-wait-1" : "established";

        CHECK(strcmp(ss_conn_state_name(conn->state), state) == 0);
        CHECK_EQ(conn->knows, 0);
        CHECK_EQ(conn->mss | conn->cwnd | conn->srtt_us | conn->unacked, 0);
        CHECK_EQ(conn->raddr, SHARD_IP + 1);
        CHECK(conn->rport == 30000 || (conn->rport >= 20000 && conn->rport < 20300));
    }
    sim_close(&sim);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"services are listed first", services_are_listed_first},
        {"arguments are checked", arguments_are_checked},
        {"a long list comes in parts and holds each once",
         a_long_list_comes_in_parts_and_holds_each_once},
        {"reading uses no memory that connections never used",
         reading_uses_no_memory_that_connections_never_used},
        {"a connection is seen from its SYN to its end",
         a_connection_is_seen_from_its_syn_to_its_end},
        {"a closed window is seen as a full queue that is probed",
         a_closed_window_is_seen_as_a_full_queue_that_is_probed},
        {"bytes before a hole and an unheard reply are seen",
         bytes_before_a_hole_and_an_unheard_reply_are_seen},
        {"nonsense in the arena stops no reader", nonsense_in_the_arena_stops_no_reader},
        {"with picoTCP only what the arena holds is told",
         with_picotcp_only_what_the_arena_holds_is_told},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
