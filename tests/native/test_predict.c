/*
 * Header prediction (stack/tcp/predict.c) decides nothing: two clusters hear the same segments, one
 * with prediction and one without, and must say the same, count the same and remember the same. One
 * thing does differ by design: of several segments in one burst, predicted ones are answered
 * singly, and before what older connections have to say.
 */
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/wire.h"
#include "check.h"
#include "peer.h"
#include "stack/chunk.h"
#include "stack/tcp/tcp.h"
#include "talk.h"
#include "trace.h"

enum {
    FLOWS = 5,
    ROUNDS = 4000,
};

/* One of the connections that both peers hold, in numbers relative to the initial ones. */
struct flow {
    uint16_t local_port;
    uint16_t tcp_port;
    uint16_t window;
    uint32_t irs;
    uint32_t snd;   /* what we send next */
    uint32_t acked; /* what they have of it */
    uint32_t rcv;   /* what they send next */
    uint32_t seen;  /* what we acknowledge of it */
};

/* Twins: the first predicts, the second takes the long way. */
static struct peer twin[2];
static struct flow flows[FLOWS];
static uint64_t dice_state;
static uint64_t predicted;
static bool parted; /* they differ: reported once */

static const uint16_t tcp_ports[FLOWS] = {7, 7, 9, 19, 80};

static uint32_t dice(uint32_t n)
{
    return (uint32_t)(splitmix64(&dice_state) % n);
}

static const struct stack *stack_of(uint32_t i)
{
    return &twin[i].sim.worker[0].stack;
}

static uint64_t queue_hash(const struct stack *stack, const struct chunk_queue *queue)
{
    uint64_t hash = queue->bytes;

    for (uint32_t i = queue->head; i != NONE; i = chunk_at(stack, i)->next) {
        const struct chunk *chunk = chunk_at(stack, i);

        for (uint32_t at = chunk->start; at < chunk->end; at++) {
            hash = hash * 1099511628211u + chunk_data(stack, i)[at];
        }
    }
    return hash;
}

/* A record without what may differ: where a chunk lies, a cached place, the switch itself. */
static struct conn_active plain(const struct stack *stack, const struct conn_active *active)
{
    struct conn_active copy = *active;

    copy.snd = (struct chunk_queue){.bytes = (uint32_t)queue_hash(stack, &active->snd)};
    copy.rcv = (struct chunk_queue){.bytes = (uint32_t)queue_hash(stack, &active->rcv)};
    copy.ooo = (struct chunk_queue){.bytes = (uint32_t)queue_hash(stack, &active->ooo)};
    copy.cur_chunk = copy.cur_off = copy.spare_chunk = 0;
    copy.flags &= ~(uint32_t)ACTIVE_SLOW;
    return copy;
}

static bool same_conn(uint32_t conn)
{
    const struct conn_active *one = conn_active_of(stack_of(0), conn);
    const struct conn_active *other = conn_active_of(stack_of(1), conn);
    struct conn_active plain_one;
    struct conn_active plain_other;

    if (memcmp(&stack_of(0)->hot[conn], &stack_of(1)->hot[conn], sizeof(struct conn_hot)) != 0 ||
        memcmp(&stack_of(0)->cold[conn], &stack_of(1)->cold[conn], sizeof(struct conn_cold)) != 0 ||
        stack_of(0)->service_state[conn] != stack_of(1)->service_state[conn]) {
        return false;
    }
    if (stack_of(0)->hot[conn].state == CONN_FREE) {
        return true;
    }
    if (!one || !other) {
        return one == other;
    }
    predicted += one->spare_chunk != NONE; /* only prediction keeps one */
    CHECK_EQ(other->spare_chunk, NONE);
    plain_one = plain(stack_of(0), one);
    plain_other = plain(stack_of(1), other);
    return memcmp(&plain_one, &plain_other, sizeof(plain_one)) == 0;
}

static void compare_counters(void)
{
    for (enum verdict v = 0; v < VERDICT_COUNT; v++) {
        if (stack_of(0)->stats->verdict[v] != stack_of(1)->stats->verdict[v]) {
            parted = !CHECK_EQ(stack_of(0)->stats->verdict[v], stack_of(1)->stats->verdict[v]);
            printf("    verdict %s\n", stats_verdict_name(v));
        }
    }
    for (enum counter c = 0; c < COUNTER_COUNT; c++) {
        if (c != COUNTER_chunks_free &&
            stack_of(0)->stats->counter[c] != stack_of(1)->stats->counter[c]) {
            parted = !CHECK_EQ(stack_of(0)->stats->counter[c], stack_of(1)->stats->counter[c]);
            printf("    counter %s\n", stats_counter_name(c));
        }
    }
}

/* The first answer of a connection from `at` on; answers_n: none. */
static uint32_t next_answer(const struct peer *peer, uint16_t to_port, uint32_t at)
{
    while (at < peer->answers_n && peer->answers[at].to_port != to_port) {
        at++;
    }
    return at;
}

/* Each connection's answers in their order; between connections there is none. */
static bool same_answers(void)
{
    for (uint32_t i = 0; i < twin[0].answers_n; i++) {
        uint16_t to_port = twin[0].answers[i].to_port;
        uint32_t before = 0;
        uint32_t at;

        for (uint32_t k = 0; k < i; k++) {
            before += twin[0].answers[k].to_port == to_port;
        }
        at = next_answer(&twin[1], to_port, 0);
        while (before-- > 0) {
            at = next_answer(&twin[1], to_port, at + 1);
        }
        if (at >= twin[1].answers_n ||
            memcmp(&twin[0].answers[i], &twin[1].answers[at], sizeof(struct answer)) != 0) {
            return false;
        }
    }
    return true;
}

static void compare_twins(void)
{
    if (parted) {
        return;
    }
    if (!CHECK_EQ(twin[0].answers_n, twin[1].answers_n) || !CHECK(same_answers())) {
        parted = true;
    }
    for (uint32_t conn = 0; conn < stack_of(0)->config->conns_max; conn++) {
        if (!same_conn(conn)) {
            printf("    connection %u, port %u, state %u\n", conn,
                   stack_of(0)->hot[conn].tuple.lport >> 8, stack_of(0)->hot[conn].state);
            CHECK(!"the same state");
            parted = true;
        }
    }
    compare_counters();
}

/* What the flows learn from the answers. */
static void learn(void)
{
    for (uint32_t i = 0; i < twin[0].answers_n; i++) {
        const struct answer *answer = &twin[0].answers[i];

        for (uint32_t f = 0; f < FLOWS; f++) {
            struct flow *flow = &flows[f];
            uint32_t end = answer->seq - flow->irs + answer->len + !!(answer->flags & TCP_FIN);

            if (answer->to_port != flow->local_port || (answer->flags & TCP_RST)) {
                continue;
            }
            flow->acked = answer->ack - 1000000;
            if (answer->flags & TCP_SYN) {
                flow->irs = answer->seq;
                flow->rcv = flow->seen = 1;
            } else if (seq_gt(end, flow->rcv)) {
                flow->rcv = end;
            }
        }
    }
    peer_flush(&twin[0]);
    peer_flush(&twin[1]);
}

static void run(uint64_t us)
{
    for (uint32_t i = 0; i < 2; i++) {
        peer_run(&twin[i], us);
    }
    compare_twins();
    learn();
}

static void post(const struct flow *flow, const struct send *send)
{
    for (uint32_t i = 0; i < 2; i++) {
        twin[i].local_port = flow->local_port;
        twin[i].tcp_port = flow->tcp_port;
        twin[i].iss = 1000000;
        twin[i].irs = flow->irs;
        peer_post(&twin[i], send);
    }
}

/* What any flow sends at `seq`, so that overlapping segments agree. */
static const char *text(uint32_t seq)
{
    static char bytes[PEER_PAYLOAD_MAX];
    static const char words[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    for (uint32_t i = 0; i < sizeof(bytes); i++) {
        bytes[i] = words[(seq + i) % (sizeof(words) - 1)];
    }
    return bytes;
}

/* A segment of `len` bytes at `seq` that acknowledges `ack`. */
static void say(const struct flow *flow, uint32_t seq, uint32_t ack, uint32_t len)
{
    post(flow, &(struct send){.seq = seq,
                              .ack = ack,
                              .flags = (uint8_t)(TCP_ACK | (dice(2) ? TCP_PSH : 0)),
                              .window = flow->window,
                              .payload = len ? text(seq) : NULL,
                              .len = len});
}

static uint32_t some_len(void)
{
    return 1 + (dice(3) ? dice(100) : dice(1460));
}

static void say_next(struct flow *flow)
{
    uint32_t len = some_len();

    flow->seen = flow->rcv;
    say(flow, flow->snd, flow->seen, len);
    flow->snd += len;
}

static void open_flow(struct flow *flow)
{
    static uint16_t next_port = 30000;
    static const uint8_t options[] = {2, 4, 1460 >> 8, 1460 & 255, 1, 3, 3, 2};
    bool scaled = dice(2);

    flow->local_port = next_port++;
    flow->window = scaled ? 16000 : 64000;
    post(flow,
         &(struct send){
             .flags = TCP_SYN, .window = 64000, .options = options, .options_len = scaled ? 8 : 4});
    run(200);
    flow->snd = 1;
    say(flow, 1, 1, 0);
    run(200);
}

/* The end of a flow, one way or another, and a new one in its place. */
static void replace(struct flow *flow)
{
    if (dice(2)) {
        post(flow, &(struct send){.seq = flow->snd,
                                  .ack = flow->rcv,
                                  .flags = TCP_ACK | TCP_FIN,
                                  .window = 64000,
                                  .payload = text(flow->snd),
                                  .len = 20});
        flow->snd += 21;
        for (uint32_t i = 0; i < 30; i++) {
            run(500);
            say(flow, flow->snd, flow->rcv, 0);
        }
    }
    post(flow, &(struct send){.seq = flow->snd, .flags = TCP_RST});
    run(1000);
    open_flow(flow);
}

/* Turn after turn. Within a burst a predicted request is answered at once, others together. */
static void say_quickly(struct flow *flow)
{
    for (uint32_t i = 2 + dice(3); i > 0; i--) {
        say_next(dice(2) ? flow : &flows[dice(FLOWS)]);
        run(SIM_STEP_US);
    }
}

static void say_oddly(struct flow *flow)
{
    static const uint8_t nops[] = {1, 1, 1, 1};
    struct send send = {.seq = flow->snd,
                        .ack = flow->rcv,
                        .flags = TCP_ACK,
                        .window = flow->window,
                        .payload = text(flow->snd),
                        .len = some_len()};

    switch (dice(6)) {
    case 0:
        send.damaged = true;
        break;
    case 1:
        send.options = nops;
        send.options_len = sizeof(nops);
        flow->snd += send.len;
        break;
    case 2:
        send.flags |= dice(2) ? TCP_URG : 0x40;
        flow->snd += send.len;
        break;
    case 3:
        send.flags = dice(2) ? TCP_SYN : TCP_RST;
        send.seq += 1 + dice(9);
        break;
    case 4:
        send.ack += 1 + dice(5000);
        break;
    default:
        send.flags = 0;
    }
    post(flow, &send);
}

static void change_window(struct flow *flow)
{
    static const uint16_t windows[] = {0, 1, 700, 3000, 16000, 64000};

    flow->window = windows[dice(6)];
    if (dice(2)) {
        say(flow, flow->snd, flow->rcv, 0);
    }
}

static void say_unusually(struct flow *flow)
{
    uint32_t flight = flow->rcv - flow->seen;

    switch (dice(9)) {
    case 0:
        say(flow, flow->snd, flow->rcv, 0);
        flow->seen = flow->rcv;
        break;
    case 1:
        flow->seen += flight ? dice(flight) : 0;
        say(flow, flow->snd, flow->seen, dice(2) ? some_len() : 0);
        break;
    case 2:
        for (uint32_t i = 1 + dice(5); i > 0; i--) {
            say(flow, flow->snd, flow->seen, 0);
        }
        break;
    case 3:
        say(flow, flow->snd - dice(flow->snd < 3000 ? flow->snd : 3000), flow->rcv, some_len());
        break;
    case 4:
        say(flow, flow->snd + 1 + dice(3000), flow->rcv, some_len());
        break;
    case 5:
        change_window(flow);
        break;
    case 6:
        say_quickly(flow);
        break;
    case 7:
        say_oddly(flow);
        break;
    default:
        run(dice(8) ? 1000 * dice(60) : 1000 * (200 + dice(600)));
        flow->snd = flow->acked; /* resends what was lost */
        flow->window = dice(2) ? 64000 : flow->window;
    }
}

static void open_twins(void)
{
    peer_open(&twin[0]);
    peer_open(&twin[1]);
    twin[1].sim.worker[0].stack.active_flags = ACTIVE_SLOW;
    parted = false;
    predicted = 0;
}

static void close_twins(void)
{
    for (uint32_t i = 0; i < 2; i++) {
        struct stack *stack = &twin[i].sim.worker[0].stack;

        for (uint32_t conn = 0; conn < stack->config->conns_max; conn++) {
            if (stack->hot[conn].state != CONN_FREE) {
                socket_abort(stack, conn);
                stack_commit(stack);
            }
        }
        peer_run(&twin[i], 1000);
        peer_close(&twin[i]);
    }
}

static void converse(uint64_t seed)
{
    dice_state = seed;
    open_twins();
    for (uint32_t i = 0; i < FLOWS; i++) {
        flows[i].tcp_port = tcp_ports[i];
        open_flow(&flows[i]);
    }
    for (uint32_t i = 0; i < ROUNDS && !parted; i++) {
        struct flow *flow = &flows[dice(FLOWS)];

        if (dice(200) == 0) {
            replace(flow);
        } else if (dice(4)) {
            say_next(flow);
        } else {
            say_unusually(flow);
        }
        run(dice(4) ? 200 : 50);
        if (parted) {
            printf("    seed %llu, round %u\n", (unsigned long long)seed, i);
        }
    }
    CHECK(predicted > ROUNDS / 4);
    close_twins();
}

static void the_long_way_says_the_same(void)
{
    for (uint64_t seed = 1; seed <= 4; seed++) {
        converse(seed);
    }
}

/* A connection so old that its congestion window stands at its limit. */
static void old_connections_grow_no_further(void)
{
    open_twins();
    dice_state = 3;
    flows[0].tcp_port = 7;
    open_flow(&flows[0]);
    say_next(&flows[0]);
    run(200);
    for (uint32_t i = 0; i < 2; i++) {
        struct stack *stack = &twin[i].sim.worker[0].stack;
        uint32_t conn = stack->config->conns_max - 1;

        while (stack->hot[conn].active == NONE) {
            conn--;
        }
        stack->active[stack->hot[conn].active].cwnd = (1 << 30) - 2000;
    }
    for (uint32_t i = 0; i < 300; i++) {
        say_next(&flows[0]);
        run(200);
    }
    CHECK(predicted > 100);
    close_twins();
}

/* Whole conversations, our stack at both ends, on a bad wire: frame by frame the same. */
static uint64_t traced_run(uint32_t active_flags)
{
    uint64_t frames;
    uint64_t hash;
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2,
                                         .clients = 1,
                                         .seed = 4,
                                         .faults = "drop=1%,reorder=1%,dup=1%,corrupt=0.1%"});
    sim.worker[0].stack.active_flags = active_flags;
    sim.worker[1].stack.active_flags = active_flags;
    sim.client[0].worker.stack.active_flags = active_flags;
    trace_sim(&sim);
    talk_echo(&sim, 40, 900, 600000000);
    talk_echo(&sim, 40, 30000, 600000000);
    hash = trace_end(&frames);
    CHECK(frames > 1000);
    sim_close(&sim);
    return hash;
}

static void conversations_are_the_same_frame_by_frame(void)
{
    CHECK(traced_run(0) == traced_run(ACTIVE_SLOW));
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the long way says, counts and remembers the same", the_long_way_says_the_same},
        {"old connections grow no further", old_connections_grow_no_further},
        {"conversations are the same frame by frame", conversations_are_the_same_frame_by_frame},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
