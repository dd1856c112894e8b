/* The C tests' runner; see check.h. */
#include "check.h"

#include <stdio.h>
#include <string.h>

static struct {
    int failures; /* of the running case */
    bool skipped;
} now;

bool check_that(bool cond, const char *text, const char *file, int line)
{
    if (!cond && now.failures++ < 10) {
        printf("    %s:%d: %s\n", file, line, text);
    }
    return cond;
}

bool check_equal(long long a, long long b, const char *text, const char *file, int line)
{
    if (a != b && now.failures++ < 10) {
        printf("    %s:%d: %s (%lld, %lld)\n", file, line, text, a, b);
    }
    return a == b;
}

int check_failures(void)
{
    return now.failures;
}

void check_skip(const char *why)
{
    printf("    skipped: %s\n", why);
    now.skipped = true;
}

bool check_skipped(void)
{
    return now.skipped;
}

int check_run(const struct check_case *cases, size_t n, int argc, char **argv)
{
    int passed = 0;
    int failed = 0;
    int skipped = 0;

    setvbuf(stdout, NULL, _IONBF, 0); /* nothing twice in forked children */
    for (size_t i = 0; i < n; i++) {
        if (argc > 1 && !strstr(cases[i].name, argv[1])) {
            continue;
        }
        now.failures = 0;
        now.skipped = false;
        cases[i].run();
        if (now.failures > 0) {
            failed++;
            printf("FAILED %s\n", cases[i].name);
        } else {
            passed += !now.skipped;
            skipped += now.skipped;
            printf("%s %s\n", now.skipped ? "skip  " : "ok    ", cases[i].name);
        }
    }
    printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed > 0;
}
