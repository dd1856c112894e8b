/*
 * picoTCP's ARP table. It answers one request a second and holds five frames at most for addresses
 * that it does not know, so it is told what the shared table knows before it needs it: as a frame,
 * an ARP reply to it. How many it is told of is bounded, for it forgets none.
 */
#include <arpa/inet.h>
#include <string.h>

#include "engine_picotcp/picotcp.h"
#include "stack/arp.h"

enum {
    ARP_REQUEST = 1,
    ARP_REPLY = 2,
    HTYPE_ETHERNET = 1,
    SLOTS = 2 * PICOTCP_NEIGHBOURS_MAX,
};

/* Where the address stands, or the free place for it. */
static uint32_t *place_of(struct picotcp *engine, uint32_t ip)
{
    uint32_t at = (ip * 0x9e3779b1u) % SLOTS;

    while (engine->neighbours[at] != 0 && engine->neighbours[at] != ip) {
        at = (at + 1) % SLOTS;
    }
    return &engine->neighbours[at];
}

static void tell(struct picotcp *engine, uint32_t ip, const uint8_t mac[6])
{
    const struct stack_config *config = engine->stack->config;
    uint16_t type = htons(ETHERTYPE_ARP);
    struct wire_arp arp = {.htype = htons(HTYPE_ETHERNET),
                           .ptype = htons(ETHERTYPE_IPV4),
                           .hlen = ETH_ALEN_BYTES,
                           .plen = 4,
                           .oper = htons(ARP_REPLY),
                           .spa = ip,
                           .tpa = config->ip};
    uint8_t frame[ETH_HDR_LEN + ARP_LEN];

    memcpy(arp.sha, mac, ETH_ALEN_BYTES);
    memcpy(arp.tha, config->mac, ETH_ALEN_BYTES);
    memcpy(frame, config->mac, ETH_ALEN_BYTES);
    memcpy(frame + ETH_ALEN_BYTES, mac, ETH_ALEN_BYTES);
    memcpy(frame + 2 * ETH_ALEN_BYTES, &type, sizeof(type));
    memcpy(frame + ETH_HDR_LEN, &arp, sizeof(arp));
    engine->fed += engine->api->input(frame, sizeof(frame)) != 0;
}

bool picotcp_neighbour(struct picotcp *engine, uint32_t ip)
{
    uint32_t *place = place_of(engine, ip);
    const uint8_t *mac;

    if (*place == ip) {
        return true;
    }
    mac = engine->neighbours_n < PICOTCP_NEIGHBOURS_MAX ? arp_resolve(engine->stack, ip) : NULL;
    if (!mac) {
        return false;
    }
    *place = ip;
    engine->neighbours_n++;
    tell(engine, ip, mac);
    return true;
}

void picotcp_arp(struct picotcp *engine, const struct frame *frame)
{
    struct wire_arp arp;

    memcpy(&arp, frame->data + frame->l3_off, sizeof(arp));
    if (arp.spa != 0 && *place_of(engine, arp.spa) == arp.spa) {
        tell(engine, arp.spa, arp.sha);
    }
}

void picotcp_arp_asked(struct picotcp *engine, const uint8_t *frame, uint32_t len)
{
    struct wire_arp arp;
    const uint8_t *mac;

    if (len < ETH_HDR_LEN + ARP_LEN) {
        return;
    }
    memcpy(&arp, frame + ETH_HDR_LEN, sizeof(arp));
    if (arp.oper != htons(ARP_REQUEST) || *place_of(engine, arp.tpa) != arp.tpa) {
        return;
    }
    mac = arp_resolve(engine->stack, arp.tpa);
    if (mac) {
        tell(engine, arp.tpa, mac);
    }
}
