/*
 * picoTCP behind struct picotcp_api: one device whose rings are the host's, listening sockets, and
 * plain calls for the host. It decides nothing: what may reach picoTCP, and what becomes of its
 * events, is the host's matter (../engine.c). Start reading at open_stack.
 */
#include <errno.h>
#include <string.h>

#include "engine_picotcp/abi.h"
#include "memory.h"
#include "variant.h"

enum {
    CLOCK_ZERO_MS = 1000, /* picoTCP takes a timestamp of 0 for none */
};

static struct picotcp_setup host;
static struct pico_device device;
static uint64_t epoch_us;

#ifdef PICOTCP_NG
struct pico_stack *variant_stack;
#endif

/* picoTCP's own is a linear congruence fed with packets (CVE-2020-27635). */
uint32_t pico_rand(void)
{
    return host.random ? host.random(host.host) : 0;
}

static void set_clock(uint64_t now_us)
{
    memory_set_clock(now_us - epoch_us + CLOCK_ZERO_MS * 1000);
}

static int device_send(struct pico_device *self, void *frame, int len)
{
    (void)self;
    return host.send(host.host, frame, (uint32_t)len) ? len : 0;
}

static void accept_all(struct pico_socket *listener)
{
    uint32_t buffer = host.buffer;
    uint32_t linger = host.linger_ms;
    int nodelay = 1;
    struct pico_ip4 from;
    uint16_t port;
    struct pico_socket *socket;

    while ((socket = pico_socket_accept(listener, &from, &port)) != NULL) {
        pico_socket_setoption(socket, PICO_SOCKET_OPT_RCVBUF, &buffer);
        pico_socket_setoption(socket, PICO_SOCKET_OPT_SNDBUF, &buffer);
        pico_socket_setoption(socket, PICO_SOCKET_OPT_LINGER, &linger);
        pico_socket_setoption(socket, PICO_TCP_NODELAY, &nodelay);
        host.event(host.host, socket->remote_port, socket, PICOTCP_OPENED);
    }
}

/* For listeners and connections alike: a listener has no peer. */
static void on_event(uint16_t events, struct pico_socket *socket)
{
    if (socket->remote_port != 0) {
        host.event(host.host, socket->remote_port, socket, events);
    } else if (events & PICO_SOCK_EV_CONN) {
        accept_all(socket);
    }
}

static int32_t open_stack(const struct picotcp_setup *setup, uint64_t now_us)
{
    struct pico_ip4 ip = {.addr = setup->ip};
    struct pico_ip4 netmask = {.addr = setup->netmask};
    struct pico_ip4 gateway = {.addr = setup->gateway};
    struct pico_ip4 any = {.addr = 0};

    host = *setup;
    epoch_us = now_us;
    set_clock(now_us);
    if (VARIANT_INIT() != 0) {
        return -ENOMEM;
    }
    device.send = device_send;
    device.mtu = setup->mtu;
    if (pico_device_init(WITH_STACK(&device, "shard", host.mac)) != 0 ||
        pico_ipv4_link_add(WITH_STACK(&device, ip, netmask)) != 0) {
        return -ENOMEM;
    }
    if (gateway.addr != 0 && pico_ipv4_route_add(WITH_STACK(any, any, gateway, 1, NULL)) != 0) {
        return -EHOSTUNREACH;
    }
    return 0;
}

static int32_t open_listener(uint16_t tcp_port)
{
    struct pico_socket *socket =
        pico_socket_open(WITH_STACK(PICO_PROTO_IPV4, PICO_PROTO_TCP, on_event));
    struct pico_ip4 ip = {.addr = host.ip};
    uint16_t port = tcp_port;

    if (!socket) {
        return -ENOMEM;
    }
    if (pico_socket_bind(socket, &ip, &port) != 0 || pico_socket_listen(socket, host.backlog)) {
        return -EADDRINUSE;
    }
    return 0;
}

static int32_t take_frame(const uint8_t *frame, uint32_t len)
{
    return pico_stack_recv(&device, (uint8_t *)(uintptr_t)frame, len) > 0;
}

static void run(uint64_t now_us)
{
    set_clock(now_us);
    VARIANT_TICK();
}

static uint32_t queued(void)
{
    return device.q_in->frames + device.q_out->frames;
}

static int32_t read_from(void *socket, void *to, uint32_t len)
{
    return pico_socket_read(socket, to, (int)len);
}

static int32_t write_to(void *socket, const void *from, uint32_t len)
{
    return pico_socket_write(socket, from, (int)len);
}

static void shut(void *socket)
{
    pico_socket_shutdown(socket, PICO_SHUT_WR);
}

static void destroy(void *socket)
{
    pico_socket_del(socket);
}

/* Valid for 10 ms of picoTCP's time after the end: it frees sockets by a timer. */
static uint32_t alive(const void *socket)
{
    return !(((const struct pico_socket *)socket)->state & PICO_SOCKET_STATE_CLOSED);
}

static void *find(uint16_t local_port, uint16_t remote_port)
{
    return pico_sockets_find(WITH_STACK(local_port, remote_port));
}

__attribute__((visibility("default"))) const struct picotcp_api *shardserver_picotcp(void)
{
    static const struct picotcp_api api = {
        .abi = PICOTCP_ABI,
#ifdef PICO_SUPPORT_CRC
        .checks_sums = 1,
#endif
        .version = PICOTCP_VERSION,
        .open = open_stack,
        .listen = open_listener,
        .close = memory_release,
        .input = take_frame,
        .tick = run,
        .queued = queued,
        .read = read_from,
        .write = write_to,
        .shutdown = shut,
        .destroy = destroy,
        .alive = alive,
        .find = find,
        .memory = memory_bytes,
    };

    return &api;
}
