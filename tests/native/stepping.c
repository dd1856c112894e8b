/* A traced child that makes one step at a time; see stepping.h. */
#include "stepping.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

struct snapshot {
    const struct step_memory *memory;
    uint8_t *copy[STEP_REGIONS_MAX];
};

static pid_t fork_traced(struct port *port, step_sync *sync)
{
    pid_t pid = fork();

    if (pid != 0) {
        return pid;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0) {
        _exit(1);
    }
    raise(SIGSTOP);
    _exit(sync(port, 1) != 0);
}

static bool changed(const struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < snapshot->memory->n; i++) {
        const struct iovec *region = &snapshot->memory->region[i];

        if (memcmp(snapshot->copy[i], region->iov_base, region->iov_len) != 0) {
            return true;
        }
    }
    return false;
}

static void save(struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < snapshot->memory->n; i++) {
        const struct iovec *region = &snapshot->memory->region[i];

        memcpy(snapshot->copy[i], region->iov_base, region->iov_len);
    }
}

static void restore(const struct snapshot *snapshot)
{
    for (uint32_t i = 0; i < snapshot->memory->n; i++) {
        const struct iovec *region = &snapshot->memory->region[i];

        memcpy(region->iov_base, snapshot->copy[i], region->iov_len);
    }
}

void step_every_store(struct port *port, step_sync *sync, const struct step_memory *memory,
                      step_check *check, void *context)
{
    struct snapshot snapshot = {.memory = memory};
    uint32_t checks = 0;
    int status = 0;
    pid_t pid = fork_traced(port, sync);

    waitpid(pid, &status, 0);
    if (!WIFSTOPPED(status)) {
        check_skip("this system refuses ptrace");
        return;
    }
    for (uint32_t i = 0; i < memory->n; i++) {
        snapshot.copy[i] = calloc(1, memory->region[i].iov_len);
    }
    while (WIFSTOPPED(status)) {
        if (changed(&snapshot)) {
            save(&snapshot);
            CHECK_EQ(port->ops->recover(port), 0);
            check(context);
            restore(&snapshot);
            checks++;
        }
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
        waitpid(pid, &status, 0);
    }
    CHECK_EQ(status, 0);
    CHECK(checks > STEP_CHECKS_MIN);
    for (uint32_t i = 0; i < memory->n; i++) {
        free(snapshot.copy[i]);
    }
}
