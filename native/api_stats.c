/* The public functions about statistics, names and layouts. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api.h"
#include "service/service.h"
#include "worker/server.h"

_Static_assert((int)VERDICT_COUNT <= (int)SS_STATS_MAX, "ss_shard_stats.verdict");
_Static_assert((int)COUNTER_COUNT <= (int)SS_STATS_MAX, "ss_shard_stats.counter");
_Static_assert((int)SS_SHARDS_MAX == (int)STACK_SHARDS_MAX, "one limit");

#define FIELD(type, field)                                                                         \
    {#type "." #field, (uint32_t)offsetof(struct type, field),                                     \
     (uint32_t)sizeof(((struct type *)0)->field)}

static const struct ss_layout_entry layout[] = {
    {"ss_device_options", 0, sizeof(struct ss_device_options)},
    {"ss_device_info", 0, sizeof(struct ss_device_info)},
    {"ss_service_options", 0, sizeof(struct ss_service_options)},
    {"ss_server_options", 0, sizeof(struct ss_server_options)},
    {"ss_adoption", 0, sizeof(struct ss_adoption)},
    {"ss_shard_stats", 0, sizeof(struct ss_shard_stats)},
    {"ss_conn", 0, sizeof(struct ss_conn)},
    {"ss_conns_part", 0, sizeof(struct ss_conns_part)},
    {"ss_rings_info", 0, sizeof(struct ss_rings_info)},
    {"ss_tool_options", 0, sizeof(struct ss_tool_options)},
    {"ss_tool_stats", 0, sizeof(struct ss_tool_stats)},
    FIELD(ss_tool_options, count),
    FIELD(ss_tool_options, dst_mac),
    FIELD(ss_tool_stats, latency),
    FIELD(ss_tool_stats, running),
    {"ss_slot", 0, sizeof(struct ss_slot)},
    FIELD(ss_ring, head),
    FIELD(ss_ring, ts),
    FIELD(ss_rings_info, rings),
    FIELD(ss_rings_info, peer_mac),
    {"ss_netmap_name", 0, sizeof(struct ss_netmap_name)},
    {"ss_netmap_module", 0, sizeof(struct ss_netmap_module)},
    FIELD(ss_netmap_name, ring),
    FIELD(ss_netmap_module, api),
    FIELD(ss_device_options, take),
    FIELD(ss_device_options, tcp_ports),
    FIELD(ss_device_options, queues),
    FIELD(ss_device_options, seed),
    FIELD(ss_device_options, faults),
    FIELD(ss_device_info, mac),
    FIELD(ss_device_info, region),
    FIELD(ss_device_info, event_fd),
    FIELD(ss_server_options, mac),
    FIELD(ss_server_options, mtu),
    FIELD(ss_server_options, services),
    FIELD(ss_server_options, secret),
    FIELD(ss_adoption, took_us),
    FIELD(ss_shard_stats, rx_frames),
    FIELD(ss_shard_stats, state),
    FIELD(ss_shard_stats, phase),
    FIELD(ss_conn, ooo),
    FIELD(ss_conns_part, conn),
};

uint32_t ss_layout(struct ss_layout_entry *entries, uint32_t max)
{
    uint32_t n = sizeof(layout) / sizeof(layout[0]);

    if (entries) {
        memcpy(entries, layout, sizeof(layout[0]) * (n < max ? n : max));
    }
    return n;
}

static void copy_ring(struct ss_shard_stats *stats, const struct port_counters *ring)
{
    stats->rx_frames = ring->rx_frames;
    stats->rx_bytes = ring->rx_bytes;
    stats->rx_syncs = ring->rx_syncs;
    stats->rx_missed = ring->rx_missed;
    stats->tx_frames = ring->tx_frames;
    stats->tx_bytes = ring->tx_bytes;
    stats->tx_syncs = ring->tx_syncs;
    stats->tx_dropped = ring->tx_dropped;
    stats->syscalls = ring->syscalls;
    stats->ring_errors = ring->errors;
}

/* What a reader waits for, before the counters that were stored before it. */
static void copy_state(struct ss_shard_stats *stats, const struct stats_page *page,
                       const struct port_counters *ring)
{
    stats->heartbeat = page->heartbeat;
    stats->heartbeat_us = page->heartbeat_us;
    stats->adopted_us = page->adopted_us;
    stats->state = page->state;
    stats->phase = page->phase;
    stats->rx_ended = __atomic_load_n(&ring->rx_ended, __ATOMIC_RELAXED);
    atomic_thread_fence(memory_order_acquire);
}

int32_t ss_stats_read(const struct ss_server *handle, uint32_t shard, struct ss_shard_stats *stats)
{
    const struct server *server = (const struct server *)handle;
    const struct port_counters *ring;
    const struct stats_page *page;

    if (!server || !stats || shard >= server->config.shards) {
        return -EINVAL;
    }
    page = &server->stats[shard];
    ring = server->device->ports[shard].counters;
    memset(stats, 0, sizeof(*stats));
    copy_state(stats, page, ring);
    for (uint32_t i = 0; i < VERDICT_COUNT; i++) {
        stats->verdict[i] = page->verdict[i];
    }
    for (uint32_t i = 0; i < COUNTER_COUNT; i++) {
        stats->counter[i] = page->counter[i];
    }
    copy_ring(stats, ring);
    return 0;
}

int32_t ss_stats_set_state(struct ss_server *handle, uint32_t shard, uint32_t state)
{
    struct server *server = (struct server *)handle;

    if (!server || shard >= server->config.shards || state > SS_SHARD_STOPPED) {
        return -EINVAL;
    }
    server->stats[shard].state = state;
    return 0;
}

const char *ss_verdict_name(uint32_t index)
{
    return stats_verdict_name((enum verdict)index);
}

const char *ss_verdict_text(uint32_t index)
{
    return stats_verdict_text((enum verdict)index);
}

const char *ss_counter_name(uint32_t index)
{
    return stats_counter_name((enum counter)index);
}

const char *ss_counter_text(uint32_t index)
{
    return stats_counter_text((enum counter)index);
}

const char *ss_phase_name(uint32_t phase)
{
    return worker_phase_name((enum worker_phase)phase);
}

const char *ss_service_name(uint32_t index)
{
    for (uint32_t i = 0; service_table[i]; i++) {
        if (i == index) {
            return service_table[i]->name;
        }
    }
    return NULL;
}

const char *ss_backend_name(uint32_t index)
{
    return device_backend_name(index);
}
