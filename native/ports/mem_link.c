/*
 * Links of a mem: device: the owner's abstract socket, by which other processes attach by name. The
 * connection stays open for as long as the client lives: its hang-up frees the link.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "ports/handoff.h"
#include "ports/mem.h"

enum {
    EPOLL_LISTEN = UINT32_MAX,
    EPOLL_LISTEN_HOST = UINT32_MAX - 1,
    ATTACH_TRIES = 2000, /* of 1 ms each, while a shard may still be at a dead client's lanes */
};

_Static_assert(2 + PORT_RINGS_MAX <= HANDOFF_FDS_MAX,
               "memory, the client's bell, the rings' bells");

/* The owner's answer; the descriptors come with it. */
struct welcome {
    uint32_t magic;
    int32_t error; /* 0, or -errno with nothing else valid */
    uint32_t link;
    uint32_t rings;
    uint64_t bytes;
};

static int watch(const struct mem_device *device, int fd, uint32_t tag)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP, .data.u32 = tag};

    return epoll_ctl(device->epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

/* A socket that listens under a name, or -errno. */
static int listen_at(const char *kind, const char *name)
{
    struct sockaddr_un address;
    socklen_t len = handoff_address(&address, "%s/%s", kind, name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int code;

    if (fd < 0) {
        return -errno;
    }
    if (bind(fd, (struct sockaddr *)&address, len) == 0 && listen(fd, MEM_LINKS_MAX) == 0) {
        return fd;
    }
    code = -errno;
    close(fd);
    return code;
}

int mem_listen(struct mem_device *device, char *error)
{
    int code = 0;

    device->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (device->epoll_fd < 0) {
        return -errno;
    }
    device->listen_fd = listen_at("mem", device->name);
    if (device->listen_fd == -EADDRINUSE) {
        snprintf(error, PORT_ERROR_MAX,
                 "mem:%s: a device of this name exists: stop its server, or choose another name",
                 device->name);
    }
    if (device->listen_fd < 0) {
        return device->listen_fd;
    }
    code = watch(device, device->listen_fd, EPOLL_LISTEN);
    if (code == 0 && device->host) {
        device->host_fd = listen_at("mem^", device->name);
        code = device->host_fd < 0 ? device->host_fd
                                   : watch(device, device->host_fd, EPOLL_LISTEN_HOST);
    }
    return code;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

void mem_unlisten(struct mem_device *device)
{
    for (uint32_t i = 0; i < MEM_LINKS_MAX; i++) {
        close_fd(&device->link_fd[i]);
    }
    close_fd(&device->listen_fd);
    close_fd(&device->host_fd);
    close_fd(&device->epoll_fd);
}

void mem_link_drop(struct mem_device *device, uint32_t link)
{
    mem_link_leave(device, link);
    if (device->epoll_fd >= 0 && device->link_fd[link] >= 0) {
        /* a child that has not closed its copy yet would keep the hang-up coming, for the next
         * client of this link as well */
        epoll_ctl(device->epoll_fd, EPOLL_CTL_DEL, device->link_fd[link], NULL);
    }
    close_fd(&device->link_fd[link]);
}

/* Clients say nothing: what can be read is that one hung up. */
static void drop_if_hung_up(struct mem_device *device, uint32_t link)
{
    int fd = device->link_fd[link];
    char byte;

    if (fd >= 0 && (recv(fd, &byte, 1, MSG_PEEK) >= 0 || errno != EAGAIN)) {
        mem_link_drop(device, link);
    }
}

/* Who comes after a client can have its link, even if that one's hang-up was not told yet. */
static int take_link_for(struct mem_device *device, bool host)
{
    int link = mem_link_take(device, host);

    if (link == -EBUSY) {
        for (uint32_t i = 0; i < device->links; i++) {
            drop_if_hung_up(device, i);
        }
        link = mem_link_take(device, host);
    }
    return link;
}

static int admit(struct mem_device *device, int fd, bool host)
{
    struct mem_shared *shared = device->shared;
    struct welcome welcome = {
        .magic = MEM_MAGIC, .rings = shared->rings, .bytes = device->bytes, .error = -EPERM};
    int fds[HANDOFF_FDS_MAX];
    int link = handoff_peer_allowed(fd) ? take_link_for(device, host) : -EPERM;

    if (link < 0) {
        welcome.error = link;
        handoff_send(fd, &welcome, sizeof(welcome), NULL, 0);
        return link;
    }
    welcome.error = 0;
    welcome.link = (uint32_t)link;
    fds[0] = device->memfd;
    fds[1] = device->doorbell[shared->rings + (uint32_t)link];
    memcpy(fds + 2, device->doorbell, sizeof(int) * shared->rings);
    device->link_fd[link] = fd;
    if (handoff_send(fd, &welcome, sizeof(welcome), fds, 2 + shared->rings) != 0 ||
        watch(device, fd, (uint32_t)link) != 0) {
        mem_link_drop(device, (uint32_t)link);
    }
    return 0;
}

static void accept_one(struct mem_device *device, bool host)
{
    int listener = host ? device->host_fd : device->listen_fd;
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0 && admit(device, fd, host) < 0) {
        close(fd);
    }
}

int mem_serve(struct mem_device *device)
{
    struct epoll_event events[MEM_LINKS_MAX + 2];
    int n = epoll_wait(device->epoll_fd, events, MEM_LINKS_MAX + 2, 0);

    for (int i = 0; i < n; i++) {
        uint32_t tag = events[i].data.u32;

        if (tag == EPOLL_LISTEN || tag == EPOLL_LISTEN_HOST) {
            accept_one(device, tag == EPOLL_LISTEN_HOST);
        } else if (tag < MEM_LINKS_MAX) {
            drop_if_hung_up(device, tag); /* the link may have another client by now */
        }
    }
    return n < 0 && errno != EINTR ? -errno : 0;
}

struct mem_attachment {
    struct mem_device view;
    struct port port;
    uint8_t mac[2][6];        /* link's, server's */
    int fd;                   /* to the owner; -1: local */
    struct mem_device *owner; /* local only */
    uint32_t link;
};

static int connect_to(const char *name)
{
    size_t bare = strcspn(name, "^");
    const char *kind = name[bare] ? "mem^" : "mem";
    struct sockaddr_un address;
    socklen_t len = handoff_address(&address, "%s/%.*s", kind, (int)bare, name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    struct timeval patience = {.tv_sec = 5};

    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, len) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

/* Number of descriptors received, or -errno. */
static int receive_welcome(int fd, struct welcome *welcome, int fds[HANDOFF_FDS_MAX])
{
    int n = handoff_receive(fd, welcome, sizeof(*welcome), fds);

    if (n == -EAGAIN) {
        return -ETIMEDOUT; /* not what an owner answers that has no link for now */
    }
    if (n >= 0 && welcome->magic != MEM_MAGIC) {
        return -EPROTO;
    }
    return n >= 0 && welcome->error ? welcome->error : n;
}

static int open_view(struct mem_attachment *attachment, const struct welcome *welcome,
                     const int *fds, int n)
{
    struct mem_device *view = &attachment->view;

    if (n != (int)welcome->rings + 2 || welcome->rings > PORT_RINGS_MAX) {
        return -EPROTO;
    }
    view->memfd = fds[0];
    view->bytes = welcome->bytes;
    memcpy(view->doorbell, fds + 2, sizeof(int) * welcome->rings);
    view->doorbell[welcome->rings + welcome->link] = fds[1];
    view->base = mmap(NULL, view->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, view->memfd, 0);
    if (view->base == MAP_FAILED) {
        view->base = NULL;
        return -errno;
    }
    return mem_view(view) ? 0 : -EPROTO;
}

static int finish(struct mem_attachment *attachment, uint32_t link)
{
    attachment->link = link;
    mem_mac_of_link(attachment->view.shared, link, attachment->mac[0]);
    memcpy(attachment->mac[1], attachment->view.shared->server_mac, 6);
    return mem_port_init(&attachment->port, &attachment->view, false, link);
}

static struct mem_attachment *attachment_new(void)
{
    struct mem_attachment *attachment = calloc(1, sizeof(*attachment));

    if (attachment) {
        attachment->fd = -1;
        attachment->view.memfd = -1;
        memset(attachment->view.doorbell, 0xff, sizeof(attachment->view.doorbell));
    }
    return attachment;
}

static void explain(char *error, const char *name, int code)
{
    const char *why = NULL;

    if ((code == -ECONNREFUSED || code == -ENOENT) && strchr(name, '^')) {
        why = "no device with host rings here: start a server with --device mem:NAME* first";
    } else if (code == -ECONNREFUSED || code == -ENOENT) {
        why = "no such device here: start a server with --device mem:NAME first";
    } else if (code == -EBUSY) {
        why = strchr(name, '^') ? "it has a host already: end that one first"
                                : "all its links are taken: end another client, or start it with "
                                  "more links";
    } else if (code == -EPERM) {
        why = "it belongs to another user";
    } else if (code == -ETIMEDOUT) {
        why = "its owner does not answer";
    } else if (code == -EAGAIN) {
        why = "a worker stands still in the middle of a sync: restart its server";
    }
    if (why) {
        snprintf(error, PORT_ERROR_MAX, "mem:%s: %s", name, why);
    } else {
        snprintf(error, PORT_ERROR_MAX, "mem:%s: its owner's answer could not be used: %s", name,
                 strerror(-code));
    }
}

static int attach_once(struct mem_attachment *attachment, const char *name)
{
    struct welcome welcome;
    int fds[HANDOFF_FDS_MAX];
    int n;

    attachment->fd = connect_to(name);
    if (attachment->fd < 0) {
        return attachment->fd;
    }
    n = receive_welcome(attachment->fd, &welcome, fds);
    if (n < 0) {
        close_fd(&attachment->fd);
        return n;
    }
    n = open_view(attachment, &welcome, fds, n);
    return n ? n : finish(attachment, welcome.link);
}

int mem_attach(struct mem_attachment **out, const char *name, char *error)
{
    struct mem_attachment *attachment = attachment_new();
    struct timespec pause = {.tv_nsec = 1000000};
    int code = -ENOMEM;

    for (int i = 0; attachment && i < ATTACH_TRIES; i++) {
        code = attach_once(attachment, name);
        if (code != -EAGAIN || attachment->view.base) {
            break;
        }
        nanosleep(&pause, NULL);
    }
    if (code != 0) {
        explain(error, name, code);
        if (attachment) {
            mem_detach(attachment);
        }
        return code;
    }
    *out = attachment;
    return 0;
}

static int attach_local(struct mem_attachment **out, struct device *device, bool host)
{
    struct mem_device *owner = device->priv;
    struct mem_attachment *attachment = attachment_new();
    int link = attachment ? mem_link_take(owner, host) : -ENOMEM;

    if (link < 0) {
        free(attachment);
        return link;
    }
    attachment->owner = owner;
    attachment->view = *owner;
    *out = attachment;
    return finish(attachment, (uint32_t)link);
}

int mem_attach_local(struct mem_attachment **out, struct device *device)
{
    return attach_local(out, device, false);
}

int mem_attach_local_host(struct mem_attachment **out, struct device *device)
{
    return attach_local(out, device, true);
}

static void close_view(struct mem_device *view)
{
    for (uint32_t i = 0; i < MEM_SIDES_MAX; i++) {
        close_fd(&view->doorbell[i]);
    }
    if (view->base) {
        munmap(view->base, view->bytes);
    }
    close_fd(&view->memfd);
}

void mem_detach(struct mem_attachment *attachment)
{
    free(attachment->port.priv);
    if (attachment->owner) {
        mem_link_drop(attachment->owner, attachment->link);
    } else {
        close_view(&attachment->view);
        close_fd(&attachment->fd);
    }
    free(attachment);
}

struct port *mem_attachment_port(struct mem_attachment *attachment)
{
    return &attachment->port;
}

const uint8_t *mem_attachment_mac(const struct mem_attachment *attachment, bool server)
{
    return attachment->mac[server];
}

uint32_t mem_attachment_mtu(const struct mem_attachment *attachment)
{
    return attachment->view.shared->mtu;
}

uint32_t mem_attachment_link(const struct mem_attachment *attachment)
{
    return attachment->link;
}

int mem_attachment_fd(const struct mem_attachment *attachment)
{
    return attachment->fd;
}

int mem_attachment_alive(struct mem_attachment *attachment)
{
    char byte;

    if (attachment->fd < 0) {
        return attachment->owner != NULL;
    }
    return recv(attachment->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) < 0 && errno == EAGAIN;
}
