/* What a frame is on the way: its length, its VLAN tags, the state of its checksum. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <string.h>

#include "base/csum.h"
#include "conformance.h"

enum {
    MACS_LEN = 2 * ETH_ALEN_BYTES,
    VLAN_LEN = 4,
    UDP_CHECK_AT = 6,
    TCP_CHECK_AT = 16,
    TCP_OFFSET_AT = 12,
    LEN_STEP_SHORT = 7,
    LEN_STEP_LONG = 131,
    LEN_SHORT = 1530,
};

/* What stands in a checksum's field. */
enum state {
    RIGHT,
    DAMAGED,
    UNFINISHED, /* the pseudo-header's sum: somebody else is to finish it */
};

static void add_tag(struct frame *frame, uint16_t type, uint16_t tci)
{
    uint16_t tag[2] = {htons(type), htons(tci)};

    memmove(frame->data + MACS_LEN + VLAN_LEN, frame->data + MACS_LEN, frame->len - MACS_LEN);
    memcpy(frame->data + MACS_LEN, tag, sizeof(tag));
    frame->len += VLAN_LEN;
}

static bool is_same(const struct frame *a, const struct frame *b)
{
    return CHECK_EQ(a->len, b->len) && CHECK(memcmp(a->data, b->data, a->len) == 0);
}

static void pass_in(struct rig *rig, const struct frame *frame)
{
    rig_inject(rig, frame);
    if (rig_receive(rig)) {
        is_same(&rig->in, frame);
    }
}

static void pass_out(struct rig *rig, const struct frame *frame)
{
    CHECK(rig_drained(rig));
    CHECK(rig_put(rig, frame, 0));
    if (rig_collect(rig)) {
        is_same(&rig->out, frame);
    }
}

/* One tag, or an outer one around it. */
static void pass_tagged(struct rig *rig, uint16_t tci, bool outer, uint32_t len)
{
    static struct frame frame;

    for (int out = 0; out < 2; out++) {
        if (out) {
            frame_out(rig, &frame, tci, len);
        } else {
            frame_in(rig, &frame, tci, len);
        }
        add_tag(&frame, ETH_P_8021Q, tci);
        if (outer) {
            add_tag(&frame, ETH_P_8021AD, tci + 1u);
        }
        (out ? pass_out : pass_in)(rig, &frame);
    }
}

void case_vlan(struct rig *rig)
{
    static const uint16_t any[] = {1, 7, 4094, 0};
    static const uint32_t lens[] = {FRAME_MIN, 64, 1514, 2030, 2048, 8996};
    const uint16_t *vlan;

    if (!rig_open(rig, 0)) {
        return;
    }
    for (vlan = rig->wire->vlans ? rig->wire->vlans : any; *vlan; vlan++) {
        for (size_t i = 0; i < sizeof(lens) / sizeof(lens[0]); i++) {
            uint32_t len = min_u32(lens[i], rig_frame_max(rig) - 2 * VLAN_LEN);
            uint16_t priority = (uint16_t)(i << 13);

            pass_tagged(rig, priority | *vlan, false, len);
            pass_tagged(rig, priority | *vlan, true, len);
        }
    }
    CHECK_EQ(rig->port->counters->tx_dropped, 0);
    CHECK_EQ(rig->port->counters->rx_missed, 0);
    rig_close(rig);
}

/* A frame whose transport checksum is in this state, and the header that says so. */
static void set_checksum(struct frame *frame, uint8_t protocol, bool tagged, enum state state)
{
    uint8_t *ip = frame->data + ETH_HDR_LEN;
    uint8_t *l4 = ip + IPV4_HDR_LEN;
    uint32_t len = frame->len - ETH_HDR_LEN - IPV4_HDR_LEN;
    uint32_t at = protocol == PROTO_TCP ? TCP_CHECK_AT : UDP_CHECK_AT;
    uint64_t sum;
    uint16_t check;

    ip[9] = protocol;
    store_u16(ip + 10, 0);
    store_u16(ip + 10, csum_fold(csum_ipv4_header(ip)));
    if (protocol == PROTO_TCP) {
        l4[TCP_OFFSET_AT] = 5 << 4;
    }
    store_u16(l4 + at, 0);
    sum = csum_pseudo(load_u32(ip + 12), load_u32(ip + 16), protocol, len);
    check = csum_fold(csum_add(l4, len, sum));
    check = state == DAMAGED ? check ^ 0x1001 : check;
    store_u16(l4 + at, state == UNFINISHED ? csum_fold16(sum) : check);
    frame->hdr = (struct vnet_hdr){0};
    if (tagged) {
        add_tag(frame, ETH_P_8021Q, 7);
    }
    if (state == UNFINISHED) {
        frame->hdr.flags = VNET_F_NEEDS_CSUM;
        frame->hdr.csum_start = (uint16_t)(ETH_HDR_LEN + IPV4_HDR_LEN + (tagged ? VLAN_LEN : 0));
        frame->hdr.csum_offset = (uint16_t)at;
    }
}

/* As a card would: what the header asks for is done. False: it asks for what cannot be. */
static bool finish(struct frame *frame)
{
    uint32_t start = frame->hdr.csum_start;
    uint32_t at = start + frame->hdr.csum_offset;

    if (!(frame->hdr.flags & VNET_F_NEEDS_CSUM)) {
        return true;
    }
    if (!CHECK(at + 2 <= frame->len)) {
        return false;
    }
    store_u16(frame->data + at, csum_fold(csum_add(frame->data + start, frame->len - start, 0)));
    frame->hdr.flags = 0;
    return true;
}

/* What came, finished, is the frame as it is with a right checksum. */
static void check_finished(struct frame *came, const struct frame *right)
{
    if (finish(came)) {
        is_same(came, right);
    }
}

static void checksums_in(struct rig *rig, uint8_t protocol, bool tagged)
{
    static struct frame frame;
    static struct frame right;

    frame_in(rig, &right, 5, 200);
    set_checksum(&right, protocol, tagged, RIGHT);
    pass_in(rig, &right);
    CHECK(!(rig->in.hdr.flags & VNET_F_NEEDS_CSUM));
    frame_in(rig, &frame, 5, 200);
    set_checksum(&frame, protocol, tagged, DAMAGED);
    pass_in(rig, &frame); /* as it is, and nobody vouches for it */
    CHECK_EQ(rig->in.hdr.flags, 0);
    if (rig->wire->local_kernel) {
        frame_in(rig, &frame, 5, 200);
        set_checksum(&frame, protocol, tagged, UNFINISHED);
        rig_inject(rig, &frame);
        if (rig_receive(rig)) {
            check_finished(&rig->in, &right);
        }
    }
}

/* What was not offered is dropped and counted: half a checksum never leaves as a whole one. */
static void expect_refusal(struct rig *rig, const struct frame *frame)
{
    uint64_t dropped = rig->port->counters->tx_dropped;

    CHECK(rig_put(rig, frame, 0));
    rig_tx_sync(rig);
    CHECK_EQ(rig->port->counters->tx_dropped, dropped + 1);
    CHECK(rig_silent(rig));
}

static void checksums_out(struct rig *rig, uint8_t protocol, bool tagged)
{
    static struct frame frame;
    static struct frame right;

    frame_out(rig, &right, 5, 200);
    set_checksum(&right, protocol, tagged, RIGHT);
    pass_out(rig, &right);
    CHECK(!(rig->out.hdr.flags & VNET_F_NEEDS_CSUM));
    if (rig->header == 0) {
        return; /* no place to ask for anything */
    }
    frame_out(rig, &frame, 5, 200);
    set_checksum(&frame, protocol, tagged, UNFINISHED);
    CHECK(rig_drained(rig));
    if (!(rig->port->caps & PORT_CAP_TX_CSUM)) {
        expect_refusal(rig, &frame);
    } else if (CHECK(rig_put(rig, &frame, 0)) && rig_collect(rig)) {
        check_finished(&rig->out, &right);
    }
}

/* A super-segment where none is taken. */
static void segments_out(struct rig *rig)
{
    static struct frame frame;

    frame_out(rig, &frame, 5, 3000);
    set_checksum(&frame, PROTO_TCP, false, UNFINISHED);
    frame.hdr.gso_type = VNET_GSO_TCPV4;
    frame.hdr.gso_size = 1000;
    frame.hdr.hdr_len = TCP_HEADERS_LEN;
    if (rig->header && !(rig->port->caps & PORT_CAP_TX_GSO)) {
        expect_refusal(rig, &frame);
    }
}

void case_checksum(struct rig *rig)
{
    if (!rig_open(rig, 0)) {
        return;
    }
    for (int tagged = 0; tagged < 2; tagged++) {
        checksums_in(rig, PROTO_UDP, tagged);
        checksums_in(rig, PROTO_TCP, tagged);
        checksums_out(rig, PROTO_UDP, tagged);
        checksums_out(rig, PROTO_TCP, tagged);
    }
    segments_out(rig);
    rig_close(rig);
}

static void pass_length(struct rig *rig, uint32_t len)
{
    static struct frame frame;

    frame_in(rig, &frame, len, len);
    pass_in(rig, &frame);
    frame_out(rig, &frame, len, len);
    pass_out(rig, &frame);
}

/* What is too long for the wire is passed whole or counted as dropped, and never cut. */
static void send_too_long(struct rig *rig, uint32_t len)
{
    static struct frame frame;
    uint64_t end = real_now_us() + COME_MS * 1000;
    bool came = false;

    CHECK(rig_drained(rig));
    frame_out(rig, &frame, len, len);
    CHECK(rig_put(rig, &frame, 0));
    while (!came && rig->port->counters->tx_dropped == 0 && CHECK(real_now_us() < end)) {
        rig_tx_sync(rig);
        came = rig->wire->collect(rig, &rig->out);
    }
    if (came) {
        is_same(&rig->out, &frame);
    } else {
        CHECK_EQ(rig->port->counters->tx_dropped, 1);
    }
}

/* What came cut is worse than what did not come. */
static void inject_too_long(struct rig *rig, uint32_t len)
{
    static struct frame frame;
    uint64_t end = real_now_us() + COME_MS * 1000;

    frame_in(rig, &frame, len, len);
    rig_inject(rig, &frame);
    while (rig->port->counters->rx_missed == 0 && CHECK(real_now_us() < end)) {
        rig_rx_sync(rig);
        CHECK(nm_ring_empty(rig->port->rx));
    }
    CHECK_EQ(rig->port->counters->rx_missed, 1);
}

void case_lengths(struct rig *rig)
{
    /* Around what a slot holds with and without a header, and what is usual. */
    static const uint32_t edges[] = {64,   1514, 1518, 2035, 2036, 2037, 2047, 2048, 2049,
                                     4083, 4084, 4085, 4096, 6131, 6132, 6133, 9000};
    uint32_t most;

    if (!rig_open(rig, 0)) {
        return;
    }
    most = rig_frame_max(rig);
    for (uint32_t len = FRAME_MIN; len <= most && check_failures() == 0;) {
        pass_length(rig, len);
        len += len < LEN_SHORT ? LEN_STEP_SHORT : LEN_STEP_LONG;
    }
    for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
        pass_length(rig, min_u32(edges[i], most));
    }
    pass_length(rig, most);
    CHECK_EQ(rig->port->counters->tx_dropped, 0);
    CHECK_EQ(rig->port->counters->rx_missed, 0);
    send_too_long(rig, FRAME_LONGEST + 200);
    if (most < FRAME_LONGEST) {
        inject_too_long(rig, FRAME_LONGEST);
    }
    rig_close(rig);
}
