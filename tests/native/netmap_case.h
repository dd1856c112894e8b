/* What the tests of netmap: share: devices on the fake module, and frames that carry a number. */
#pragma once
#include "check.h"
#include "fake_netmap.h"
#include "ports/netmap.h"

enum {
    SLOTS = 7, /* not a power of two */
    FRAME = 60,
};

extern char case_error[PORT_ERROR_MAX];

/* Opens "netmap:NAME" on the fake module; `config` may be NULL. */
int case_open(struct device **out, const char *name, const struct device_config *config);
/* The same, for a port that must open. */
struct device *case_port(const char *name);
/* True: the open failed with `code`, and its sentence has the port's name and `words`. */
bool case_refused(const char *name, const struct device_config *config, int code,
                  const char *words);
/* `n` frames into TX slots, filled with their numbers from `first` on, and published. */
void case_send(struct port *port, uint32_t n, uint8_t first);
/* Takes what is in the RX ring and checks the numbers; how many. */
uint32_t case_take(struct port *port, uint8_t first);
/* A frame with a number arrives for the NIC's ring. */
void case_arrive(struct fake_port *nic, uint32_t ring, uint8_t number);
