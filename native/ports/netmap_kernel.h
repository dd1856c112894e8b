/*
 * The system as the netmap backend sees it, behind a table: the real one is netmap_kernel, a test
 * (or a netmap in software) gives its own. Every call returns -errno on failure.
 */
#pragma once
#include <net/if.h>

#include "ports/netmap_req.h"

/* What is known of an interface besides its rings. */
struct netmap_link {
    uint32_t mtu;
    uint8_t mac[6];
    bool ethernet;
    bool up;
    bool running; /* has carrier */
    bool native;  /* its driver is one that netmap was built for */
    bool veth;    /* its frames come as a peer of this machine's kernel sends them */
    uint32_t queues;
    uint32_t rx_slots; /* as ethtool tells them; 0: unknown */
    uint32_t tx_slots;
};

struct netmap_kernel {
    int (*open)(void);
    int (*close)(int fd);
    /* NM_IOC_CTRL with a header, or a sync with NULL. */
    int (*ioctl)(int fd, unsigned long request, void *arg);
    int (*map)(int fd, size_t bytes, void **base);
    void (*unmap)(void *base, size_t bytes);
    /* Events that came, in poll's bits; 0: none within timeout_ms. */
    int (*poll)(int fd, short events, int timeout_ms);
    bool (*exists)(const char *iface);
    int (*link)(const char *iface, struct netmap_link *link);
    /* A descriptor that keeps the interface promiscuous while it is open. */
    int (*promiscuous)(const char *iface);
    /* A module parameter; -ENOENT: it cannot be read. */
    int (*parameter)(const char *name, uint64_t *value);
    /* A descriptor that is readable when one of two is; closed by close(). */
    int (*both)(int fd, int other);
    void (*sleep_us)(uint32_t us);
};

extern const struct netmap_kernel netmap_kernel;
