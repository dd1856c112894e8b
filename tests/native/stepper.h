/* Children stepped instruction by instruction: a kill at every store, any interleaving, and what
 * the other side does between any two instructions. */
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

struct meeting {
    void (*act)(void *arg);   /* in the child */
    void (*other)(void *arg); /* here, once */
    void *arg;
};

/* Returns how many changes there were; 0 when the child did not end well. */
uint64_t step_through(const struct stepper *stepper);
/*
 * Runs `act` in `n` children: each goes a number of instructions, as the seed says, before the next
 * begins; then one after the other goes on to its end. `args` has n pointers. True: all ended well.
 */
bool step_together(void (*act)(void *arg), void **args, uint32_t n, uint64_t seed);
/*
 * Runs `act` in a child, and after `n` instructions of it, before its next one, `other` here: what
 * the other side of shared memory does just then. Then the child goes on to its end, which -1 says
 * was not a good one. 1: so it went; 0: the child had ended before, and `other` did not run.
 */
int step_between(const struct meeting *meeting, uint64_t n);
/* Zeroed memory that children share; ends the program when there is none. */
void *shared_memory(size_t bytes);
