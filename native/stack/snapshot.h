/*
 * Connections as a process that does not run their shard sees them: read from the arena, which is
 * shared, without a word to the worker, that may be running, stopped in the middle of a step, or
 * dead. What is read is the state of the worker's last commit (base/arena.h), and never a mixture.
 * Start reading at snapshot_conn.
 */
#pragma once
#include "stack/conn.h"

enum snapshot_found {
    SNAPSHOT_NONE,     /* no connection has this record */
    SNAPSHOT_CONN,     /* the image is it */
    SNAPSHOT_CHANGING, /* it changed each time it was read: SNAPSHOT_TRIES */
};

enum {
    SNAPSHOT_TRIES = 64,
};

/* A connection at one commit; `active` is zero while it is idle. */
struct conn_image {
    struct conn_hot hot;
    struct conn_cold cold;
    struct conn_active active;
};

/* Makes `view` what the functions below read. It has no port, no services, and writes nowhere. */
void snapshot_view(struct stack *view, const struct stack_config *config,
                   const struct arena *arena);
/* Records from here on have had no connection yet, or none for long: their memory is not touched,
 * since reading it would be the first use of it. */
uint32_t snapshot_end(const struct stack *view);
enum snapshot_found snapshot_conn(const struct stack *view, uint32_t conn,
                                  struct conn_image *image);
