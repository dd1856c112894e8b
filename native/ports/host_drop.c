/* The program at the interface's ingress; see host_drop.h. */
#include "ports/host_drop.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/wire.h"
#include "ports/bpf_code.h"

enum {
    /* Of Linux 6.6, named here for older headers: */
    INGRESS = 46, /* BPF_TCX_INGRESS */
    NEXT = -1,    /* TCX_NEXT: what others have to say, then the host */
    DROP = 2,
    /* Registers; the helper takes 1 to 4. */
    FIELD = 5,
    CONTEXT = 6,
    STACK = 10,
    /* Where the IPv4 header and then the port are copied to: a frame need not lie in one piece. */
    COPY = -24,
    TO_HOST = -1, /* see bpf_land() */
    FRAG_OFFSET = 0x1fff,
};

/* Copies `len` bytes of the frame, from FIELD on; to the host if it has not so many. */
static void copy(struct bpf_code *code, int32_t len)
{
    bpf_move(code, 1, CONTEXT);
    bpf_move(code, 2, FIELD);
    bpf_move(code, 3, STACK);
    bpf_change(code, BPF_ADD, 3, COPY);
    bpf_change(code, BPF_MOV, 4, len);
    bpf_helper(code, BPF_FUNC_skb_load_bytes);
    bpf_jump_number(code, BPF_JNE, 0, 0, TO_HOST);
}

static void load_copied(struct bpf_code *code, uint8_t size, size_t offset)
{
    bpf_load(code, size, FIELD, STACK, COPY + (int32_t)offset);
}

/* A comparison of 64 bits with a number of 32 would extend its sign. */
static void match_address(struct bpf_code *code, uint32_t ip)
{
    uint32_t wanted = htonl(ip);

    load_copied(code, BPF_H, offsetof(struct wire_ipv4, dst));
    bpf_jump_number(code, BPF_JNE, FIELD, (int32_t)(wanted & UINT16_MAX), TO_HOST);
    load_copied(code, BPF_H, offsetof(struct wire_ipv4, dst) + sizeof(uint16_t));
    bpf_jump_number(code, BPF_JNE, FIELD, (int32_t)(wanted >> 16), TO_HOST);
}

/* One of our TCP ports; fragments behind the first have none. */
static void match_port(struct bpf_code *code, const uint16_t *tcp_ports)
{
    load_copied(code, BPF_B, offsetof(struct wire_ipv4, protocol));
    bpf_jump_number(code, BPF_JNE, FIELD, PROTO_TCP, TO_HOST);
    load_copied(code, BPF_H, offsetof(struct wire_ipv4, frag_off));
    bpf_change(code, BPF_AND, FIELD, htons(FRAG_OFFSET));
    bpf_jump_number(code, BPF_JNE, FIELD, 0, TO_HOST);
    load_copied(code, BPF_B, offsetof(struct wire_ipv4, version_ihl));
    bpf_change(code, BPF_AND, FIELD, 15);
    bpf_change(code, BPF_LSH, FIELD, 2);
    bpf_change(code, BPF_ADD, FIELD, ETH_HDR_LEN + (int32_t)offsetof(struct wire_tcp, dst_port));
    copy(code, sizeof(uint16_t));
    load_copied(code, BPF_H, 0);
    for (uint32_t i = 0; i < PORT_TCP_PORTS_MAX && tcp_ports[i] != 0; i++) {
        bpf_jump_number(code, BPF_JEQ, FIELD, htons(tcp_ports[i]), TO_HOST - 1);
    }
    bpf_jump_number(code, BPF_JA, 0, 0, TO_HOST);
    bpf_land(code, TO_HOST - 1, code->n);
}

uint32_t host_drop_code(struct bpf_insn insn[HOST_DROP_CODE_MAX],
                        const struct device_config *config)
{
    struct bpf_code code = {.insn = insn, .max = HOST_DROP_CODE_MAX};

    if (config->take == PORT_TAKE_ALL) {
        bpf_return(&code, DROP);
        return code.n;
    }
    bpf_move(&code, CONTEXT, 1);
    bpf_load(&code, BPF_W, FIELD, CONTEXT, offsetof(struct __sk_buff, protocol));
    bpf_jump_number(&code, BPF_JNE, FIELD, htons(ETH_P_IP), TO_HOST);
    bpf_load(&code, BPF_W, FIELD, CONTEXT, offsetof(struct __sk_buff, vlan_present));
    bpf_jump_number(&code, BPF_JNE, FIELD, 0, TO_HOST);
    bpf_change(&code, BPF_MOV, FIELD, ETH_HDR_LEN);
    copy(&code, IPV4_HDR_LEN);
    match_address(&code, config->ip);
    if (config->take == PORT_TAKE_PORTS) {
        match_port(&code, config->tcp_ports);
    }
    bpf_return(&code, DROP);
    bpf_land(&code, TO_HOST, code.n);
    bpf_return(&code, NEXT);
    return code.n;
}

int host_drop_open(int ifindex, const struct device_config *config)
{
    struct bpf_insn insn[HOST_DROP_CODE_MAX];
    union bpf_attr load = {.prog_type = BPF_PROG_TYPE_SCHED_CLS,
                           .insns = (uint64_t)(uintptr_t)insn,
                           .license = (uint64_t)(uintptr_t)"BSD",
                           .prog_name = "shardserver"};
    int program;
    int link;

    load.insn_cnt = host_drop_code(insn, config);
    program = bpf_call(BPF_PROG_LOAD, &load);
    if (program < 0) {
        return program;
    }
    union bpf_attr attach = {.link_create = {.prog_fd = (uint32_t)program,
                                             .target_ifindex = (uint32_t)ifindex,
                                             .attach_type = (enum bpf_attach_type)INGRESS}};

    link = bpf_call(BPF_LINK_CREATE, &attach);
    close(program);
    return link;
}

int host_drop_check(const char *spec, int fd, const struct device_config *config, char *error)
{
    const char *next = "Linux 6.6 or later can";

    if (fd >= 0 || config->take == PORT_TAKE_ADDRESS) {
        return 0;
    }
    if (fd == -EPERM || fd == -EACCES) {
        next = "run as root, in the first user namespace, or with CAP_BPF and CAP_NET_ADMIN";
    }
    snprintf(error, PORT_ERROR_MAX,
             "%s: this policy needs a program at the interface's ingress, which the kernel refuses "
             "(%s): %s; or give --policy pass-ip",
             spec, strerror(-fd), next);
    return fd;
}
