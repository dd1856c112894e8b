/* Deaths of a worker between any two instructions of a sync, one after the other. */
#pragma once
#include <sys/uio.h>

#include "ports/port.h"

enum {
    STEP_REGIONS_MAX = 8,
    STEP_CHECKS_MIN = 10, /* a sync makes more visible stores than that */
};

/* The memory whose changes others see. */
struct step_memory {
    struct iovec region[STEP_REGIONS_MAX];
    uint32_t n;
};

typedef int step_sync(struct port *port, uint64_t now_us);
typedef void step_check(void *context);

/*
 * Runs a sync in a child, one instruction at a time. Whenever it has stored something, plays its
 * death: the port recovers, `check` looks at what is there, and all is put back for the next one.
 */
void step_every_store(struct port *port, step_sync *sync, const struct step_memory *memory,
                      step_check *check, void *context);
