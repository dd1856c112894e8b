/*
 * Raw frames into the stack, over a bare port that can do what real ones do: a virtio header with
 * the checksum's state, frames over several slots, bursts. An input is a list of frames; for each
 * the fuzzer may ask that addresses, lengths, checksums and TCP numbers are put right, so that what
 * lies behind those checks is reached too. Every frame ends in one verdict, every frame sent is
 * well-formed. Start reading at run_record.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csum.h"
#include "base/wire.h"
#include "check.h"
#include "fuzz.h"
#include "ports/swring.h"

enum {
    SLOTS = 64,
    BUF = 2048,
    RECORDS_MAX = 200,
    FRAME_MAX = 4000,
    PEERS = 64, /* TCP ports of ours whose numbers are remembered */
    TURNS_PER_STEP = 200,
};

enum meta {
    META_ADDRESSES = 1, /* to us, from a neighbour */
    META_SUMS = 2,      /* lengths and checksums right */
    META_SPLIT = 4,     /* over several slots */
    META_PARTIAL = 8,   /* virtio: NEEDS_CSUM */
    META_VALID = 16,    /* virtio: DATA_VALID */
    META_GSO = 32,      /* virtio: a super-segment */
    META_HOLD = 64,     /* the next frame comes in the same burst */
    META_RELATIVE = 128 /* seq and ack count from the connection's initial numbers */
};

/* One TCP port of ours, as far as the shard has spoken to it. */
struct peer_port {
    uint32_t irs; /* theirs */
    uint32_t iss; /* ours, as they acknowledged it */
};

static struct {
    struct sim sim;
    struct device device;
    struct swring rings;
    struct port_counters counters;
    struct peer_port peers[PEERS];
    uint32_t hwcur;
    uint32_t pending; /* tail of what came, published by the next sync */
    uint64_t sent;
} lab;

static const uint8_t our_mac[6] = {0x06, 1, 2, 3, 4, 5};
static const uint8_t shard_mac[6] = {0x02, 1, 2, 3, 4, 0xfe};

static uint32_t vnet_len(void)
{
    return lab.device.ports[0].caps & PORT_CAP_VNET_HDR ? PORT_VNET_HDR_LEN : 0;
}

static int bare_rx_sync(struct port *port, uint64_t now_us)
{
    struct nm_ring *ring = port->rx;

    (void)now_us;
    for (uint32_t at = ring->tail; at != lab.pending; at = nm_ring_next(ring, at)) {
        port->counters->rx_frames += !(ring->slot[at].flags & NM_MOREFRAG);
    }
    ring->tail = lab.pending;
    return 0;
}

static void note_numbers(const uint8_t *frame)
{
    struct wire_tcp tcp;
    struct peer_port *peer;

    memcpy(&tcp, frame + ETH_HDR_LEN + IPV4_HDR_LEN, sizeof(tcp));
    peer = &lab.peers[ntohs(tcp.dst_port) % PEERS];
    if ((tcp.flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK)) {
        *peer = (struct peer_port){ntohl(tcp.seq), ntohl(tcp.ack) - 1};
    }
}

static void check_ipv4(const uint8_t *frame, uint32_t len)
{
    struct wire_ipv4 ip;
    uint32_t l4_len;

    if (!CHECK(len >= ETH_HDR_LEN + IPV4_HDR_LEN + ICMP_HDR_LEN)) {
        return;
    }
    memcpy(&ip, frame + ETH_HDR_LEN, sizeof(ip));
    CHECK_EQ(ntohs(ip.total_len) + ETH_HDR_LEN, len);
    CHECK_EQ(ip.src, htonl(LAB_IP));
    CHECK_EQ(csum_fold(csum_add(&ip, sizeof(ip), 0)), 0);
    l4_len = len - ETH_HDR_LEN - IPV4_HDR_LEN;
    if (ip.protocol == PROTO_TCP) {
        CHECK(lab_tcp_right(frame, len));
        note_numbers(frame);
    } else if (CHECK_EQ(ip.protocol, PROTO_ICMP)) {
        CHECK_EQ(csum_fold(csum_add(frame + ETH_HDR_LEN + IPV4_HDR_LEN, l4_len, 0)), 0);
        CHECK_EQ(frame[ETH_HDR_LEN + IPV4_HDR_LEN], 0); /* an echo reply, nothing else */
    }
}

/* What the shard sends is well-formed, whatever it received. */
static void check_sent(const uint8_t *frame, uint32_t len)
{
    if (!CHECK(len >= ETH_HDR_LEN && len <= ETH_HDR_LEN + 1500u)) {
        return;
    }
    CHECK(memcmp(frame + 6, shard_mac, 6) == 0);
    if (frame[12] == 0x08 && frame[13] == 0x00) {
        check_ipv4(frame, len);
    } else {
        CHECK(frame[12] == 0x08 && frame[13] == 0x06);
        CHECK_EQ(len, ETH_HDR_LEN + ARP_LEN);
    }
}

static int bare_tx_sync(struct port *port, uint64_t now_us)
{
    struct nm_ring *ring = port->tx;

    (void)now_us;
    while (lab.hwcur != ring->head) {
        const struct nm_slot *slot = &ring->slot[lab.hwcur];

        CHECK(slot->len > vnet_len() && slot->len <= BUF && !(slot->flags & NM_MOREFRAG));
        check_sent(nm_ring_buf(ring, lab.hwcur) + vnet_len(), slot->len - vnet_len());
        lab.hwcur = nm_ring_next(ring, lab.hwcur);
        port->counters->tx_frames++;
    }
    ring->tail = lab.hwcur ? lab.hwcur - 1 : ring->num_slots - 1;
    return 0;
}

static int bare_recover(struct port *port)
{
    (void)port;
    return 0;
}

static const struct port_ops bare_ops = {
    .backend = "bare", .rx_sync = bare_rx_sync, .tx_sync = bare_tx_sync, .recover = bare_recover};

static void open_lab(uint32_t caps)
{
    static const uint16_t tcp_ports[] = {7, 9, 19, 13, 80};
    struct stack_config config = {.ip = htonl(LAB_IP),
                                  .netmask = htonl(0xffffff00),
                                  .gateway = htonl(0x0a4d00fe),
                                  .mtu = 1500,
                                  .shards = 1,
                                  .conns_max = 8,
                                  .actives_max = 6,
                                  .chunks_max = 24,
                                  .rcv_buf = 8192,
                                  .snd_buf = 8192,
                                  .backlog_max = 4,
                                  .rto_min_us = 200000,
                                  .rto_initial_us = 1000000,
                                  .delack_us = 40000,
                                  .time_wait_us = 1000000,
                                  .retries_max = 3,
                                  .nodelay = 1,
                                  .listeners_n = 5};
    uint64_t secret[2] = {1, 2};
    char error[PORT_ERROR_MAX] = "";
    uint32_t adopted;

    memset(&lab, 0, sizeof(lab));
    memcpy(config.mac, shard_mac, 6);
    for (uint8_t i = 0; i < 5; i++) {
        config.listeners[i] = (struct listener){htons(tcp_ports[i]), i, 0};
    }
    CHECK_EQ(swring_create(&lab.rings, SLOTS, BUF, 0), 0);
    lab.device = (struct device){.rings = 1, .name = "bare:fuzz"};
    lab.device.ports[0] = (struct port){.ops = &bare_ops,
                                        .rx = lab.rings.rx,
                                        .tx = lab.rings.tx,
                                        .counters = &lab.counters,
                                        .caps = caps,
                                        .wait_fd = -1};
    lab.sim.shards = 1;
    lab.sim.device = &lab.device;
    lab.sim.now_us = 1000000;
    CHECK_EQ(server_create(&lab.sim.server, &lab.device, &config, secret, error), 0);
    fuzz_settle();
    lab.sim.server->cluster.start_us = 0;
    memset(lab.sim.server->cluster.flow_key, 7, sizeof(lab.sim.server->cluster.flow_key));
    server_worker_init(lab.sim.server, 0, &lab.sim.worker[0]);
    CHECK_EQ(worker_adopt(&lab.sim.worker[0], lab.sim.now_us, &adopted, &adopted), 0);
}

static void turn(void)
{
    CHECK(worker_turn(&lab.sim.worker[0], lab.sim.now_us) >= 0);
}

static void step(uint8_t shift)
{
    uint64_t end = lab.sim.now_us + ((uint64_t)1 << (shift % 25));

    for (uint32_t i = 0; i < TURNS_PER_STEP && lab.sim.now_us < end; i++) {
        uint64_t next = engine_next_deadline(&lab.sim.worker[0].stack);

        turn();
        next = next > lab.sim.now_us + SIM_STEP_US ? next : lab.sim.now_us + SIM_STEP_US;
        lab.sim.now_us = next < end ? next : end;
    }
    lab.sim.now_us = end;
    turn();
}

static void close_lab(void)
{
    struct stack *stack = &lab.sim.worker[0].stack;

    for (uint32_t i = 0; i < 4; i++) {
        turn();
    }
    for (uint32_t conn = 0; conn < stack->config->conns_max; conn++) {
        if (stack->hot[conn].state != CONN_FREE) {
            socket_abort(stack, conn);
            stack_commit(stack);
        }
    }
    turn();
    turn();
    CHECK_EQ(stack->shared->conns_active, 0);
    CHECK_EQ(lab.counters.rx_frames, lab.sent);
    sim_check_stacks(&lab.sim);
    stack_detach(stack);
    server_destroy(lab.sim.server);
    swring_destroy(&lab.rings);
    fuzz_settle();
}

static void right_addresses(uint8_t *frame, uint32_t len)
{
    uint32_t src = htonl(LAB_PEER);
    uint32_t dst = htonl(LAB_IP);

    if (len < ETH_HDR_LEN + ARP_LEN) {
        return;
    }
    memcpy(frame, shard_mac, 6);
    memcpy(frame + 6, our_mac, 6);
    frame[12] = 0x08;
    if (frame[13] == 0x06) {
        memcpy(frame + ETH_HDR_LEN + offsetof(struct wire_arp, tpa), &dst, sizeof(dst));
        return;
    }
    frame[13] = 0x00;
    if (len >= ETH_HDR_LEN + IPV4_HDR_LEN) {
        memcpy(frame + ETH_HDR_LEN + offsetof(struct wire_ipv4, src), &src, sizeof(src));
        memcpy(frame + ETH_HDR_LEN + offsetof(struct wire_ipv4, dst), &dst, sizeof(dst));
    }
}

static void right_l4_sum(uint8_t *l4, uint32_t len, const struct wire_ipv4 *ip)
{
    uint32_t at = ip->protocol == PROTO_TCP ? offsetof(struct wire_tcp, check)
                                            : offsetof(struct wire_icmp, check);
    uint64_t sum = ip->protocol == PROTO_TCP ? csum_pseudo(ip->src, ip->dst, PROTO_TCP, len) : 0;
    uint16_t check = 0;

    if (at + sizeof(check) > len) {
        return;
    }
    memcpy(l4 + at, &check, sizeof(check));
    check = csum_fold(csum_add(l4, len, sum));
    memcpy(l4 + at, &check, sizeof(check));
}

/* Numbers relative to what the shard said last to this port of ours. */
static void right_numbers(uint8_t *l4, uint32_t len)
{
    struct wire_tcp tcp;
    const struct peer_port *peer;

    if (len < TCP_HDR_LEN) {
        return;
    }
    memcpy(&tcp, l4, sizeof(tcp));
    peer = &lab.peers[ntohs(tcp.src_port) % PEERS];
    tcp.seq = htonl(ntohl(tcp.seq) + peer->iss);
    tcp.ack = htonl(ntohl(tcp.ack) + peer->irs);
    memcpy(l4, &tcp, sizeof(tcp));
}

static void right_ipv4(uint8_t *frame, uint32_t len, uint8_t meta)
{
    uint8_t *l3 = frame + ETH_HDR_LEN;
    struct wire_ipv4 ip;
    uint32_t header;

    if (len < ETH_HDR_LEN + IPV4_HDR_LEN || frame[12] != 0x08 || frame[13] != 0x00) {
        return;
    }
    memcpy(&ip, l3, sizeof(ip));
    header = (uint32_t)(ip.version_ihl & 15) * 4;
    if (header < IPV4_HDR_LEN || ETH_HDR_LEN + header > len) {
        header = IPV4_HDR_LEN;
    }
    ip.version_ihl = (uint8_t)(0x40 | header / 4);
    ip.total_len = htons((uint16_t)(len - ETH_HDR_LEN));
    ip.check = 0;
    memcpy(l3, &ip, sizeof(ip));
    ip.check = csum_fold(csum_add(l3, header, 0));
    memcpy(l3, &ip, sizeof(ip));
    if ((meta & META_RELATIVE) && ip.protocol == PROTO_TCP) {
        right_numbers(l3 + header, len - ETH_HDR_LEN - header);
    }
    right_l4_sum(l3 + header, len - ETH_HDR_LEN - header, &ip);
}

/* Lays the bytes into slots of `piece` bytes; false: no room. */
static bool lay(const uint8_t *bytes, uint32_t len, uint32_t piece)
{
    struct nm_ring *ring = lab.device.ports[0].rx;
    uint32_t room = ring->num_slots - 1 - nm_ring_distance(ring, ring->head, lab.pending);
    uint32_t done = 0;

    if ((len + piece - 1) / piece + 1 > room) {
        return false;
    }
    do {
        struct nm_slot *slot = &ring->slot[lab.pending];
        uint32_t part = len - done < piece ? len - done : piece;

        memcpy(nm_ring_buf(ring, lab.pending), bytes + done, part);
        done += part;
        slot->len = (uint16_t)part;
        slot->flags = done < len ? NM_MOREFRAG : 0;
        lab.pending = nm_ring_next(ring, lab.pending);
    } while (done < len);
    lab.sent++;
    return true;
}

static void deliver(const uint8_t *frame, uint32_t len, uint8_t meta, uint32_t piece)
{
    uint8_t bytes[PORT_VNET_HDR_LEN + FRAME_MAX];
    struct vnet_hdr hdr = {
        .flags = (uint8_t)((meta & META_PARTIAL ? VNET_F_NEEDS_CSUM : 0) |
                           (meta & META_VALID ? VNET_F_DATA_VALID : 0)),
        .gso_type = meta & META_GSO ? VNET_GSO_TCPV4 : VNET_GSO_NONE,
        .gso_size = 536,
    };

    memcpy(bytes, &hdr, sizeof(hdr));
    memcpy(bytes + vnet_len(), frame, len);
    if (!lay(bytes, vnet_len() + len, piece)) {
        turn();
        lay(bytes, vnet_len() + len, piece);
    }
}

static void run_record(struct input *input)
{
    uint8_t meta = input_u8(input);
    uint8_t extra = input_u8(input);
    uint32_t len = input_u16(input) % (FRAME_MAX + 1);
    uint8_t frame[FRAME_MAX];
    uint32_t piece = meta & META_SPLIT ? 40u + 8u * extra : BUF;

    if (len == 0) {
        step(extra);
        return;
    }
    memset(frame, 0, sizeof(frame));
    if (len <= input->left) {
        memcpy(frame, input->at, len);
    } else {
        memcpy(frame, input->at, input->left); /* the rest is zeros: short inputs, long frames */
    }
    input_bytes(input, &(uint32_t){len});
    if (meta & META_ADDRESSES) {
        right_addresses(frame, len);
    }
    if (meta & META_SUMS) {
        right_ipv4(frame, len, meta);
    }
    deliver(frame, len, meta, piece < BUF ? piece : BUF);
    if (!(meta & META_HOLD)) {
        turn();
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input input = {data, size};

    open_lab(input_u8(&input) & 1 ? PORT_CAP_VNET_HDR | PORT_CAP_RX_GSO : 0);
    for (uint32_t i = 0; i < RECORDS_MAX && input.left > 0; i++) {
        run_record(&input);
        fuzz_settle();
    }
    close_lab();
    return 0;
}
