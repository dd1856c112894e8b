/* The public functions about single rings: what teaching and the tutorial's programs need. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "api.h"
#include "ports/hooks.h"
#include "ports/portset.h"

enum {
    SETS_MAX = 8,
    SERVE_US = 1000, /* between two looks for attaching clients, or for the owner's death */
    ROOM_US = 100,   /* between two looks for free slots */
};

struct ss_rings {
    struct portset set;
    uint64_t served_us;
    struct portset_answer answer;
};

_Static_assert(sizeof(struct ss_slot) == sizeof(struct nm_slot), "netmap_slot");
_Static_assert(offsetof(struct ss_ring, head) == offsetof(struct nm_ring, head), "netmap_ring");
_Static_assert(offsetof(struct ss_ring, ts) == offsetof(struct nm_ring, ts), "netmap_ring");
_Static_assert(offsetof(struct ss_ring, slot) == offsetof(struct nm_ring, slot), "netmap_ring");
_Static_assert((int)SS_RINGS_IN == (int)PORTSET_IN && (int)SS_RINGS_OUT == (int)PORTSET_OUT,
               "events");
_Static_assert((int)SS_RINGS_CLIENT == (int)PORTSET_CLIENT, "roles");

static uint64_t clock_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;
}

static void take_options(struct device_config *config, const struct ss_device_options *options)
{
    *config = (struct device_config){.rings = options->rings,
                                     .slots = options->slots,
                                     .buf_size = options->buf_size,
                                     .links = options->links,
                                     .mtu = options->mtu,
                                     .seed = options->seed};
    memcpy(config->mac, options->mac, sizeof(config->mac));
    memcpy(config->faults, options->faults, sizeof(config->faults));
    config->faults[sizeof(config->faults) - 1] = '\0';
}

int32_t ss_rings_open(struct ss_rings **out, const char *spec,
                      const struct ss_device_options *options, uint32_t role, char *error)
{
    struct device_config config;
    struct ss_rings *rings;
    int code;

    if (!out || !spec || !options || !error || role > SS_RINGS_CLIENT) {
        return -EINVAL;
    }
    error[0] = '\0';
    take_options(&config, options);
    rings = calloc(1, sizeof(*rings));
    if (!rings) {
        snprintf(error, SS_ERROR_MAX, "%.64s: out of memory", spec);
        return -ENOMEM;
    }
    code = portset_open(&rings->set, spec, &config, (enum portset_role)role, error);
    if (code != 0) {
        free(rings);
        return code;
    }
    *out = rings;
    return 0;
}

int32_t ss_rings_attach(struct ss_rings **out, struct ss_rings *owner, char *error)
{
    struct ss_rings *rings;
    int code;

    if (!out || !owner || !error) {
        return -EINVAL;
    }
    error[0] = '\0';
    rings = calloc(1, sizeof(*rings));
    code = rings ? portset_attach(&rings->set, &owner->set, error) : -ENOMEM;
    if (code != 0) {
        free(rings);
        return code;
    }
    *out = rings;
    return 0;
}

int32_t ss_rings_answer(struct ss_rings *rings, uint32_t on)
{
    if (!rings) {
        return -EINVAL;
    }
    portset_answer_stop(&rings->answer);
    return on ? portset_answer_start(&rings->answer, &rings->set) : 0;
}

void ss_rings_close(struct ss_rings *rings)
{
    if (rings) {
        portset_close(&rings->set);
        free(rings);
    }
}

void describe_portset(const struct portset *set, struct ss_rings_info *info)
{
    memset(info, 0, sizeof(*info));
    memcpy(info->name, set->name, sizeof(info->name));
    memcpy(info->banner, set->banner, sizeof(info->banner));
    snprintf(info->backend, sizeof(info->backend), "%s", set->ports[0]->ops->backend);
    info->rings = set->n;
    info->mtu = set->mtu;
    info->caps = set->ports[0]->caps;
    info->bufs = set->ports[0]->bufs;
    info->client = set->link != NULL;
    memcpy(info->mac, set->mac, 6);
    memcpy(info->peer_mac, set->peer_mac, 6);
}

int32_t ss_rings_describe(const struct ss_rings *rings, struct ss_rings_info *info)
{
    const struct portset *set = rings ? &rings->set : NULL;

    if (!set || !info) {
        return -EINVAL;
    }
    describe_portset(set, info);
    return 0;
}

struct ss_ring *ss_rings_ring(struct ss_rings *rings, uint32_t index, uint32_t tx)
{
    struct port *port = rings && index < rings->set.n ? rings->set.ports[index] : NULL;

    return port ? (struct ss_ring *)(void *)(tx ? port->tx : port->rx) : NULL;
}

/* Frames have come that nobody has looked at. */
static bool holds_frames(struct portset *set, uint64_t now_us)
{
    bool any = false;

    for (uint32_t i = 0; i < set->n; i++) {
        any |= set->ports[i]->ops->rx_sync(set->ports[i], now_us) == 0 &&
               nm_ring_space(set->ports[i]->rx) > 0;
    }
    return any;
}

/* The end of an owner is told when its last frames have been looked at. */
static int serve(struct ss_rings *rings, uint64_t now_us)
{
    int code;

    if (now_us - rings->served_us < SERVE_US) {
        return 0;
    }
    rings->served_us = now_us;
    code = portset_serve(&rings->set);
    return code == -EPIPE && holds_frames(&rings->set, now_us) ? 0 : code;
}

static int sync_ring(struct port *port, bool tx, uint64_t now_us)
{
    return tx ? port->ops->tx_sync(port, now_us) : port->ops->rx_sync(port, now_us);
}

int32_t ss_rings_sync(struct ss_rings *rings, uint32_t index, uint32_t tx)
{
    uint64_t now_us = clock_us();
    int code;

    if (!rings || index >= rings->set.n) {
        return -EINVAL;
    }
    code = sync_ring(rings->set.ports[index], tx != 0, now_us);
    return code ? code : serve(rings, now_us);
}

/* What netmap's poll does before it looks: RX rings are synced, TX rings unless told otherwise. */
static int sync_set(struct ss_rings *rings, uint32_t events, uint64_t now_us)
{
    int code = serve(rings, now_us);

    for (uint32_t i = 0; i < rings->set.n && code == 0; i++) {
        if ((events & SS_RINGS_OUT) || !(events & SS_RINGS_NO_TX)) {
            code = sync_ring(rings->set.ports[i], true, now_us);
        }
        if (code == 0 && (events & SS_RINGS_IN)) {
            code = sync_ring(rings->set.ports[i], false, now_us);
        }
    }
    return code;
}

static uint32_t ready_events(const struct ss_rings *rings, uint32_t events)
{
    uint32_t ready = 0;

    for (uint32_t i = 0; i < rings->set.n; i++) {
        ready |= nm_ring_space(rings->set.ports[i]->rx) ? SS_RINGS_IN : 0;
        ready |= nm_ring_space(rings->set.ports[i]->tx) ? SS_RINGS_OUT : 0;
    }
    return ready & events;
}

static int look(struct ss_rings *const *rings, const uint32_t *events, uint32_t *ready, uint32_t n,
                uint64_t now_us)
{
    int found = 0;

    for (uint32_t i = 0; i < n; i++) {
        int code = sync_set(rings[i], events[i], now_us);

        if (code != 0) {
            return code;
        }
        ready[i] = ready_events(rings[i], events[i]);
        found += ready[i] != 0;
    }
    return found;
}

/* Until a bell, or for a moment where somebody waits for room: no bell tells of that. */
static int wait_for(struct ss_rings *const *rings, const uint32_t *events, uint32_t n, uint64_t us)
{
    struct port_watch watch = {.n = 0};

    for (uint32_t i = 0; i < n; i++) {
        int event_fd = portset_event_fd(&rings[i]->set);

        if (event_fd >= 0 && watch.fds_n < 4) {
            watch.fds[watch.fds_n++] = event_fd;
        }
        if (events[i] & SS_RINGS_OUT) {
            us = us < ROOM_US ? us : ROOM_US;
        }
        for (uint32_t k = 0; k < rings[i]->set.n && watch.n < 2 * PORT_RINGS_MAX; k++) {
            watch.ports[watch.n++] = rings[i]->set.ports[k];
        }
    }
    return port_watch_wait(&watch, us);
}

int32_t ss_rings_poll(struct ss_rings *const *rings, const uint32_t *events, uint32_t *ready,
                      uint32_t n, uint64_t timeout_us)
{
    uint64_t now_us = clock_us();
    uint64_t end_us = now_us + timeout_us < now_us ? UINT64_MAX : now_us + timeout_us;

    if (!rings || !events || !ready || n == 0 || n > SETS_MAX) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!rings[i]) {
            return -EINVAL;
        }
        rings[i]->served_us = 0;
    }
    for (;;) {
        int found = look(rings, events, ready, n, now_us);
        int code = 0;

        if (found != 0 || now_us >= end_us) {
            return found;
        }
        code = wait_for(rings, events, n, end_us - now_us);
        if (code != 0) {
            return code;
        }
        now_us = clock_us();
    }
}

int32_t ss_rings_same_region(const struct ss_rings *a, const struct ss_rings *b)
{
    if (!a || !b) {
        return -EINVAL;
    }
    for (uint32_t i = 0; i < a->set.n; i++) {
        for (uint32_t k = 0; k < b->set.n; k++) {
            if (!port_same_region(a->set.ports[i], a->set.ports[i]->rx, b->set.ports[k],
                                  b->set.ports[k]->tx)) {
                return 0;
            }
        }
    }
    return 1;
}

int32_t ss_rings_hook(struct ss_rings *rings, uint32_t index, uint32_t hook, uint32_t value)
{
    struct port_hooks *hooks;

    if (!rings || index >= rings->set.n || hook >= SS_HOOKS ||
        (hook == SS_HOOK_LATE && value > HOOKS_LATE_MAX)) {
        return -EINVAL;
    }
    hooks = hooks_of(rings->set.ports[index]);
    hooks = hooks ? hooks : hooks_wrap(rings->set.ports[index]);
    if (!hooks) {
        return -ENOMEM;
    }
    switch (hook) {
    case SS_HOOK_DOWN:
        atomic_store(&hooks->down, value);
        break;
    case SS_HOOK_RX_ERROR:
        atomic_store(&hooks->rx_error, value);
        break;
    case SS_HOOK_TX_ERROR:
        atomic_store(&hooks->tx_error, value);
        break;
    default:
        atomic_store(&hooks->late, value);
    }
    return 0;
}

int32_t ss_rings_audit(struct ss_rings *rings)
{
    if (!rings) {
        return -EINVAL;
    }
    return rings->set.device ? device_audit(rings->set.device) : -ENOTSUP;
}
