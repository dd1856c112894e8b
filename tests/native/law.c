/* One record for each direction of each flow; see law.h. */
#include "law.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/seq.h"
#include "base/wire.h"
#include "check.h"

enum {
    SIDES_MAX = 1024,
    OPT_END = 0,
    OPT_NOP = 1,
    OPT_WSCALE = 3,
    WSCALE_LEN = 3,
    KEPT = 1 << 18, /* bytes behind the initial sequence number whose content is remembered */
};

struct side {
    uint32_t addr;
    uint16_t port;
    uint16_t peer_port;
    uint32_t iss;
    uint32_t end;   /* behind the last thing sent */
    uint32_t fin;   /* place of the FIN */
    uint32_t acked; /* last acknowledgement sent */
    uint32_t edge;  /* right edge of the window offered */
    uint8_t shift;
    bool used;
    bool finished;
    bool acks;
    uint16_t sum[KEPT / 8]; /* of each 8 bytes from iss + 1 on; 0: not sent yet */
};

static struct {
    struct side side[SIDES_MAX];
    uint32_t sides;
    uint64_t segments;
} law;

struct segment {
    struct wire_ipv4 ip;
    struct wire_tcp tcp;
    const uint8_t *options;
    uint32_t options_len;
    const uint8_t *data;
    uint32_t data_len;
    uint32_t seq;
    uint32_t end;
    uint32_t ack;
};

static bool parse(const uint8_t *frame, uint32_t len, struct segment *segment)
{
    uint32_t ip_len;
    uint32_t tcp_len;
    uint16_t type;

    memcpy(&type, frame + offsetof(struct wire_eth, type), sizeof(type));
    if (len < TCP_HEADERS_LEN || ntohs(type) != ETHERTYPE_IPV4) {
        return false;
    }
    memcpy(&segment->ip, frame + ETH_HDR_LEN, IPV4_HDR_LEN);
    if (segment->ip.protocol != PROTO_TCP) {
        return false;
    }
    ip_len = (uint32_t)(segment->ip.version_ihl & 15u) * 4;
    memcpy(&segment->tcp, frame + ETH_HDR_LEN + ip_len, TCP_HDR_LEN);
    tcp_len = (uint32_t)(segment->tcp.data_off >> 4) * 4;
    segment->options = frame + ETH_HDR_LEN + ip_len + TCP_HDR_LEN;
    segment->options_len = tcp_len - TCP_HDR_LEN;
    segment->data = frame + ETH_HDR_LEN + ip_len + tcp_len;
    segment->data_len = ntohs(segment->ip.total_len) - ip_len - tcp_len;
    segment->seq = ntohl(segment->tcp.seq);
    segment->ack = ntohl(segment->tcp.ack);
    segment->end = segment->seq + segment->data_len + ((segment->tcp.flags & TCP_SYN) != 0) +
                   ((segment->tcp.flags & TCP_FIN) != 0);
    return true;
}

static struct side *find(uint32_t addr, uint16_t port, uint16_t peer_port)
{
    for (uint32_t i = 0; i < law.sides; i++) {
        struct side *side = &law.side[i];

        if (side->addr == addr && side->port == port && side->peer_port == peer_port) {
            return side;
        }
    }
    ENSURE(law.sides < SIDES_MAX);
    law.side[law.sides] = (struct side){.addr = addr, .port = port, .peer_port = peer_port};
    return &law.side[law.sides++];
}

static uint8_t window_shift(const struct segment *segment)
{
    for (uint32_t i = 0; i + 2 < segment->options_len;) {
        if (segment->options[i] == OPT_END) {
            break;
        }
        if (segment->options[i] == OPT_WSCALE) {
            return segment->options[i + 2];
        }
        i += segment->options[i] == OPT_NOP ? 1u : segment->options[i + 1];
    }
    return 0;
}

static void check_syn(struct side *side, const struct segment *segment)
{
    if (!side->used) {
        side->used = true;
        side->iss = segment->seq;
        side->end = segment->end;
        side->shift = window_shift(segment);
    }
    CHECK_EQ(segment->seq, side->iss);
    CHECK_EQ(segment->data_len, 0);
}

/* Whole groups of eight bytes only: a group cut by the segment's end is seen again or not. */
static void check_content(struct side *side, const struct segment *segment)
{
    uint32_t from = segment->seq - side->iss - 1;
    uint32_t at = (8 - from % 8) % 8;

    for (; at + 8 <= segment->data_len && from + at + 8 <= KEPT; at += 8) {
        uint16_t *kept = &side->sum[(from + at) / 8];
        uint64_t bytes;
        uint16_t sum;

        memcpy(&bytes, segment->data + at, sizeof(bytes));
        sum = (uint16_t)(1 | (bytes * 0x9e3779b97f4a7c15u) >> 48);
        CHECK(*kept == 0 || *kept == sum);
        *kept = sum;
    }
}

static void check_sequence(struct side *side, const struct side *peer,
                           const struct segment *segment)
{
    bool fin = (segment->tcp.flags & TCP_FIN) != 0;
    uint32_t data_end = segment->seq + segment->data_len;

    CHECK(seq_gt(segment->seq, side->iss) && seq_le(segment->seq, side->end));
    if (fin && !side->finished) {
        side->finished = true;
        side->fin = data_end;
    }
    CHECK(!fin || data_end == side->fin);
    CHECK(!side->finished || segment->data_len == 0 || seq_le(data_end, side->fin));
    CHECK(segment->data_len == 0 || !peer->acks || seq_le(data_end, peer->edge + 1));
    check_content(side, segment);
    if (seq_gt(segment->end, side->end)) {
        side->end = segment->end;
    }
}

static void check_acknowledgement(struct side *side, const struct side *peer,
                                  const struct segment *segment)
{
    uint8_t shift = segment->tcp.flags & TCP_SYN || peer->shift == 0 ? 0 : side->shift;
    uint32_t edge = segment->ack + ((uint32_t)ntohs(segment->tcp.window) << shift);

    CHECK(peer->used && seq_gt(segment->ack, peer->iss) && seq_le(segment->ack, peer->end));
    CHECK(!side->acks || seq_ge(segment->ack, side->acked));
    CHECK(!side->acks || seq_gt(edge + (1u << shift), side->edge)); /* RFC 7323, 2.4: rounding */
    side->acked = segment->ack;
    side->edge = edge;
    side->acks = true;
}

void law_begin(void)
{
    memset(&law, 0, sizeof(law));
}

void law_frame(const uint8_t *frame, uint32_t len)
{
    struct segment segment;
    struct side *side;
    struct side *peer;

    if (!parse(frame, len, &segment) || segment.tcp.flags & TCP_RST) {
        return;
    }
    law.segments++;
    side = find(segment.ip.src, segment.tcp.src_port, segment.tcp.dst_port);
    peer = find(segment.ip.dst, segment.tcp.dst_port, segment.tcp.src_port);
    if (segment.tcp.flags & TCP_SYN) {
        check_syn(side, &segment);
    } else {
        check_sequence(side, peer, &segment);
    }
    if (segment.tcp.flags & TCP_ACK) {
        check_acknowledgement(side, peer, &segment);
    }
}

uint64_t law_segments(void)
{
    return law.segments;
}
