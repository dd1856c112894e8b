/*
 * A byte-code that drives two interleaved connections against one or two shards: SYN with any
 * options, text at any offset, ACKs, windows, FIN, RST, time, restarts of a shard, flows that
 * change their ring. Every byte that comes back must be the one that its own connection's stream
 * has at that place, every ACK must be of something that was sent. Start reading at run_op.
 */
#include <arpa/inet.h>
#include <string.h>

#include "base/seq.h"
#include "base/wire.h"
#include "check.h"
#include "fuzz.h"
#include "ports/mem.h"

enum {
    CONNS = 2,
    OPS_MAX = 200,
    SYNS_MAX = OPS_MAX, /* each may be answered late */
    TEXT_MAX = 1460,
    CALLED_ISS = 5000,
    SPOKEN_MAX = 128,       /* of daytime, kept to compare repetitions */
    TIME_SHIFT_MAX = 26,    /* 67 s: beyond every timer but the longest back-off */
    TIME_BUDGET = 1u << 29, /* virtual microseconds of one input */
};

enum op {
    OP_SYN,
    OP_TEXT,
    OP_ACK,
    OP_FIN,
    OP_RST,
    OP_TIME,
    OP_WINDOW,
    OP_RAW,
    OP_RESTART,
    OP_MOVE,
    OP_NEW_PORT,
    OP_HOLD,
    OP_DEAF,
    OP_AUTO,
    OP_CONNECT,
    OP_COUNT,
};

static const uint16_t services[] = {7, 9, 19, 13, 80};
static const char request[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
static const char http_reply[] = "HTTP/1.1 200 OK\r\nServer: shardserver\r\nContent-Type: "
                                 "text/plain\r\nContent-Length: 14\r\n\r\nHello, shard.\n";

/* A SYN that we sent: any of the last ones may be answered. */
struct syn {
    bool used;
    uint8_t offered; /* window scale; 0: none */
    uint32_t iss;
    uint32_t sent; /* highest number that we used of its sequence */
};

/* Our end of a connection; sequence numbers are absolute. */
struct end {
    uint16_t local_port;
    uint16_t tcp_port;
    uint16_t window;
    bool open;        /* irs is known */
    bool automatic;   /* ACKs what comes */
    bool called;      /* by the shard: our SYN can only have the number iss */
    bool owes_ack;    /* since the last turn */
    uint8_t deaf;     /* answers still to be ignored */
    uint8_t shift;    /* window scale that we offered, if taken */
    uint8_t spoken_n; /* of daytime's line */
    uint32_t iss;     /* of the SYN that was answered */
    uint32_t irs;     /* theirs */
    uint32_t acked;   /* highest ACK received */
    uint32_t sent;    /* highest number that we used */
    uint32_t got;     /* behind the last byte received */
    uint32_t edge;    /* right edge of all windows that we offered */
    uint32_t syns_n;
    struct syn syns[SYNS_MAX];
    uint8_t spoken[SPOKEN_MAX];
};

struct segment_out {
    uint8_t flags;
    uint32_t seq;
    uint32_t ack;
    uint32_t len; /* of the text */
    const uint8_t *options;
    uint32_t options_len;
};

struct play {
    struct lab lab;
    struct end end[CONNS];
    uint16_t next_port;
    bool held; /* segments go out without turns between them */
    uint64_t time_left;
};

static struct play play;

/* The byte that our stream has at a sequence number. */
static uint8_t text_at(const struct end *end, uint32_t seq)
{
    if (end->tcp_port == 80) {
        return (uint8_t)request[seq % (sizeof(request) - 1)];
    }
    return (uint8_t)(seq * 31 + (seq >> 8) * 7 + end->local_port * 101u);
}

static uint8_t chargen_at(uint32_t offset)
{
    uint32_t line = offset / 74;
    uint32_t column = offset % 74;
    static const uint8_t end[] = {'\r', '\n'};

    return column < 72 ? (uint8_t)(' ' + (line % 95 + column) % 95) : end[column - 72];
}

/* Daytime says what the wall clock says: the first hearing is the reference. */
static bool daytime_same(struct end *end, uint32_t offset, uint8_t byte)
{
    if (offset < end->spoken_n) {
        return end->spoken[offset] == byte;
    }
    if (offset != end->spoken_n || offset >= SPOKEN_MAX) {
        return false;
    }
    end->spoken[end->spoken_n++] = byte;
    return true;
}

static bool byte_right(struct end *end, uint32_t offset, uint8_t byte)
{
    switch (end->tcp_port) {
    case 7:
        return byte == text_at(end, end->iss + 1 + offset);
    case 19:
        return byte == chargen_at(offset);
    case 13:
        return daytime_same(end, offset, byte);
    case 80:
        return byte == (uint8_t)http_reply[offset % (sizeof(http_reply) - 1)];
    default:
        return false; /* discard says nothing */
    }
}

static struct syn *find_syn(struct end *end, uint32_t iss)
{
    for (uint32_t i = 0; i < SYNS_MAX; i++) {
        if (end->syns[i].used && end->syns[i].iss == iss) {
            return &end->syns[i];
        }
    }
    return NULL;
}

static void note_syn(struct end *end, uint32_t iss, uint8_t offered)
{
    struct syn *syn = find_syn(end, iss);

    syn = syn ? syn : &end->syns[end->syns_n++ % SYNS_MAX];
    *syn = (struct syn){true, offered, iss, iss + 1};
}

static void take_syn_ack(struct end *end, const struct wire_tcp *tcp)
{
    uint32_t seq = ntohl(tcp->seq);
    uint32_t ack = ntohl(tcp->ack);
    const struct syn *syn = find_syn(end, ack - 1);

    if (end->open && seq == end->irs && ack == end->iss + 1) {
        return; /* again */
    }
    if (!CHECK(syn != NULL)) {
        return;
    }
    end->open = true;
    end->iss = syn->iss;
    end->irs = seq;
    end->acked = ack;
    end->sent = syn->sent;
    end->got = seq + 1;
    end->edge = seq + 1 + end->window;
    end->shift = tcp->data_off >> 4 > 6 ? syn->offered : 0; /* MSS and window scale */
    end->spoken_n = 0;
}

/* The shard opens a connection to us. */
static void take_syn(struct end *end, const struct wire_tcp *tcp)
{
    uint32_t seq = ntohl(tcp->seq);

    if (end->called && seq == end->irs) {
        return; /* again */
    }
    end->called = true;
    end->open = true;
    end->irs = seq;
    end->got = seq + 1;
    end->edge = seq + 1;
    end->iss = CALLED_ISS;
    end->acked = CALLED_ISS;
    end->sent = CALLED_ISS;
}

static void take_segment(struct end *end, const struct wire_tcp *tcp, const uint8_t *text,
                         uint32_t len)
{
    uint32_t seq = ntohl(tcp->seq);
    uint32_t ack = ntohl(tcp->ack);
    uint32_t offset = seq - end->irs - 1;
    bool right = true;

    if (!CHECK(end->open) || !CHECK(tcp->flags & TCP_ACK)) {
        return;
    }
    CHECK(seq_le(ack, end->sent));
    end->acked = seq_gt(ack, end->acked) ? ack : end->acked;
    for (uint32_t i = 0; i < len; i++) {
        right = right && byte_right(end, offset + i, text[i]);
    }
    CHECK(right);
    CHECK(end->tcp_port != 7 || seq_le(end->iss + 1 + offset + len, end->acked));
    CHECK(len == 0 || seq_le(seq + len, end->edge + 1)); /* one byte may probe */
    if (end->deaf > 0) {
        end->deaf--;
        return;
    }
    len += (tcp->flags & TCP_FIN) != 0;
    if (seq_gt(seq + len, end->got)) {
        end->got = seq + len;
    }
    end->owes_ack |= len > 0;
}

static void say_segment(const char *way, const struct wire_tcp *tcp, uint32_t len)
{
    fuzz_say("%8llu us %s %u-%u flags %02x seq %u ack %u window %u, %u bytes behind the header\n",
             (unsigned long long)play.lab.sim.now_us, way, ntohs(tcp->src_port),
             ntohs(tcp->dst_port), tcp->flags, ntohl(tcp->seq), ntohl(tcp->ack), ntohs(tcp->window),
             len);
}

static void on_frame(void *data, const uint8_t *frame, uint32_t len)
{
    struct play *now = data;
    struct wire_tcp tcp;
    uint32_t text_off;

    if (len < TCP_HEADERS_LEN || frame[12] != 0x08 || frame[13] != 0x00 || frame[23] != 6) {
        return;
    }
    CHECK(lab_tcp_right(frame, len));
    memcpy(&tcp, frame + ETH_HDR_LEN + IPV4_HDR_LEN, sizeof(tcp));
    say_segment("<", &tcp, len - TCP_HEADERS_LEN);
    text_off = ETH_HDR_LEN + IPV4_HDR_LEN + (uint32_t)(tcp.data_off >> 4) * 4;
    if (!CHECK(text_off <= len) || (tcp.flags & TCP_RST)) {
        return;
    }
    for (uint32_t i = 0; i < CONNS; i++) {
        struct end *end = &now->end[i];

        if (ntohs(tcp.dst_port) != end->local_port) {
            continue; /* an older connection's, left open */
        }
        CHECK_EQ(ntohs(tcp.src_port), end->tcp_port);
        if ((tcp.flags & (TCP_SYN | TCP_ACK)) == TCP_SYN) {
            take_syn(end, &tcp);
        } else if (tcp.flags & TCP_SYN) {
            take_syn_ack(end, &tcp);
        } else {
            take_segment(end, &tcp, frame + text_off, len - text_off);
        }
    }
}

static void note_sent(struct end *end, const struct segment_out *out)
{
    uint32_t past =
        out->seq + out->len + ((out->flags & TCP_SYN) != 0) + ((out->flags & TCP_FIN) != 0);
    uint32_t edge = out->ack + ((uint32_t)end->window << end->shift);

    if (past - end->iss < 1u << 30 && past - end->iss > end->sent - end->iss) {
        end->sent = past;
    }
    for (uint32_t i = 0; i < SYNS_MAX; i++) {
        struct syn *syn = &end->syns[i];

        if (syn->used && past - syn->iss < 1u << 30 && past - syn->iss > syn->sent - syn->iss) {
            syn->sent = past;
        }
    }
    if ((out->flags & TCP_ACK) && seq_gt(edge, end->edge)) {
        end->edge = edge;
    }
}

static void emit(struct end *end, const struct segment_out *out)
{
    uint8_t segment[TCP_HDR_LEN + 40 + TEXT_MAX];
    uint8_t frame[ETH_HDR_LEN + IPV4_HDR_LEN + sizeof(segment)];
    uint32_t header = TCP_HDR_LEN + out->options_len;
    uint32_t first = out->seq + ((out->flags & TCP_SYN) != 0);
    struct wire_tcp tcp = {.src_port = htons(end->local_port),
                           .dst_port = htons(end->tcp_port),
                           .seq = htonl(out->seq),
                           .ack = htonl(out->ack),
                           .data_off = (uint8_t)(header / 4 << 4),
                           .flags = out->flags,
                           .window = htons(end->window)};

    say_segment(">", &tcp, out->options_len + out->len);
    memcpy(segment, &tcp, sizeof(tcp));
    if (out->options_len > 0) {
        memcpy(segment + TCP_HDR_LEN, out->options, out->options_len);
    }
    for (uint32_t i = 0; i < out->len; i++) {
        segment[header + i] = text_at(end, first + i);
    }
    if (lab_send(&play.lab, frame, lab_wrap_tcp(&play.lab, frame, segment, header + out->len))) {
        note_sent(end, out);
    }
    if (!play.held) {
        lab_turn(&play.lab);
    }
}

static void op_new_port(struct end *end)
{
    struct end fresh = {.local_port = play.next_port++,
                        .tcp_port = end->tcp_port,
                        .window = end->window,
                        .automatic = end->automatic};

    *end = fresh;
}

/* The largest that any reading of the options could find. */
static uint8_t offered_scale(const uint8_t *options, uint32_t len)
{
    uint8_t offered = 0;

    for (uint32_t i = 0; i + 2 < len; i++) {
        uint8_t shift = options[i + 2] < 14 ? options[i + 2] : 14;

        if (options[i] == 3 && options[i + 1] == 3 && shift > offered) {
            offered = shift;
        }
    }
    return offered;
}

static void op_syn(struct end *end, struct input *input)
{
    static const uint32_t starts[] = {1000000, 0xffffff00, 0x7fffff00, 0xfffffffe};
    uint8_t what = input_u8(input);
    uint32_t options_len = (uint32_t)(what >> 2 & 15) * 4;
    uint8_t options[40] = {0};
    struct segment_out out = {.flags = TCP_SYN, .options = options};
    uint32_t have;
    const uint8_t *bytes;

    options_len = options_len > sizeof(options) ? sizeof(options) : options_len;
    have = options_len;
    bytes = input_bytes(input, &have);
    memcpy(options, bytes, have);
    out.options_len = options_len;
    if (end->called) {
        op_new_port(end);
    }
    out.seq = starts[what & 3] + (end->open ? end->sent - end->iss : 0);
    if (what & 0x40) {
        out.len = 8; /* text in a SYN */
    }
    note_syn(end, out.seq, offered_scale(options, options_len));
    emit(end, &out);
}

/* Relative to what they have acknowledged, with an ACK of all that came. */
static void op_text(struct end *end, struct input *input, uint8_t flags)
{
    uint32_t offset = input_i16(input);
    uint32_t len = input_u16(input) % (TEXT_MAX + 1);

    emit(end, &(struct segment_out){.flags = (uint8_t)(TCP_ACK | flags),
                                    .seq = end->acked + offset,
                                    .ack = end->got,
                                    .len = len});
}

static void op_ack(struct end *end, struct input *input)
{
    uint32_t offset = input_i8(input);

    emit(end, &(struct segment_out){.flags = TCP_ACK, .seq = end->acked, .ack = end->got + offset});
}

static void op_rst(struct end *end, struct input *input)
{
    uint32_t offset = input_i8(input);

    emit(end, &(struct segment_out){.flags = TCP_RST, .seq = end->acked + offset});
}

static void op_raw(struct end *end, struct input *input)
{
    uint8_t flags = input_u8(input);
    uint32_t seq = end->acked + input_i16(input);
    uint32_t ack = end->got + input_i16(input);
    uint32_t options_len = (uint32_t)(input_u8(input) % 11) * 4;
    uint8_t options[40] = {0};
    uint32_t have = options_len;
    const uint8_t *bytes = input_bytes(input, &have);

    memcpy(options, bytes, have);
    if (end->called && (flags & TCP_SYN)) {
        seq = end->iss;
        end->shift = offered_scale(options, options_len);
    }
    if ((flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN) {
        note_syn(end, seq, offered_scale(options, options_len));
    }
    emit(end, &(struct segment_out){.flags = flags,
                                    .seq = seq,
                                    .ack = ack,
                                    .len = input_u8(input),
                                    .options = options,
                                    .options_len = options_len});
}

static void op_time(struct input *input)
{
    uint64_t us = (uint64_t)1 << (input_u8(input) % (TIME_SHIFT_MAX + 1));

    us = us < play.time_left ? us : play.time_left;
    play.time_left -= us;
    lab_run(&play.lab, us);
}

/* Every flow changes its ring: those that live elsewhere are steered from now on. */
static void op_move(void)
{
    struct mem_device *mem = play.lab.sim.device->priv;

    for (uint32_t i = 0; i < RSS_TABLE_LEN; i++) {
        mem->shared->rss.table[i] =
            (uint8_t)((mem->shared->rss.table[i] + 1u) % play.lab.sim.shards);
    }
}

/* A shard of one opens a connection to us; its service there is echo. */
static void op_connect(struct end *end)
{
    struct stack *stack = &play.lab.sim.worker[0].stack;
    struct tuple tuple = {.laddr = htonl(LAB_IP),
                          .raddr = htonl(LAB_PEER),
                          .lport = htons(services[0]),
                          .rport = htons(play.next_port)};

    if (play.lab.sim.shards > 1) {
        return; /* who answers to a call is found by the directory, which a caller does not ask */
    }
    op_new_port(end);
    end->tcp_port = services[0];
    stack->now_us = play.lab.sim.now_us;
    if (socket_connect(stack, &tuple, 0) != NONE) {
        stack_commit(stack);
    }
    lab_turn(&play.lab);
}

static void run_control(struct end *end, enum op op, struct input *input)
{
    switch (op) {
    case OP_TIME:
        op_time(input);
        break;
    case OP_WINDOW:
        end->window = input_u16(input);
        break;
    case OP_RESTART:
        sim_restart_shard(&play.lab.sim, input_u8(input) % play.lab.sim.shards);
        break;
    case OP_MOVE:
        op_move();
        break;
    case OP_NEW_PORT:
        op_new_port(end);
        break;
    case OP_HOLD:
        play.held = !play.held;
        break;
    case OP_CONNECT:
        op_connect(end);
        break;
    case OP_DEAF:
        end->deaf = input_u8(input);
        break;
    default:
        end->automatic = !end->automatic;
    }
}

static void run_op(struct input *input)
{
    uint8_t code = input_u8(input);
    struct end *end = &play.end[code >> 7];
    enum op op = (code & 0x7f) % OP_COUNT;

    fuzz_say("op %d on %d\n", op, code >> 7);
    switch (op) {
    case OP_SYN:
        op_syn(end, input);
        break;
    case OP_TEXT:
        op_text(end, input, 0);
        break;
    case OP_ACK:
        op_ack(end, input);
        break;
    case OP_FIN:
        op_text(end, input, TCP_FIN);
        break;
    case OP_RST:
        op_rst(end, input);
        break;
    case OP_RAW:
        op_raw(end, input);
        break;
    default:
        run_control(end, op, input);
    }
}

static void acknowledge(void)
{
    for (uint32_t i = 0; i < CONNS; i++) {
        struct end *end = &play.end[i];

        if (end->automatic && end->owes_ack && !play.held) {
            end->owes_ack = false;
            emit(end, &(struct segment_out){.flags = TCP_ACK, .seq = end->acked, .ack = end->got});
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};
    uint8_t setup = input_u8(&input);

    memset(&play, 0, sizeof(play));
    lab_open(&play.lab, 1 + (setup & 1));
    play.lab.on_frame = on_frame;
    play.lab.data = &play;
    play.next_port = 40000;
    play.time_left = TIME_BUDGET;
    for (uint32_t i = 0; i < CONNS; i++) {
        play.end[i].tcp_port = services[(setup >> (1 + 3 * i) & 7) % 5];
        play.end[i].window = UINT16_MAX;
        op_new_port(&play.end[i]);
    }
    lab_announce(&play.lab);
    for (uint32_t i = 0; i < OPS_MAX && input.left > 0; i++) {
        run_op(&input);
        acknowledge();
        fuzz_settle();
    }
    lab_close(&play.lab);
    return 0;
}
