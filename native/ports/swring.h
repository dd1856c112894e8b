/* Netmap rings of a backend's own: one ring pair in a shared mapping, for what has none. */
#pragma once
#include "ports/port.h"

/* In MAP_SHARED memory; `extra` zeroed bytes for the backend's cursors follow the region. */
struct swring {
    uint8_t *base;
    size_t bytes;
    struct nm_ring *rx;
    struct nm_ring *tx;
    void *extra;
    uint32_t bufs; /* indices are below */
};

/* 0 or -errno. */
int swring_create(struct swring *swring, uint32_t slots, uint32_t buf_size, size_t extra);
void swring_destroy(struct swring *swring);
