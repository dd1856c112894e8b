/*
 * The host's own stack kept off frames that are ours, for backends that only get copies.
 *
 * A packet socket's frame goes on to the host's IP as well. There it costs a route look-up before
 * it is dropped; on a host that forwards (every Docker host) it is sent on, or answered with an
 * ICMP error; and a host that has the address answers with a reset. A small program behind the
 * sockets, at the interface's ingress, ends it there.
 */
#pragma once
#include <linux/bpf.h>

#include "ports/port.h"

enum {
    HOST_DROP_CODE_MAX = 64,
};

/*
 * Ends what is ours by config->take, of IPv4 for config->ip, on its way to the host. Returns a
 * descriptor that keeps it so: the kernel takes the program away with the last one; or -errno:
 * -EPERM without CAP_BPF in the first user namespace, -EINVAL before Linux 6.6.
 */
int host_drop_open(int ifindex, const struct device_config *config);
/* The same for a device that cannot do without it, once that is so: 0 or -errno, with its reason.
 */
int host_drop_check(const char *spec, int fd, const struct device_config *config, char *error);
/* The program's instructions; how many. */
uint32_t host_drop_code(struct bpf_insn insn[HOST_DROP_CODE_MAX],
                        const struct device_config *config);
