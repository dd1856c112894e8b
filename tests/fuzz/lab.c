/* The lab of the fuzz targets; see fuzz.h. */
#include <arpa/inet.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/csum.h"
#include "base/wire.h"
#include "check.h"
#include "fuzz.h"

enum {
    TURNS_MAX = 150, /* of one lab_run: a service that never pauses would turn for ever */
    DRAIN_TURNS = 64,
};

void fuzz_settle(void)
{
    if (check_failures() > 0) {
        fflush(stdout);
        abort();
    }
}

void fuzz_say(const char *format, ...)
{
    va_list args;

    if (getenv("FUZZ_TRACE")) {
        va_start(args, format);
        vprintf(format, args);
        va_end(args);
    }
}

void lab_open(struct lab *lab, uint32_t shards)
{
    memset(lab, 0, sizeof(*lab));
    sim_open(
        &lab->sim,
        &(struct sim_options){
            .shards = shards, .conns = 16, .chunks = 96, .buffers = 16384, .links = 1, .seed = 5});
    CHECK_EQ(mem_attach_local(&lab->attachment, lab->sim.device), 0);
    lab->port = mem_attachment_port(lab->attachment);
}

static void collect(struct lab *lab)
{
    struct nm_ring *ring = lab->port->rx;

    CHECK_EQ(lab->port->ops->rx_sync(lab->port, lab->sim.now_us), 0);
    while (!nm_ring_empty(ring)) {
        if (lab->on_frame) {
            lab->on_frame(lab->data, nm_ring_buf(ring, ring->head), ring->slot[ring->head].len);
        }
        nm_ring_give(ring, nm_ring_next(ring, ring->head));
    }
    CHECK_EQ(lab->port->ops->rx_sync(lab->port, lab->sim.now_us), 0);
}

void lab_turn(struct lab *lab)
{
    for (uint32_t i = 0; i < lab->sim.shards; i++) {
        CHECK(worker_turn(&lab->sim.worker[i], lab->sim.now_us) >= 0);
    }
    collect(lab);
}

static uint64_t next_deadline(const struct lab *lab)
{
    uint64_t next = UINT64_MAX;

    for (uint32_t i = 0; i < lab->sim.shards; i++) {
        uint64_t at = engine_next_deadline(&lab->sim.worker[i].stack);

        next = at < next ? at : next;
    }
    return next;
}

void lab_run(struct lab *lab, uint64_t us)
{
    uint64_t end = lab->sim.now_us + us;

    for (uint32_t i = 0; i < TURNS_MAX; i++) {
        uint64_t next;

        lab_turn(lab);
        next = next_deadline(lab);
        if (lab->sim.now_us >= end) {
            return;
        }
        next = next > lab->sim.now_us + SIM_STEP_US ? next : lab->sim.now_us + SIM_STEP_US;
        lab->sim.now_us = next < end ? next : end;
    }
    lab->sim.now_us = end;
    lab_turn(lab);
}

bool lab_send(struct lab *lab, const uint8_t *frame, uint32_t len)
{
    struct nm_ring *ring = lab->port->tx;

    if (nm_ring_space(ring) == 0) {
        return false;
    }
    memcpy(nm_ring_buf(ring, ring->head), frame, len);
    ring->slot[ring->head].len = (uint16_t)len;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    CHECK_EQ(lab->port->ops->tx_sync(lab->port, lab->sim.now_us), 0);
    return true;
}

void lab_announce(struct lab *lab)
{
    uint8_t frame[ETH_HDR_LEN + ARP_LEN] = {[12] = 0x08, [13] = 0x06};
    struct wire_arp arp = {.htype = htons(1),
                           .ptype = htons(ETHERTYPE_IPV4),
                           .hlen = 6,
                           .plen = 4,
                           .oper = htons(1),
                           .spa = htonl(LAB_PEER),
                           .tpa = htonl(LAB_IP)};

    memcpy(arp.sha, mem_attachment_mac(lab->attachment, false), 6);
    memset(frame, 0xff, 6);
    memcpy(frame + 6, arp.sha, 6);
    memcpy(frame + ETH_HDR_LEN, &arp, sizeof(arp));
    lab_send(lab, frame, sizeof(frame));
    lab_turn(lab);
}

static void abort_all(struct stack *stack)
{
    for (uint32_t conn = 0; conn < stack->config->conns_max; conn++) {
        if (stack->hot[conn].state != CONN_FREE) {
            socket_abort(stack, conn);
            stack_commit(stack);
        }
    }
}

void lab_close(struct lab *lab)
{
    for (uint32_t i = 0; i < DRAIN_TURNS; i++) { /* what is still in rings and lanes */
        lab_turn(lab);
    }
    for (uint32_t i = 0; i < lab->sim.shards; i++) {
        abort_all(&lab->sim.worker[i].stack);
    }
    for (uint32_t i = 0; i < 4; i++) {
        lab_turn(lab);
    }
    for (uint32_t i = 0; i < lab->sim.shards; i++) {
        CHECK_EQ(lab->sim.worker[i].stack.shared->conns_active, 0);
    }
    mem_detach(lab->attachment);
    sim_check_laws(&lab->sim);
    sim_close(&lab->sim);
    fuzz_settle();
}

uint32_t lab_wrap_tcp(const struct lab *lab, uint8_t *frame, const uint8_t *segment, uint32_t len)
{
    uint8_t *l4 = frame + ETH_HDR_LEN + IPV4_HDR_LEN;
    struct wire_ipv4 ip = {.version_ihl = 0x45,
                           .total_len = htons((uint16_t)(IPV4_HDR_LEN + len)),
                           .ttl = 64,
                           .protocol = PROTO_TCP,
                           .src = htonl(LAB_PEER),
                           .dst = htonl(LAB_IP)};
    uint16_t check = 0;

    memcpy(frame, mem_attachment_mac(lab->attachment, true), 6);
    memcpy(frame + 6, mem_attachment_mac(lab->attachment, false), 6);
    frame[12] = 0x08;
    frame[13] = 0x00;
    ip.check = csum_fold(csum_add(&ip, sizeof(ip), 0));
    memcpy(frame + ETH_HDR_LEN, &ip, sizeof(ip));
    memcpy(l4, segment, len);
    memcpy(l4 + offsetof(struct wire_tcp, check), &check, sizeof(check));
    check = csum_fold(csum_add(l4, len, csum_pseudo(ip.src, ip.dst, PROTO_TCP, len)));
    memcpy(l4 + offsetof(struct wire_tcp, check), &check, sizeof(check));
    return ETH_HDR_LEN + IPV4_HDR_LEN + len;
}

bool lab_tcp_right(const uint8_t *frame, uint32_t len)
{
    const uint8_t *l3 = frame + ETH_HDR_LEN;
    struct wire_ipv4 ip;
    uint32_t tcp_len;

    memcpy(&ip, l3, sizeof(ip));
    tcp_len = (uint32_t)ntohs(ip.total_len) - IPV4_HDR_LEN;
    return len == ETH_HDR_LEN + IPV4_HDR_LEN + tcp_len && tcp_len >= TCP_HDR_LEN &&
           csum_fold(csum_add(l3, IPV4_HDR_LEN, 0)) == 0 &&
           csum_fold(csum_add(l3 + IPV4_HDR_LEN, tcp_len,
                              csum_pseudo(ip.src, ip.dst, PROTO_TCP, tcp_len))) == 0;
}
