/*
 * The XDP program, loaded by bpf(2), and its maps; see xdp.h. Its instructions are in xdp_code.c.
 *
 * It hangs on a link: the kernel takes it off the interface with the last descriptor, whoever is
 * killed.
 */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <string.h>
#include <unistd.h>

#include "ports/bpf_code.h"
#include "ports/xdp.h"

static int create_map(enum bpf_map_type type, uint32_t value_bytes, uint32_t entries,
                      const char *name)
{
    union bpf_attr attr = {.map_type = type,
                           .key_size = sizeof(uint32_t),
                           .value_size = value_bytes,
                           .max_entries = entries};

    memcpy(attr.map_name, name, strlen(name));
    return bpf_call(BPF_MAP_CREATE, &attr);
}

static int set_entry(int map, uint32_t key, const void *value)
{
    union bpf_attr attr = {.map_fd = (uint32_t)map,
                           .key = (uint64_t)(uintptr_t)&key,
                           .value = (uint64_t)(uintptr_t)value};

    return bpf_call(BPF_MAP_UPDATE_ELEM, &attr);
}

static int load_code(const struct xdp_program *program, const struct filter *filter, uint32_t flags)
{
    struct bpf_insn code[XDP_CODE_MAX];
    uint32_t n = xdp_code_make(code, program, filter);
    union bpf_attr attr = {.prog_type = BPF_PROG_TYPE_XDP,
                           .expected_attach_type = BPF_XDP,
                           .insns = (uint64_t)(uintptr_t)code,
                           .insn_cnt = n,
                           .license = (uint64_t)(uintptr_t)"BSD",
                           .prog_flags = flags,
                           .prog_name = "shardserver"};

    return bpf_call(BPF_PROG_LOAD, &attr);
}

/* Frames in several pieces reach only a program that says it can take them (Linux 5.18). */
static int load_program(struct xdp_program *program, const struct filter *filter)
{
    program->prog_fd = load_code(program, filter, BPF_F_XDP_HAS_FRAGS);
    program->pieces = program->prog_fd >= 0;
    if (program->prog_fd == -EINVAL) {
        program->prog_fd = load_code(program, filter, 0);
    }
    return program->prog_fd < 0 ? program->prog_fd : 0;
}

int xdp_program_set_filter(const struct xdp_program *program, const struct filter *filter)
{
    return set_entry(program->filter_map, 0, filter);
}

int xdp_program_load(struct xdp_program *program, uint32_t queues, const struct filter *filter)
{
    int code;

    *program = (struct xdp_program){-1, -1, -1, -1, false};
    program->filter_map = create_map(BPF_MAP_TYPE_ARRAY, sizeof(*filter), 1, "shard_filter");
    if (program->filter_map < 0) {
        return program->filter_map;
    }
    code = xdp_program_set_filter(program, filter);
    if (code < 0) {
        return code;
    }
    program->socket_map =
        create_map(BPF_MAP_TYPE_XSKMAP, sizeof(uint32_t), queues, "shard_sockets");
    return program->socket_map < 0 ? program->socket_map : load_program(program, filter);
}

int xdp_program_attach(struct xdp_program *program, int ifindex, bool generic)
{
    union bpf_attr attr = {
        .link_create = {.prog_fd = (uint32_t)program->prog_fd,
                        .target_ifindex = (uint32_t)ifindex,
                        .attach_type = BPF_XDP,
                        .flags = generic ? XDP_FLAGS_SKB_MODE : XDP_FLAGS_DRV_MODE}};

    program->link_fd = bpf_call(BPF_LINK_CREATE, &attr);
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
    close_one(&program->filter_map);
}

int xdp_program_set_socket(const struct xdp_program *program, uint32_t queue, int fd)
{
    return set_entry(program->socket_map, queue, &fd);
}
