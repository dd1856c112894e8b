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
    RESULT = 0,
    CONTEXT = 6, /* stays over a call; so does the next */
    FILTER = 7,
    FRAME = 2,
    END = 3,
    SCRATCH = 4,
    FIELD = 5,
    /* Labels stand in a jump's offset until all instructions are there; no jump goes back. */
    TO_OURS = -1,
    TO_THEIRS = -2,

    AT_IP = ETH_HDR_LEN,
    IP_END = AT_IP + IPV4_HDR_LEN,
    FRAG_OFFSET = 0x1fff,
};

struct code {
    struct bpf_insn *insn;
    uint32_t n;
};

static void put(struct code *code, struct bpf_insn insn)
{
    ENSURE(code->n < XDP_CODE_MAX);
    code->insn[code->n++] = insn;
}

static void load(struct code *code, uint8_t size, uint8_t to, uint8_t from, size_t offset)
{
    put(code, bpf_load(size, to, from, (int16_t)offset));
}

/* to = to OPERATION number */
static void change(struct code *code, uint8_t operation, uint8_t to, int32_t number)
{
    put(code, (struct bpf_insn){.code = BPF_ALU64 | BPF_K | (operation & 0xf0),
                                .dst_reg = to & 15u,
                                .imm = number});
}

/* to = to OPERATION by */
static void combine(struct code *code, uint8_t operation, uint8_t to, uint8_t by)
{
    put(code, (struct bpf_insn){.code = BPF_ALU64 | BPF_X | (operation & 0xf0),
                                .dst_reg = to & 15u,
                                .src_reg = by & 15u});
}

/* To the label if a COMPARE b. */
static void jump(struct code *code, uint8_t compare, uint8_t a, uint8_t b, int16_t label)
{
    put(code, (struct bpf_insn){.code = BPF_JMP | BPF_X | (compare & 0xf0),
                                .dst_reg = a & 15u,
                                .src_reg = b & 15u,
                                .off = label});
}

static void jump_number(struct code *code, uint8_t compare, uint8_t a, int32_t number,
                        int16_t label)
{
    put(code, (struct bpf_insn){.code = BPF_JMP | BPF_K | (compare & 0xf0),
                                .dst_reg = a & 15u,
                                .off = label,
                                .imm = number});
}

static void load_map(struct code *code, uint8_t to, uint8_t kind, int map)
{
    put(code, (struct bpf_insn){.code = BPF_LD | BPF_DW | BPF_IMM,
                                .dst_reg = to & 15u,
                                .src_reg = kind & 15u,
                                .imm = map});
    put(code, (struct bpf_insn){0}); /* its upper half */
}

/* Theirs if the frame ends before `offset` from `at`. */
static void need(struct code *code, uint8_t at, size_t offset)
{
    put(code, bpf_move(SCRATCH, at));
    put(code, bpf_add_number(SCRATCH, (int32_t)offset));
    jump(code, BPF_JGT, SCRATCH, END, TO_THEIRS);
}

/* Theirs if the 32 bits at `offset` are not our address. */
static void match_address(struct code *code, size_t offset)
{
    load(code, BPF_W, FIELD, FRAME, offset);
    load(code, BPF_W, SCRATCH, FILTER, offsetof(struct filter, ip));
    jump(code, BPF_JNE, FIELD, SCRATCH, TO_THEIRS);
}

/* ARP and IPv4 to our address. */
static void address_rule(struct code *code)
{
    uint32_t past;

    jump_number(code, BPF_JEQ, FIELD, __builtin_bswap16(ETH_P_ARP), 0);
    past = code->n;
    jump_number(code, BPF_JNE, FIELD, __builtin_bswap16(ETH_P_IP), TO_THEIRS);
    match_address(code, AT_IP + offsetof(struct wire_ipv4, dst));
    jump_number(code, BPF_JA, 0, 0, TO_OURS);
    code->insn[past - 1].off = (int16_t)(code->n - past); /* ARP goes on here */
    need(code, FRAME, AT_IP + ARP_LEN);
    match_address(code, AT_IP + offsetof(struct wire_arp, tpa));
}

/* Without an address: all of it, frames with a tag too. */
static void anybodys_rule(struct code *code)
{
    static const uint16_t whole[] = {ETH_P_IP, ETH_P_8021Q, ETH_P_8021AD};

    for (uint32_t i = 0; i < sizeof(whole) / sizeof(whole[0]); i++) {
        jump_number(code, BPF_JEQ, FIELD, __builtin_bswap16(whole[i]), TO_OURS);
    }
    jump_number(code, BPF_JNE, FIELD, __builtin_bswap16(ETH_P_ARP), TO_THEIRS);
    need(code, FRAME, AT_IP + ARP_LEN);
}

/* The bit of the port in FIELD, host order, decides. */
static void match_port(struct code *code)
{
    change(code, BPF_AND, FIELD, UINT16_MAX); /* for the verifier */
    put(code, bpf_move(SCRATCH, FIELD));
    change(code, BPF_RSH, SCRATCH, 3);
    combine(code, BPF_ADD, FILTER, SCRATCH);
    load(code, BPF_B, SCRATCH, FILTER, offsetof(struct filter, tcp_ports));
    change(code, BPF_AND, FIELD, 7);
    combine(code, BPF_RSH, SCRATCH, FIELD);
    change(code, BPF_AND, SCRATCH, 1);
    jump_number(code, BPF_JEQ, SCRATCH, 0, TO_THEIRS);
}

/* TCP to our address and one of our ports, fragments behind the first excepted. */
static void ports_rule(struct code *code)
{
    jump_number(code, BPF_JNE, FIELD, __builtin_bswap16(ETH_P_IP), TO_THEIRS);
    match_address(code, AT_IP + offsetof(struct wire_ipv4, dst));
    load(code, BPF_B, FIELD, FRAME, AT_IP + offsetof(struct wire_ipv4, protocol));
    jump_number(code, BPF_JNE, FIELD, PROTO_TCP, TO_THEIRS);
    load(code, BPF_H, FIELD, FRAME, AT_IP + offsetof(struct wire_ipv4, frag_off));
    change(code, BPF_AND, FIELD, __builtin_bswap16(FRAG_OFFSET));
    jump_number(code, BPF_JNE, FIELD, 0, TO_THEIRS);
    load(code, BPF_B, FIELD, FRAME, AT_IP + offsetof(struct wire_ipv4, version_ihl));
    jump_number(code, BPF_JLT, FIELD, 0x45, TO_THEIRS); /* and not longer than an IPv4 header is: */
    jump_number(code, BPF_JGT, FIELD, 0x4f, TO_THEIRS);
    change(code, BPF_AND, FIELD, 15);
    change(code, BPF_LSH, FIELD, 2);
    combine(code, BPF_ADD, FRAME, FIELD);
    need(code, FRAME, AT_IP + offsetof(struct wire_tcp, dst_port) + sizeof(uint16_t));
    load(code, BPF_H, FIELD, FRAME, AT_IP + offsetof(struct wire_tcp, dst_port));
    put(code,
        (struct bpf_insn){.code = BPF_ALU | BPF_END | BPF_TO_BE, .dst_reg = FIELD, .imm = 16});
    match_port(code);
}

static void rule(struct code *code, const struct xdp_program *program, const struct filter *filter)
{
    if (filter->rule == PORT_TAKE_ALL) {
        return;
    }
    load_map(code, FILTER, BPF_PSEUDO_MAP_VALUE, program->filter_map);
    load(code, BPF_W, FRAME, CONTEXT, offsetof(struct xdp_md, data));
    load(code, BPF_W, END, CONTEXT, offsetof(struct xdp_md, data_end));
    need(code, FRAME, IP_END);
    load(code, BPF_H, FIELD, FRAME, offsetof(struct ethhdr, h_proto));
    if (filter->rule == PORT_TAKE_PORTS) {
        ports_rule(code);
    } else if (filter->ip != 0) {
        address_rule(code);
    } else {
        anybodys_rule(code);
    }
}

static void land(const struct code *code, int16_t label, uint32_t at)
{
    for (uint32_t i = 0; i < code->n; i++) {
        struct bpf_insn *insn = &code->insn[i];

        if ((insn->code & 7) == BPF_JMP && insn->off == label) {
            insn->off = (int16_t)(at - i - 1);
        }
    }
}

uint32_t xdp_code_make(struct bpf_insn insn[XDP_CODE_MAX], const struct xdp_program *program,
                       const struct filter *filter)
{
    struct code code = {.insn = insn};
    uint32_t ours;

    put(&code, bpf_move(CONTEXT, 1));
    rule(&code, program, filter);
    ours = code.n;
    load(&code, BPF_W, FRAME, CONTEXT, offsetof(struct xdp_md, rx_queue_index));
    load_map(&code, 1, BPF_PSEUDO_MAP_FD, program->socket_map);
    put(&code, bpf_move_number(3, XDP_PASS)); /* what a queue without a socket does */
    put(&code, bpf_helper(BPF_FUNC_redirect_map));
    put(&code, bpf_exit());
    land(&code, TO_OURS, ours);
    if (filter->rule == PORT_TAKE_ALL) { /* the verifier wants no instruction that none reaches */
        return code.n;
    }
    land(&code, TO_THEIRS, code.n);
    put(&code, bpf_move_number(RESULT, XDP_PASS));
    put(&code, bpf_exit());
    return code.n;
}
