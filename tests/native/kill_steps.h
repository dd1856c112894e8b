/*
 * A worker that dies inside a sync: the sync runs in a child, one instruction at a time, and the
 * child is killed when it has changed what others see for the n-th time.
 */
#pragma once
#include <signal.h>
#include <sys/types.h>

#include "ports/port.h"

/* What to watch: bytes that a sync changes where others see them. */
struct kill_watch {
    const void *base;
    size_t len;
};

enum {
    KILL_WATCHES = 4,
};

/*
 * Runs `sync` in a child and kills it at its n-th visible change. 1: it was killed; 0: it came to
 * its end before; -1: this system refuses ptrace.
 */
int kill_at_change(struct port *port, int (*sync)(struct port *, uint64_t),
                   const struct kill_watch watch[KILL_WATCHES], uint32_t n);
