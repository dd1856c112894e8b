/* Waits by connection and slot of time; see gaps.h. */
#include "client/gaps.h"

#include <sys/mman.h>

static size_t size_of(uint32_t connections, uint32_t slots)
{
    return sizeof(struct ss_load_gaps) + ((size_t)slots + 1) * connections * sizeof(uint32_t);
}

struct ss_load_gaps *ss_load_gaps_map(uint32_t connections, uint32_t slots, uint64_t slot_us)
{
    struct ss_load_gaps *gaps;

    if (connections == 0 || slots == 0 || slot_us == 0) {
        return NULL;
    }
    gaps = mmap(NULL, size_of(connections, slots), PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (gaps == MAP_FAILED) {
        return NULL;
    }
    gaps->connections = connections;
    gaps->slots = slots;
    gaps->slot_us = slot_us;
    return gaps;
}

void ss_load_gaps_unmap(struct ss_load_gaps *gaps)
{
    if (gaps) {
        munmap(gaps, size_of(gaps->connections, gaps->slots));
    }
}

static uint32_t slot_at(const struct load *load, uint64_t now_us)
{
    const struct ss_load_gaps *gaps = load->options->gaps;
    uint64_t slot = (now_us - load->stats->started_us) / gaps->slot_us;

    return slot < gaps->slots ? (uint32_t)slot : gaps->slots - 1;
}

void gaps_note(struct load *load, uint32_t index, uint64_t now_us)
{
    struct ss_load_gaps *gaps = load->options->gaps;
    uint64_t active_us = load->conns[index].active_us;
    uint64_t since_us = active_us > load->stats->started_us ? active_us : load->stats->started_us;
    uint64_t gap_us = now_us - since_us;
    uint32_t *longest_us =
        &gaps->longest_us[(size_t)slot_at(load, now_us) * gaps->connections + index];

    if (gap_us > *longest_us) {
        *longest_us = gap_us < UINT32_MAX ? (uint32_t)gap_us : UINT32_MAX;
    }
}

void gaps_note_loss(struct load *load, uint32_t index, uint64_t now_us)
{
    struct ss_load_gaps *gaps = load->options->gaps;

    if (load->stats->started_us == 0) {
        return;
    }
    if (load->conns[index].state != LOAD_IDLE) {
        gaps_note(load, index, now_us);
    }
    gaps->longest_us[(size_t)gaps->slots * gaps->connections + index] = 1 + slot_at(load, now_us);
}
