/* filter: whose a frame is, rule by rule. */
#include <arpa/inet.h>
#include <stddef.h>
#include <string.h>

#include "base/wire.h"
#include "check.h"
#include "ports/filter.h"

enum {
    OURS = 0x0a000001,
    OTHER = 0x0a000002,
    ECHO = 7,
    SSH = 22,
    HIGH = 65535,
};

static const uint16_t types[] = {ETHERTYPE_IPV4, ETHERTYPE_ARP, 0x86dd, 0x8100, 0x88a8, 0x88cc};

static struct filter filter_of(uint32_t take, uint32_t ip)
{
    struct device_config config = {.take = take, .ip = ip, .tcp_ports = {ECHO, HIGH}};
    struct filter filter;

    filter_set(&filter, &config);
    return filter;
}

/* A frame of 60 bytes; to an address, and for TCP and UDP to a port. */
static void make(uint8_t frame[64], uint16_t type, uint32_t ip, uint8_t protocol, uint16_t to)
{
    memset(frame, 0, 64);
    store_u16(frame + offsetof(struct wire_eth, type), htons(type));
    if (type == ETHERTYPE_ARP) {
        store_u32(frame + ETH_HDR_LEN + offsetof(struct wire_arp, tpa), htonl(ip));
        return;
    }
    frame[ETH_HDR_LEN] = 0x45;
    frame[ETH_HDR_LEN + offsetof(struct wire_ipv4, protocol)] = protocol;
    store_u32(frame + ETH_HDR_LEN + offsetof(struct wire_ipv4, dst), htonl(ip));
    store_u16(frame + ETH_HDR_LEN + IPV4_HDR_LEN + offsetof(struct wire_tcp, dst_port), htons(to));
}

static bool takes(const struct filter *filter, uint16_t type, uint32_t ip, uint8_t protocol,
                  uint16_t to)
{
    uint8_t frame[64];

    make(frame, type, ip, protocol, to);
    return filter_takes(filter, frame, 60);
}

static void exclusive_takes_every_frame(void)
{
    struct filter all = filter_of(PORT_TAKE_ALL, OURS);

    for (uint32_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        CHECK(takes(&all, types[i], OTHER, PROTO_UDP, SSH));
    }
    CHECK(filter_takes(&all, (const uint8_t[14]){0}, 14));
}

static void pass_ip_takes_arp_and_ip_to_our_address(void)
{
    struct filter own = filter_of(PORT_TAKE_ADDRESS, OURS);

    for (uint32_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        bool ours = types[i] == ETHERTYPE_IPV4 || types[i] == ETHERTYPE_ARP;

        CHECK_EQ(takes(&own, types[i], OURS, PROTO_TCP, SSH), ours);
        CHECK(!takes(&own, types[i], OTHER, PROTO_TCP, ECHO));
    }
    CHECK(takes(&own, ETHERTYPE_IPV4, OURS, PROTO_ICMP, 0));
    CHECK(takes(&own, ETHERTYPE_IPV4, OURS, PROTO_UDP, 53));
}

static void without_an_address_ip_arp_and_tags_are_ours(void)
{
    struct filter any = filter_of(PORT_TAKE_ADDRESS, 0);

    for (uint32_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        CHECK_EQ(takes(&any, types[i], OTHER, PROTO_TCP, 1),
                 types[i] != 0x86dd && types[i] != 0x88cc);
    }
}

static void pass_takes_tcp_to_our_ports_at_our_address(void)
{
    struct filter ports = filter_of(PORT_TAKE_PORTS, OURS);

    for (uint32_t to = 0; to <= UINT16_MAX; to++) {
        CHECK_EQ(takes(&ports, ETHERTYPE_IPV4, OURS, PROTO_TCP, (uint16_t)to),
                 to == ECHO || to == HIGH);
    }
    for (uint32_t i = 1; i < sizeof(types) / sizeof(types[0]); i++) {
        CHECK(!takes(&ports, types[i], OURS, PROTO_TCP, ECHO));
    }
    CHECK(!takes(&ports, ETHERTYPE_IPV4, OTHER, PROTO_TCP, ECHO));
    CHECK(!takes(&ports, ETHERTYPE_IPV4, OURS, PROTO_UDP, ECHO));
    CHECK(!takes(&ports, ETHERTYPE_IPV4, OURS, PROTO_ICMP, ECHO));
}

static void a_port_is_found_behind_ip_options_and_in_a_first_fragment_only(void)
{
    struct filter ports = filter_of(PORT_TAKE_PORTS, OURS);
    uint8_t frame[64];

    make(frame, ETHERTYPE_IPV4, OURS, PROTO_TCP, SSH);
    frame[ETH_HDR_LEN] = 0x46;
    store_u16(frame + ETH_HDR_LEN + 24 + 2, htons(ECHO));
    CHECK(filter_takes(&ports, frame, 60));
    frame[ETH_HDR_LEN] = 0x4f; /* its ports begin behind 60 bytes of header */
    CHECK(!filter_takes(&ports, frame, 60));
    frame[ETH_HDR_LEN] = 0x44;
    CHECK(!filter_takes(&ports, frame, 60));
    make(frame, ETHERTYPE_IPV4, OURS, PROTO_TCP, ECHO);
    store_u16(frame + ETH_HDR_LEN + offsetof(struct wire_ipv4, frag_off), htons(0x2000));
    CHECK(filter_takes(&ports, frame, 60));
    store_u16(frame + ETH_HDR_LEN + offsetof(struct wire_ipv4, frag_off), htons(1));
    CHECK(!filter_takes(&ports, frame, 60));
}

static void a_frame_that_ends_too_soon_is_the_hosts(void)
{
    struct filter ports = filter_of(PORT_TAKE_PORTS, OURS);
    struct filter own = filter_of(PORT_TAKE_ADDRESS, OURS);
    uint8_t frame[64];

    make(frame, ETHERTYPE_IPV4, OURS, PROTO_TCP, ECHO);
    for (uint32_t len = 0; len <= 60; len++) {
        CHECK_EQ(filter_takes(&ports, frame, len), len >= 38);
        CHECK_EQ(filter_takes(&own, frame, len), len >= 34);
    }
    make(frame, ETHERTYPE_ARP, OURS, 0, 0);
    for (uint32_t len = 0; len <= 60; len++) {
        CHECK_EQ(filter_takes(&own, frame, len), len >= 42);
    }
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"exclusive takes every frame", exclusive_takes_every_frame},
        {"pass ip takes arp and ip to our address", pass_ip_takes_arp_and_ip_to_our_address},
        {"without an address ip arp and tags are ours",
         without_an_address_ip_arp_and_tags_are_ours},
        {"pass takes tcp to our ports at our address", pass_takes_tcp_to_our_ports_at_our_address},
        {"a port is found behind ip options and in a first fragment only",
         a_port_is_found_behind_ip_options_and_in_a_first_fragment_only},
        {"a frame that ends too soon is the hosts", a_frame_that_ends_too_soon_is_the_hosts},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
