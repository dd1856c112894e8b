/* Bytes that name themselves: a stream derived from (seed, connection), compared as it returns. */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct pattern {
    uint64_t key; /* of one connection */
};

struct pattern pattern_of(uint64_t seed, uint32_t connection);
/* Writes bytes [offset, offset + len) of the stream. */
void pattern_fill(struct pattern pattern, uint64_t offset, void *dst, size_t len);
/* How many bytes differ from the stream. */
size_t pattern_check(struct pattern pattern, uint64_t offset, const void *src, size_t len);
