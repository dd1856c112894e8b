/* Instructions are laid one after the other; refusals jump to the last. See socket_filter.h. */
#include "ports/socket_filter.h"

#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <string.h>

#include "base/wire.h"

enum {
    WHOLE = 0x40000, /* bytes that an accepting filter keeps: all */
    FRAG_OFFSET = 0x1fff,
    AT_TYPE = 12,
    AT_PROTOCOL = ETH_HDR_LEN + 9,
    AT_FRAG_OFF = ETH_HDR_LEN + 6,
    AT_DST = ETH_HDR_LEN + 16,
    /* Labels, until the place is known. */
    NEXT = 0,
    ACCEPT = 254,
    REFUSE = 255,
};

struct writer {
    struct sock_filter *code;
    uint32_t n;
};

static void put(struct writer *to, struct sock_filter insn)
{
    ENSURE(to->n < SOCKET_FILTER_MAX);
    to->code[to->n++] = insn;
}

static void load(struct writer *to, uint16_t size, uint32_t at)
{
    put(to, (struct sock_filter)BPF_STMT(BPF_LD | size | BPF_ABS, at));
}

static void test(struct writer *to, uint16_t compare, uint32_t number, uint8_t yes, uint8_t no)
{
    put(to, (struct sock_filter)BPF_JUMP(BPF_JMP | compare | BPF_K, number, yes, no));
}

static void match_mac(struct writer *to, const uint8_t mac[6])
{
    uint32_t high;
    uint16_t low;

    memcpy(&high, mac, sizeof(high));
    memcpy(&low, mac + sizeof(high), sizeof(low));
    load(to, BPF_B, 0);
    test(to, BPF_JSET, 1, 4, NEXT); /* broadcast, multicast */
    load(to, BPF_W, 0);
    test(to, BPF_JEQ, ntohl(high), NEXT, REFUSE);
    load(to, BPF_H, sizeof(high));
    test(to, BPF_JEQ, ntohs(low), NEXT, REFUSE);
}

/* Fragments behind the first have no ports: the host collects them. */
static void match_port(struct writer *to, const uint16_t *tcp_ports)
{
    load(to, BPF_B, AT_PROTOCOL);
    test(to, BPF_JEQ, PROTO_TCP, NEXT, REFUSE);
    load(to, BPF_H, AT_FRAG_OFF);
    test(to, BPF_JSET, FRAG_OFFSET, REFUSE, NEXT);
    put(to, (struct sock_filter)BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, ETH_HDR_LEN));
    put(to, (struct sock_filter)BPF_STMT(BPF_LD | BPF_H | BPF_IND, ETH_HDR_LEN + 2));
    for (uint32_t i = 0; i < PORT_TCP_PORTS_MAX && tcp_ports[i] != 0; i++) {
        test(to, BPF_JEQ, tcp_ports[i], ACCEPT, NEXT);
    }
    put(to, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0));
}

static void match_type(struct writer *to, const struct device_config *config)
{
    load(to, BPF_H, AT_TYPE);
    if (config->take == PORT_TAKE_PORTS) {
        test(to, BPF_JEQ, ETH_P_IP, NEXT, REFUSE);
        return;
    }
    test(to, BPF_JEQ, ETH_P_ARP, ACCEPT, NEXT);
    test(to, BPF_JEQ, ETH_P_8021Q, ACCEPT, NEXT);
    test(to, BPF_JEQ, ETH_P_8021AD, ACCEPT, NEXT);
    test(to, BPF_JEQ, ETH_P_IP, NEXT, REFUSE);
}

static void land(const struct writer *to, uint8_t *jump, uint32_t from)
{
    if (*jump == ACCEPT) {
        *jump = (uint8_t)(to->n - 2 - from - 1);
    } else if (*jump == REFUSE) {
        *jump = (uint8_t)(to->n - 1 - from - 1);
    }
}

static void match_ours(struct writer *to, const uint8_t mac[6], const struct device_config *config)
{
    match_mac(to, mac);
    match_type(to, config);
    if (config->ip != 0) {
        load(to, BPF_W, AT_DST);
        test(to, BPF_JEQ, config->ip, NEXT, REFUSE);
    }
    if (config->take == PORT_TAKE_PORTS) {
        match_port(to, config->tcp_ports);
    }
}

uint32_t socket_filter_make(struct sock_filter code[SOCKET_FILTER_MAX], const uint8_t mac[6],
                            const struct device_config *config, bool in_kernel)
{
    struct writer to = {.code = code};

    if (in_kernel) {
        load(&to, BPF_B, (uint32_t)(SKF_AD_OFF + SKF_AD_PKTTYPE));
        test(&to, BPF_JEQ, PACKET_OUTGOING, REFUSE, NEXT);
    }
    if (!config->every_frame) {
        match_ours(&to, mac, config);
    }
    put(&to, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, WHOLE));
    put(&to, (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, 0));
    for (uint32_t i = 0; i < to.n; i++) {
        if (BPF_CLASS(code[i].code) == BPF_JMP) {
            land(&to, &code[i].jt, i);
            land(&to, &code[i].jf, i);
        }
    }
    return to.n;
}
