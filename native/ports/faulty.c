/*
 * A bad wire around any port: loss, duplication, reordering, corruption and delay. The fate of
 * frame k of a direction depends on (seed, direction, k) alone, so that a run can be repeated. The
 * wrapper's rings take the place of the inner ones. Start reading at pass_frame.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "ports/swring.h"

enum {
    SLOTS = 1024,
    HELD_MAX = 256,
    HELD_BYTES = 2048,
    SPEC_MAX = 127,
    REORDER_MAX = 8,        /* frames that may overtake */
    REORDER_HOLD_US = 2000, /* a frame that nothing overtakes goes on after this */
    PPM = 1000000,
};

enum direction {
    RX,
    TX,
};

/* In parts per million of frames. */
struct fault_rates {
    uint32_t drop;
    uint32_t dup;
    uint32_t reorder;
    uint32_t corrupt;
    uint64_t delay_us;
};

struct held {
    uint32_t used;
    uint32_t len;
    uint64_t order; /* frames due at one time go on in this order */
    uint64_t due_us;
    uint64_t due_frame; /* goes on once this many frames have passed */
    uint8_t bytes[HELD_BYTES];
};

/* Shared with a successor. */
struct faulty_state {
    uint64_t frames[2];
    uint64_t orders[2];
    uint32_t held_n[2]; /* at least as many as are used */
    int32_t dead;       /* the inner port's last word, not told yet; 0: none */
    struct held held[2][HELD_MAX];
    struct port_counters counters;
};

struct faulty {
    struct port inner;
    struct swring rings;
    struct fault_rates rates[2];
    uint64_t seed;
    struct faulty_state *state;
};

/* Copies of one frame's slots between rings that follow one contract. */
struct passage {
    struct nm_ring *from;
    struct nm_ring *to;
    uint32_t from_at; /* next slot to read */
    uint32_t to_at;   /* next slot to fill */
    uint32_t to_end;  /* first slot that is not free */
    enum direction direction;
    uint64_t now_us;
};

static uint64_t draw(const struct faulty *faulty, enum direction direction, uint64_t k,
                     uint64_t what)
{
    uint64_t state = faulty->seed ^ (k * 2 + direction) * 0x9e3779b97f4a7c15u ^ what << 56;

    splitmix64(&state);
    return splitmix64(&state);
}

static bool befalls(const struct faulty *faulty, enum direction direction, uint64_t k,
                    uint64_t what, uint32_t ppm)
{
    return ppm > 0 && draw(faulty, direction, k, what) % PPM < ppm;
}

static uint32_t room(const struct passage *passage)
{
    return nm_ring_distance(passage->to, passage->to_at, passage->to_end);
}

/* Where the bytes lie now; NULL: no room. */
static uint8_t *put(struct passage *passage, const uint8_t *bytes, uint32_t len)
{
    struct nm_slot *slot = &passage->to->slot[passage->to_at];
    uint8_t *to = nm_ring_buf(passage->to, passage->to_at);

    if (room(passage) == 0 || len > passage->to->nr_buf_size) {
        return NULL;
    }
    memcpy(to, bytes, len);
    slot->len = (uint16_t)len;
    slot->flags = 0;
    passage->to_at = nm_ring_next(passage->to, passage->to_at);
    return to;
}

/* When a frame goes on; due_us 0: at once. */
struct fate {
    uint64_t due_frame;
    uint64_t due_us;
};

/* Where the copy lies; NULL: too many are held. */
static uint8_t *hold(struct faulty *faulty, const struct passage *passage, const struct fate *fate,
                     const struct nm_slot *slot)
{
    struct faulty_state *state = faulty->state;

    for (uint32_t i = 0; i < HELD_MAX && slot->len <= HELD_BYTES; i++) {
        struct held *held = &state->held[passage->direction][i];

        if (held->used) {
            continue;
        }
        held->len = slot->len;
        held->order = state->orders[passage->direction]++;
        held->due_frame = fate->due_frame;
        held->due_us = fate->due_us;
        memcpy(held->bytes, nm_ring_buf(passage->from, passage->from_at), slot->len);
        state->held_n[passage->direction]++;
        held->used = 1;
        return held->bytes;
    }
    return NULL;
}

/* The first of those that are due; NULL: none. */
static struct held *next_due(struct faulty *faulty, const struct passage *passage)
{
    struct held *next = NULL;
    uint32_t used = 0;

    for (uint32_t i = 0; i < HELD_MAX; i++) {
        struct held *held = &faulty->state->held[passage->direction][i];
        bool due = held->used && (faulty->state->frames[passage->direction] >= held->due_frame ||
                                  passage->now_us >= held->due_us);

        used += held->used;
        if (due && (!next || held->order < next->order)) {
            next = held;
        }
    }
    faulty->state->held_n[passage->direction] = used; /* a kill may have left one too many */
    return next;
}

static void release_held(struct faulty *faulty, struct passage *passage)
{
    struct held *held;

    while (faulty->state->held_n[passage->direction] > 0 &&
           (held = next_due(faulty, passage)) != NULL && put(passage, held->bytes, held->len)) {
        held->used = 0;
        faulty->state->held_n[passage->direction]--;
    }
}

static struct fate fate_of(const struct faulty *faulty, const struct passage *passage, uint64_t k)
{
    const struct fault_rates *rates = &faulty->rates[passage->direction];
    uint64_t delayed_us = rates->delay_us > 0 ? passage->now_us + rates->delay_us : 0;

    if (!befalls(faulty, passage->direction, k, 2, rates->reorder)) {
        return (struct fate){.due_frame = UINT64_MAX, .due_us = delayed_us};
    }
    if (rates->delay_us > 0) { /* those behind it overtake when their own delay is over */
        return (struct fate){.due_frame = UINT64_MAX, .due_us = delayed_us + REORDER_HOLD_US};
    }
    return (struct fate){.due_frame = k + 2 + draw(faulty, passage->direction, k, 3) % REORDER_MAX,
                         .due_us = passage->now_us + REORDER_HOLD_US};
}

/* One copy goes on, at once or later; where it lies. There is room in the ring. */
static uint8_t *pass_copy(struct faulty *faulty, struct passage *passage, const struct fate *fate)
{
    const struct nm_slot *slot = &passage->from->slot[passage->from_at];
    uint8_t *bytes = fate->due_us > 0 ? hold(faulty, passage, fate, slot) : NULL;

    return bytes ? bytes : put(passage, nm_ring_buf(passage->from, passage->from_at), slot->len);
}

/* One single-slot frame: its fate, and whether there was room for it. */
static bool pass_single(struct faulty *faulty, struct passage *passage, uint64_t k)
{
    const struct fault_rates *rates = &faulty->rates[passage->direction];
    enum direction direction = passage->direction;
    uint32_t bits = passage->from->slot[passage->from_at].len * 8u;
    struct fate fate;
    uint8_t *bytes;

    if (room(passage) < 2 ||
        (rates->delay_us > 0 && faulty->state->held_n[direction] > HELD_MAX - 2)) {
        return false;
    }
    if (befalls(faulty, direction, k, 1, rates->drop)) {
        return true;
    }
    fate = fate_of(faulty, passage, k);
    bytes = pass_copy(faulty, passage, &fate);
    if (bytes && bits > 0 && befalls(faulty, direction, k, 4, rates->corrupt)) {
        uint64_t bit = draw(faulty, direction, k, 5) % bits;

        bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    if (befalls(faulty, direction, k, 6, rates->dup)) {
        pass_copy(faulty, passage, &fate);
    }
    return true;
}

/* Multi-slot frames may be lost; the other fates are for single slots. */
static bool pass_many(struct faulty *faulty, struct passage *passage, uint64_t k, uint32_t slots)
{
    uint32_t at = passage->from_at;

    if (room(passage) < slots) {
        return false;
    }
    if (befalls(faulty, passage->direction, k, 1, faulty->rates[passage->direction].drop)) {
        return true;
    }
    for (uint32_t i = 0; i < slots; i++) {
        uint32_t to = passage->to_at;

        put(passage, nm_ring_buf(passage->from, at), passage->from->slot[at].len);
        passage->to->slot[to].flags = passage->from->slot[at].flags & NM_MOREFRAG;
        at = nm_ring_next(passage->from, at);
    }
    return true;
}

/* Passes the next whole frame on; false: none, or no room. */
static bool pass_frame(struct faulty *faulty, struct passage *passage, uint32_t end)
{
    uint64_t k = faulty->state->frames[passage->direction];
    uint32_t slots = 1;
    uint32_t at = passage->from_at;
    bool passed;

    if (at == end) {
        return false;
    }
    while (passage->from->slot[at].flags & NM_MOREFRAG) {
        at = nm_ring_next(passage->from, at);
        if (at == end) {
            return false;
        }
        slots++;
    }
    passed = slots == 1 ? pass_single(faulty, passage, k) : pass_many(faulty, passage, k, slots);
    if (passed) {
        passage->from_at = nm_ring_next(passage->from, at);
        faulty->state->frames[passage->direction] = k + 1;
        release_held(faulty, passage);
    }
    return passed;
}

static struct faulty *faulty_of(const struct port *port)
{
    return port->priv;
}

static uint64_t count_frames(const struct nm_ring *ring, uint32_t from, uint32_t to)
{
    uint64_t frames = 0;

    for (uint32_t at = from; at != to; at = nm_ring_next(ring, at)) {
        frames += !(ring->slot[at].flags & NM_MOREFRAG);
    }
    return frames;
}

/* What only the inner port knows. Its frames are counted here, as they come out of the wrapper. */
static void pass_counters_on(struct port *port)
{
    const struct port_counters *inner = faulty_of(port)->inner.counters;

    port->counters->rx_missed = inner->rx_missed;
    port->counters->tx_dropped = inner->tx_dropped;
    port->counters->syscalls = inner->syscalls;
    port->counters->errors = inner->errors;
}

/* Takes what has come and what is due into the ring; returns its new tail. */
static uint32_t receive(struct port *port, uint64_t now_us)
{
    struct faulty *faulty = faulty_of(port);
    struct nm_ring *inner = faulty->inner.rx;
    struct passage passage = {.from = inner,
                              .to = port->rx,
                              .from_at = inner->head,
                              .to_at = port->rx->tail,
                              .direction = RX,
                              .now_us = now_us};

    passage.to_end = port->rx->head ? port->rx->head - 1 : port->rx->num_slots - 1;
    release_held(faulty, &passage);
    while (faulty->state->dead == 0 && pass_frame(faulty, &passage, nm_ring_tail(inner))) {
        continue;
    }
    if (faulty->state->dead == 0) {
        nm_ring_give(inner, passage.from_at);
    }
    return passage.to_at;
}

/*
 * The end of the source, or of the port, is told as the backends tell it: when nothing is left to
 * look at, here neither in the ring nor held.
 */
static int faulty_rx_sync(struct port *port, uint64_t now_us)
{
    struct faulty *faulty = faulty_of(port);
    struct faulty_state *state = faulty->state;
    uint32_t first = port->rx->tail;
    uint32_t tail;
    uint64_t frames;
    int code;

    if (state->dead == 0) {
        state->dead = faulty->inner.ops->rx_sync(&faulty->inner, now_us);
    }
    tail = receive(port, now_us);
    frames = count_frames(port->rx, first, tail);
    port->counters->rx_frames += frames;
    port->counters->rx_syncs += frames > 0;
    for (uint32_t at = first; at != tail; at = nm_ring_next(port->rx, at)) {
        port->counters->rx_bytes += port->rx->slot[at].len;
    }
    __atomic_store_n(&port->rx->tail, tail, __ATOMIC_RELEASE);
    pass_counters_on(port);
    if (state->held_n[RX] > 0 || nm_ring_space(port->rx) > 0) {
        return 0;
    }
    port->counters->rx_ended = faulty->inner.counters->rx_ended;
    code = state->dead;
    state->dead = 0; /* whoever goes on after that asks the inner port again */
    return code;
}

static int faulty_tx_sync(struct port *port, uint64_t now_us)
{
    struct faulty *faulty = faulty_of(port);
    struct nm_ring *inner = faulty->inner.tx;
    uint32_t next = nm_ring_next(port->tx, port->tx->tail); /* first slot not yet passed on */
    struct passage passage = {.from = port->tx,
                              .to = inner,
                              .from_at = next,
                              .to_at = inner->head,
                              .to_end = nm_ring_tail(inner),
                              .direction = TX,
                              .now_us = now_us};
    uint64_t frames;
    int code;

    release_held(faulty, &passage);
    while (pass_frame(faulty, &passage, port->tx->head)) {
        continue;
    }
    frames = count_frames(port->tx, next, passage.from_at);
    port->counters->tx_frames += frames;
    port->counters->tx_syncs += frames > 0;
    for (uint32_t at = next; at != passage.from_at; at = nm_ring_next(port->tx, at)) {
        port->counters->tx_bytes += port->tx->slot[at].len;
    }
    __atomic_store_n(&port->tx->tail,
                     passage.from_at ? passage.from_at - 1 : port->tx->num_slots - 1,
                     __ATOMIC_RELEASE);
    nm_ring_give(inner, passage.to_at);
    code = faulty->inner.ops->tx_sync(&faulty->inner, now_us);
    pass_counters_on(port);
    return code;
}

static int faulty_sleep_arm(struct port *port)
{
    struct faulty *faulty = faulty_of(port);
    const struct faulty_state *state = faulty->state;
    int armed = faulty->inner.ops->sleep_arm(&faulty->inner);

    return armed != 0 ? armed
                      : state->held_n[RX] + state->held_n[TX] > 0 || nm_ring_space(port->rx) > 0 ||
                            state->dead != 0 ||
                            port->counters->rx_ended != faulty->inner.counters->rx_ended;
}

static void faulty_sleep_disarm(struct port *port)
{
    faulty_of(port)->inner.ops->sleep_disarm(&faulty_of(port)->inner);
}

/* What the inner port said to the one that died may be over: it is asked again. */
static int faulty_recover(struct port *port)
{
    faulty_of(port)->state->dead = 0;
    return faulty_of(port)->inner.ops->recover(&faulty_of(port)->inner);
}

static const struct port_ops faulty_ops = {
    .backend = "faulty",
    .rx_sync = faulty_rx_sync,
    .tx_sync = faulty_tx_sync,
    .sleep_arm = faulty_sleep_arm,
    .sleep_disarm = faulty_sleep_disarm,
    .recover = faulty_recover,
};

/* "5%" or "0.1%" to parts per million. */
static bool parse_rate(const char *text, uint32_t *ppm)
{
    char *end;
    double percent = strtod(text, &end);

    if (end == text || strcmp(end, "%") != 0 || !(percent >= 0 && percent <= 100)) {
        return false;
    }
    *ppm = (uint32_t)(percent * 10000 + 0.5);
    return true;
}

static bool parse_delay(const char *text, uint64_t *us)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || !(value >= 0 && value < 1e9)) {
        return false;
    }
    if (strcmp(end, "ms") == 0) {
        value *= 1000;
    } else if (strcmp(end, "us") != 0) {
        return false;
    }
    *us = (uint64_t)value;
    return true;
}

static bool parse_value(struct fault_rates *rates, const char *key, const char *value)
{
    if (strcmp(key, "drop") == 0) {
        return parse_rate(value, &rates->drop);
    }
    if (strcmp(key, "dup") == 0) {
        return parse_rate(value, &rates->dup);
    }
    if (strcmp(key, "reorder") == 0) {
        return parse_rate(value, &rates->reorder);
    }
    if (strcmp(key, "corrupt") == 0) {
        return parse_rate(value, &rates->corrupt);
    }
    return strcmp(key, "delay") == 0 && parse_delay(value, &rates->delay_us);
}

/* One "key=value", "rx." or "tx." before the key for one direction. */
static bool parse_item(struct faulty *faulty, char *item)
{
    char *value = strchr(item, '=');
    bool rx = strncmp(item, "tx.", 3) != 0;
    bool tx = strncmp(item, "rx.", 3) != 0;
    const char *key = rx && tx ? item : item + 3;

    if (!value) {
        return false;
    }
    *value++ = '\0';
    return (!rx || parse_value(&faulty->rates[RX], key, value)) &&
           (!tx || parse_value(&faulty->rates[TX], key, value));
}

static int parse_spec(struct faulty *faulty, const char *spec, char *error)
{
    char copy[SPEC_MAX + 1];
    char *rest = copy;
    char *item;

    if (strlen(spec) > SPEC_MAX) {
        snprintf(error, PORT_ERROR_MAX, "faults: \"%.16s...\" is too long: give %d characters",
                 spec, SPEC_MAX);
        return -EINVAL;
    }
    snprintf(copy, sizeof(copy), "%s", spec);
    while ((item = strsep(&rest, ",")) != NULL) {
        char shown[64];

        snprintf(shown, sizeof(shown), "%s", item);
        if (!parse_item(faulty, item)) {
            snprintf(error, PORT_ERROR_MAX,
                     "faults: \"%s\": give drop=, dup=, reorder= or corrupt= in percent (5%%), "
                     "delay= in ms or us; rx. or tx. before a key for one direction",
                     shown);
            return -EINVAL;
        }
    }
    return 0;
}

int faulty_wrap(struct port *port, const char *spec, uint64_t seed, char *error)
{
    struct faulty *faulty = calloc(1, sizeof(*faulty));
    int code;

    if (!faulty) {
        snprintf(error, PORT_ERROR_MAX, "faults: out of memory");
        return -ENOMEM;
    }
    faulty->inner = *port;
    faulty->seed = seed;
    code = parse_spec(faulty, spec, error);
    if (code == 0) {
        code = swring_create(&faulty->rings, SLOTS, port->rx->nr_buf_size,
                             sizeof(struct faulty_state));
        snprintf(error, PORT_ERROR_MAX, "faults: no memory for rings (errno %d)", -code);
    }
    if (code != 0) {
        free(faulty);
        return code;
    }
    faulty->state = faulty->rings.extra;
    port->ops = &faulty_ops;
    port->rx = faulty->rings.rx;
    port->tx = faulty->rings.tx;
    port->counters = &faulty->state->counters;
    port->priv = faulty;
    port->bufs = faulty->rings.bufs;
    port->region = 0;
    port->caps &= ~(uint32_t)(PORT_CAP_TX_CSUM | PORT_CAP_TX_GSO);
    return 0;
}

void faulty_unwrap(struct port *port)
{
    struct faulty *faulty;

    if (port->ops != &faulty_ops) {
        return;
    }
    faulty = faulty_of(port);
    *port = faulty->inner;
    swring_destroy(&faulty->rings);
    free(faulty);
}
