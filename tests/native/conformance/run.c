/*
 * The table of wires and the table of cases; see conformance.h. One line for each pair, "ok", "not
 * ok" or why not, and a table of all at the end. `conformance [--strict] [WIRE [CASE]]`: wires and
 * cases whose names contain the words; --strict: what is skipped for want of a right, a library or
 * a module has failed.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"

enum {
    CASE_SECONDS = 120, /* for one pair, on a machine that does other things, too */
    NAME_MAX_LEN = 64,
};

enum verdict {
    NOT_RUN,
    PASSED,
    FAILED,
    EXCUSED,
    SKIPPED,
    VERDICTS,
};

static const struct wire *const wires[] = {
    &wire_mem, &wire_mem_client,  &wire_pipe, &wire_vale,       &wire_netmap, &wire_packet,
    &wire_xdp, &wire_xdp_generic, &wire_tap,  &wire_tap_single, &wire_pcap,   &wire_vde,
};

static const struct conformance_case cases[CASES] = {
    [CASE_CONTRACT] = {"head, cur and tail keep their word", case_contract},
    [CASE_WRAP] = {"both rings wrap around", case_wrap},
    [CASE_SIZES] = {"rings of no power of two", case_sizes},
    [CASE_PARTIAL] = {"frames are held and given back later", case_partial},
    [CASE_CUR] = {"cur runs ahead of head", case_cur},
    [CASE_FULL] = {"a full TX ring is sent whole", case_full},
    [CASE_PRESSURE] = {"a medium that stands still loses nothing", case_pressure},
    [CASE_PIECES] = {"frames of several slots", case_pieces},
    [CASE_UNFINISHED_FRAME] = {"half a frame is not sent", case_unfinished_frame},
    [CASE_VLAN] = {"VLAN tags are kept", case_vlan},
    [CASE_CHECKSUM] = {"the state of checksums is true", case_checksum},
    [CASE_LENGTHS] = {"frames of 60 to 9,014 bytes", case_lengths},
    [CASE_CONSERVE] = {"exchanged buffers are conserved", case_conserve},
    [CASE_WAKE] = {"a frame wakes who sleeps", case_wake},
    [CASE_IDLE] = {"nothing wakes who sleeps", case_idle},
    [CASE_DOWN] = {"the link goes down and comes back", case_down},
    [CASE_DELETED] = {"the link is deleted", case_deleted},
};

enum {
    WIRES = sizeof(wires) / sizeof(wires[0]),
};

static struct {
    enum verdict of[WIRES][CASES];
    uint32_t count[VERDICTS];
} result;

/* The case's own process: what it breaks, it breaks alone. */
_Noreturn static void run_pair(const struct wire *wire, const struct conformance_case *what)
{
    static struct rig rig;

    alarm(CASE_SECONDS);
    rig.wire = wire;
    what->run(&rig);
    exit(check_failures() > 0 ? FAILED : check_skipped() ? SKIPPED : PASSED);
}

static enum verdict try_pair(const struct wire *wire, const struct conformance_case *what)
{
    int status = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        run_pair(wire, what);
    }
    waitpid(pid, &status, 0);
    if (WIFSIGNALED(status)) {
        printf("    ended by signal %d%s\n", WTERMSIG(status),
               WTERMSIG(status) == SIGALRM ? ": it took too long" : "");
        return FAILED;
    }
    return WEXITSTATUS(status) == PASSED || WEXITSTATUS(status) == SKIPPED
               ? (enum verdict)WEXITSTATUS(status)
               : FAILED;
}

static enum verdict judge(const struct wire *wire, uint32_t index)
{
    static const char *const words[VERDICTS] = {
        [PASSED] = "ok", [FAILED] = "not ok", [EXCUSED] = "n/a", [SKIPPED] = "skip"};
    const char *excuse = wire->excused[index];
    enum verdict verdict = EXCUSED;
    uint64_t began = real_now_us();

    if (!excuse) {
        verdict = try_pair(wire, &cases[index]);
    }
    printf("%-7s%s: %s", words[verdict], wire->name, cases[index].name);
    if (excuse) {
        printf(": %s\n", excuse);
    } else {
        printf(" (%u ms)\n", (unsigned)((real_now_us() - began) / 1000));
    }
    return verdict;
}

static bool was_run(uint32_t wire)
{
    for (uint32_t c = 0; c < CASES; c++) {
        if (result.of[wire][c] != NOT_RUN) {
            return true;
        }
    }
    return false;
}

static void print_row(uint32_t index)
{
    static const char *const words[VERDICTS] = {[NOT_RUN] = " ",
                                                [PASSED] = "ok",
                                                [FAILED] = "**not ok**",
                                                [EXCUSED] = "n/a",
                                                [SKIPPED] = "skipped"};

    printf("| %s |", cases[index].name);
    for (uint32_t w = 0; w < WIRES; w++) {
        if (!was_run(w)) {
            continue;
        }
        printf(" %s |", words[result.of[w][index]]);
    }
    printf("\n");
}

static void print_matrix(void)
{
    printf("\n| |");
    for (uint32_t w = 0; w < WIRES; w++) {
        if (was_run(w)) {
            printf(" %s |", wires[w]->name);
        }
    }
    printf("\n|---|");
    for (uint32_t w = 0; w < WIRES; w++) {
        printf("%s", was_run(w) ? "---|" : "");
    }
    printf("\n");
    for (uint32_t c = 0; c < CASES; c++) {
        print_row(c);
    }
    printf("\n%u ok, %u not ok, %u n/a, %u skipped\n", result.count[PASSED], result.count[FAILED],
           result.count[EXCUSED], result.count[SKIPPED]);
}

static bool is_wanted(const char *name, const char *wanted)
{
    return !wanted || strstr(name, wanted);
}

/* "--net", "--memory": wires of the one kind alone. */
static bool wire_wanted(const struct wire *wire, const char *wanted)
{
    if (wanted && (strcmp(wanted, "--memory") == 0 || strcmp(wanted, "--net") == 0)) {
        return wire->net == (wanted[2] == 'n');
    }
    return is_wanted(wire->name, wanted);
}

int main(int argc, char **argv)
{
    bool strict = argc > 1 && strcmp(argv[1], "--strict") == 0;
    const char *wire = argc > 1 + strict ? argv[1 + strict] : NULL;
    const char *word = argc > 2 + strict ? argv[2 + strict] : NULL;

    setvbuf(stdout, NULL, _IONBF, 0); /* nothing twice in forked children */
    for (uint32_t w = 0; w < WIRES; w++) {
        for (uint32_t c = 0; c < CASES && wire_wanted(wires[w], wire); c++) {
            if (is_wanted(cases[c].name, word)) {
                result.of[w][c] = judge(wires[w], c);
                result.count[result.of[w][c]]++;
            }
        }
    }
    print_matrix();
    return result.count[FAILED] > 0 || (strict && result.count[SKIPPED] > 0);
}
