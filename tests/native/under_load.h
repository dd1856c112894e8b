/* Workers that are killed under load, by turns, on a wire whose other end is the kernel. */
#pragma once
#include "packet_wire.h"

/*
 * Numbered datagrams come in while receivers on ring 0 are killed, `kills` of them: none is lost,
 * none comes twice. `sleeps`: they sleep as a real worker does, between bursts.
 */
void under_load_kill_receivers(const struct packet_wire *wire, uint32_t kills, bool sleeps);
/* The same for those who send them. */
void under_load_kill_senders(const struct packet_wire *wire, uint32_t kills);
