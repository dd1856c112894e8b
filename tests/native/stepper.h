/* Children stepped instruction by instruction: a kill at every store, and any interleaving. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct stepper {
    void (*act)(void *arg);  /* in the child */
    void (*look)(void *arg); /* here, after each change of the memory */
    void *arg;
    const void *memory; /* MAP_SHARED */
    size_t bytes;
};

/* Returns how many changes there were; 0 when the child did not end well. */
uint64_t step_through(const struct stepper *stepper);
/*
 * Runs `act` in `n` children: each goes a number of instructions, as the seed says, before the next
 * begins; then one after the other goes on to its end. `args` has n pointers. True: all ended well.
 */
bool step_together(void (*act)(void *arg), void **args, uint32_t n, uint64_t seed);
/* Zeroed memory that children share; ends the program when there is none. */
void *shared_memory(size_t bytes);
