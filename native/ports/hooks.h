/*
 * What a test does to a port while it runs: the link goes down and comes back, a sync fails, slots
 * complete late. Around any port; the switches lie in shared memory, so that a test turns them
 * while another process works. The ring contract holds whatever is turned on.
 */
#pragma once
#include "ports/port.h"

enum {
    HOOKS_LATE_MAX = 31,
};

struct port_hooks {
    _Atomic uint32_t down;     /* 1: nothing leaves, nothing comes; what is there stays there */
    _Atomic uint32_t rx_error; /* errno that the next RX syncs return; 0: none */
    _Atomic uint32_t tx_error;
    _Atomic uint32_t late; /* TX syncs until a sent slot is free again, HOOKS_LATE_MAX at most */
};

/* Wraps an open port. NULL: out of memory. The port must be quiet. */
struct port_hooks *hooks_wrap(struct port *port);
/* The switches of a wrapped port; NULL: it is not wrapped. */
struct port_hooks *hooks_of(struct port *port);
void hooks_unwrap(struct port *port);
