/*
 * The load client inside: what both engines (kernel sockets, our own stack) keep of a connection,
 * and how a reply is checked and timed.
 */
#pragma once
#include "api.h"
#include "base/compiler.h"
#include "client/pattern.h"

enum load_state {
    LOAD_IDLE,
    LOAD_CONNECTING,
    LOAD_OPEN,
    LOAD_ENDING, /* our FIN is out, the rest of the echo is awaited */
    LOAD_DONE,
};

struct load_conn {
    struct pattern pattern;
    uint64_t sent;      /* bytes handed to the transport */
    uint64_t received;  /* bytes verified */
    uint64_t active_us; /* when something last came */
    uint32_t id;
    uint8_t state;
};

struct load {
    const struct ss_load_options *options;
    struct ss_load_stats *stats;
    struct load_conn *conns;
    uint64_t *sent_ns; /* [connection][message modulo pipeline]: when its first byte was sent */
    uint64_t deadline_us;
    uint64_t last_reply_us;
    uint32_t opened;     /* connections begun */
    uint32_t connecting; /* of these, not yet open */
    uint32_t left;       /* not yet done */
    bool ending;
};

uint64_t load_clock_ns(void);
/* 0 or -errno with a sentence. */
int load_init(struct load *load, const struct ss_load_options *options, struct ss_load_stats *stats,
              char *error);
void load_free(struct load *load);
/* True while connections may still be begun. */
bool load_may_connect(const struct load *load);
void load_begun(struct load *load, uint32_t index, uint64_t now_us);
void load_opened(struct load *load, uint32_t index, uint64_t now_us);
/* Bytes that may be sent now: whole messages, within the pipeline. */
uint64_t load_wants(const struct load *load, uint32_t index);
/* Notes `len` bytes sent: the messages that begin in them are timed from now. */
void load_sent(struct load *load, uint32_t index, uint64_t len, uint64_t now_ns);
/* Checks what came back and counts the messages it completes. */
void load_received(struct load *load, uint32_t index, const void *bytes, uint64_t len,
                   uint64_t now_ns);
/* True when the connection has sent all it should: time for the FIN. */
bool load_is_over(const struct load *load, uint32_t index);
/* The connection has ended: in order and complete, or as counted in `counter`. */
void load_done(struct load *load, uint32_t index, uint64_t *counter);
/* Whether the run should go on; notes the deadline and the stop flag. */
bool load_goes_on(struct load *load, uint64_t now_us);

/* The engines: they return 0 or -errno with a sentence. */
int load_run_kernel(const struct ss_load_options *options, struct ss_load_stats *stats,
                    char *error);
int load_run_mem(const struct ss_load_options *options, struct ss_load_stats *stats, char *error);
