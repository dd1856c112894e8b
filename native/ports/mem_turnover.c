/*
 * From one client of a mem: link to the next. Who goes may have been killed anywhere: what it left
 * half done is completed, what it sent stays on its way to the rings, and what found no room there
 * is counted as missed. Nobody waits: the rings read the same lanes all the while. Start reading at
 * mem_link_leave and mem_link_take.
 */
#include <errno.h>
#include <string.h>

#include "ports/mem.h"
#include "ports/region.h"

/* Whoever was there is gone, perhaps in the middle of a sync. */
static void bury(struct mem_device *device, uint32_t link)
{
    if (atomic_load(&device->shared->link[link].broken)) {
        return;
    }
    if (!mem_side_bury(device, device->rings + link)) {
        mem_link_break(device, link);
        return;
    }
    mem_tx_bury(device, link);
}

/* From now on no sync that begins sends to the link; is_quiet() tells of those inside. What was
 * sent from it can still be read: the end never overtakes the last frames. */
void mem_link_leave(struct mem_device *device, uint32_t link)
{
    struct mem_shared *shared = device->shared;

    atomic_fetch_and(&shared->links_up, ~((uint64_t)1 << link));
    for (uint32_t ring = 0; ring < device->rings; ring++) {
        shared->link[link].down_seq[ring] = atomic_load(&shared->side[ring].sync_seq);
    }
    bury(device, link);
    atomic_store(&shared->link[link].up, 0);
}

/* No shard can still be inside a sync that began while the link was up, and send to it. */
static bool is_quiet(struct mem_device *device, uint32_t link)
{
    const struct mem_shared *shared = device->shared;

    for (uint32_t ring = 0; ring < shared->rings; ring++) {
        uint32_t then = shared->link[link].down_seq[ring];

        if ((then & 1) && atomic_load(&shared->side[ring].sync_seq) == then) {
            return false;
        }
    }
    return true;
}

static void lane_reset(struct mem_lane *lane)
{
    atomic_store(&lane->head, 0);
    atomic_store(&lane->tail, 0);
    lane->stalled = 0;
}

static bool ring_possible(const struct mem_device *device, const struct nm_ring *ring)
{
    if (ring->num_slots != device->slots) {
        return false;
    }
    for (uint32_t i = 0; i < device->slots; i++) {
        if (!mem_buf_possible(device, ring->slot[i].buf_idx)) {
            return false;
        }
    }
    return true;
}

static bool lane_possible(const struct mem_device *device, const struct mem_lane *lane)
{
    for (uint32_t i = 0; i < MEM_CELLS; i++) {
        if (!mem_buf_possible(device, lane->cell[i].buf_idx)) {
            return false;
        }
    }
    return true;
}

/* What is on its way to a ring, which may be taking it just now, is whole frames that fit one. */
static bool unread_possible(const struct mem_device *device, struct mem_lane *lane)
{
    uint32_t head = atomic_load(&lane->head);
    uint32_t used = atomic_load(&lane->tail) - head;
    uint32_t most = min_u32((uint32_t)MEM_FRAGS_MAX, device->slots - 1);
    uint32_t cells = 0; /* of a frame, without its last */

    for (uint32_t i = 0; i < used && used <= MEM_CELLS; i++) {
        const struct mem_cell *cell = mem_cell_at(lane, head + i);

        cells = cell->flags & NM_MOREFRAG ? cells + 1 : 0;
        if (cell->len > device->buf_size || cells == most) {
            return false;
        }
    }
    return used <= MEM_CELLS && cells == 0;
}

/* The last client may have left anything: its successor gets nothing that is out of bounds. */
static bool link_possible(const struct mem_device *device, uint32_t link)
{
    const struct mem_shared *shared = device->shared;
    struct nm_if *nifp = (struct nm_if *)(void *)(device->base + shared->if_ofs[1 + link]);
    struct mem_lane *up;
    bool possible =
        ring_possible(device, nm_rx_ring(nifp, 0)) && ring_possible(device, nm_tx_ring(nifp, 0));

    for (uint32_t ring = 0; ring < device->rings && possible; ring++) {
        up = &device->lanes[mem_lane_index(shared, link, ring, false)];
        possible = lane_possible(device, up) && unread_possible(device, up) &&
                   lane_possible(device, &device->lanes[mem_lane_index(shared, link, ring, true)]);
    }
    return possible;
}

void mem_link_break(struct mem_device *device, uint32_t link)
{
    atomic_store(&device->shared->link[link].broken, 1);
    atomic_fetch_and(&device->shared->links_up, ~((uint64_t)1 << link));
    atomic_fetch_and(&device->shared->links_read, ~((uint64_t)1 << link));
}

/*
 * What the last client sent stays on its way: its lanes to the rings go on where they stand, beside
 * rings that may be reading them. False: what it left cannot be used.
 */
static bool link_reset(struct mem_device *device, uint32_t link)
{
    struct mem_shared *shared = device->shared;
    struct nm_if *nifp = (struct nm_if *)(void *)(device->base + shared->if_ofs[1 + link]);
    struct mem_side *side = &shared->side[shared->rings + link];

    if (!link_possible(device, link)) {
        return false;
    }
    region_reset_rx(nm_rx_ring(nifp, 0));
    region_reset_tx(nm_tx_ring(nifp, 0));
    side->tx_hwcur = 0;
    memset(&side->counters, 0, sizeof(side->counters));
    for (uint32_t ring = 0; ring < shared->rings; ring++) {
        device->lanes[mem_lane_index(shared, link, ring, false)].stalled = 0;
        lane_reset(&device->lanes[mem_lane_index(shared, link, ring, true)]);
    }
    shared->link[link].generation++;
    return true;
}

/* The rings have taken what the last client sent. */
static bool is_drained(const struct mem_device *device, uint32_t link)
{
    for (uint32_t ring = 0; ring < device->rings; ring++) {
        if (mem_lane_used(&device->lanes[mem_lane_index(device->shared, link, ring, false)]) != 0) {
            return false;
        }
    }
    return true;
}

/* A link that is down: its number, -EAGAIN or -EBUSY as in mem_link_take(). */
static int take_over(struct mem_device *device, uint32_t link)
{
    struct mem_shared *shared = device->shared;

    if (!is_quiet(device, link)) {
        return -EAGAIN;
    }
    if (!link_reset(device, link)) {
        mem_link_break(device, link);
        return -EBUSY;
    }
    atomic_store(&shared->link[link].up, 1);
    atomic_fetch_or(&shared->links_read, (uint64_t)1 << link);
    atomic_fetch_or(&shared->links_up, (uint64_t)1 << link);
    if (atomic_load(&shared->link[link].broken)) { /* by a ring, meanwhile */
        mem_link_leave(device, link);
        mem_link_break(device, link);
        return -EBUSY;
    }
    return (int)link;
}

/* A link whose last frames nobody has taken is only the second choice: its next client hears the
 * answers to them. */
int mem_link_take(struct mem_device *device, bool host)
{
    struct mem_shared *shared = device->shared;
    int answer = -EBUSY;

    for (int undrained = 0; undrained < 2 && answer == -EBUSY; undrained++) {
        for (uint32_t link = 0; link < device->links && answer < 0; link++) {
            if (mem_is_host_link(device, link) == host && !atomic_load(&shared->link[link].up) &&
                !atomic_load(&shared->link[link].broken) &&
                (undrained || is_drained(device, link))) {
                int taken = take_over(device, link);

                answer = taken == -EBUSY ? answer : taken;
            }
        }
    }
    return answer;
}
