/* Handing descriptors to another process; see handoff.h. */
#include "ports/handoff.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

socklen_t handoff_address(struct sockaddr_un *address, const char *name, ...)
{
    size_t room = sizeof(address->sun_path) - 1;
    int used;
    int more;
    va_list args;

    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    used = snprintf(address->sun_path + 1, room, "shardserver/");
    va_start(args, name);
    more = vsnprintf(address->sun_path + 1 + used, room - (size_t)used, name, args);
    va_end(args);
    ENSURE(more >= 0 && (size_t)(used + more) < room);
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)(used + more));
}

bool handoff_peer_allowed(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

union control {
    struct cmsghdr header;
    char bytes[CMSG_SPACE(sizeof(int) * HANDOFF_FDS_MAX)];
};

int handoff_send(int fd, const void *message, size_t len, const int *fds, uint32_t n)
{
    struct iovec iov = {.iov_base = (void *)(uintptr_t)message, .iov_len = len};
    struct msghdr header = {.msg_iov = &iov, .msg_iovlen = 1};
    union control control = {0};

    if (n > 0) {
        struct cmsghdr *cmsg = &control.header;

        header.msg_control = control.bytes;
        header.msg_controllen = CMSG_SPACE(sizeof(int) * n);
        cmsg->cmsg_level = SOL_SOCKET;
        cmsg->cmsg_type = SCM_RIGHTS;
        cmsg->cmsg_len = CMSG_LEN(sizeof(int) * n);
        memcpy(CMSG_DATA(cmsg), fds, sizeof(int) * n);
    }
    return sendmsg(fd, &header, MSG_NOSIGNAL) == (ssize_t)len ? 0 : -errno;
}

int handoff_receive(int fd, void *message, size_t len, int fds[HANDOFF_FDS_MAX])
{
    struct iovec iov = {.iov_base = message, .iov_len = len};
    union control control;
    struct msghdr header = {.msg_iov = &iov,
                            .msg_iovlen = 1,
                            .msg_control = control.bytes,
                            .msg_controllen = sizeof(control.bytes)};
    ssize_t got = recvmsg(fd, &header, MSG_CMSG_CLOEXEC);
    struct cmsghdr *cmsg = got > 0 ? CMSG_FIRSTHDR(&header) : NULL;
    size_t n = 0;

    if (got < 0) {
        return -errno;
    }
    if (cmsg && cmsg->cmsg_type == SCM_RIGHTS) {
        n = (cmsg->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(fds, CMSG_DATA(cmsg), n * sizeof(int));
    }
    if (got == (ssize_t)len) {
        return (int)n;
    }
    for (size_t i = 0; i < n; i++) {
        close(fds[i]);
    }
    return -EPROTO;
}
