/* ARP; see arp.h. */
#include "stack/arp.h"

#include <arpa/inet.h>
#include <string.h>

#include "stack/eth.h"
#include "stack/ipv4.h"
#include "stack/neighbour.h"

enum {
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    HTYPE_ETHERNET = 1,
    HOP_US = 1000000,
};

static bool well_formed(const struct wire_arp *arp)
{
    return arp->htype == htons(HTYPE_ETHERNET) && arp->ptype == htons(ETHERTYPE_IPV4) &&
           arp->hlen == ETH_ALEN_BYTES && arp->plen == 4 && !(arp->sha[0] & 1);
}

static enum verdict handle(struct stack *stack, const struct wire_arp *arp)
{
    const struct stack_config *config = stack->config;
    bool to_us = arp->tpa == config->ip;
    bool asks = arp->oper == htons(ARP_REQUEST);
    bool learned;
    struct reply *reply;

    if (arp->spa == config->ip || arp->spa == 0) { /* a claim of our address, or a probe */
        learned = false;
    } else {
        learned = neighbour_update(stack->cluster->neighbours, arp->spa, arp->sha, stack->now_us,
                                   to_us && asks);
        memset(stack->hops, 0, sizeof(stack->hops));
    }
    if (!asks || !to_us) {
        return learned ? VERDICT_arp_learned : VERDICT_arp_not_ours;
    }
    reply = reply_add(stack, REPLY_ARP);
    if (reply) {
        memcpy(reply->mac, arp->sha, sizeof(reply->mac));
        reply->ip = arp->spa;
    }
    return VERDICT_arp_reply_sent;
}

void arp_input(struct stack *stack, struct frame *frame)
{
    struct wire_arp arp;

    if (frame->contig < ETH_HDR_LEN + ARP_LEN) {
        frame->verdict = VERDICT_arp_malformed;
        return;
    }
    memcpy(&arp, frame->data + frame->l3_off, sizeof(arp));
    frame->verdict = VERDICT_arp_malformed;
    if (well_formed(&arp)) {
        frame->verdict = (uint8_t)handle(stack, &arp);
    }
}

__attribute__((noinline)) static const uint8_t *resolve_anew(struct stack *stack, uint32_t ip,
                                                             struct hop *hop)
{
    bool ask;
    bool known = neighbour_lookup(stack->cluster->neighbours, ip, hop->mac, stack->now_us, &ask);

    hop->ip = ip;
    hop->until_us = known ? stack->now_us + HOP_US : 0;
    if (ask && !stack->config->host_arp) {
        struct reply *reply = reply_add(stack, REPLY_ARP_ASK);

        if (reply) {
            reply->ip = ip;
        }
    }
    return known ? hop->mac : NULL;
}

static struct hop *hop_of(struct stack *stack, uint32_t ip)
{
    return &stack->hops[(ip * 0x9e3779b1u) >> 26];
}

const uint8_t *arp_resolve(struct stack *stack, uint32_t ip)
{
    struct hop *hop = hop_of(stack, ip);

    if (likely(hop->ip == ip && stack->now_us < hop->until_us)) {
        return hop->mac;
    }
    return resolve_anew(stack, ip, hop);
}

void arp_learn_from(struct stack *stack, const struct frame *frame)
{
    uint32_t ip = stack_next_hop(stack->config, frame->tuple.raddr);
    const uint8_t *mac = frame->data + ETH_ALEN_BYTES;
    const uint8_t *known = arp_resolve(stack, ip);

    if ((known && memcmp(known, mac, ETH_ALEN_BYTES) == 0) || (mac[0] & 1)) {
        return;
    }
    neighbour_update(stack->cluster->neighbours, ip, mac, stack->now_us, true);
    hop_of(stack, ip)->until_us = 0;
}

void arp_announce(struct stack *stack)
{
    struct reply *reply = reply_add(stack, REPLY_ARP_ASK);

    if (reply) {
        reply->ip = stack->config->ip;
    }
}

bool reply_send_arp(struct stack *stack, const struct reply *reply)
{
    static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    bool answer = reply->kind == REPLY_ARP;
    struct wire_arp arp = {.htype = htons(HTYPE_ETHERNET),
                           .ptype = htons(ETHERTYPE_IPV4),
                           .hlen = ETH_ALEN_BYTES,
                           .plen = 4,
                           .oper = htons(answer ? ARP_REPLY : ARP_REQUEST),
                           .spa = stack->config->ip,
                           .tpa = reply->ip};
    uint8_t *buf = tx_reserve(stack);

    if (!buf) {
        return false;
    }
    memcpy(arp.sha, stack->config->mac, sizeof(arp.sha));
    memcpy(arp.tha, reply->mac, sizeof(arp.tha));
    eth_write(stack, buf, answer ? reply->mac : everybody, ETHERTYPE_ARP);
    memcpy(buf + ETH_HDR_LEN, &arp, sizeof(arp));
    tx_push(stack, ETH_HDR_LEN + ARP_LEN);
    return true;
}
