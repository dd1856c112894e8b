/* The filter's hands; see scrub.h. */
#include "engine_picotcp/scrub.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/csum.h"
#include "stack/eth.h"
#include "stack/ipv4.h"

enum {
    OPT_END = 0,
    OPT_NOP = 1,
    OPT_MSS = 2,
    OPT_WSCALE = 3,
    OPT_SACK_PERMITTED = 4,
    OPT_SACK = 5,
    OPT_TIMESTAMP = 8,
    LEN_MSS = 4,
    LEN_WSCALE = 3,
    LEN_SACK_PERMITTED = 2,
    LEN_TIMESTAMP = 10,
    SACK_BLOCK = 8,
    FLAGS_KNOWN = TCP_FIN | TCP_SYN | TCP_RST | TCP_ACK,
};

bool scrub_flags(uint8_t flags)
{
    switch (flags & FLAGS_KNOWN) { /* PSH, URG, ECE and CWR go with any, and are not passed on */
    case TCP_SYN:
    case TCP_SYN | TCP_ACK:
    case TCP_ACK:
    case TCP_FIN | TCP_ACK:
    case TCP_RST:
    case TCP_RST | TCP_ACK:
        return true;
    default:
        return false;
    }
}

static bool take_sack(const uint8_t *value, uint32_t size, struct scrub_options *options)
{
    if (size < SACK_BLOCK || size % SACK_BLOCK != 0) {
        return false;
    }
    options->sack_len = (uint8_t)min_u32(size, sizeof(options->sack));
    memcpy(options->sack, value, options->sack_len);
    return true;
}

/* One option of `size` bytes, its kind and length included. */
static bool take_option(const uint8_t *opt, uint32_t size, bool syn, struct scrub_options *options)
{
    switch (opt[0]) {
    case OPT_MSS:
        if (syn && size == LEN_MSS) {
            options->mss = (uint16_t)(opt[2] << 8 | opt[3]);
            options->mss = options->mss ? options->mss : 1; /* 0 is an offer, and refused as one */
        }
        return size == LEN_MSS;
    case OPT_WSCALE:
        if (syn && size == LEN_WSCALE) {
            options->wscale = opt[2] < TCP_WSCALE_MAX ? opt[2] : TCP_WSCALE_MAX;
        }
        return size == LEN_WSCALE;
    case OPT_SACK_PERMITTED:
        options->sack_permitted = syn;
        return size == LEN_SACK_PERMITTED;
    case OPT_TIMESTAMP:
        options->has_timestamp = size == LEN_TIMESTAMP;
        memcpy(options->timestamp, opt + 2, options->has_timestamp ? 8 : 0);
        return options->has_timestamp;
    case OPT_SACK:
        return take_sack(opt + 2, size - 2, options);
    default:
        return true; /* unknown: skipped, and not passed on (MUST-6) */
    }
}

bool scrub_parse(const struct frame *frame, const struct segment *seg,
                 struct scrub_options *options)
{
    uint32_t len = seg->off - frame->l4_off - TCP_HDR_LEN;
    uint8_t bytes[SCRUB_OPTIONS_MAX];
    uint32_t i = 0;

    *options = (struct scrub_options){.wscale = UINT8_MAX};
    frame_copy(frame, frame->l4_off + TCP_HDR_LEN, bytes, len);
    while (i < len && bytes[i] != OPT_END) {
        uint32_t size;

        if (bytes[i] == OPT_NOP) {
            i++;
            continue;
        }
        if (i + 1 >= len || bytes[i + 1] < 2 || bytes[i + 1] > len - i) {
            return false;
        }
        size = bytes[i + 1];
        if (!take_option(bytes + i, size, (seg->flags & TCP_SYN) != 0, options)) {
            return false;
        }
        i += size;
    }
    return true;
}

/* Each option is padded to a multiple of four by NOPs before it. */
static uint32_t write_options(const struct scrub_options *options, bool syn, uint8_t *out)
{
    uint8_t *at = out;

    if (syn && options->mss) {
        *at++ = OPT_MSS;
        *at++ = LEN_MSS;
        *at++ = (uint8_t)(options->mss >> 8);
        *at++ = (uint8_t)options->mss;
    }
    if (syn && options->sack_permitted) {
        *at++ = OPT_NOP;
        *at++ = OPT_NOP;
        *at++ = OPT_SACK_PERMITTED;
        *at++ = LEN_SACK_PERMITTED;
    }
    if (options->has_timestamp) {
        *at++ = OPT_NOP;
        *at++ = OPT_NOP;
        *at++ = OPT_TIMESTAMP;
        *at++ = LEN_TIMESTAMP;
        memcpy(at, options->timestamp, sizeof(options->timestamp));
        at += sizeof(options->timestamp);
    }
    if (!syn && options->sack_len > 0) {
        *at++ = OPT_NOP;
        *at++ = OPT_NOP;
        *at++ = OPT_SACK;
        *at++ = (uint8_t)(2 + options->sack_len);
        memcpy(at, options->sack, options->sack_len);
        at += options->sack_len;
    }
    return (uint32_t)(at - out);
}

/* Ethernet and IPv4 as from the peer: no option, no fragment, no class of service. */
static void write_network(const struct stack *stack, const struct frame *frame, uint32_t len,
                          uint8_t *out)
{
    static const uint8_t peer[ETH_ALEN_BYTES] = {2};
    struct wire_ipv4 ip = {.version_ihl = 0x45,
                           .total_len = htons((uint16_t)(IPV4_HDR_LEN + len)),
                           .ttl = 64,
                           .protocol = PROTO_TCP,
                           .src = frame->tuple.raddr,
                           .dst = frame->tuple.laddr};
    uint16_t type = htons(ETHERTYPE_IPV4);

    memcpy(out, stack->config->mac, ETH_ALEN_BYTES);
    memcpy(out + ETH_ALEN_BYTES, peer, ETH_ALEN_BYTES);
    memcpy(out + 2 * ETH_ALEN_BYTES, &type, sizeof(type));
    ip.check = csum_fold(csum_ipv4_header(&ip));
    memcpy(out + ETH_HDR_LEN, &ip, sizeof(ip));
}

uint32_t scrub_write(const struct stack *stack, const struct segment *seg,
                     const struct scrub_options *options, const struct scrubbed *what, uint8_t *out)
{
    uint8_t *l4 = out + ETH_HDR_LEN + IPV4_HDR_LEN;
    uint32_t header = TCP_HDR_LEN + write_options(options, what->flags & TCP_SYN, l4 + TCP_HDR_LEN);
    uint32_t len = header + what->len;
    struct wire_tcp tcp = {.src_port = what->remote_port,
                           .dst_port = seg->frame->tuple.lport,
                           .seq = htonl(what->seq),
                           .ack = htonl(what->ack),
                           .data_off = (uint8_t)(header / 4 << 4),
                           .flags = what->flags,
                           .window = UINT16_MAX}; /* we keep to the peer's window: see pump.c */

    write_network(stack, seg->frame, len, out);
    memcpy(l4, &tcp, sizeof(tcp));
    frame_copy(seg->frame, what->off, l4 + header, what->len);
    if (what->sums) {
        uint16_t check = csum_fold(csum_add(
            l4, len,
            csum_pseudo(seg->frame->tuple.raddr, seg->frame->tuple.laddr, PROTO_TCP, len)));

        memcpy(l4 + offsetof(struct wire_tcp, check), &check, sizeof(check));
    }
    return ETH_HDR_LEN + IPV4_HDR_LEN + len;
}
