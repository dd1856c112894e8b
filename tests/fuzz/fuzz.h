/*
 * What the fuzz targets share: a reader of the input, and the lab, a cluster on virtual time with
 * one bare link to the wire. Every broken law aborts, so that the fuzzer keeps the input.
 */
#pragma once
#include "sim.h"

/* The target; called with one input after the other, by libFuzzer or by replay.c. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Bytes not yet used; beyond the end it reads zeros. */
struct input {
    const uint8_t *at;
    size_t left;
};

static inline uint8_t input_u8(struct input *input)
{
    if (input->left == 0) {
        return 0;
    }
    input->left--;
    return *input->at++;
}

static inline uint16_t input_u16(struct input *input)
{
    uint16_t high = input_u8(input);

    return (uint16_t)(high << 8 | input_u8(input));
}

static inline uint32_t input_u32(struct input *input)
{
    uint32_t high = input_u16(input);

    return high << 16 | input_u16(input);
}

/* A signed byte or word, as what is added to an unsigned number. */
static inline uint32_t input_i8(struct input *input)
{
    return (input_u8(input) ^ 0x80u) - 0x80u;
}

static inline uint32_t input_i16(struct input *input)
{
    return (input_u16(input) ^ 0x8000u) - 0x8000u;
}

/* At most `len` bytes that lie in the input; moves behind them. */
static inline const uint8_t *input_bytes(struct input *input, uint32_t *len)
{
    const uint8_t *bytes = input->at;

    if (*len > input->left) {
        *len = (uint32_t)input->left;
    }
    input->at += *len;
    input->left -= *len;
    return bytes;
}

/* Aborts when a CHECK has failed since the process began. */
void fuzz_settle(void);
/* Prints when FUZZ_TRACE is in the environment: what an input does, for whoever looks into it. */
__attribute__((format(printf, 1, 2))) void fuzz_say(const char *format, ...);

enum {
    LAB_IP = 0x0a4d0001,   /* the shards', 10.77.0.1 */
    LAB_PEER = 0x0a4d00c8, /* ours, 10.77.0.200 */
};

struct lab {
    struct sim sim;
    struct mem_attachment *attachment;
    struct port *port;
    void (*on_frame)(void *data, const uint8_t *frame, uint32_t len); /* from the shards */
    void *data;
};

void lab_open(struct lab *lab, uint32_t shards);
/* Aborts what is still open, then checks the laws. */
void lab_close(struct lab *lab);
/* False: the link's ring is full. */
bool lab_send(struct lab *lab, const uint8_t *frame, uint32_t len);
/* Tells the shards our MAC by an ARP request, whose answer is taken. */
void lab_announce(struct lab *lab);
/* One turn of every shard at the present time. */
void lab_turn(struct lab *lab);
/* Lets time pass from deadline to deadline; the number of turns is bounded. */
void lab_run(struct lab *lab, uint64_t us);

/*
 * An Ethernet frame with a TCP segment from LAB_PEER, checksums right; ports in host order. Returns
 * its length. `segment` holds header and payload; its source port is set by the caller.
 */
uint32_t lab_wrap_tcp(const struct lab *lab, uint8_t *frame, const uint8_t *segment, uint32_t len);
/* True when lengths and both checksums of a TCP frame from the shards are right. */
bool lab_tcp_right(const uint8_t *frame, uint32_t len);
