/* What picoTCP takes from the C library and gets from us: memory, the time, a place for its words.
 */
#pragma once
#include <stdint.h>

/* The clock that picoTCP reads, in microseconds. */
void memory_set_clock(uint64_t now_us);
/* Bytes allocated now. */
uint64_t memory_bytes(void);
/* Frees whatever is left. */
void memory_release(void);
