/* Instructions of BPF programs that are assembled here, by the names of what they do; bpf(2). */
#pragma once
#include <errno.h>
#include <linux/bpf.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/compiler.h"

static inline int bpf_call(enum bpf_cmd cmd, union bpf_attr *attr)
{
    long code = syscall(SYS_bpf, cmd, attr, sizeof(*attr));

    return code < 0 ? -errno : (int)code;
}

static inline struct bpf_insn bpf_load(uint8_t size, uint8_t to, uint8_t from, int16_t offset)
{
    return (struct bpf_insn){.code = BPF_LDX | BPF_MEM | size,
                             .dst_reg = to & 15u,
                             .src_reg = from & 15u,
                             .off = offset};
}

static inline struct bpf_insn bpf_move(uint8_t to, uint8_t from)
{
    return (struct bpf_insn){
        .code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = to & 15u, .src_reg = from & 15u};
}

static inline struct bpf_insn bpf_move_number(uint8_t to, int32_t number)
{
    return (struct bpf_insn){
        .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = to & 15u, .imm = number};
}

static inline struct bpf_insn bpf_add_number(uint8_t to, int32_t number)
{
    return (struct bpf_insn){
        .code = BPF_ALU64 | BPF_ADD | BPF_K, .dst_reg = to & 15u, .imm = number};
}

/* Over the next `skip` instructions if the lower halves compare so. */
static inline struct bpf_insn bpf_jump32_number(uint8_t compare, uint8_t a, int32_t number,
                                                int16_t skip)
{
    return (struct bpf_insn){.code = BPF_JMP32 | BPF_K | (compare & 0xf0),
                             .dst_reg = a & 15u,
                             .off = skip,
                             .imm = number};
}

static inline struct bpf_insn bpf_helper(int32_t number)
{
    return (struct bpf_insn){.code = BPF_JMP | BPF_CALL, .imm = number};
}

static inline struct bpf_insn bpf_exit(void)
{
    return (struct bpf_insn){.code = BPF_JMP | BPF_EXIT};
}
