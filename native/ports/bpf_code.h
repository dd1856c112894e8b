/*
 * BPF programs assembled here, so that no compiler for them is needed. Jumps go forward, to labels
 * below zero, which stand in their offset until the label's place is known.
 */
#pragma once
#include <linux/bpf.h>

#include "base/compiler.h"

struct bpf_code {
    struct bpf_insn *insn;
    uint32_t n;
    uint32_t max;
};

/* bpf(2): a descriptor, 0 or -errno. */
int bpf_call(enum bpf_cmd cmd, union bpf_attr *attr);

void bpf_put(struct bpf_code *code, struct bpf_insn insn);
/* to = *(from + offset); `size` is BPF_B, BPF_H, BPF_W or BPF_DW */
void bpf_load(struct bpf_code *code, uint8_t size, uint8_t to, uint8_t from, int32_t offset);
void bpf_move(struct bpf_code *code, uint8_t to, uint8_t from);
/* to = to OPERATION number */
void bpf_change(struct bpf_code *code, uint8_t operation, uint8_t to, int32_t number);
/* to = to OPERATION by */
void bpf_combine(struct bpf_code *code, uint8_t operation, uint8_t to, uint8_t by);
/* To the label if a COMPARE b. */
void bpf_jump(struct bpf_code *code, uint8_t compare, uint8_t a, uint8_t b, int16_t label);
void bpf_jump_number(struct bpf_code *code, uint8_t compare, uint8_t a, int32_t number,
                     int16_t label);
void bpf_helper(struct bpf_code *code, enum bpf_func_id number);
/* Ends the program with a result. */
void bpf_return(struct bpf_code *code, int32_t result);
/* The label is the instruction `at`. */
void bpf_land(const struct bpf_code *code, int16_t label, uint32_t at);
