/* The public functions about single connections: a shard's list, read in parts from its arena. */
#include <arpa/inet.h>
#include <errno.h>

#include "api.h"
#include "engine_picotcp/picotcp.h"
#include "stack/snapshot.h"
#include "worker/server.h"

enum {
    PART_MAX = sizeof(((struct ss_conns_part *)0)->conn) / sizeof(struct ss_conn),
    LOOKS_MAX = 16384, /* records that one call looks at: its caller has other things to do */
    CHANGING_MAX = 16, /* of these, read in vain, each SNAPSHOT_TRIES times */
    STATE_LISTENING = CONN_STATES,
};

static const char *const state_names[] = {
    "unconnected", "syn-sent", "syn-recv", "established", "fin-wait-1", "fin-wait-2",
    "close-wait",  "closing",  "last-ack", "time-wait",   "listening",
};
static const char *const timer_names[] = {"on", "persist", "timewait"};

_Static_assert(sizeof(state_names) / sizeof(state_names[0]) == STATE_LISTENING + 1, "conn_state");
_Static_assert(sizeof(timer_names) / sizeof(timer_names[0]) == SS_CONN_TIMERS, "ss_conn_timer");
_Static_assert(sizeof(struct ss_conn) == 24 * sizeof(uint32_t), "words: native_conns.py");

const char *ss_conn_state_name(uint32_t index)
{
    return index <= STATE_LISTENING ? state_names[index] : NULL;
}

const char *ss_conn_timer_name(uint32_t index)
{
    return index < SS_CONN_TIMERS ? timer_names[index] : NULL;
}

/* A difference of sequence numbers or ticks, where a negative one is none. */
static uint32_t distance(uint32_t from, uint32_t to)
{
    return (int32_t)(to - from) > 0 ? to - from : 0;
}

static void describe_timer(struct ss_conn *conn, const struct conn_hot *hot)
{
    uint32_t now = (uint32_t)(worker_clock_us() / TICK_US);

    if (hot->rtx_at == 0) {
        return;
    }
    conn->knows |= SS_CONN_TIMER;
    conn->timer = SS_CONN_RETRANSMIT;
    if (hot->state == CONN_TIME_WAIT ||
        (hot->state == CONN_FIN_WAIT_2 && hot->snd_una == hot->snd_max)) {
        conn->timer = SS_CONN_TIMEWAIT;
    } else if (hot->flags & CONN_PROBING) {
        conn->timer = SS_CONN_PERSIST;
    }
    conn->timer_ms = distance(now, hot->rtx_at) * (TICK_US / 1000);
}

/* What only the native engine writes. */
static void describe_tcp(struct ss_conn *conn, const struct conn_image *image)
{
    const struct conn_hot *hot = &image->hot;

    conn->knows |= SS_CONN_TCP;
    conn->retries = hot->retries;
    conn->mss = hot->mss;
    conn->srtt_us = image->cold.srtt_us;
    conn->rttvar_us = image->cold.rttvar_us;
    conn->rto_us = image->cold.rto_us;
    conn->ssthresh =
        image->cold.ssthresh_mss ? (uint32_t)image->cold.ssthresh_mss * hot->mss : UINT32_MAX;
    conn->snd_wnd = hot->snd_wnd;
    conn->rcv_wnd = distance(hot->rcv_nxt, hot->rcv_adv);
    if (hot->flags & CONN_WS_OK) {
        conn->knows |= SS_CONN_SCALES;
        conn->snd_wscale = hot->wscale & 15;
        conn->rcv_wscale = hot->wscale >> 4;
    }
    conn->unacked = distance(hot->snd_una, hot->snd_max);
    if (hot->active != NONE) {
        conn->knows |= SS_CONN_ACTIVE;
        conn->ssthresh = image->active.ssthresh;
        conn->cwnd = image->active.cwnd;
        conn->ooo = image->active.ooo.bytes;
        conn->knows |= image->active.flags & ACTIVE_RECOVERY ? SS_CONN_LOSSES : 0;
    }
    describe_timer(conn, hot);
}

static void describe(struct ss_conn *conn, const struct conn_image *image, bool native)
{
    const struct tuple *tuple = &image->hot.tuple;

    *conn = (struct ss_conn){.state = image->hot.state,
                             .service = image->hot.service,
                             .laddr = ntohl(tuple->laddr),
                             .lport = ntohs(tuple->lport),
                             .raddr = ntohl(tuple->raddr),
                             .rport = ntohs(tuple->rport)};
    if (image->hot.active != NONE) {
        conn->recv_q = image->active.rcv.bytes;
        conn->send_q = image->active.snd.bytes;
    }
    if (native) {
        describe_tcp(conn, image);
    }
}

static void describe_listener(struct ss_conn *conn, const struct stack *view, uint32_t index)
{
    const struct listener *listener = &view->config->listeners[index];
    uint32_t half_open_max = view->config->backlog_max;

    *conn = (struct ss_conn){.state = STATE_LISTENING,
                             .service = listener->service,
                             .laddr = ntohl(view->config->ip),
                             .lport = ntohs(listener->tcp_port),
                             .recv_q = *(const volatile uint32_t *)&view->shared->syn_rcvd,
                             .send_q = view->engine ? min_u32(half_open_max, PICOTCP_BACKLOG_MAX)
                                                    : half_open_max};
}

/* Fills `part` from entry `from` on, where services come before records. */
static void read_part(const struct stack *view, uint32_t from, struct ss_conns_part *part)
{
    bool draining = *(const volatile uint32_t *)&view->shared->draining != 0;
    uint32_t listeners = view->config->listeners_n;
    uint32_t end = listeners + snapshot_end(view);
    uint32_t at = from;
    struct conn_image image;

    for (; at < listeners; at++) {
        if (!draining) { /* no SYN is taken any more */
            describe_listener(&part->conn[part->n++], view, at);
        }
    }
    for (; at < end && at - from < LOOKS_MAX && part->n < PART_MAX; at++) {
        if (part->changing == CHANGING_MAX) {
            break;
        }
        enum snapshot_found found = snapshot_conn(view, at - listeners, &image);

        if (found == SNAPSHOT_CONN) {
            describe(&part->conn[part->n++], &image, !view->engine);
        }
        part->changing += found == SNAPSHOT_CHANGING;
    }
    part->next = at < end ? at : 0;
}

int32_t ss_conns_read(const struct ss_server *handle, uint32_t shard, uint32_t from,
                      struct ss_conns_part *part)
{
    const struct server *server = (const struct server *)handle;
    struct stack view;

    if (!server || !part || shard >= server->config.shards) {
        return -EINVAL;
    }
    part->n = part->next = part->changing = part->pad = 0;
    if (arena_header(&server->arenas[shard])->generation == 0) {
        return 0; /* nothing is laid out yet */
    }
    snapshot_view(&view, &server->config, &server->arenas[shard]);
    view.engine = server->engine;
    read_part(&view, from, part);
    return 0;
}
