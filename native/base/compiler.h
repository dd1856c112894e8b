/* What the language lacks: barriers, hints and the two classes of assertion (DESIGN 10.9). */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CACHE_LINE 64u

/* Always on: guards an index or length that came from shared memory or a ring. */
#define ENSURE(cond) ((cond) ? (void)0 : base_fail(#cond, __FILE__, __LINE__))

/* Debug builds only: an invariant of ours on the packet path. */
#ifdef SHARDSERVER_DEBUG
#define ASSERT(cond) ENSURE(cond)
#else
#define ASSERT(cond) ((void)sizeof(cond))
#endif

/* Prints the condition and its place, then aborts: the supervisor restarts the worker. */
_Noreturn void base_fail(const char *condition, const char *file, int line);

/* For the two or three functions that the usual request runs through. */
#define always_inline inline __attribute__((always_inline))

static inline bool likely(bool cond)
{
    return __builtin_expect(cond, 1);
}

static inline bool unlikely(bool cond)
{
    return __builtin_expect(cond, 0);
}

/* Orders stores for a kill of this process, which loses no executed store: the compiler only. */
static inline void compiler_barrier(void)
{
    atomic_signal_fence(memory_order_seq_cst);
}

static inline void prefetch_line(const void *line)
{
    __builtin_prefetch(line, 1, 3);
}

static inline uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static inline uint32_t max_u32(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}
