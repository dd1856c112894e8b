/* Handing memory and descriptors to another process by name: abstract sockets, same user only. */
#pragma once
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/compiler.h"

enum {
    HANDOFF_FDS_MAX = 128,
};

/* The abstract address "shardserver/NAME", NAME as by printf. Returns its length. */
socklen_t handoff_address(struct sockaddr_un *address, const char *name, ...)
    __attribute__((format(printf, 2, 3)));
/* The other side belongs to this process's user, or to root. */
bool handoff_peer_allowed(int fd);
/* One message with `n` descriptors. 0 or -errno. */
int handoff_send(int fd, const void *message, size_t len, const int *fds, uint32_t n);
/* One message of this length; how many descriptors came with it, or -errno. */
int handoff_receive(int fd, void *message, size_t len, int fds[HANDOFF_FDS_MAX]);
