/*
 * A device's ports for whoever is no server: tools, and the rings of Python. One name for both
 * sides of mem: — the device itself, or a link of a device that somebody else owns.
 */
#pragma once
#include <pthread.h>

#include "ports/port.h"

enum portset_role {
    PORTSET_AUTO,   /* a link if somebody owns that mem: device, else the owner */
    PORTSET_OWNER,  /* opens the device */
    PORTSET_CLIENT, /* attaches to a mem: device */
};

enum portset_event {
    PORTSET_IN = 1,  /* frames to read */
    PORTSET_OUT = 2, /* free slots to fill */
};

struct portset {
    struct device *device;       /* owner only */
    struct mem_attachment *link; /* client only */
    struct port *ports[PORT_RINGS_MAX];
    uint32_t n;
    uint32_t mtu;
    uint8_t mac[6];
    uint8_t peer_mac[6]; /* client: the device's; else to everybody */
    char name[PORT_NAME_MAX];
    char banner[PORT_ERROR_MAX];
};

/* 0, or -errno with a sentence; leaves nothing on failure. */
int portset_open(struct portset *set, const char *spec, const struct device_config *config,
                 enum portset_role role, char *error);
/* A link of a mem: device that this process owns; to be closed before it. */
int portset_attach(struct portset *set, const struct portset *owner, char *error);
void portset_close(struct portset *set);
/* Serves attaching clients, or looks whether the owner lives. 0, -EPIPE: the owner is gone. */
int portset_serve(struct portset *set);

/*
 * A thread that serves a set while its own thread opens another port of the same pipe, switch or
 * card: it would wait for itself. Nothing else may touch the set meanwhile.
 */
struct portset_answer {
    struct portset *set;
    pthread_t thread;
    _Atomic bool done;
    bool running;
};
/* 0 or -errno. */
int portset_answer_start(struct portset_answer *answer, struct portset *set);
void portset_answer_stop(struct portset_answer *answer);
/* Becomes readable when portset_serve is due; -1: never. */
int portset_event_fd(const struct portset *set);

/* Buffers of these rings may be exchanged: they lie in the same region, mapped or by its name. */
bool port_same_region(const struct port *a, const struct nm_ring *ring_a, const struct port *b,
                      const struct nm_ring *ring_b);

/* What is to be watched in portset_wait: ports of any sets, and descriptors beside them. */
struct port_watch {
    struct port *ports[2 * PORT_RINGS_MAX];
    uint32_t n;
    int fds[4];
    uint32_t fds_n;
};

/*
 * Sleeps until one of the ports may have frames, a descriptor is readable, or `us` have passed.
 * 0, or -EINTR. Never sleeps on a port that has frames or unsent slots.
 */
int port_watch_wait(struct port_watch *watch, uint64_t us);
