/*
 * Load over kernel sockets: one epoll loop, thousands of non-blocking connections, no allocation
 * while it runs. Start reading at load_run_kernel.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "client/load.h"

enum {
    EVENTS = 256,
    BUFFER = 65536,
    NAP_MS = 10,
    WITHHELD_NAP_MS = 1, /* somebody says one by one which connection may be begun */
    CHECK_US = 100000,   /* between two looks for silent connections */
    SPARE_FDS = 64,
};

struct kernel_client {
    struct load load;
    int epoll_fd;
    int *fds;
    uint8_t *buffer;
    uint64_t checked_us;
};

static int raise_fd_limit(uint32_t connections, char *error)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
        return -errno;
    }
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < (rlim_t)connections + SPARE_FDS) {
        snprintf(error, SS_ERROR_MAX,
                 "load: %u connections in one process, but it may open %llu files: give more "
                 "--processes or raise ulimit -n",
                 connections, (unsigned long long)limit.rlim_cur);
        return -EMFILE;
    }
    return 0;
}

static void watch(struct kernel_client *client, uint32_t index, uint32_t events, int op)
{
    struct epoll_event event = {.events = events, .data.u32 = index};

    epoll_ctl(client->epoll_fd, op, client->fds[index], &event);
}

static void hang_up(struct kernel_client *client, uint32_t index, uint64_t *counter)
{
    if (client->fds[index] >= 0) {
        close(client->fds[index]);
        client->fds[index] = -1;
    }
    load_done(&client->load, index, counter);
}

/* A reset would lose what the server still owes: no lingering for a connection that is given up. */
static void give_up(struct kernel_client *client, uint32_t index, uint64_t *counter)
{
    struct linger reset = {.l_onoff = 1};

    setsockopt(client->fds[index], SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    hang_up(client, index, counter);
}

static uint64_t *counter_of(struct kernel_client *client, int error)
{
    struct ss_load_stats *stats = client->load.stats;

    if (stats->first_errno == 0) {
        stats->first_errno = (uint64_t)error;
    }
    switch (error) {
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
        return &stats->timeouts;
    case ECONNRESET:
    case EPIPE:
        return &stats->resets;
    default:
        return &stats->refused; /* by the peer, or by this host */
    }
}

static int bind_source(const struct kernel_client *client, int fd, uint32_t index)
{
    const struct ss_load_options *options = client->load.options;
    struct sockaddr_in source = {.sin_family = AF_INET};
    int one = 1;

    if (options->source_ip == 0) {
        return 0;
    }
    source.sin_addr.s_addr =
        htonl(options->source_ip + (options->source_n ? index % options->source_n : 0));
    setsockopt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one));
    return bind(fd, (struct sockaddr *)&source, sizeof(source)) == 0 ? 0 : -errno;
}

static void connect_next(struct kernel_client *client)
{
    const struct ss_load_options *options = client->load.options;
    uint32_t index = client->load.opened++;
    struct sockaddr_in target = {.sin_family = AF_INET,
                                 .sin_port = htons((uint16_t)options->tcp_port),
                                 .sin_addr.s_addr = htonl(options->ip)};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int error = fd < 0 ? errno : -bind_source(client, fd, index);
    int one = 1;

    client->fds[index] = fd;
    load_begun(&client->load, index, load_clock_ns() / 1000);
    if (error != 0) {
        hang_up(client, index, counter_of(client, error));
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(fd, (struct sockaddr *)&target, sizeof(target)) != 0 && errno != EINPROGRESS) {
        hang_up(client, index, counter_of(client, errno));
        return;
    }
    watch(client, index, EPOLLOUT | EPOLLIN, EPOLL_CTL_ADD);
}

/* Writes what the pipeline wants. False: the connection is gone. */
static bool write_some(struct kernel_client *client, uint32_t index)
{
    struct load *load = &client->load;
    const struct load_conn *conn = &load->conns[index];
    uint64_t wants;

    while ((wants = load_wants(load, index)) > 0) {
        size_t len = wants < BUFFER ? (size_t)wants : BUFFER;
        uint64_t now_ns = load_clock_ns();
        ssize_t sent;

        pattern_fill(conn->pattern, conn->sent, client->buffer, len);
        sent = send(client->fds[index], client->buffer, len, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            watch(client, index, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            return true;
        }
        if (sent < 0) {
            hang_up(client, index, counter_of(client, errno));
            return false;
        }
        load_sent(load, index, (uint64_t)sent, now_ns);
    }
    if (load_is_over(load, index)) {
        shutdown(client->fds[index], SHUT_WR);
        load->conns[index].state = LOAD_ENDING;
    }
    return true;
}

/* The peer's FIN: in order only when everything came back before. */
static void take_eof(struct kernel_client *client, uint32_t index)
{
    const struct load_conn *conn = &client->load.conns[index];
    struct ss_load_stats *stats = client->load.stats;
    bool whole = conn->state == LOAD_ENDING && conn->received == conn->sent;

    hang_up(client, index, whole ? &stats->finished : &stats->resets);
}

static bool read_some(struct kernel_client *client, uint32_t index)
{
    ssize_t got = recv(client->fds[index], client->buffer, BUFFER, 0);

    if (got > 0) {
        load_received(&client->load, index, client->buffer, (uint64_t)got, load_clock_ns());
        return true;
    }
    if (got < 0 && errno == EAGAIN) {
        return true;
    }
    if (got == 0) {
        take_eof(client, index);
    } else {
        hang_up(client, index, counter_of(client, errno));
    }
    return false;
}

static bool finish_connect(struct kernel_client *client, uint32_t index)
{
    int error = 0;
    socklen_t len = sizeof(error);

    getsockopt(client->fds[index], SOL_SOCKET, SO_ERROR, &error, &len);
    if (error != 0) {
        hang_up(client, index, counter_of(client, error));
        return false;
    }
    load_opened(&client->load, index, load_clock_ns() / 1000);
    watch(client, index, EPOLLIN, EPOLL_CTL_MOD);
    return true;
}

static void handle(struct kernel_client *client, const struct epoll_event *event)
{
    uint32_t index = event->data.u32;
    struct load_conn *conn = &client->load.conns[index];

    if (conn->state == LOAD_DONE) {
        return;
    }
    if (conn->state == LOAD_CONNECTING && !finish_connect(client, index)) {
        return;
    }
    if ((event->events & (EPOLLIN | EPOLLERR | EPOLLHUP)) && !read_some(client, index)) {
        return;
    }
    if ((event->events & EPOLLOUT) && conn->state == LOAD_OPEN) {
        watch(client, index, EPOLLIN, EPOLL_CTL_MOD);
    }
    write_some(client, index);
}

/* Connections that wait for `go` or for the end, and those that fell silent. */
static void look_at_all(struct kernel_client *client, uint64_t now_us)
{
    struct load *load = &client->load;
    uint64_t timeout_us = load->options->timeout_us;

    for (uint32_t i = 0; i < load->opened; i++) {
        const struct load_conn *conn = &load->conns[i];
        bool waits = conn->state == LOAD_CONNECTING || conn->sent > conn->received ||
                     conn->state == LOAD_ENDING;

        if (conn->state == LOAD_DONE || conn->state == LOAD_IDLE) {
            continue;
        }
        if (timeout_us && waits && now_us > conn->active_us + timeout_us) {
            give_up(client, i, &load->stats->timeouts);
        } else if (conn->state == LOAD_OPEN) {
            write_some(client, i);
        }
    }
    client->checked_us = now_us;
}

static int run(struct kernel_client *client)
{
    struct epoll_event events[EVENTS];
    struct load *load = &client->load;
    bool was_ending = false;
    bool was_going = false;

    while (load_goes_on(load, load_clock_ns() / 1000)) {
        uint64_t now_us = load_clock_ns() / 1000;
        bool going = *(volatile uint64_t *)&load->stats->go;
        int n;

        while (load_may_connect(load)) {
            connect_next(client);
        }
        if (load->ending != was_ending || going != was_going ||
            now_us - client->checked_us > CHECK_US) {
            was_ending = load->ending;
            was_going = going;
            look_at_all(client, now_us);
        }
        n = epoll_wait(client->epoll_fd, events, EVENTS,
                       load->stats->withheld ? WITHHELD_NAP_MS : NAP_MS);
        for (int i = 0; i < n; i++) {
            handle(client, &events[i]);
        }
        if (n < 0 && errno != EINTR) {
            return -errno;
        }
    }
    return 0;
}

static void close_all(struct kernel_client *client)
{
    for (uint32_t i = 0; client->fds && i < client->load.options->connections; i++) {
        uint8_t state = client->load.conns[i].state;

        if (state != LOAD_DONE && state != LOAD_IDLE) {
            give_up(client, i, &client->load.stats->timeouts);
        }
    }
    if (client->epoll_fd >= 0) {
        close(client->epoll_fd);
    }
    free(client->fds);
    free(client->buffer);
    load_free(&client->load);
}

static int prepare(struct kernel_client *client, uint32_t connections)
{
    client->fds = malloc(connections * sizeof(int));
    client->buffer = malloc(BUFFER);
    client->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (client->fds) {
        memset(client->fds, 0xff, connections * sizeof(int));
    }
    if (!client->fds || !client->buffer) {
        return -ENOMEM;
    }
    return client->epoll_fd < 0 ? -errno : 0;
}

int load_run_kernel(const struct ss_load_options *options, struct ss_load_stats *stats, char *error)
{
    struct kernel_client client = {.epoll_fd = -1};
    int code = raise_fd_limit(options->connections, error);

    if (code == 0) {
        code = load_init(&client.load, options, stats, error);
    }
    if (code != 0) {
        return code;
    }
    code = prepare(&client, options->connections);
    if (code == 0) {
        code = run(&client);
    }
    if (code != 0) {
        snprintf(error, SS_ERROR_MAX, "load: the event loop failed (errno %d)", -code);
    }
    close_all(&client);
    return code;
}
