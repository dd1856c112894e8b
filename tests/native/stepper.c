/* Children stepped instruction by instruction; see stepper.h. */
#include "stepper.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"

enum {
    CHILDREN_MAX = 8,
};

/* Instructions of one child before the next begins. */
#ifdef __SANITIZE_ADDRESS__
enum {
    STEPS_MAX = 2500
};
#else
enum {
    STEPS_MAX = 700
};
#endif

/* A child that has stopped before its first instruction of `act`. */
static pid_t start(void (*act)(void *arg), void *arg, int *status)
{
    pid_t child = fork();

    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
            _exit(1); /* a stop would be for ever */
        }
        raise(SIGSTOP);
        act(arg);
        _exit(0);
    }
    waitpid(child, status, 0);
    return child;
}

static bool ended_well(int status)
{
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

uint64_t step_through(const struct stepper *stepper)
{
    uint8_t *seen = malloc(stepper->bytes);
    uint64_t stores = 0;
    int status = 0;
    pid_t child = start(stepper->act, stepper->arg, &status);

    memcpy(seen, stepper->memory, stepper->bytes);
    while (WIFSTOPPED(status)) {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        waitpid(child, &status, 0);
        if (memcmp(seen, stepper->memory, stepper->bytes) != 0) {
            stepper->look(stepper->arg);
            memcpy(seen, stepper->memory, stepper->bytes);
            stores++;
        }
    }
    free(seen);
    return ended_well(status) ? stores : 0;
}

bool step_together(void (*act)(void *arg), void **args, uint32_t n, uint64_t seed)
{
    pid_t child[CHILDREN_MAX];
    int status[CHILDREN_MAX];
    bool well = true;

    for (uint32_t i = 0; i < n; i++) {
        uint64_t steps = splitmix64(&seed) % STEPS_MAX;

        child[i] = start(act, args[i], &status[i]);
        for (; steps > 0 && WIFSTOPPED(status[i]); steps--) {
            ptrace(PTRACE_SINGLESTEP, child[i], NULL, NULL);
            waitpid(child[i], &status[i], 0);
        }
    }
    for (uint32_t k = 0, first = (uint32_t)(splitmix64(&seed) % n); k < n; k++) {
        uint32_t i = (first + k) % n;

        if (WIFSTOPPED(status[i])) {
            ptrace(PTRACE_CONT, child[i], NULL, NULL);
            waitpid(child[i], &status[i], 0);
        }
        well = well && ended_well(status[i]);
    }
    return well;
}

int step_between(const struct meeting *meeting, uint64_t n)
{
    int status = 0;
    pid_t child = start(meeting->act, meeting->arg, &status);

    for (; n > 0 && WIFSTOPPED(status); n--) {
        ptrace(PTRACE_SINGLESTEP, child, NULL, NULL);
        waitpid(child, &status, 0);
    }
    if (WIFSTOPPED(status)) {
        meeting->other(meeting->arg);
        ptrace(PTRACE_CONT, child, NULL, NULL);
        waitpid(child, &status, 0);
        return ended_well(status) ? 1 : -1;
    }
    return ended_well(status) ? 0 : -1;
}

void *shared_memory(size_t bytes)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (memory == MAP_FAILED) {
        printf("no shared memory of %zu bytes\n", bytes);
        exit(2);
    }
    return memory;
}
