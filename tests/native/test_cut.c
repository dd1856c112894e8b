/* Super-segments in software: what is cut, and that each piece is what a card would have sent. */
#include <arpa/inet.h>
#include <string.h>

#include "base/csum.h"
#include "base/wire.h"
#include "check.h"
#include "soft_wire.h"
#include "tools/move.h"

enum {
    PAYLOAD = 10000,
    SIZE = 1400,
    OPTIONS = 12,
    FIRST_SEQ = 0xfffff000, /* wraps within the frame */
    FIRST_ID = 0xfffe,
    FLAG_CWR = 0x80,
};

/* A frame to cut; `bytes` before its payload. */
struct sample {
    uint8_t frame[MOVE_FRAME_MAX];
    uint32_t network;
    uint32_t transport;
    uint32_t headers;
    uint32_t len;
    bool v6;
};

static struct sample sample;
static uint8_t out[MOVE_FRAME_MAX];

static uint32_t write_ip(bool v6, uint8_t proto, uint32_t l4_len)
{
    uint8_t *ip = sample.frame + sample.network;

    memset(ip, 0, 40);
    if (v6) {
        ip[0] = 0x60;
        ip[6] = proto;
        ip[7] = 64;
        store_u16(ip + 4, htons((uint16_t)l4_len));
        ip[8] = 0xfd;
        ip[39] = 9;
        return 40;
    }
    ip[0] = 0x45;
    store_u16(ip + 2, htons((uint16_t)(20 + l4_len)));
    store_u16(ip + 4, htons(FIRST_ID));
    ip[8] = 64;
    ip[9] = proto;
    store_u32(ip + 12, htonl(0x0a000001));
    store_u32(ip + 16, htonl(0x0a000002));
    store_u16(ip + 10, csum_fold(csum_ipv4_header(ip)));
    return 20;
}

/* TCP with options and all flags that a cut treats, or UDP. */
static void make(uint32_t tags, bool v6, uint8_t proto, uint32_t payload)
{
    uint32_t l4 = proto == PROTO_TCP ? TCP_HDR_LEN + OPTIONS : 8;
    uint8_t *at;

    memset(&sample, 0, sizeof(sample));
    for (uint32_t i = 0; i < tags; i++) {
        store_u16(sample.frame + 12 + 4 * (size_t)i, htons(i ? 0x8100 : 0x88a8));
    }
    sample.v6 = v6;
    sample.network = ETH_HDR_LEN + 4 * tags;
    store_u16(sample.frame + sample.network - 2, htons(v6 ? 0x86dd : 0x0800));
    sample.transport = sample.network + write_ip(v6, proto, l4 + payload);
    sample.headers = sample.transport + l4;
    sample.len = sample.headers + payload;
    at = sample.frame + sample.transport;
    if (proto == PROTO_TCP) {
        store_u32(at + 4, htonl(FIRST_SEQ));
        at[12] = (uint8_t)(l4 / 4 << 4);
        at[13] = FLAG_CWR | TCP_ACK | TCP_PSH | TCP_FIN;
        memset(at + TCP_HDR_LEN, 1, OPTIONS);
    } else {
        store_u16(at + 4, htons((uint16_t)(l4 + payload)));
    }
    for (uint32_t i = 0; i < payload; i++) {
        sample.frame[sample.headers + i] = (uint8_t)(i * 7 + i / 251);
    }
}

static void check_sums(const struct cut *cut, uint32_t len)
{
    const uint8_t *ip = out + sample.network;
    uint32_t l4_len = len - sample.transport;
    uint64_t pseudo;

    if (sample.v6) {
        pseudo = csum_add(ip + 8, 32, (uint64_t)htonl(l4_len) + htons(cut->proto));
        CHECK_EQ(ntohs(load_u16(ip + 4)), l4_len);
    } else {
        pseudo = csum_pseudo(load_u32(ip + 12), load_u32(ip + 16), cut->proto, l4_len);
        CHECK_EQ(ntohs(load_u16(ip + 2)), len - sample.network);
        CHECK_EQ(csum_fold(csum_ipv4_header(ip)), 0);
    }
    CHECK_EQ(csum_fold(csum_add(out + sample.transport, l4_len, pseudo)), 0);
}

static void check_tcp(const struct cut *cut, uint32_t i, uint32_t done)
{
    const uint8_t *tcp = out + sample.transport;
    uint32_t flags = TCP_ACK;

    flags |= i == 0 ? FLAG_CWR : 0;
    flags |= i + 1 == cut->n ? TCP_PSH | TCP_FIN : 0;
    CHECK_EQ(tcp[13], flags);
    CHECK_EQ(ntohl(load_u32(tcp + 4)), (uint32_t)(FIRST_SEQ + done));
    if (!sample.v6) {
        CHECK_EQ(ntohs(load_u16(out + sample.network + 4)), (uint16_t)(FIRST_ID + i));
    }
}

/* Every piece: right headers and sums; all payloads together are the frame's. */
static void check_all(const struct cut *cut, uint32_t size)
{
    uint32_t done = 0;

    CHECK_EQ(cut->size, size);
    CHECK_EQ(cut->headers, sample.headers);
    for (uint32_t i = 0; i < cut->n; i++) {
        uint32_t len = cut_segment(cut, i, out);
        uint32_t part = len - sample.headers;

        CHECK(part == size || (i + 1 == cut->n && part <= size && part > 0));
        CHECK(memcmp(out, sample.frame, 14) == 0);
        CHECK(memcmp(out + sample.headers, sample.frame + sample.headers + done, part) == 0);
        check_sums(cut, len);
        if (cut->proto == PROTO_TCP) {
            check_tcp(cut, i, done);
        }
        done += part;
    }
    CHECK_EQ(done, sample.len - sample.headers);
}

static void every_kind_is_cut_as_a_card_would(void)
{
    for (uint32_t kind = 0; kind < 12; kind++) {
        bool v6 = kind & 1;
        bool udp = kind & 2;
        struct vnet_hdr hdr = {.gso_type = (uint8_t)(udp  ? VNET_GSO_UDP_L4
                                                     : v6 ? VNET_GSO_TCPV6 | VNET_GSO_ECN
                                                          : VNET_GSO_TCPV4),
                               .gso_size = SIZE};
        struct cut cut;

        make(kind / 4, v6, udp ? PROTO_UDP : PROTO_TCP, PAYLOAD);
        if (CHECK(cut_init(&cut, &hdr, sample.frame, sample.len, 1500))) {
            CHECK_EQ(cut.n, (PAYLOAD + SIZE - 1) / SIZE);
            check_all(&cut, SIZE);
        }
    }
}

static void the_target_s_mtu_cuts_too(void)
{
    struct vnet_hdr merged = {0}; /* merged on receive: no size is known */
    struct vnet_hdr large = {.gso_type = VNET_GSO_TCPV4, .gso_size = 8948};
    struct cut cut;

    make(0, false, PROTO_TCP, PAYLOAD);
    if (CHECK(cut_init(&cut, &merged, sample.frame, sample.len, 1500))) {
        check_all(&cut, 1500 - 20 - TCP_HDR_LEN - OPTIONS);
    }
    if (CHECK(cut_init(&cut, &large, sample.frame, sample.len, 576))) {
        check_all(&cut, 576 - 20 - TCP_HDR_LEN - OPTIONS);
    }
    if (CHECK(cut_init(&cut, &large, sample.frame, sample.len, 0))) {
        check_all(&cut, 8948);
    }
}

static void what_cannot_be_cut_is_refused(void)
{
    struct vnet_hdr tcp = {.gso_type = VNET_GSO_TCPV4, .gso_size = SIZE};
    struct vnet_hdr fragments = {.gso_type = 3, .gso_size = SIZE};
    struct vnet_hdr datagrams = {.gso_type = VNET_GSO_UDP_L4, .gso_size = SIZE};
    struct cut cut;

    make(0, false, PROTO_UDP, PAYLOAD);
    CHECK(!cut_init(&cut, &tcp, sample.frame, sample.len, 1500));
    CHECK(!cut_init(&cut, &fragments, sample.frame, sample.len, 1500));
    CHECK(!cut_init(&cut, &datagrams, sample.frame, sample.len, 1000)); /* too long for the wire */
    make(0, true, PROTO_TCP, PAYLOAD);
    CHECK(!cut_init(&cut, &tcp, sample.frame, sample.len, 1500)); /* says IPv4, is IPv6 */
    make(3, false, PROTO_TCP, PAYLOAD);
    CHECK(!cut_init(&cut, &tcp, sample.frame, sample.len, 1500)); /* a tag too many */
    make(0, false, PROTO_TCP, PAYLOAD);
    sample.frame[sample.network + 6] = 0x20; /* a fragment */
    CHECK(!cut_init(&cut, &tcp, sample.frame, sample.len, 1500));
    make(0, false, PROTO_TCP, PAYLOAD);
    tcp.gso_size = 0;
    CHECK(!cut_init(&cut, &tcp, sample.frame, sample.len, 1500));
    tcp.gso_size = SIZE;
    CHECK(!cut_init(&cut, &tcp, sample.frame, sample.len, 40));
}

/* Whatever a header says, nothing is read behind the frame's end; ASan looks on. */
static void any_prefix_is_safe(void)
{
    struct vnet_hdr hdr = {.gso_type = VNET_GSO_TCPV4, .gso_size = 100};
    struct cut cut;

    for (uint32_t kind = 0; kind < 6; kind++) {
        make(kind / 2, kind & 1, PROTO_TCP, 300);
        hdr.gso_type = kind & 1 ? VNET_GSO_TCPV6 : VNET_GSO_TCPV4;
        for (uint32_t len = 0; len <= sample.len; len++) {
            bool good = cut_init(&cut, &hdr, sample.frame, len, 1500);

            CHECK_EQ(good, len >= sample.headers);
            for (uint32_t i = 0; good && i < cut.n; i++) {
                CHECK(cut_segment(&cut, i, out) <= len);
            }
        }
    }
}

/* The sample behind a virtio header in the RX slots of a port, as if it had come; its slots. */
static uint32_t arrive(struct port *port, const struct vnet_hdr *hdr)
{
    struct nm_ring *rx = port->rx;
    uint32_t left = PORT_VNET_HDR_LEN + sample.len;
    uint32_t n = 0;

    memcpy(out, hdr, PORT_VNET_HDR_LEN);
    memcpy(out + PORT_VNET_HDR_LEN, sample.frame, sample.len);
    for (; left > 0; n++) {
        uint32_t part = min_u32(left, rx->nr_buf_size);

        memcpy(nm_ring_buf(rx, n), out + PORT_VNET_HDR_LEN + sample.len - left, part);
        left -= part;
        rx->slot[n].len = (uint16_t)part;
        rx->slot[n].flags = left > 0 ? NM_MOREFRAG : 0;
    }
    rx->head = 0;
    rx->tail = n;
    return n;
}

/* Two pipes: one that has virtio headers, as packet: does, and one that has what the case gives. */
struct pair {
    struct device *device[2];
    struct port *from;
    struct port *to;
    struct mover mover;
};

static void open_pair(struct pair *pair, uint32_t slots, uint32_t caps)
{
    static struct move_scratch scratch;
    struct device_config from = {.slots = 64};
    struct device_config to = {.slots = slots};

    pair->device[0] = soft_wire_open(soft_wire_name("mem:t", "{x1"), &from, NULL);
    pair->device[1] = soft_wire_open(soft_wire_name("mem:t", "{x2"), &to, NULL);
    pair->from = &pair->device[0]->ports[0];
    pair->to = &pair->device[1]->ports[0];
    pair->from->caps |= PORT_CAP_VNET_HDR | PORT_CAP_RX_GSO;
    pair->to->caps |= caps;
    mover_init(&pair->mover, pair->from, pair->to, false);
    mover_cut(&pair->mover, &scratch, 1500);
}

static void close_pair(struct pair *pair)
{
    device_close(pair->device[0]);
    device_close(pair->device[1]);
}

static void a_super_segment_reaches_a_software_port_in_pieces(void)
{
    const struct vnet_hdr hdr = {
        .flags = VNET_F_NEEDS_CSUM, .gso_type = VNET_GSO_TCPV4, .gso_size = SIZE};
    struct pair pair;
    struct cut cut;
    uint32_t n;

    open_pair(&pair, 16, 0); /* room for 15: eight and seven more */
    make(0, false, PROTO_TCP, PAYLOAD);
    n = arrive(pair.from, &hdr);
    CHECK_EQ(move_frame(&pair.mover, 0, n), MOVE_COPIED);
    CHECK_EQ(nm_ring_space(pair.to->tx), 7);
    CHECK(cut_init(&cut, &hdr, sample.frame, sample.len, 1500));
    for (uint32_t i = 0; i < 8; i++) {
        uint32_t len = cut_segment(&cut, i, out);

        CHECK_EQ(pair.to->tx->slot[i].len, len);
        CHECK_EQ(pair.to->tx->slot[i].flags, 0);
        CHECK(memcmp(nm_ring_buf(pair.to->tx, i), out, len) == 0);
    }
    n = arrive(pair.from, &hdr);
    CHECK_EQ(move_frame(&pair.mover, 0, n), MOVE_NO_ROOM); /* all or nothing */
    CHECK_EQ(nm_ring_space(pair.to->tx), 7);
    make(0, false, PROTO_TCP, 30000); /* more pieces than slots: it would wait for ever */
    n = arrive(pair.from, &hdr);
    CHECK_EQ(move_frame(&pair.mover, 0, n), MOVE_UNSENDABLE);
    close_pair(&pair);
}

static void what_a_port_can_do_is_left_to_it(void)
{
    struct vnet_hdr hdr = {.flags = VNET_F_NEEDS_CSUM, .gso_type = VNET_GSO_TCPV4, .gso_size = 700};
    struct vnet_hdr got;
    struct pair pair;
    uint32_t n;

    open_pair(&pair, 64, PORT_CAP_VNET_HDR | PORT_CAP_TX_CSUM | PORT_CAP_TX_GSO);
    make(0, false, PROTO_TCP, PAYLOAD);
    n = arrive(pair.from, &hdr);
    CHECK_EQ(move_frame(&pair.mover, 0, n), MOVE_COPIED);
    CHECK_EQ(nm_ring_space(pair.to->tx), 63 - n);
    memcpy(&got, nm_ring_buf(pair.to->tx, 0), sizeof(got));
    CHECK(memcmp(&got, &hdr, sizeof(got)) == 0);
    close_pair(&pair);
}

/* A header is no promise that its port keeps it: pcap: and xdp: have headers and offload nothing.
 */
static void a_checksum_is_finished_for_a_port_that_does_not(void)
{
    for (uint32_t payload = 500; payload <= 4500; payload += 4000) { /* one slot, and several */
        struct vnet_hdr hdr = {.flags = VNET_F_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
        struct vnet_hdr got;
        struct pair pair;
        uint16_t partial;
        uint32_t n;

        open_pair(&pair, 64, PORT_CAP_VNET_HDR);
        mover_cut(&pair.mover, pair.mover.scratch, 9000);
        make(0, false, PROTO_TCP, payload);
        partial = csum_fold16(csum_pseudo(load_u32(sample.frame + 26), load_u32(sample.frame + 30),
                                          PROTO_TCP, sample.len - sample.transport));
        memcpy(sample.frame + sample.transport + 16, &partial, sizeof(partial));
        n = arrive(pair.from, &hdr);
        CHECK_EQ(move_frame(&pair.mover, 0, n), MOVE_COPIED);
        memcpy(&got, nm_ring_buf(pair.to->tx, 0), sizeof(got));
        CHECK_EQ(got.flags, 0);
        for (uint32_t i = 0, done = 0; i < n; i++) {
            memcpy(out + done, nm_ring_buf(pair.to->tx, i), pair.to->tx->slot[i].len);
            done += pair.to->tx->slot[i].len;
        }
        memmove(out, out + PORT_VNET_HDR_LEN, sample.len);
        check_sums(&(struct cut){.proto = PROTO_TCP}, sample.len);
        close_pair(&pair);
    }
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"every kind is cut as a card would", every_kind_is_cut_as_a_card_would},
        {"the target's MTU cuts too", the_target_s_mtu_cuts_too},
        {"what cannot be cut is refused", what_cannot_be_cut_is_refused},
        {"any prefix is safe", any_prefix_is_safe},
        {"a super-segment reaches a software port in pieces",
         a_super_segment_reaches_a_software_port_in_pieces},
        {"what a port can do is left to it", what_a_port_can_do_is_left_to_it},
        {"a checksum is finished for a port that does not",
         a_checksum_is_finished_for_a_port_that_does_not},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
