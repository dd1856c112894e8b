/* One hash over every frame at every ring of a simulated cluster, with its virtual time. */
#pragma once
#include "sim.h"

/* From now on; one cluster at a time. */
void trace_sim(struct sim *sim);
/* The same, and each frame that is sent is shown, as it leaves its stack, to `sent`. */
void trace_sent(struct sim *sim, void (*sent)(const uint8_t *frame, uint32_t len));
/* The hash since then, and how many frames it covers. */
uint64_t trace_end(uint64_t *frames);
