/* What both load engines share; see load.h. */
#include "client/load.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "client/gaps.h"
#include "client/histogram.h"

enum {
    END_GRACE_US = 20000000, /* after the duration: how long the rest of the echo may take */
};

uint64_t load_clock_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

int load_init(struct load *load, const struct ss_load_options *options, struct ss_load_stats *stats,
              char *error)
{
    size_t conns = options->connections;

    memset(load, 0, sizeof(*load));
    load->options = options;
    load->stats = stats;
    load->left = options->connections;
    load->conns = calloc(conns, sizeof(*load->conns));
    load->sent_ns = calloc(conns * options->pipeline, sizeof(uint64_t));
    if (!load->conns || !load->sent_ns) {
        load_free(load);
        snprintf(error, SS_ERROR_MAX, "out of memory for %u connections", options->connections);
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < options->connections; i++) {
        load->conns[i].id = options->first_id + i;
        load->conns[i].pattern = pattern_of(options->seed, options->first_id + i);
    }
    return 0;
}

void load_free(struct load *load)
{
    free(load->conns);
    free(load->sent_ns);
    load->conns = NULL;
    load->sent_ns = NULL;
}

bool load_may_connect(const struct load *load)
{
    uint64_t withheld = *(volatile uint64_t *)&load->stats->withheld;

    return !load->ending && load->opened + withheld < load->options->connections &&
           load->connecting < load->options->ramp;
}

void load_begun(struct load *load, uint32_t index, uint64_t now_us)
{
    load->conns[index].state = LOAD_CONNECTING;
    load->conns[index].active_us = now_us;
    load->connecting++;
}

void load_opened(struct load *load, uint32_t index, uint64_t now_us)
{
    load->conns[index].state = LOAD_OPEN;
    load->conns[index].active_us = now_us;
    load->connecting--;
    load->stats->connected++;
    load->stats->active++;
}

static uint64_t limit_of(const struct load *load)
{
    return load->options->messages ? load->options->messages * load->options->size : UINT64_MAX;
}

uint64_t load_wants(const struct load *load, uint32_t index)
{
    const struct load_conn *conn = &load->conns[index];
    uint64_t size = load->options->size;
    uint64_t until = (conn->received / size + load->options->pipeline) * size;

    if (conn->state != LOAD_OPEN || (load->options->hold && !load->stats->go)) {
        return 0;
    }
    if (load->ending) { /* finish the message that was begun, so that every one is whole */
        until = (conn->sent + size - 1) / size * size;
    }
    until = until < limit_of(load) ? until : limit_of(load);
    return until > conn->sent ? until - conn->sent : 0;
}

void load_sent(struct load *load, uint32_t index, uint64_t len, uint64_t now_ns)
{
    struct load_conn *conn = &load->conns[index];
    uint64_t size = load->options->size;
    uint64_t first = (conn->sent + size - 1) / size; /* first message that begins here */
    uint64_t last = (conn->sent + len + size - 1) / size;
    uint64_t *slots = &load->sent_ns[(size_t)index * load->options->pipeline];

    for (uint64_t message = first; message < last; message++) {
        slots[message % load->options->pipeline] = now_ns;
    }
    if (load->stats->started_us == 0) {
        load->stats->started_us = now_ns / 1000;
        load->last_reply_us = now_ns / 1000;
    }
    conn->sent += len;
}

void load_received(struct load *load, uint32_t index, const void *bytes, uint64_t len,
                   uint64_t now_ns)
{
    struct load_conn *conn = &load->conns[index];
    struct ss_load_stats *stats = load->stats;
    uint64_t size = load->options->size;
    uint64_t owed = conn->sent - conn->received;
    uint64_t extra = len > owed ? len - owed : 0; /* never sent: wrong, whatever it says */
    uint64_t first = conn->received / size;
    uint64_t last = (conn->received + len - extra) / size;
    uint64_t *slots = &load->sent_ns[(size_t)index * load->options->pipeline];
    uint64_t now_us = now_ns / 1000;

    stats->mismatched_bytes += extra;
    len -= extra;
    stats->mismatched_bytes += pattern_check(conn->pattern, conn->received, bytes, len);
    for (uint64_t message = first; message < last; message++) {
        histogram_record(stats->latency, now_ns - slots[message % load->options->pipeline]);
    }
    conn->received += len;
    if (load->options->gaps) {
        gaps_note(load, index, now_us);
    }
    conn->active_us = now_us;
    stats->messages += last - first;
    stats->bytes += len;
    stats->ended_us = now_us;
    if (now_us - load->last_reply_us > stats->largest_gap_us) {
        stats->largest_gap_us = now_us - load->last_reply_us;
    }
    load->last_reply_us = now_us;
}

bool load_is_over(const struct load *load, uint32_t index)
{
    const struct load_conn *conn = &load->conns[index];

    if (conn->state != LOAD_OPEN) {
        return false;
    }
    return conn->sent == limit_of(load) || (load->ending && conn->sent % load->options->size == 0);
}

void load_done(struct load *load, uint32_t index, uint64_t *counter)
{
    struct load_conn *conn = &load->conns[index];

    if (conn->state == LOAD_DONE) {
        return;
    }
    if (conn->state == LOAD_CONNECTING) {
        load->connecting--;
    } else if (conn->state != LOAD_IDLE) {
        load->stats->active--;
    }
    if (load->options->gaps && counter != &load->stats->finished) {
        gaps_note_loss(load, index, load_clock_ns() / 1000);
    }
    conn->state = LOAD_DONE;
    load->left--;
    (*counter)++;
}

bool load_goes_on(struct load *load, uint64_t now_us)
{
    struct ss_load_stats *stats = load->stats;

    if (load->deadline_us == 0 && stats->started_us != 0) {
        load->deadline_us = stats->started_us + load->options->duration_us;
    }
    if (!load->ending && ((load->deadline_us && now_us >= load->deadline_us) ||
                          *(volatile uint64_t *)&stats->stop)) {
        load->ending = true;
        load->deadline_us = now_us + END_GRACE_US;
        load->left -= load->options->connections - load->opened; /* never begun */
    }
    return load->left > 0 && !(load->ending && now_us >= load->deadline_us);
}

struct ss_load_stats *ss_load_stats_map(void)
{
    void *memory = mmap(NULL, sizeof(struct ss_load_stats), PROT_READ | PROT_WRITE,
                        MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return memory == MAP_FAILED ? NULL : memory;
}

void ss_load_stats_unmap(struct ss_load_stats *stats)
{
    if (stats) {
        munmap(stats, sizeof(*stats));
    }
}

static const char *check_options(const struct ss_load_options *options)
{
    if (options->connections == 0 || options->size == 0 || options->pipeline == 0 ||
        options->ramp == 0) {
        return "connections, size, pipeline and ramp must be at least 1";
    }
    if (options->connections > 1000000 || options->size > (1u << 24) || options->pipeline > 1024) {
        return "at most 1,000,000 connections, 16 MiB a message, 1024 messages in flight";
    }
    if (options->tcp_port == 0 || options->tcp_port > UINT16_MAX || options->ip == 0) {
        return "a target needs an address and a TCP port of 1 to 65535";
    }
    return NULL;
}

int32_t ss_load_run(const struct ss_load_options *options, struct ss_load_stats *stats, char *error)
{
    const char *wrong;

    if (!options || !stats || !error) {
        return -EINVAL;
    }
    error[0] = '\0';
    wrong = check_options(options);
    if (wrong) {
        snprintf(error, SS_ERROR_MAX, "load: %s", wrong);
        return -EINVAL;
    }
    if (options->device[0] != '\0') {
        return load_run_mem(options, stats, error);
    }
    return load_run_kernel(options, stats, error);
}

void ss_load_merge(struct ss_load_stats *into, const struct ss_load_stats *from)
{
    into->connected += from->connected;
    into->active += from->active;
    into->finished += from->finished;
    into->messages += from->messages;
    into->bytes += from->bytes;
    into->mismatched_bytes += from->mismatched_bytes;
    into->resets += from->resets;
    into->timeouts += from->timeouts;
    into->refused += from->refused;
    into->first_errno = into->first_errno ? into->first_errno : from->first_errno;
    if (from->started_us && (into->started_us == 0 || from->started_us < into->started_us)) {
        into->started_us = from->started_us;
    }
    if (from->ended_us > into->ended_us) {
        into->ended_us = from->ended_us;
    }
    if (from->largest_gap_us > into->largest_gap_us) {
        into->largest_gap_us = from->largest_gap_us;
    }
    for (uint32_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
        into->latency[i] += from->latency[i];
    }
}

uint64_t ss_latency_quantile(const struct ss_load_stats *stats, double q)
{
    return stats && q >= 0 && q <= 1 ? histogram_quantile(stats->latency, q) : 0;
}
