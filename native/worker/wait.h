/* Sleeping until a frame, a lane, a timer or the end of a slice. */
#pragma once
#include "stack/conn.h"

/* Sleeps for at most `us` microseconds. */
void wait_for_work(struct stack *stack, uint64_t us);
