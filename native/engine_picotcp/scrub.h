/*
 * The filter's hands: a received segment is never handed to picoTCP as it came. Its options are
 * parsed under our rules, its impossible flags refused, and a new frame is written with plain
 * headers, the options that picoTCP handles well, and the payload.
 */
#pragma once
#include "stack/stack.h"
#include "stack/tcp/tcp.h"

enum {
    SCRUB_HEADERS_MAX = ETH_HDR_LEN + IPV4_HDR_LEN + 60,
    SCRUB_MSS_MIN = 64,
    SCRUB_OPTIONS_MAX = 40,
};

/* The options of a segment that picoTCP gets to see. */
struct scrub_options {
    uint16_t mss; /* SYN only; 0: none */
    bool sack_permitted;
    uint8_t wscale; /* SYN only; 0xff: none. For us: picoTCP does not see it */
    bool has_timestamp;
    uint8_t timestamp[8];
    uint8_t sack_len; /* bytes: a multiple of 8, at most 24 */
    uint8_t sack[24];
};

/* What is written. Ports and addresses in network order, the rest in host order. */
struct scrubbed {
    uint16_t remote_port; /* in place of the peer's */
    uint8_t flags;
    uint32_t seq;
    uint32_t ack;
    uint32_t off; /* of the payload, within the received frame */
    uint32_t len;
    bool sums; /* the checksum must be right */
};

/* False: a length of 0 or 1, one beyond the header, or one that its kind cannot have. */
bool scrub_parse(const struct frame *frame, const struct segment *seg,
                 struct scrub_options *options);
/* False: no flags that a segment can carry together. */
bool scrub_flags(uint8_t flags);
/* Writes the frame; returns its length. `out` holds SCRUB_HEADERS_MAX and the payload. */
uint32_t scrub_write(const struct stack *stack, const struct segment *seg,
                     const struct scrub_options *options, const struct scrubbed *what,
                     uint8_t *out);
