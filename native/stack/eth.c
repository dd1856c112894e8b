/* Ethernet, and the classification of a burst; see eth.h. */
#include "stack/eth.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/hash.h"
#include "stack/arp.h"
#include "stack/flow.h"
#include "stack/ipv4.h"

enum {
    PLAIN_TYPE = ETHERTYPE_IPV4 << 16 | 0x4500, /* and the first byte of IP */
};

void eth_write(const struct stack *stack, uint8_t *buf, const uint8_t mac[6], uint16_t ethertype)
{
    uint16_t type = htons(ethertype);

    memcpy(buf, mac, ETH_ALEN_BYTES);
    memcpy(buf + ETH_ALEN_BYTES, stack->config->mac, ETH_ALEN_BYTES);
    memcpy(buf + offsetof(struct wire_eth, type), &type, sizeof(type));
}

/* Ours, or to everybody. */
static bool eth_for_us(const struct stack *stack, struct frame *frame)
{
    frame->broadcast = frame->data[0] & 1;
    return frame->broadcast || memcmp(frame->data, stack->config->mac, ETH_ALEN_BYTES) == 0;
}

static void classify_tcp_ports(struct stack *stack, struct frame *frame)
{
    const uint8_t *l4 = frame->data + frame->l4_off;

    frame->tuple.rport = load_u16(l4 + offsetof(struct wire_tcp, src_port));
    frame->tuple.lport = load_u16(l4 + offsetof(struct wire_tcp, dst_port));
    frame->hash = flow_hash(stack->cluster->flow_key, &frame->tuple);
    frame->kind = FRAME_TCP;
    flow_prefetch(stack, frame->hash);
    if (unlikely(stack->config->host_arp)) {
        arp_learn_from(stack, frame);
    }
}

static void classify_tcp(struct stack *stack, struct frame *frame)
{
    if (frame->l4_len < TCP_HDR_LEN || frame->contig < (uint32_t)frame->l4_off + TCP_HDR_LEN) {
        frame->verdict = VERDICT_tcp_bad_header;
    } else if (frame->broadcast) {
        frame->verdict = VERDICT_tcp_bad_source; /* MUST-57 */
    } else {
        classify_tcp_ports(stack, frame);
    }
}

static void classify_ipv4(struct stack *stack, struct frame *frame)
{
    uint8_t protocol;

    frame->verdict = (uint8_t)ipv4_parse(stack->config, frame, &protocol);
    if (frame->verdict != VERDICT_NONE) {
        return;
    }
    if (protocol == PROTO_TCP) {
        classify_tcp(stack, frame);
    } else if (protocol == PROTO_ICMP) {
        frame->kind = FRAME_ICMP;
    } else {
        frame->verdict = VERDICT_ip_protocol;
    }
}

/* To our MAC, IPv4 without options: the one comparison that nearly every frame passes. */
static bool is_plain(const struct stack *stack, const struct frame *frame)
{
    const uint8_t *at = frame->data;

    return frame->contig >= TCP_HEADERS_LEN &&
           (load_u64(at) ^ stack->mac_word) << 16 == 0 && /* its lower six bytes */
           (load_u32(at + offsetof(struct wire_eth, type)) & htonl(0xffffff00u)) ==
               htonl(PLAIN_TYPE);
}

static void classify_any(struct stack *stack, struct frame *frame)
{
    uint16_t type;

    if (frame->contig < ETH_HDR_LEN) {
        frame->verdict = VERDICT_eth_malformed;
        return;
    }
    if (!eth_for_us(stack, frame)) {
        frame->verdict = VERDICT_eth_not_ours;
        return;
    }
    memcpy(&type, frame->data + offsetof(struct wire_eth, type), sizeof(type));
    if (type == htons(ETHERTYPE_IPV4)) {
        classify_ipv4(stack, frame);
    } else if (type == htons(ETHERTYPE_ARP)) {
        frame->kind = FRAME_ARP;
    } else {
        frame->verdict = VERDICT_eth_type;
    }
}

void classify_burst(struct stack *stack, struct frame *frames, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct frame *frame = &frames[i];

        if (unlikely(frame->verdict != VERDICT_NONE)) {
            continue;
        }
        if (likely(is_plain(stack, frame) && ipv4_plain_tcp(stack->config, frame))) {
            classify_tcp_ports(stack, frame);
        } else {
            classify_any(stack, frame);
        }
    }
}
