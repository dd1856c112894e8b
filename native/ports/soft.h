/*
 * Shared memory with a name and several ends, for links without an owner: pipes and switches. Ends
 * come and go in any order; the memory lives as long as any of them. Nothing is left on disk.
 *
 * An end is held by a lock on one byte of the memory: the kernel drops it when the last process
 * that inherited the end is gone, however it died, and everybody can ask. Each end also listens on
 * an abstract socket and hands the memory to whoever comes. Start reading at soft_open.
 */
#pragma once
#include "ports/port.h"

enum {
    SOFT_ENDS_MAX = 32,
};

/* What the first to come makes. */
struct soft_plan {
    const char *kind; /* "pipe", "region", "vale": part of the sockets' names */
    const char *name;
    uint32_t ends;
    size_t bytes;
    void (*build)(uint8_t *base, const void *arg);
    const void *arg;
};

/* A process's view. */
struct soft {
    uint8_t *base;
    size_t bytes;
    uint64_t inode; /* the region's name */
    uint32_t ends;
    uint32_t end; /* ours */
    int memfd;    /* with an open file description of its own: it carries the lock */
    int gate_fd;  /* held while opening: one at a time */
    int listen_fd;
    int bells[SOFT_ENDS_MAX]; /* eventfds */
    char kind[8];
    char name[PORT_NAME_MAX];
};

/* Finds the memory by its name or makes it. No end is taken yet. 0 or -errno with a sentence. */
int soft_open(struct soft *soft, const struct soft_plan *plan, char *error);
/* Takes an end: 0, or -EBUSY while somebody holds it. */
int soft_take(struct soft *soft, uint32_t end);
/* Answers those who come from now on, and lets the next one open. */
int soft_ready(struct soft *soft);
/* Hands the memory to whoever waits for it. */
int soft_serve(struct soft *soft);
/* Somebody holds this end. One system call. */
bool soft_alive(const struct soft *soft, uint32_t end);
/* Stops answering, in a process that inherited the view. */
void soft_unlisten(struct soft *soft);
void soft_close(struct soft *soft);
/* Wakes who sleeps at an end. */
void soft_ring(const struct soft *soft, uint32_t end, struct port_counters *counters);
/* A MAC address for an end, the same every time. */
void soft_mac(const char *name, uint32_t end, uint8_t mac[6]);
