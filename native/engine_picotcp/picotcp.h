/*
 * The engine of picoTCP: its instance in this worker, and what stands in front of it.
 *
 * A connection's services, queues and place in the flow table are the core's own (conn.h, in the
 * arena); its TCP is picoTCP's, in this process's memory, and dies with the worker. Every segment
 * passes the filter (input.c, scrub.c) on its way in, and egress.c on its way out. picoTCP sees the
 * connection's index in place of the peer's port, so that its trees, which compare little more than
 * ports, cannot mix two peers. Start reading at engine_picotcp in engine.c.
 */
#pragma once
#include "engine_picotcp/abi.h"
#include "engine_picotcp/loader.h"
#include "engine_picotcp/scrub.h"
#include "stack/engine_ops.h"

enum {
    PICOTCP_CONNS_MAX = 4096,     /* what an instance may hold: see README.md for what it costs */
    PICOTCP_CONNS_DEFAULT = 1024, /* its cost per segment grows with every connection */
    PICOTCP_BACKLOG_MAX = 256,
    PICOTCP_BUFFER = 65535, /* of each queue of a connection: its window is never scaled */
    PICOTCP_NEIGHBOURS_MAX = 1024,
    PICOTCP_MEMORY_MAX = 256 * 1024 * 1024, /* no new connection beyond */
    PICOTCP_LINGER_MS = 3000,
    PICOTCP_STAGING = 65536,
};

enum picotcp_flag {
    OWN_UNREAD = 1,      /* picoTCP holds bytes for which our queue had no room */
    OWN_PEER_DONE = 2,   /* picoTCP has told of the peer's FIN */
    OWN_SHUT = 4,        /* our FIN was asked for */
    OWN_FIN_OUT = 8,     /* our FIN left; picoTCP sends it once, we send it again */
    OWN_PROBE = 16,      /* a byte was written beyond a closed window */
    OWN_CHANGED = 32,    /* stands in `changed` */
    OWN_ENDED = 64,      /* stands in `ended` */
    OWN_ACKED_NEW = 128, /* the segment in hand acknowledged something */
};

/* Of one connection; parallel to stack->hot, in this process only. */
struct picotcp_conn {
    void *socket;      /* NULL until it is accepted */
    uint32_t rcv_nxt;  /* what picoTCP acknowledged last */
    uint32_t rcv_put;  /* behind what it was given in order */
    uint32_t snd_una;  /* what the peer acknowledged */
    uint32_t snd_edge; /* right edge of the peer's window */
    uint32_t snd_put;  /* behind what was written into picoTCP */
    uint32_t snd_max;  /* behind what has left */
    uint32_t fin_ack;  /* picoTCP's number for the ACK of our FIN; see egress.c */
    uint16_t window;   /* as picoTCP advertised it last */
    uint16_t mss;      /* the peer's */
    uint8_t wscale;    /* the peer's */
    uint8_t flags;     /* enum picotcp_flag */
    uint8_t reason;    /* enum close_reason, when OWN_ENDED */
    uint8_t fin_tries;
    uint32_t events; /* enum picotcp_event, not yet looked at */
    uint64_t heard_us;
    uint64_t challenge_us; /* of the last one; 0: none yet */
    uint64_t fin_us;       /* when our FIN left last */
};

struct picotcp {
    struct stack *stack;
    struct picotcp_library library;
    const struct picotcp_api *api;
    struct picotcp_conn *conns;
    uint32_t *changed; /* connections with events */
    uint32_t changed_n;
    uint32_t *ended; /* freed once picoTCP holds no frame of theirs */
    uint32_t ended_n;
    uint32_t neighbours[2 * PICOTCP_NEIGHBOURS_MAX]; /* next hops that it was told of; 0: free */
    uint32_t neighbours_n;
    uint64_t key[2]; /* of its random numbers */
    uint64_t drawn;
    uint64_t ticked_ms;
    uint64_t swept_us;
    uint32_t fed;  /* frames given to it since its last tick */
    uint32_t sent; /* frames taken from it since its last tick */
    uint32_t pings;
    uint8_t staging[PICOTCP_STAGING + SCRUB_HEADERS_MAX];
};

static inline struct picotcp *picotcp_of(const struct stack *stack)
{
    return stack->engine_state;
}

/* input.c: the verdict of a classified frame, and what reaches picoTCP of it. */
enum verdict picotcp_take(struct picotcp *engine, struct frame *frame);
/* Gives an ARP frame off our ring to every other shard. */
void picotcp_distribute(struct picotcp *engine, const struct frame *frame);

/* neighbours.c: picoTCP's ARP table knows the way to `ip`; false: asked, not known yet. */
bool picotcp_neighbour(struct picotcp *engine, uint32_t ip);
/* An ARP frame of somebody that picoTCP was told of. */
void picotcp_arp(struct picotcp *engine, const struct frame *frame);
/* picoTCP asks for an address: the shared table may know it. */
void picotcp_arp_asked(struct picotcp *engine, const uint8_t *frame, uint32_t len);

/* egress.c: the way of a frame from picoTCP to a TX slot (struct picotcp_setup.send). */
int32_t picotcp_send(void *host, const uint8_t *frame, uint32_t len);
/* Tells the peer of room, once all has been read, if it last saw little. */
void picotcp_open_window(struct picotcp *engine, uint32_t conn);
/* Sends the FIN again that was not acknowledged. */
void picotcp_fin_again(struct picotcp *engine, uint32_t conn);
/* What picoTCP would say: an ACK of all that it has. */
void picotcp_ack(struct picotcp *engine, uint32_t conn);

/* events.c: from picoTCP's events to connections. */
void picotcp_event(void *host, uint16_t remote_port, void *socket, uint32_t events);
void picotcp_settle_events(struct picotcp *engine);
/* Moves unread bytes into the connection's queue, as many as have room. */
void picotcp_pull(struct picotcp *engine, uint32_t conn);
/* Forgets the connection in picoTCP now, and frees it once nothing of it is queued there. */
void picotcp_end(struct picotcp *engine, uint32_t conn, enum close_reason reason);
/* Frees what has ended; with `all`, also while picoTCP holds frames. */
void picotcp_reap(struct picotcp *engine, bool all);

/* pump.c: bytes, ends of streams and ticks. */
void picotcp_pump(struct picotcp *engine, uint32_t conn);
/* Lets picoTCP work until it has taken what it was given and sent what it can. */
void picotcp_run(struct picotcp *engine);

extern const struct engine_ops engine_picotcp;
