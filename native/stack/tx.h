/* The TX side of a turn: slots are filled behind a private cursor and published at its end. */
#pragma once
#include "stack/stack.h"

/* Loads the cursor from the ring. */
void tx_begin(struct stack *stack);
/* Publishes what was pushed since tx_begin. */
void tx_publish(struct stack *stack);
