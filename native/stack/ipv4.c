/* IPv4; see ipv4.h. */
#include "stack/ipv4.h"

#include <arpa/inet.h>
#include <string.h>

#include "base/csum.h"
#include "stack/eth.h"

#define FIRST_BYTE htonl(0xff000000u)

enum {
    TTL_DEFAULT = 64,
    FRAG_MORE = 0x2000,
    FRAG_OFFSET = 0x1fff,
    FRAG_DONT = 0x4000,
    PLAIN_FRAG_MASK = (FRAG_MORE | FRAG_OFFSET) << 16 | 0xff, /* and the protocol */
};

/* RFC 1122 section 3.2.1.3: addresses that no host sends from. */
static bool stranger_possible(const struct stack_config *config, uint32_t src)
{
    uint32_t host = ntohl(src);

    if (host >> 24 == 0 || host >> 24 == 127 || host >> 28 >= 14 || src == config->ip) {
        return false;
    }
    return config->netmask == UINT32_MAX || (src & ~config->netmask) != ~config->netmask ||
           (src & config->netmask) != (config->ip & config->netmask);
}

static inline bool source_possible(const struct stack_config *config, uint32_t src)
{
    uint32_t apart = src ^ config->ip;

    if (likely((apart & config->netmask) == 0 && (config->netmask & FIRST_BYTE) == FIRST_BYTE)) {
        return apart != 0 && (src | config->netmask) != UINT32_MAX; /* a neighbour of ours */
    }
    return stranger_possible(config, src);
}

static bool checksum_right(const uint8_t *ip, uint32_t header)
{
    uint64_t sum = csum_ipv4_header(ip);

    if (header > IPV4_HDR_LEN) {
        sum = csum_add(ip + IPV4_HDR_LEN, header - IPV4_HDR_LEN, sum);
    }
    return csum_fold(sum) == 0;
}

enum verdict ipv4_parse(const struct stack_config *config, struct frame *frame, uint8_t *protocol)
{
    struct wire_ipv4 ip;
    uint32_t header;
    uint32_t total;

    if (frame->contig < ETH_HDR_LEN + IPV4_HDR_LEN) {
        return VERDICT_eth_malformed;
    }
    memcpy(&ip, frame->data + frame->l3_off, sizeof(ip));
    header = (uint32_t)(ip.version_ihl & 15) * 4;
    total = ntohs(ip.total_len);
    if (ip.version_ihl >> 4 != 4 || header < IPV4_HDR_LEN || total < header ||
        total > frame->len - frame->l3_off || frame->contig < frame->l3_off + header ||
        !checksum_right(frame->data + frame->l3_off, header)) {
        return VERDICT_ip_malformed;
    }
    if (ip.dst != config->ip) {
        return VERDICT_ip_not_ours;
    }
    if (!source_possible(config, ip.src)) {
        return VERDICT_ip_bad_source;
    }
    if (ntohs(ip.frag_off) & (FRAG_MORE | FRAG_OFFSET)) {
        return VERDICT_ip_fragment;
    }
    frame->l4_off = (uint16_t)(frame->l3_off + header);
    frame->l4_len = total - header;
    frame->tuple.laddr = ip.dst;
    frame->tuple.raddr = ip.src;
    *protocol = ip.protocol;
    return VERDICT_NONE;
}

bool ipv4_plain_tcp(const struct stack_config *config, struct frame *frame)
{
    const uint8_t *ip = frame->data + ETH_HDR_LEN;
    uint32_t total = ntohs(load_u16(ip + offsetof(struct wire_ipv4, total_len)));
    uint32_t frag = load_u32(ip + offsetof(struct wire_ipv4, frag_off));
    uint32_t src = load_u32(ip + offsetof(struct wire_ipv4, src));

    if ((frag & htonl(PLAIN_FRAG_MASK)) != htonl(PROTO_TCP) || total < IPV4_HDR_LEN + TCP_HDR_LEN ||
        total > frame->len - ETH_HDR_LEN ||
        load_u32(ip + offsetof(struct wire_ipv4, dst)) != config->ip ||
        csum_fold(csum_ipv4_header(ip)) != 0 || !source_possible(config, src)) {
        return false;
    }
    frame->l4_off = ETH_HDR_LEN + IPV4_HDR_LEN;
    frame->l4_len = total - IPV4_HDR_LEN;
    frame->tuple.laddr = config->ip;
    frame->tuple.raddr = src;
    return true;
}

void ipv4_write(const struct stack *stack, uint8_t *buf, uint32_t dst, uint8_t protocol,
                uint32_t len)
{
    struct wire_ipv4 ip = {
        .version_ihl = 0x45,
        .total_len = htons((uint16_t)(IPV4_HDR_LEN + len)),
        .frag_off = htons(FRAG_DONT), /* atomic: its id may be anything (RFC 6864) */
        .ttl = TTL_DEFAULT,
        .protocol = protocol,
        .src = stack->config->ip,
        .dst = dst,
    };

    ip.check = csum_fold(csum_ipv4_header(&ip));
    memcpy(buf, &ip, sizeof(ip));
}

void ipv4_prepare(struct stack *stack)
{
    static const uint8_t nobody[ETH_ALEN_BYTES];

    eth_write(stack, stack->head, nobody, ETHERTYPE_IPV4);
    ipv4_write(stack, stack->head + ETH_HDR_LEN, 0, PROTO_TCP, 0);
    memset(stack->head + ETH_HDR_LEN + offsetof(struct wire_ipv4, total_len), 0, sizeof(uint16_t));
    memset(stack->head + ETH_HDR_LEN + offsetof(struct wire_ipv4, check), 0, sizeof(uint16_t));
    memcpy(&stack->mac_word, stack->config->mac, ETH_ALEN_BYTES);
    stack->head_sum = csum_ipv4_header(stack->head + ETH_HDR_LEN);
}

uint32_t stack_next_hop(const struct stack_config *config, uint32_t dst)
{
    bool on_link = ((dst ^ config->ip) & config->netmask) == 0;

    return on_link || config->gateway == 0 ? dst : config->gateway;
}
