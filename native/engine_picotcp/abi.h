/*
 * What the core and the picoTCP adapter know of each other: plain structs of fixed-width fields and
 * function pointers, and nothing of picoTCP's. The adapter is a shared library of its own, because
 * picoTCP's licence (GPL) then stays with it; loader.c opens it only when it is asked for.
 */
#pragma once
#include <stdint.h>

enum {
    PICOTCP_ABI = 1,
};

/* The bits of an event, as picoTCP numbers them. */
enum picotcp_event {
    PICOTCP_READABLE = 1,
    PICOTCP_WRITABLE = 2,
    PICOTCP_OPENED = 4,
    PICOTCP_PEER_CLOSED = 8,
    PICOTCP_ENDED = 0x10, /* closed, or in TIME-WAIT: `alive` tells */
    PICOTCP_FAILED = 0x80,
};

/* Addresses and ports in network order. The calls come from within `tick` and `input` only. */
struct picotcp_setup {
    void *host;
    uint8_t mac[6];
    uint16_t mtu;
    uint32_t ip;
    uint32_t netmask;
    uint32_t gateway; /* 0: none */
    uint32_t buffer;  /* bytes that a connection's queues hold, each */
    uint32_t linger_ms;
    uint16_t backlog;
    uint16_t pad[3];
    /* A frame for the wire, to be copied. 1: taken; 0: no room, picoTCP keeps it. */
    int32_t (*send)(void *host, const uint8_t *frame, uint32_t len);
    /* Something has happened to the connection whose peer has this port. */
    void (*event)(void *host, uint16_t remote_port, void *socket, uint32_t events);
    /* 32 bits that nobody can guess: initial sequence numbers come from here. */
    uint32_t (*random)(void *host);
};

struct picotcp_api {
    uint32_t abi;
    uint32_t checks_sums; /* it verifies checksums itself: they must be complete */
    const char *version;
    /* Once in a library's life. 0 or -errno. */
    int32_t (*open)(const struct picotcp_setup *setup, uint64_t now_us);
    int32_t (*listen)(uint16_t tcp_port);
    /* Gives everything back that picoTCP has allocated; nothing may be called after. */
    void (*close)(void);
    /* A received frame, copied. 0: no memory. */
    int32_t (*input)(const uint8_t *frame, uint32_t len);
    void (*tick)(uint64_t now_us);
    /* Frames that wait in the device's queues. */
    uint32_t (*queued)(void);
    int32_t (*read)(void *socket, void *to, uint32_t len);
    int32_t (*write)(void *socket, const void *from, uint32_t len);
    void (*shutdown)(void *socket);
    /* Forgets a connection at once, without a word to its peer. */
    void (*destroy)(void *socket);
    uint32_t (*alive)(const void *socket);
    /* The connection between these ports, also one that is not open yet; NULL: none. */
    void *(*find)(uint16_t local_port, uint16_t remote_port);
    uint64_t (*memory)(void); /* bytes allocated now */
};

/* The one symbol that the adapter exports. */
const struct picotcp_api *shardserver_picotcp(void);
typedef const struct picotcp_api *picotcp_entry(void);
