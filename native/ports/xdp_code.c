/*
 * The XDP program's instructions, assembled here: no compiler for BPF is needed; see xdp.h.
 *
 * It says what filter_takes() says. What is ours goes to the socket of its queue, and to the kernel
 * if that queue has none; all else passes to the kernel. Jumps go forward, to one of two labels.
 */
#include <linux/if_ether.h>
#include <stddef.h>

#include "base/wire.h"
#include "ports/bpf_code.h"
#include "ports/xdp.h"

enum {
    /* Registers: */
    CONTEXT = 6, /* stays over a call; so does the next */
    FILTER = 7,
    FRAME = 2,
    END = 3,
    SCRATCH = 4,
    FIELD = 5,
    TO_OURS = -1, /* see bpf_land() */
    TO_THEIRS = -2,

    AT_IP = ETH_HDR_LEN,
    IP_END = AT_IP + IPV4_HDR_LEN,
    FRAG_OFFSET = 0x1fff,
};

static void load_map(struct bpf_code *code, uint8_t to, uint8_t kind, int map)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_LD | BPF_DW | BPF_IMM,
                                    .dst_reg = to & 15u,
                                    .src_reg = kind & 15u,
                                    .imm = map});
    bpf_put(code, (struct bpf_insn){0}); /* its upper half */
}

/* Theirs if the frame ends before `offset` from `at`. */
static void need(struct bpf_code *code, uint8_t at, size_t offset)
{
    bpf_move(code, SCRATCH, at);
    bpf_change(code, BPF_ADD, SCRATCH, (int32_t)offset);
    bpf_jump(code, BPF_JGT, SCRATCH, END, TO_THEIRS);
}

/* Theirs if the 32 bits at `offset` are not our address. */
static void match_address(struct bpf_code *code, size_t offset)
{
    bpf_load(code, BPF_W, FIELD, FRAME, (int32_t)offset);
    bpf_load(code, BPF_W, SCRATCH, FILTER, (int32_t)offsetof(struct filter, ip));
    bpf_jump(code, BPF_JNE, FIELD, SCRATCH, TO_THEIRS);
}

/* ARP and IPv4 to our address. */
static void address_rule(struct bpf_code *code)
{
    uint32_t past;

    bpf_jump_number(code, BPF_JEQ, FIELD, __builtin_bswap16(ETH_P_ARP), 0);
    past = code->n;
    bpf_jump_number(code, BPF_JNE, FIELD, __builtin_bswap16(ETH_P_IP), TO_THEIRS);
    match_address(code, AT_IP + offsetof(struct wire_ipv4, dst));
    bpf_jump_number(code, BPF_JA, 0, 0, TO_OURS);
    code->insn[past - 1].off = (int16_t)(code->n - past); /* ARP goes on here */
    need(code, FRAME, AT_IP + ARP_LEN);
    match_address(code, AT_IP + offsetof(struct wire_arp, tpa));
}

/* Without an address: all of it, frames with a tag too. */
static void anybodys_rule(struct bpf_code *code)
{
    static const uint16_t whole[] = {ETH_P_IP, ETH_P_8021Q, ETH_P_8021AD};

    for (uint32_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++) {
        bpf_jump_number(code, BPF_JEQ, FIELD, __builtin_bswap16(whole[i]), TO_OURS);
    }
    bpf_jump_number(code, BPF_JNE, FIELD, __builtin_bswap16(ETH_P_ARP), TO_THEIRS);
    need(code, FRAME, AT_IP + ARP_LEN);
}

/* The bit of the port in FIELD, host order, decides. */
static void match_port(struct bpf_code *code)
{
    bpf_change(code, BPF_AND, FIELD, UINT16_MAX); /* for the verifier */
    bpf_move(code, SCRATCH, FIELD);
    bpf_change(code, BPF_RSH, SCRATCH, 3);
    bpf_combine(code, BPF_ADD, FILTER, SCRATCH);
    bpf_load(code, BPF_B, SCRATCH, FILTER, (int32_t)offsetof(struct filter, tcp_ports));
    bpf_change(code, BPF_AND, FIELD, 7);
    bpf_combine(code, BPF_RSH, SCRATCH, FIELD);
    bpf_change(code, BPF_AND, SCRATCH, 1);
    bpf_jump_number(code, BPF_JEQ, SCRATCH, 0, TO_THEIRS);
}

/* TCP to our address and one of our ports, fragments behind the first excepted. */
static void ports_rule(struct bpf_code *code)
{
    bpf_jump_number(code, BPF_JNE, FIELD, __builtin_bswap16(ETH_P_IP), TO_THEIRS);
    match_address(code, AT_IP + offsetof(struct wire_ipv4, dst));
    bpf_load(code, BPF_B, FIELD, FRAME, AT_IP + offsetof(struct wire_ipv4, protocol));
    bpf_jump_number(code, BPF_JNE, FIELD, PROTO_TCP, TO_THEIRS);
    bpf_load(code, BPF_H, FIELD, FRAME, AT_IP + offsetof(struct wire_ipv4, frag_off));
    bpf_change(code, BPF_AND, FIELD, __builtin_bswap16(FRAG_OFFSET));
    bpf_jump_number(code, BPF_JNE, FIELD, 0, TO_THEIRS);
    bpf_load(code, BPF_B, FIELD, FRAME, AT_IP + offsetof(struct wire_ipv4, version_ihl));
    bpf_jump_number(code, BPF_JLT, FIELD, 0x45,
                    TO_THEIRS); /* and not longer than an IPv4 header is: */
    bpf_jump_number(code, BPF_JGT, FIELD, 0x4f, TO_THEIRS);
    bpf_change(code, BPF_AND, FIELD, 15);
    bpf_change(code, BPF_LSH, FIELD, 2);
    bpf_combine(code, BPF_ADD, FRAME, FIELD);
    need(code, FRAME, AT_IP + offsetof(struct wire_tcp, dst_port) + sizeof(uint16_t));
    bpf_load(code, BPF_H, FIELD, FRAME, AT_IP + offsetof(struct wire_tcp, dst_port));
    bpf_put(code,
            (struct bpf_insn){.code = BPF_ALU | BPF_END | BPF_TO_BE, .dst_reg = FIELD, .imm = 16});
    match_port(code);
}

static void rule(struct bpf_code *code, const struct xdp_program *program,
                 const struct filter *filter)
{
    if (filter->rule == PORT_TAKE_ALL) {
        return;
    }
    load_map(code, FILTER, BPF_PSEUDO_MAP_VALUE, program->filter_map);
    bpf_load(code, BPF_W, FRAME, CONTEXT, offsetof(struct xdp_md, data));
    bpf_load(code, BPF_W, END, CONTEXT, offsetof(struct xdp_md, data_end));
    need(code, FRAME, IP_END);
    bpf_load(code, BPF_H, FIELD, FRAME, offsetof(struct ethhdr, h_proto));
    if (filter->rule == PORT_TAKE_PORTS) {
        ports_rule(code);
    } else if (filter->ip != 0) {
        address_rule(code);
    } else {
        anybodys_rule(code);
    }
}

uint32_t xdp_code_make(struct bpf_insn insn[XDP_CODE_MAX], const struct xdp_program *program,
                       const struct filter *filter)
{
    struct bpf_code code = {.insn = insn, .max = XDP_CODE_MAX};
    uint32_t ours;

    bpf_move(&code, CONTEXT, 1);
    rule(&code, program, filter);
    ours = code.n;
    bpf_load(&code, BPF_W, FRAME, CONTEXT, offsetof(struct xdp_md, rx_queue_index));
    load_map(&code, 1, BPF_PSEUDO_MAP_FD, program->socket_map);
    bpf_change(&code, BPF_MOV, 3, XDP_PASS); /* what a queue without a socket does */
    bpf_helper(&code, BPF_FUNC_redirect_map);
    bpf_put(&code, (struct bpf_insn){.code = BPF_JMP | BPF_EXIT});
    bpf_land(&code, TO_OURS, ours);
    if (filter->rule == PORT_TAKE_ALL) { /* the verifier wants no instruction that none reaches */
        return code.n;
    }
    bpf_land(&code, TO_THEIRS, code.n);
    bpf_return(&code, XDP_PASS);
    return code.n;
}
