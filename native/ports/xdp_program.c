/*
 * The XDP program, assembled here and loaded by bpf(2), and its maps; see xdp.h.
 *
 * ARP and IPv4 to our address go to the socket of their queue, and to the kernel if that queue has
 * none; all else passes to the kernel. It hangs on a link: the kernel takes it off the interface
 * with the last descriptor, whoever is killed.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/if_link.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ports/xdp.h"

enum {
    IP_END = 34, /* Ethernet and the IPv4 header without options */
    IP_DST = 30,
    ARP_END = 42,
    ARP_TARGET = 38,
};

static int sys_bpf(enum bpf_cmd cmd, union bpf_attr *attr)
{
    long code = syscall(SYS_bpf, cmd, attr, sizeof(*attr));

    return code < 0 ? -errno : (int)code;
}

static int create_map(enum bpf_map_type type, uint32_t entries, const char *name)
{
    union bpf_attr attr = {.map_type = type,
                           .key_size = sizeof(uint32_t),
                           .value_size = sizeof(uint32_t),
                           .max_entries = entries};

    memcpy(attr.map_name, name, strlen(name));
    return sys_bpf(BPF_MAP_CREATE, &attr);
}

static int set_entry(int map, uint32_t key, uint32_t value)
{
    union bpf_attr attr = {.map_fd = (uint32_t)map,
                           .key = (uint64_t)(uintptr_t)&key,
                           .value = (uint64_t)(uintptr_t)&value};

    return sys_bpf(BPF_MAP_UPDATE_ELEM, &attr);
}

static struct bpf_insn load(uint8_t size, uint8_t to, uint8_t from, int16_t offset)
{
    return (struct bpf_insn){.code = BPF_LDX | BPF_MEM | size,
                             .dst_reg = to & 15u,
                             .src_reg = from & 15u,
                             .off = offset};
}

static struct bpf_insn move(uint8_t to, uint8_t from)
{
    return (struct bpf_insn){
        .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = to & 15u, .src_reg = from & 15u};
}

static struct bpf_insn move_number(uint8_t to, int32_t number)
{
    return (struct bpf_insn){
        .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = to & 15u, .imm = number};
}

static struct bpf_insn add_number(uint8_t to, int32_t number)
{
    return (struct bpf_insn){
        .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = to & 15u, .imm = number};
}

/* Over the next `skip` instructions if the comparison holds. */
static struct bpf_insn jump(uint8_t compare, uint8_t a, uint8_t b, int16_t skip)
{
    return (struct bpf_insn){.code = BPF_JMP | BPF_X | (compare & 0xf0),
                             .dst_reg = a & 15u,
                             .src_reg = b & 15u,
                             .off = skip};
}

static struct bpf_insn jump_number(uint8_t compare, uint8_t a, int32_t number, int16_t skip)
{
    return (struct bpf_insn){
        .code = BPF_JMP | BPF_K | (compare & 0xf0), .dst_reg = a & 15u, .off = skip, .imm = number};
}

/* The first of two instructions; the second is all zeros. */
static struct bpf_insn map_of(uint8_t to, uint8_t kind, int map)
{
    return (struct bpf_insn){
        .code = BPF_LD | BPF_DW | BPF_IMM, .dst_reg = to & 15u, .src_reg = kind & 15u, .imm = map};
}

/*
 * r6 the context, r2 the frame, r3 its end, r4 a temporary, r5 type and then address, r7 ours.
 * A comment gives the place of the instruction; jumps go forward, to 30 for what is not ours.
 */
static int load_code(const struct xdp_program *program, uint32_t flags)
{
    const struct bpf_insn code[] = {
        /* 0 */ move(6, 1),
        /* 1 */ load(BPF_W, 2, 6, offsetof(struct xdp_md, data)),
        /* 2 */ load(BPF_W, 3, 6, offsetof(struct xdp_md, data_end)),
        /* 3 */ map_of(7, BPF_PSEUDO_MAP_VALUE, program->address_map),
        /* 4 */ {0},
        /* 5 */ load(BPF_W, 7, 7, 0),
        /* 6 */ move(4, 2),
        /* 7 */ add_number(4, IP_END),
        /* 8 */ jump(BPF_JGT, 4, 3, 21),
        /* 9 */ load(BPF_H, 5, 2, offsetof(struct ethhdr, h_proto)),
        /* 10 */ jump_number(BPF_JEQ, 5, __builtin_bswap16(ETH_P_IP), 10),
        /* 11 */ jump_number(BPF_JEQ, 5, __builtin_bswap16(ETH_P_ARP), 4),
        /* 12 */ jump_number(BPF_JNE, 7, 0, 17), /* with an address, a tag is not ours */
        /* 13 */ jump_number(BPF_JEQ, 5, __builtin_bswap16(ETH_P_8021Q), 10),
        /* 14 */ jump_number(BPF_JEQ, 5, __builtin_bswap16(ETH_P_8021AD), 9),
        /* 15 */ jump_number(BPF_JA, 0, 0, 14),
        /* 16, ARP */ move(4, 2),
        /* 17 */ add_number(4, ARP_END),
        /* 18 */ jump(BPF_JGT, 4, 3, 11),
        /* 19 */ load(BPF_W, 5, 2, ARP_TARGET),
        /* 20 */ jump_number(BPF_JA, 0, 0, 1),
        /* 21, IPv4 */ load(BPF_W, 5, 2, IP_DST),
        /* 22 */ jump_number(BPF_JEQ, 7, 0, 1), /* without an address all are ours */
        /* 23 */ jump(BPF_JNE, 5, 7, 6),
        /* 24, ours */ load(BPF_W, 2, 6, offsetof(struct xdp_md, rx_queue_index)),
        /* 25 */ map_of(1, BPF_PSEUDO_MAP_FD, program->socket_map),
        /* 26 */ {0},
        /* 27 */ move_number(3, XDP_PASS), /* what a queue without a socket does */
        /* 28 */ {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
        /* 29 */ {.code = BPF_JMP | BPF_EXIT},
        /* 30 */ move_number(0, XDP_PASS),
        /* 31 */ {.code = BPF_JMP | BPF_EXIT},
    };
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_XDP,
                           .expected_attach_type = BPF_XDP,
                           .insns = (uint64_t)(uintptr_t)code,
                           .insn_cnt = sizeof(code) / sizeof(code[0]),
                           .license = (uint64_t)(uintptr_t)"BSD",
                           .prog_flags = flags,
                           .prog_name = "shardserver"};

    return sys_bpf(BPF_PROG_LOAD, &attr);
}

/* Frames in several pieces reach only a program that says it can take them (Linux 5.18). */
static int load_program(struct xdp_program *program)
{
    program->prog_fd = load_code(program, BPF_F_XDP_HAS_FRAGS);
    program->pieces = program->prog_fd >= 0;
    if (program->prog_fd == -EINVAL) {
        program->prog_fd = load_code(program, 0);
    }
    return program->prog_fd < 0 ? program->prog_fd : 0;
}

int xdp_program_load(struct xdp_program *program, uint32_t queues)
{
    *program = (struct xdp_program){-1, -1, -1, -1, false};
    program->address_map = create_map(BPF_MAP_TYPE_ARRAY, 1, "shard_address");
    if (program->address_map < 0) {
        return program->address_map;
    }
    program->socket_map = create_map(BPF_MAP_TYPE_XSKMAP, queues, "shard_sockets");
    return program->socket_map < 0 ? program->socket_map : load_program(program);
}

int xdp_program_attach(struct xdp_program *program, int ifindex, bool generic)
{
    union bpf_attr attr = {
        .link_create = {.prog_fd = (uint32_t)program->prog_fd,
                        .target_ifindex = (uint32_t)ifindex,
                        .attach_type = BPF_XDP,
                        .flags = generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE}};

    program->link_fd = sys_bpf(BPF_LINK_CREATE, &attr);
    return program->link_fd < 0 ? program->link_fd : 0;
}

static void close_one(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

void xdp_program_detach(struct xdp_program *program)
{
    close_one(&program->link_fd);
}

void xdp_program_close(struct xdp_program *program)
{
    xdp_program_detach(program);
    close_one(&program->prog_fd);
    close_one(&program->socket_map);
    close_one(&program->address_map);
}

int xdp_program_set_address(const struct xdp_program *program, uint32_t address)
{
    return set_entry(program->address_map, 0, address);
}

int xdp_program_set_socket(const struct xdp_program *program, uint32_t queue, int fd)
{
    return set_entry(program->socket_map, queue, (uint32_t)fd);
}
