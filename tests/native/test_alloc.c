/*
 * No memory is taken while a server serves: this program has the allocator's names to itself, or
 * ASan's hooks, and counts who calls them.
 */
#include <stdlib.h>

#include "check.h"
#include "talk.h"

static unsigned long taken;

#ifdef __SANITIZE_ADDRESS__
int __sanitizer_install_malloc_and_free_hooks(void (*on_malloc)(const volatile void *, size_t),
                                              void (*on_free)(const volatile void *));

static void count(const volatile void *at, size_t bytes)
{
    (void)at;
    taken += bytes > 0;
}

static void ignore(const volatile void *at)
{
    (void)at;
}

static void listen_in(void)
{
    CHECK(__sanitizer_install_malloc_and_free_hooks(count, ignore) > 0);
}
#else
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *old, size_t bytes);

void *malloc(size_t bytes)
{
    taken++;
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    taken++;
    return __libc_calloc(n, bytes);
}

void *realloc(void *old, size_t bytes)
{
    taken++;
    return __libc_realloc(old, bytes);
}

static void listen_in(void)
{
    taken = 0;
}
#endif

static unsigned long during;

/* Each turn of everybody, connections that open and close among them. */
static void watch(struct sim *sim)
{
    static unsigned long at_the_first;

    (void)sim;
    at_the_first = at_the_first ? at_the_first : taken;
    during = taken - at_the_first;
}

static void serving_takes_no_memory(void)
{
    struct sim sim;

    listen_in();
    sim_open(&sim, &(struct sim_options){.shards = 2, .clients = 1, .seed = 3});
    CHECK(taken > 0); /* we are asked */
    sim.before_step = watch;
    CHECK(talk_echo(&sim, 64, 100000, 60000000));
    CHECK_EQ(during, 0);
    sim.before_step = NULL;
    sim_run(&sim, 3000000);
    sim_check_laws(&sim);
    sim_close(&sim);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"serving takes no memory", serving_takes_no_memory},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
