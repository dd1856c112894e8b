/* Client connections of a simulated cluster that send a pattern and check each byte of its echo. */
#pragma once
#include "sim.h"

/* `conns` connections echo `bytes` each and close; true when all came back in time. Checks it. */
bool talk_echo(struct sim *sim, uint32_t conns, uint64_t bytes, uint64_t limit_us);
