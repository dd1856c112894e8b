/*
 * The host's own stack kept off frames that are ours, for backends that only get copies.
 *
 * A packet socket's frame goes on to the host's IP as well. There it costs a route look-up before
 * it is dropped; on a host that forwards (every Docker host) it is sent on, or answered with an
 * ICMP error. A small program behind the sockets, at the interface's ingress, ends it there.
 */
#pragma once
#include "base/compiler.h"

/*
 * Drops untagged IPv4 to `ip` (host order) on its way to the host. Returns a descriptor that keeps
 * it so: the kernel takes the program away with the last one; or -errno: -EPERM without CAP_BPF in
 * the first user namespace, -EINVAL before Linux 6.6.
 */
int host_drop_open(int ifindex, uint32_t ip);
