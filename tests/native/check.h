/* The C tests' runner: a table of cases, a line for each that fails, a count at the end. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

struct check_case {
    const char *name; /* a sentence */
    void (*run)(void);
};

/* Fails the running case, with its place, when the condition does not hold. */
#define CHECK(cond) check_that((cond), #cond, __FILE__, __LINE__)
/* The same for two integers, whose values are printed. */
#define CHECK_EQ(a, b) check_equal((long long)(a), (long long)(b), #a " == " #b, __FILE__, __LINE__)

bool check_that(bool cond, const char *text, const char *file, int line);
bool check_equal(long long a, long long b, const char *text, const char *file, int line);
/* Of the running case so far. */
int check_failures(void);
/* Says why the running case could not be tried; it counts as skipped. */
void check_skip(const char *why);
bool check_skipped(void);
/* Runs all cases, or those whose name contains argv[1]; the exit code of main. */
int check_run(const struct check_case *cases, size_t n, int argc, char **argv);
