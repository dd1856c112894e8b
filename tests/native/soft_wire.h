/* Ports of software links in a test: opened pairwise, frames with numbers, a step-by-step child. */
#pragma once
#include "ports/port.h"

enum {
    SOFT_FRAME = 60,
};

/* Opens a device of this process; `host`, if not NULL, answers for its memory meanwhile. */
struct device *soft_wire_open(const char *spec, const struct device_config *config,
                              struct device *host);
/* A client of "mem:NAME", as another process would attach; `host` is its device, and answers. */
struct mem_attachment *soft_wire_attach(const char *spec, struct device *host);
/* The same for what is to be refused: the code, and the sentence. */
int soft_wire_refused(const char *spec, struct device *host, char *error);
/* "PREFIX-PID" with the rest behind it, valid until the fourth call after. */
const char *soft_wire_name(const char *prefix, const char *rest);
/* A numbered frame between these MACs into the next TX slot; false: none is free. */
bool soft_wire_put(struct port *port, const uint8_t *dst, const uint8_t *src, uint32_t number);
/* The number of the next received frame; UINT32_MAX: none. */
uint32_t soft_wire_take(struct port *port);
void soft_wire_tx(struct port *port);
void soft_wire_rx(struct port *port);

/* Overwrites a random word of one of these ranges, as a hostile other side would. */
void soft_wire_scribble(uint64_t *random, uint8_t *const *at, const size_t *bytes, uint32_t n);
/* A sync of each kind with cursors of ours that are right; its answer does not matter. */
void soft_wire_turn(struct port *port, uint64_t now_us);

/* Memory that is watched while a child runs one instruction at a time. */
struct soft_step {
    const uint8_t *at[4];
    size_t bytes[4];
    uint32_t n;
    uint64_t stores; /* instructions that changed it */
};

/* Forks a child that calls run(argument) step by step; look(argument) after each change. */
void soft_wire_step(struct soft_step *step, void (*run)(void *), void (*look)(void *),
                    void *argument);
