/* A worker that dies inside a sync; see kill_steps.h. */
#include "kill_steps.h"

#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static pid_t fork_traced(struct port *port, int (*sync)(struct port *, uint64_t))
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

/* True when something differs from the copies, which are then brought up to date. */
static bool changed(const struct kill_watch *watch, uint8_t *const *copy)
{
    bool any = false;

    for (int i = 0; i < KILL_WATCHES; i++) {
        if (watch[i].len > 0 && memcmp(copy[i], watch[i].base, watch[i].len) != 0) {
            memcpy(copy[i], watch[i].base, watch[i].len);
            any = true;
        }
    }
    return any;
}

static int step_and_kill(pid_t pid, const struct kill_watch *watch, uint8_t *const *copy,
                         uint32_t n)
{
    int status = 0;

    changed(watch, copy);
    waitpid(pid, &status, 0);
    if (!WIFSTOPPED(status)) {
        return -1;
    }
    while (WIFSTOPPED(status)) {
        if (changed(watch, copy) && n-- == 0) {
            kill(pid, SIGKILL);
            CHECK(waitpid(pid, &status, 0) == pid && WIFSIGNALED(status));
            return 1;
        }
        ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL);
        waitpid(pid, &status, 0);
    }
    CHECK_EQ(status, 0);
    return 0;
}

int kill_at_change(struct port *port, int (*sync)(struct port *, uint64_t),
                   const struct kill_watch watch[KILL_WATCHES], uint32_t n)
{
    uint8_t *copy[KILL_WATCHES];
    int killed;

    for (int i = 0; i < KILL_WATCHES; i++) {
        copy[i] = calloc(1, watch[i].len + 1);
    }
    killed = step_and_kill(fork_traced(port, sync), watch, copy, n);
    for (int i = 0; i < KILL_WATCHES; i++) {
        free(copy[i]);
    }
    return killed;
}
