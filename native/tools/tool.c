/* Opening, starting, watching and ending tools; see tool.h. */
#include "tools/tool.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "tools/frames.h"

enum {
    IDLE_TURNS = 64,      /* without a frame before a thread sleeps, if it may */
    SERVE_TURNS = 256,    /* between two looks for attaching clients */
    SLEEP_MAX_US = 20000, /* so that a lost owner is seen */
    ROOM_US = 50,         /* of a sender whose ring is full: nothing tells when there is room */
    SPIN_US = 60,         /* what is due sooner is not slept for */
    LAST_TURNS = 64,      /* for what an owner sent before it ended */
};

struct kind {
    tool_turn *turn;
    uint32_t ports;
    bool threads;   /* rings may be shared out */
    bool passes_on; /* stands between others: frames for any MAC are its business */
    int (*prepare)(struct tool *tool, char *error);
};

static const struct kind kinds[SS_TOOL_KINDS] = {
    [SS_TOOL_SINK] = {sink_turn, 1, true, false, NULL},
    [SS_TOOL_FORWARD] = {forward_turn, 2, false, true, forward_prepare},
    [SS_TOOL_BRIDGE] = {bridge_turn, 2, false, true, forward_prepare},
    [SS_TOOL_GEN] = {gen_turn, 1, true, false, gen_prepare},
    [SS_TOOL_RECV] = {recv_turn, 1, true, false, NULL},
    [SS_TOOL_PING] = {ping_turn, 1, false, false, NULL},
    [SS_TOOL_PONG] = {pong_turn, 1, true, false, NULL},
    [SS_TOOL_LB] = {lb_turn, 1, false, true, lb_prepare},
};

uint64_t tool_clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static uint64_t clock_us(void)
{
    return tool_clock_ns() / 1000;
}

static void pin(const struct tool_worker *worker)
{
    uint32_t cpu = worker->tool->options.cpu;
    cpu_set_t set;

    if (cpu == 0) {
        return;
    }
    CPU_ZERO(&set);
    CPU_SET((size_t)(cpu - 1 + worker->index) % CPU_SETSIZE, &set);
    sched_setaffinity(0, sizeof(set), &set); /* refused: it runs where it may */
}

static void watch_set(struct port_watch *watch, const struct tool_worker *worker,
                      const struct portset *set)
{
    for (uint32_t r = worker->index; r < set->n; r += worker->tool->workers_n) {
        watch->ports[watch->n++] = set->ports[r];
    }
}

/* Serving is one thread's: an attaching client wakes it. */
static int serve(struct tool_worker *worker)
{
    struct tool *tool = worker->tool;
    int code = 0;

    for (uint32_t i = 0; i < tool->sets_n && worker->index == 0 && code == 0; i++) {
        code = portset_serve(&tool->sets[i]);
    }
    for (uint32_t i = 0; i < tool->pipes_n && code == 0; i++) {
        code = portset_serve(&tool->pipes[i]);
    }
    return code;
}

static uint64_t sleep_us(const struct tool_worker *worker)
{
    uint64_t us = SLEEP_MAX_US;
    uint64_t end = worker->tool->options.duration_us;
    uint64_t spent = worker->now_us - worker->tool->started_us;

    if (worker->tool->options.kind == SS_TOOL_GEN && worker->wait_us == 0) {
        us = ROOM_US;
    }
    if (worker->wait_us) {
        us = worker->wait_us < us ? worker->wait_us : us;
    }
    if (end && spent < end) {
        us = end - spent < us ? end - spent : us;
    }
    return us;
}

/* Until something comes or is due; the sleep of a sender watches no port: frames do not end it. */
static void rest(struct tool_worker *worker)
{
    struct tool *tool = worker->tool;
    struct port_watch watch = {.fds = {tool->stop_fd}, .fds_n = 1};
    uint64_t us = sleep_us(worker);

    if (worker->wait_us && us < SPIN_US) {
        return;
    }
    for (uint32_t i = 0; i < tool->sets_n && tool->options.kind != SS_TOOL_GEN; i++) {
        watch_set(&watch, worker, &tool->sets[i]);
    }
    for (uint32_t i = 0; i < tool->sets_n && worker->index == 0; i++) {
        if (portset_event_fd(&tool->sets[i]) >= 0) {
            watch.fds[watch.fds_n++] = portset_event_fd(&tool->sets[i]);
        }
    }
    (void)port_watch_wait(&watch, us); /* interrupted: the next turn looks at stop */
}

static bool is_over(const struct tool_worker *worker)
{
    uint64_t end = worker->tool->options.duration_us;

    return atomic_load_explicit(&worker->tool->stop, memory_order_relaxed) ||
           (end && worker->now_us - worker->tool->started_us >= end);
}

/* A port's owner has ended: its last frames came before. Returns 0 if they were the rest, or code.
 */
static int take_last(struct tool_worker *worker, int code)
{
    int handled = 1;

    for (uint32_t i = 0; i < LAST_TURNS && handled > 0 && handled != TOOL_DONE; i++) {
        worker->now_us = clock_us();
        handled = worker->tool->turn(worker);
    }
    return handled == TOOL_DONE ? 0 : code;
}

/* Turn after turn: the one loop of all tools. Returns 0 or -errno. */
static int run_loop(struct tool_worker *worker)
{
    uint32_t idle = 0;

    for (uint32_t turns = 0;; turns++) {
        int code;

        worker->now_us = clock_us();
        if (is_over(worker)) {
            return 0;
        }
        worker->wait_us = 0;
        code = worker->tool->turn(worker);
        if (code == TOOL_DONE || code < 0) {
            return code < 0 ? code : 0;
        }
        idle = code ? 0 : idle + 1;
        if (idle >= IDLE_TURNS && !worker->tool->options.busy) {
            rest(worker);
            turns = 0;
        }
        if (turns % SERVE_TURNS == 0) {
            code = serve(worker);
        }
        if (code < 0) {
            return take_last(worker, code);
        }
    }
}

static void *thread_main(void *argument)
{
    struct tool_worker *worker = argument;
    struct tool *tool = worker->tool;
    int code;

    pin(worker);
    code = run_loop(worker);
    if (code != 0) {
        atomic_store(&tool->error, code);
        atomic_store(&tool->stop, 1); /* one ring is dead: the tool ends */
    }
    atomic_store(&tool->ended_us, clock_us()); /* before `running`, for whoever waits for that */
    atomic_fetch_sub(&tool->running, 1);
    return NULL;
}

static void take_range(struct ss_tool_range *range, uint32_t first)
{
    range->first = range->first ? range->first : first;
    range->n = range->n ? range->n : 1;
}

static void take_defaults(struct ss_tool_options *options)
{
    take_range(&options->src_ip, 0x0a000001);
    take_range(&options->dst_ip, 0x0a010001);
    take_range(&options->src_port, 1234);
    take_range(&options->dst_port, 1234);
    options->size = options->size ? options->size : FRAME_SIZE_MIN;
    options->burst = options->burst ? options->burst : 512;
    options->threads = options->threads ? options->threads : 1;
    options->pipes = options->pipes ? options->pipes : 2;
}

static int check_ports(const struct tool *tool, char *error)
{
    const struct ss_tool_options *options = &tool->options;
    const struct port *port = tool->sets[0].ports[0];

    if (options->kind == SS_TOOL_GEN || options->kind == SS_TOOL_PING) {
        uint32_t max = port->tx->nr_buf_size - tool_header(port);

        if (options->size < FRAME_SIZE_MIN || options->size > max ||
            options->size > tool->sets[0].mtu + ETH_HDR_LEN) {
            snprintf(error, SS_ERROR_MAX, "%s: a frame of %u bytes: give %u to %u",
                     tool->sets[0].name, options->size, FRAME_SIZE_MIN,
                     min_u32(max, tool->sets[0].mtu + ETH_HDR_LEN));
            return -EINVAL;
        }
    }
    if (options->threads > tool->sets[0].n ||
        (options->threads > 1 && !kinds[options->kind].threads)) {
        snprintf(error, SS_ERROR_MAX, "%s: %u threads for %u rings: give fewer", tool->sets[0].name,
                 options->threads, kinds[options->kind].threads ? tool->sets[0].n : 1);
        return -EINVAL;
    }
    return 0;
}

struct opening {
    const struct device_config *config;
    enum portset_role role;
};

/* What is opened may share its memory with the first port, which then has to answer. */
static int open_beside(struct tool *tool, struct portset *set, const char *spec,
                       const struct opening *how, char *error)
{
    struct portset_answer answer = {0};
    int code = tool->sets_n > 0 ? portset_answer_start(&answer, &tool->sets[0]) : 0;

    if (code == 0) {
        code = portset_open(set, spec, how->config, how->role, error);
    }
    portset_answer_stop(&answer);
    return code;
}

/* "BACKEND:NAME" to "mem:NAME{3": the pipe's first end; consumers open the other, "mem:NAME}3".
 * From "mem:X}1@REGION" to "mem:X_1{3@REGION": nothing is copied then. */
static int open_pipes(struct tool *tool, char *error)
{
    struct device_config config = {.slots = tool->options.slots};
    const char *colon = strchr(tool->options.port[0], ':');
    char name[PORT_NAME_MAX];
    char region[PORT_NAME_MAX] = "";
    char *at;

    snprintf(name, sizeof(name), "%s", colon ? colon + 1 : "");
    at = strpbrk(name, "{}") ? strchr(name, '@') : NULL;
    if (at && strncmp(tool->options.port[0], "mem:", 4) == 0) {
        snprintf(region, sizeof(region), "%s", at);
        *at = '\0';
    }
    for (char *c = name; *c; c++) {
        *c = *c == '{' || *c == '}' ? '_' : *c; /* of a pipe's own name */
    }
    for (uint32_t i = 0; i < tool->options.pipes; i++) {
        char spec[2 * PORT_NAME_MAX + 16];
        int code;

        snprintf(spec, sizeof(spec), "mem:%s{%u%s", name, i, region);
        code = open_beside(tool, &tool->pipes[i], spec, &(struct opening){&config, PORTSET_OWNER},
                           error);
        if (code != 0) {
            return code;
        }
        tool->pipes_n++;
    }
    return 0;
}

static int open_ports(struct tool *tool, char *error)
{
    const struct ss_tool_options *options = &tool->options;
    struct device_config config = {.rings = options->rings,
                                   .slots = options->slots,
                                   .every_frame = kinds[options->kind].passes_on};

    for (uint32_t i = 0; i < kinds[options->kind].ports; i++) {
        int code;

        if (i == 1 && strcmp(options->port[0], options->port[1]) == 0) {
            break; /* the same port twice: what comes goes back */
        }
        code = open_beside(tool, &tool->sets[i], options->port[i],
                           &(struct opening){&config, (enum portset_role)options->role[i]}, error);
        if (code != 0) {
            return code;
        }
        tool->sets_n++;
    }
    return options->kind == SS_TOOL_LB ? open_pipes(tool, error) : 0;
}

/* `count` frames shared out among the threads. */
static int make_workers(struct tool *tool, char *error)
{
    uint64_t count = tool->options.count;
    uint32_t n = tool->options.threads;

    tool->workers = aligned_alloc(CACHE_LINE, n * sizeof(struct tool_worker));
    if (!tool->workers) {
        snprintf(error, SS_ERROR_MAX, "%s: out of memory", tool->sets[0].name);
        return -ENOMEM;
    }
    memset(tool->workers, 0, n * sizeof(struct tool_worker));
    tool->workers_n = n;
    for (uint32_t i = 0; i < n; i++) {
        tool->workers[i].tool = tool;
        tool->workers[i].index = i;
        tool->workers[i].quota = count ? count / n + (i < count % n) : UINT64_MAX;
    }
    return kinds[tool->options.kind].prepare ? kinds[tool->options.kind].prepare(tool, error) : 0;
}

int tool_open(struct tool **out, const struct ss_tool_options *options, char *error)
{
    struct tool *tool = calloc(1, sizeof(*tool));
    int code;

    if (!tool) {
        snprintf(error, SS_ERROR_MAX, "%.64s: out of memory", options->port[0]);
        return -ENOMEM;
    }
    tool->options = *options;
    tool->turn = kinds[options->kind].turn;
    take_defaults(&tool->options);
    tool->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    code = tool->stop_fd < 0 ? -errno : open_ports(tool, error);
    code = code ? code : check_ports(tool, error);
    code = code ? code : make_workers(tool, error);
    if (code != 0) {
        tool_close(tool);
        return code;
    }
    *out = tool;
    return 0;
}

static void note_counters(struct tool *tool)
{
    for (uint32_t i = 0; i < tool->sets_n; i++) {
        for (uint32_t r = 0; r < tool->sets[i].n; r++) {
            tool->base[i][r] = *tool->sets[i].ports[r]->counters;
        }
    }
}

/* Signals are the starter's: its threads take none. */
int tool_start(struct tool *tool)
{
    sigset_t all;
    sigset_t before;
    int code = 0;

    note_counters(tool);
    tool->started = true;
    tool->started_us = clock_us();
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    atomic_store(&tool->running, tool->workers_n);
    for (uint32_t i = 0; i < tool->workers_n && code == 0; i++) {
        code = -pthread_create(&tool->workers[i].thread, NULL, thread_main, &tool->workers[i]);
        if (code != 0) {
            atomic_fetch_sub(&tool->running, tool->workers_n - i);
            tool->workers_n = i;
        }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code;
}

void tool_stop(struct tool *tool)
{
    static const uint64_t one = 1;

    atomic_store(&tool->stop, 1);
    if (write(tool->stop_fd, &one, sizeof(one)) < 0) {
        ENSURE(errno == EAGAIN);
    }
    for (uint32_t i = 0; i < tool->workers_n && tool->started; i++) {
        pthread_join(tool->workers[i].thread, NULL);
    }
    tool->started = false;
}

static void add_ring(struct ss_tool_stats *stats, const struct port_counters *now,
                     const struct port_counters *base)
{
    stats->rx_frames += now->rx_frames - base->rx_frames;
    stats->rx_bytes += now->rx_bytes - base->rx_bytes;
    stats->rx_batches += now->rx_syncs - base->rx_syncs;
    stats->rx_missed += now->rx_missed - base->rx_missed;
    stats->tx_frames += now->tx_frames - base->tx_frames;
    stats->tx_bytes += now->tx_bytes - base->tx_bytes;
    stats->tx_batches += now->tx_syncs - base->tx_syncs;
    stats->tx_dropped += now->tx_dropped - base->tx_dropped;
    stats->syscalls += now->syscalls - base->syscalls;
}

void tool_read(const struct tool *tool, struct ss_tool_stats *stats)
{
    memset(stats, 0, sizeof(*stats));
    stats->running = atomic_load(&tool->running); /* first: what is counted then is final at 0 */
    for (uint32_t i = 0; i < tool->sets_n; i++) {
        for (uint32_t r = 0; r < tool->sets[i].n; r++) {
            add_ring(stats, tool->sets[i].ports[r]->counters, &tool->base[i][r]);
        }
    }
    for (uint32_t i = 0; i < tool->workers_n; i++) {
        const struct tool_counts *counts = &tool->workers[i].counts;

        stats->matched += counts->matched;
        stats->dropped += counts->dropped;
        stats->swapped += counts->swapped;
        stats->copied += counts->copied;
        stats->lost += counts->lost;
    }
    memcpy(stats->pipe_frames, tool->pipe_frames, sizeof(stats->pipe_frames));
    memcpy(stats->pipe_dropped, tool->pipe_dropped, sizeof(stats->pipe_dropped));
    memcpy(stats->pipe_held_max, tool->pipe_held_max, sizeof(stats->pipe_held_max));
    memcpy(stats->latency, tool->latency, sizeof(stats->latency));
    stats->started_us = tool->started_us;
    stats->ended_us = stats->running ? 0 : atomic_load(&tool->ended_us);
    stats->error = atomic_load(&tool->error);
}

void tool_close(struct tool *tool)
{
    tool_stop(tool);
    for (uint32_t i = 0; i < tool->workers_n; i++) {
        free(tool->workers[i].state);
    }
    for (uint32_t i = 0; i < tool->sets_n; i++) {
        portset_close(&tool->sets[i]);
    }
    for (uint32_t i = 0; i < tool->pipes_n; i++) {
        portset_close(&tool->pipes[i]);
    }
    free(tool->workers);
    if (tool->stop_fd >= 0) {
        close(tool->stop_fd);
    }
    free(tool);
}
