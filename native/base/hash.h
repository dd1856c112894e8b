/* Keyed hashes: a multiply-fold for flows, SipHash-2-4 for what peers can see (RFC 6528). */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t hash_fold(uint64_t a, uint64_t b)
{
    __uint128_t product = (__uint128_t)a * b;

    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

/*
 * The flow hash of a 12-byte tuple; the key is secret, so that nobody can aim at a bucket. The
 * ports are spread over 64 bits first: neighbours would step evenly through the fold, and with one
 * key in eighty by a step that lets them meet in few buckets.
 */
static inline uint64_t flow_hash(const uint64_t key[2], const void *tuple)
{
    uint64_t addresses;
    uint32_t ports;

    memcpy(&addresses, tuple, sizeof(addresses));
    memcpy(&ports, (const uint8_t *)tuple + sizeof(addresses), sizeof(ports));
    addresses = hash_fold(addresses ^ key[0], 0x9e3779b97f4a7c15u ^ key[1]);
    return hash_fold(addresses ^ ports * 0xbf58476d1ce4e5b9u ^ key[1],
                     0xd6e8feb86659fd93u ^ key[0]);
}

/* SipHash-2-4, as published by its authors. */
uint64_t siphash24(const uint64_t key[2], const void *data, size_t len);

/* One step of splitmix64: tests, faults and jitter, never secrets. */
static inline uint64_t splitmix64(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
