/*
 * picoTCP's calloc, free, gettimeofday and printf, replaced by the linker (--wrap): blocks are
 * listed, so that an instance can be measured and given back whole; the clock is the worker's,
 * real or virtual; its messages go nowhere.
 */
#include "memory.h"

#include <stddef.h>
#include <string.h>
#include <sys/time.h>

struct block {
    struct block *next;
    struct block *prev;
    size_t size;
    size_t pad; /* keeps what follows aligned to 16 */
};

static struct block blocks = {.next = &blocks, .prev = &blocks};
static uint64_t bytes;
static uint64_t clock_us;

void *__real_calloc(size_t n, size_t size);
void __real_free(void *block);
void *__wrap_calloc(size_t n, size_t size);
void __wrap_free(void *memory);
int __wrap_gettimeofday(struct timeval *tv, void *tz);
int __wrap_printf(const char *format, ...);
int __wrap___printf_chk(int flag, const char *format, ...);
int __wrap_puts(const char *text);
int __wrap_putchar(int c);

void *__wrap_calloc(size_t n, size_t size)
{
    struct block *block;
    size_t total;

    if (__builtin_mul_overflow(n, size, &total) || total > SIZE_MAX - sizeof(*block)) {
        return NULL;
    }
    block = __real_calloc(1, total + sizeof(*block));
    if (!block) {
        return NULL;
    }
    block->size = total;
    block->next = &blocks;
    block->prev = blocks.prev;
    blocks.prev->next = block;
    blocks.prev = block;
    bytes += total;
    return block + 1;
}

void __wrap_free(void *memory)
{
    struct block *block = memory;

    if (!block) {
        return;
    }
    block--;
    block->next->prev = block->prev;
    block->prev->next = block->next;
    bytes -= block->size;
    __real_free(block);
}

void memory_release(void)
{
    while (blocks.next != &blocks) {
        __wrap_free(blocks.next + 1);
    }
}

uint64_t memory_bytes(void)
{
    return bytes;
}

void memory_set_clock(uint64_t now_us)
{
    clock_us = now_us;
}

int __wrap_gettimeofday(struct timeval *tv, void *tz)
{
    (void)tz;
    tv->tv_sec = (time_t)(clock_us / 1000000);
    tv->tv_usec = (suseconds_t)(clock_us % 1000000);
    return 0;
}

int __wrap_printf(const char *format, ...)
{
    (void)format;
    return 0;
}

int __wrap___printf_chk(int flag, const char *format, ...)
{
    (void)flag;
    (void)format;
    return 0;
}

int __wrap_puts(const char *text)
{
    (void)text;
    return 0;
}

int __wrap_putchar(int c)
{
    return c;
}
