/* Test hooks around a port; see hooks.h. */
#include "ports/hooks.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/arena.h"

/* Shared with a successor: where the ring's tail stood after each of the last syncs. */
struct hooks_state {
    struct port_hooks hooks;
    uint32_t syncs; /* TX syncs so far */
    uint32_t shown; /* the sync whose tail is shown */
    uint32_t tail[HOOKS_LATE_MAX + 1];
};

struct hooked {
    struct port inner;
    struct hooks_state *state;
};

static struct hooked *hooked_of(const struct port *port)
{
    return port->priv;
}

static int hooks_rx_sync(struct port *port, uint64_t now_us)
{
    struct hooked *hooked = hooked_of(port);
    uint32_t error = atomic_load(&hooked->state->hooks.rx_error);

    if (error) {
        return -(int)error;
    }
    if (atomic_load(&hooked->state->hooks.down)) {
        return 0;
    }
    return hooked->inner.ops->rx_sync(&hooked->inner, now_us);
}

/* The tail of `late` syncs ago, but never one older than was shown before. */
static void hold_back(struct port *port, struct hooks_state *state)
{
    uint32_t late = min_u32(atomic_load(&state->hooks.late), HOOKS_LATE_MAX);
    uint32_t then = state->syncs > late ? state->syncs - late : 0;

    state->shown = max_u32(state->shown, then);
    port->tx->tail = state->tail[state->shown % (HOOKS_LATE_MAX + 1)];
}

static int hooks_tx_sync(struct port *port, uint64_t now_us)
{
    struct hooked *hooked = hooked_of(port);
    struct hooks_state *state = hooked->state;
    uint32_t error = atomic_load(&state->hooks.tx_error);
    int code;

    if (error) {
        return -(int)error;
    }
    if (atomic_load(&state->hooks.down)) {
        return 0;
    }
    code = hooked->inner.ops->tx_sync(&hooked->inner, now_us);
    state->syncs++;
    state->tail[state->syncs % (HOOKS_LATE_MAX + 1)] = port->tx->tail;
    hold_back(port, state);
    return code;
}

static int hooks_sleep_arm(struct port *port)
{
    struct hooked *hooked = hooked_of(port);

    if (atomic_load(&hooked->state->hooks.down)) {
        return 0; /* a link that is down wakes nobody */
    }
    return hooked->inner.ops->sleep_arm(&hooked->inner);
}

static void hooks_sleep_disarm(struct port *port)
{
    hooked_of(port)->inner.ops->sleep_disarm(&hooked_of(port)->inner);
}

static int hooks_recover(struct port *port)
{
    return hooked_of(port)->inner.ops->recover(&hooked_of(port)->inner);
}

static const struct port_ops hooks_ops = {
    .backend = "hooks",
    .rx_sync = hooks_rx_sync,
    .tx_sync = hooks_tx_sync,
    .sleep_arm = hooks_sleep_arm,
    .sleep_disarm = hooks_sleep_disarm,
    .recover = hooks_recover,
};

struct port_hooks *hooks_wrap(struct port *port)
{
    struct hooked *hooked = calloc(1, sizeof(*hooked));

    if (!hooked) {
        return NULL;
    }
    hooked->state = arena_shared_map("shardserver-hooks", sizeof(*hooked->state));
    if (!hooked->state) {
        free(hooked);
        return NULL;
    }
    hooked->inner = *port;
    hooked->state->tail[0] = port->tx->tail;
    port->ops = &hooks_ops;
    port->priv = hooked;
    return &hooked->state->hooks;
}

struct port_hooks *hooks_of(struct port *port)
{
    return port->ops == &hooks_ops ? &hooked_of(port)->state->hooks : NULL;
}

void hooks_unwrap(struct port *port)
{
    struct hooked *hooked;

    if (port->ops != &hooks_ops) {
        return;
    }
    hooked = hooked_of(port);
    *port = hooked->inner;
    munmap(hooked->state, sizeof(*hooked->state));
    free(hooked);
}
