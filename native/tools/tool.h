/*
 * A tool: ports, and threads that each serve a share of their rings. A kind of tool is one function
 * that does one turn: sync, handle, sync. Start reading at run_loop in tool.c.
 */
#pragma once
#include <pthread.h>

#include "api.h"
#include "ports/portset.h"

struct tool;

/* What a thread counts; its own cache lines, read by others at any time. */
struct tool_counts {
    _Alignas(CACHE_LINE) uint64_t matched;
    uint64_t dropped;
    uint64_t swapped;
    uint64_t copied;
    uint64_t lost;
};

struct tool_worker {
    struct tool *tool;
    uint32_t index;
    uint32_t next; /* the kind's own: sequence number, ring to serve first */
    bool turned;   /* gen: all is handed over, the rings are being emptied */
    pthread_t thread;
    uint64_t quota; /* frames that this thread may handle; UINT64_MAX: no limit */
    uint64_t done;
    uint64_t now_us;
    uint64_t due_us;  /* ping: when the next frame leaves, or is given up */
    uint64_t wait_us; /* set by a turn that knows when the next is due; 0: unknown */
    void *state;      /* the kind's own, freed at close */
    struct tool_counts counts;
};

/* Frames handled (0: idle), TOOL_DONE, or -errno. */
typedef int tool_turn(struct tool_worker *worker);

enum {
    TOOL_DONE = INT32_MAX,
};

struct tool {
    struct ss_tool_options options;
    tool_turn *turn;
    struct portset sets[2];
    uint32_t sets_n;
    struct portset pipes[SS_TOOL_PIPES_MAX];
    uint32_t pipes_n;
    struct port_counters base[2][PORT_RINGS_MAX]; /* counters at the start */
    struct tool_worker *workers;
    uint32_t workers_n;
    int stop_fd;
    _Atomic uint32_t stop;
    _Atomic uint32_t running;
    _Atomic int32_t error;
    uint64_t started_us;
    _Atomic uint64_t ended_us;
    uint64_t pipe_frames[SS_TOOL_PIPES_MAX]; /* lb's one thread writes */
    uint64_t pipe_dropped[SS_TOOL_PIPES_MAX];
    uint64_t pipe_held_max[SS_TOOL_PIPES_MAX];
    uint64_t latency[4096]; /* ping's one thread writes */
    bool started;
};

uint64_t tool_clock_ns(void);
int tool_open(struct tool **out, const struct ss_tool_options *options, char *error);
int tool_start(struct tool *tool);
void tool_stop(struct tool *tool);
void tool_read(const struct tool *tool, struct ss_tool_stats *stats);
void tool_close(struct tool *tool);

/* Rings of a set in this thread's share: for (r = worker->index; r < n; r += workers_n). */
static inline int tool_rx_sync(struct tool_worker *worker, struct port *port)
{
    return port->ops->rx_sync(port, worker->now_us);
}

static inline int tool_tx_sync(struct tool_worker *worker, struct port *port)
{
    return port->ops->tx_sync(port, worker->now_us);
}

static inline uint64_t tool_left(const struct tool_worker *worker)
{
    return worker->quota - worker->done;
}

/* Bytes before the Ethernet header of a port's frames. */
static inline uint32_t tool_header(const struct port *port)
{
    return port->caps & PORT_CAP_VNET_HDR ? PORT_VNET_HDR_LEN : 0;
}

tool_turn sink_turn;
tool_turn recv_turn;
tool_turn forward_turn;
tool_turn bridge_turn;
tool_turn gen_turn;
tool_turn ping_turn;
tool_turn pong_turn;
tool_turn lb_turn;
/* Memory of a kind's threads. 0 or -errno with a sentence. */
int gen_prepare(struct tool *tool, char *error);
int forward_prepare(struct tool *tool, char *error);
int lb_prepare(struct tool *tool, char *error);
