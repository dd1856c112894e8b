/* Instructions by what they do, not by their numbers; see bpf_code.h. */
#include "ports/bpf_code.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

int bpf_call(enum bpf_cmd cmd, union bpf_attr *attr)
{
    long code = syscall(SYS_bpf, cmd, attr, sizeof(*attr));

    return code < 0 ? -errno : (int)code;
}

void bpf_put(struct bpf_code *code, struct bpf_insn insn)
{
    ENSURE(code->n < code->max);
    code->insn[code->n++] = insn;
}

void bpf_load(struct bpf_code *code, uint8_t size, uint8_t to, uint8_t from, int32_t offset)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_LDX | BPF_MEM | size,
                                    .dst_reg = to & 15u,
                                    .src_reg = from & 15u,
                                    .off = (int16_t)offset});
}

void bpf_move(struct bpf_code *code, uint8_t to, uint8_t from)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_ALU64 | BPF_MOV | BPF_X,
                                    .dst_reg = to & 15u,
                                    .src_reg = from & 15u});
}

void bpf_change(struct bpf_code *code, uint8_t operation, uint8_t to, int32_t number)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_ALU64 | BPF_K | (operation & 0xf0),
                                    .dst_reg = to & 15u,
                                    .imm = number});
}

void bpf_combine(struct bpf_code *code, uint8_t operation, uint8_t to, uint8_t by)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_ALU64 | BPF_X | (operation & 0xf0),
                                    .dst_reg = to & 15u,
                                    .src_reg = by & 15u});
}

void bpf_jump(struct bpf_code *code, uint8_t compare, uint8_t a, uint8_t b, int16_t label)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_JMP | BPF_X | (compare & 0xf0),
                                    .dst_reg = a & 15u,
                                    .src_reg = b & 15u,
                                    .off = label});
}

void bpf_jump_number(struct bpf_code *code, uint8_t compare, uint8_t a, int32_t number,
                     int16_t label)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_JMP | BPF_K | (compare & 0xf0),
                                    .dst_reg = a & 15u,
                                    .off = label,
                                    .imm = number});
}

void bpf_helper(struct bpf_code *code, enum bpf_func_id number)
{
    bpf_put(code, (struct bpf_insn){.code = BPF_JMP | BPF_CALL, .imm = (int32_t)number});
}

void bpf_return(struct bpf_code *code, int32_t result)
{
    bpf_change(code, BPF_MOV, 0, result);
    bpf_put(code, (struct bpf_insn){.code = BPF_JMP | BPF_EXIT});
}

void bpf_land(const struct bpf_code *code, int16_t label, uint32_t at)
{
    for (uint32_t i = 0; i < code->n; i++) {
        struct bpf_insn *insn = &code->insn[i];

        if ((insn->code & 7) == BPF_JMP && insn->off == label) {
            insn->off = (int16_t)(at - i - 1);
        }
    }
}
