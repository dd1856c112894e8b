/* The kernel's TCP as a peer: a C epoll echo server on one CPU. epoll_echo IP PORT */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    EVENTS = 256,
    BUFFER = 65536,
    FDS = 65536,
};

/* What a connection still has to send back: a reader that is slow stops being read. */
struct pending {
    char *bytes;
    size_t from;
    size_t to;
};

static struct pending pending[FDS];
static char buffer[BUFFER];

static void watch(int epoll_fd, int fd, uint32_t events, int op)
{
    struct epoll_event event = {.events = events, .data.fd = fd};

    epoll_ctl(epoll_fd, op, fd, &event);
}

static void hang_up(int fd)
{
    free(pending[fd].bytes);
    pending[fd] = (struct pending){0};
    close(fd);
}

static void accept_all(int epoll_fd, int listener)
{
    int one = 1;
    int fd;

    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= FDS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        watch(epoll_fd, fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

/* Keeps what the socket did not take. */
static void keep(int epoll_fd, int fd, const char *bytes, size_t len)
{
    struct pending *rest = &pending[fd];

    if (!rest->bytes) {
        rest->bytes = malloc(BUFFER);
    }
    rest->from = 0;
    rest->to = len;
    for (size_t i = 0; i < len; i++) {
        rest->bytes[i] = bytes[i];
    }
    watch(epoll_fd, fd, EPOLLOUT, EPOLL_CTL_MOD);
}

static void flush(int epoll_fd, int fd)
{
    struct pending *rest = &pending[fd];
    ssize_t sent = send(fd, rest->bytes + rest->from, rest->to - rest->from, MSG_NOSIGNAL);

    if (sent < 0) {
        if (errno != EAGAIN) {
            hang_up(fd);
        }
        return;
    }
    rest->from += (size_t)sent;
    if (rest->from == rest->to) {
        watch(epoll_fd, fd, EPOLLIN, EPOLL_CTL_MOD);
    }
}

static void echo(int epoll_fd, int fd)
{
    ssize_t got = recv(fd, buffer, sizeof(buffer), 0);
    ssize_t sent;

    if (got <= 0) {
        if (got == 0 || errno != EAGAIN) {
            hang_up(fd);
        }
        return;
    }
    sent = send(fd, buffer, (size_t)got, MSG_NOSIGNAL);
    if (sent < got) {
        sent = sent < 0 ? 0 : sent;
        keep(epoll_fd, fd, buffer + sent, (size_t)(got - sent));
    }
}

static int open_listener(const char *ip, int tcp_port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)tcp_port)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int one = 1;

    inet_pton(AF_INET, ip, &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) != 0 || listen(fd, 4096) != 0) {
        perror("epoll_echo");
        exit(1);
    }
    return fd;
}

int main(int argc, char **argv)
{
    struct epoll_event events[EVENTS];
    struct rlimit limit = {0};
    int epoll_fd = epoll_create1(0);
    int listener;

    if (argc != 3) {
        fprintf(stderr, "usage: epoll_echo IP PORT\n");
        return 2;
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    listener = open_listener(argv[1], atoi(argv[2]));
    watch(epoll_fd, listener, EPOLLIN, EPOLL_CTL_ADD);
    puts("READY");
    fflush(stdout);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);

        for (int i = 0; i < n; i++) {
            if (events[i].data.fd == listener) {
                accept_all(epoll_fd, listener);
            } else if (events[i].events & EPOLLOUT) {
                flush(epoll_fd, events[i].data.fd);
            } else {
                echo(epoll_fd, events[i].data.fd);
            }
        }
    }
}
