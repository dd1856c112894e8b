/*
 * A feeder: the process that reads a device of a single queue for all of its rings.
 *
 * What has one queue (a libpcap handle, a port of a VDE switch, a TAP made without multi_queue) is
 * turned into N rings by software: a child of the orchestrator plays the card. It reads each frame,
 * chooses a ring by a keyed hash of its flow, and writes it into that ring's free slots. Workers
 * never read the device, so the death of one stops nobody else's frames, and what libpcap keeps in
 * its own memory dies with no worker. Workers transmit by themselves, on descriptors they inherit.
 *
 * Each ring's slots have one writer at a time, as with a card: the feeder fills the slots from
 * `filled` up to the ring's head as the worker last gave it back, and publishes them by one store.
 * A feeder that is killed is replaced by feeder_event(). Start reading at struct fed_shared.
 */
#pragma once
#include <sys/types.h>

#include "ports/framewise.h"
#include "ports/swring.h"

enum {
    FEEDER_HASH_KEY_WORDS = 2,
    FEEDER_FDS_MAX = 4096,
};

/* A set of descriptors. A feeder closes all but its own: others must see when a peer hangs up. */
struct feeder_fds {
    uint64_t bits[FEEDER_FDS_MAX / 64];
};

/* Of one ring pair, in MAP_SHARED memory. */
struct fed_shared {
    _Alignas(CACHE_LINE) _Atomic uint32_t filled; /* the feeder's: first slot not yet filled */
    _Atomic uint32_t broken;                      /* the feeder's: a slot's buffer cannot be */
    uint64_t missed;                              /* the feeder's: frames that found no room */
    _Alignas(
        CACHE_LINE) _Atomic uint32_t returned; /* the worker's: slots before are the feeder's */
    _Atomic uint32_t sleeping;                 /* the worker's: ring the eventfd */
    uint64_t missed_counted;
    struct framewise_tx tx;
    struct port_counters counters;
};

/* Shared by all rings of a device. */
struct feeder_shared {
    _Atomic uint32_t gone;  /* errno: the device is no more; EBADMSG: its frames cannot be read */
    _Atomic uint32_t ended; /* 1: a file was read to its end */
    uint64_t key[FEEDER_HASH_KEY_WORDS];
};

struct fed_ring {
    struct swring rings;
    int wake_fd; /* eventfd */
    struct fed_shared *shared;
    struct feeder_shared *common;
    framewise_send *send;
    void *source; /* for send */
};

/* Where frames come from, and where they go. */
struct feeder_source {
    const char *spec;
    /* One frame behind its header, valid until the next call. Its length, 0: none now, -ENODATA:
     * the end of a file, -EBADMSG: a file that is damaged there, or another -errno: the device is
     * gone. */
    int (*receive)(void *source, struct vnet_hdr *hdr, const uint8_t **frame);
    /* In the parent, before a dead feeder's successor is forked: 0 or -errno. NULL: nothing to do.
     */
    int (*reopen)(void *source);
    framewise_send *send;
    /* Frames lost before we could read them, ever; NULL: the device does not tell. */
    uint64_t (*lost)(void *source);
    int (*fd)(void *source); /* to poll for POLLIN; -1: never empty */
    void *source;
    struct feeder_fds fds; /* what `receive` uses: see feeder_fds_since */
    bool waits;            /* for room in a full ring; otherwise the frame is missed */
    bool blocks;           /* `receive` does, until there is a frame: none before it is held back */
};

struct feeder {
    struct feeder_source source;
    uint32_t rings;
    struct fed_ring *ring; /* PORT_RINGS_MAX of them */
    struct feeder_shared *shared;
    pid_t pid; /* 0: none runs */
    int pid_fd;
    int epoll_fd; /* readable when the feeder has ended */
    uint32_t restarts;
    pid_t owner; /* who may end the process: the orchestrator, not the workers */
};

extern const struct port_ops fed_port_ops;

/*
 * Makes `config->rings` rings (or one) with their ports in `device`, and starts the feeder. 0 or
 * -errno with a sentence; on failure feeder_close() must still be called.
 */
int feeder_open(struct feeder *feeder, struct device *device, const struct device_config *config,
                char *error);
/* device_ops.event: the feeder has ended. Starts the next, which is 1; 0: nothing to do, or the
 * device has ended, as its ports say. */
int feeder_event(struct feeder *feeder);
/* device_ops.keep_only. */
void feeder_keep_only(struct feeder *feeder, struct device *device, uint32_t ring_id);
/* Ends the process and gives all back; nothing happens to a zeroed feeder. */
void feeder_close(struct feeder *feeder);

/* Descriptors that are open now; and those that have been opened since. */
void feeder_fds_now(struct feeder_fds *fds);
void feeder_fds_since(struct feeder_fds *fds, const struct feeder_fds *before);

/* The ring of a frame: by its flow if TCP or UDP over IPv4, by its addresses if other IPv4, else
 * 0. */
uint32_t feeder_ring(const uint64_t key[FEEDER_HASH_KEY_WORDS], uint32_t rings,
                     const uint8_t *frame, uint32_t len);

/* feeder_run.c: the child's whole life. */
_Noreturn void feeder_run(struct feeder *feeder, pid_t parent);
