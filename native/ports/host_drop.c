/* The program at the interface's ingress; see host_drop.h. */
#include "ports/host_drop.h"

#include <linux/if_ether.h>
#include <stddef.h>

#include "ports/bpf_code.h"

enum {
    INGRESS = 46, /* BPF_TCX_INGRESS, from Linux 6.6 on */
    NEXT = -1,    /* TCX_NEXT: what others have to say, then the host */
    DROP = 2,
    IP_DST = 30,
    IP_DST_LEN = 4,
    STACK = -8,
};

/* r6 the context; the address is compared as it lies in the frame. */
static int load_program(uint32_t ip)
{
    const struct bpf_insn code[] = {
        bpf_move(6, 1),
        bpf_load(BPF_W, 2, 6, offsetof(struct __sk_buff, protocol)),
        bpf_jump32_number(BPF_JNE, 2, __builtin_bswap16(ETH_P_IP), 12),
        bpf_load(BPF_W, 2, 6, offsetof(struct __sk_buff, vlan_present)),
        bpf_jump32_number(BPF_JNE, 2, 0, 10),
        bpf_move(1, 6),
        bpf_move_number(2, IP_DST),
        bpf_move(3, 10),
        bpf_add_number(3, STACK),
        bpf_move_number(4, IP_DST_LEN),
        bpf_helper(BPF_FUNC_skb_load_bytes),
        bpf_jump32_number(BPF_JNE, 0, 0, 3),
        bpf_load(BPF_W, 5, 10, STACK),
        bpf_move_number(0, DROP),
        bpf_jump32_number(BPF_JEQ, 5, (int32_t)__builtin_bswap32(ip), 1),
        bpf_move_number(0, NEXT),
        bpf_exit(),
    };
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_SCHED_CLS,
                           .insns = (uint64_t)(uintptr_t)code,
                           .insn_cnt = sizeof(code) / sizeof(code[0]),
                           .license = (uint64_t)(uintptr_t)"BSD",
                           .prog_name = "shardserver"};

    return bpf_call(BPF_PROG_LOAD, &attr);
}

int host_drop_open(int ifindex, uint32_t ip)
{
    int program = load_program(ip);
    int link;

    if (program < 0) {
        return program;
    }
    union bpf_attr attr = {.link_create = {.prog_fd = (uint32_t)program,
                                           .target_ifindex = (uint32_t)ifindex,
                                           .attach_type = (enum bpf_attach_type)INGRESS}};

    link = bpf_call(BPF_LINK_CREATE, &attr);
    close(program);
    return link;
}
