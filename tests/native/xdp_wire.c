/* A wire for the tests of xdp:; see xdp_wire.h. */
#include "xdp_wire.h"

#include <linux/bpf.h>
#include <linux/if_packet.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

bool xdp_wire_usable(void)
{
    struct xdp_program program;
    int code = xdp_program_load(&program, 1, &(struct filter){0});

    xdp_program_close(&program);
    if (code != 0) {
        check_skip("this kernel or this user namespace refuses XDP programs");
    }
    return code == 0;
}

bool xdp_wire_open(struct packet_wire *wire, const struct xdp_plan *plan)
{
    struct device_config config = {.rings = plan->rings ? plan->rings : 1,
                                   .slots = XDP_SLOTS,
                                   .ip = plan->ip,
                                   .buf_size = plan->buf_size};
    char error[PORT_ERROR_MAX];
    struct packet_link link;

    *wire = (struct packet_wire){.udp = -1};
    if (!xdp_wire_usable() ||
        !wire_make(plan->queues ? plan->queues : 1, plan->mtu ? plan->mtu : 1500) ||
        !wire_open_device(wire, plan->spec, &config)) {
        return false;
    }
    CHECK_EQ(packet_link_find(&link, "cli0", error), 0);
    memcpy(wire->client_mac, link.mac, 6);
    wire->udp = wire_client(CLIENT_PORT);
    return true;
}

static void note(uint8_t *seen, const struct xdp_port *xdp, uint64_t buf)
{
    if (CHECK(xdp_buf_valid(xdp, (uint32_t)buf))) {
        seen[buf]++;
    }
}

int xdp_wire_audit(const struct port *port)
{
    const struct xdp_port *xdp = xdp_port(port);
    uint8_t *seen = calloc(xdp->bufs, 1);
    int wrong = 0;

    for (uint32_t i = 0; i < xdp->rx->num_slots; i++) {
        note(seen, xdp, xdp->rx->slot[i].buf_idx);
        note(seen, xdp, xdp->tx->slot[i].buf_idx);
    }
    for (uint32_t k = 0; k < xdp->sockets; k++) {
        const struct xdp_socket *sock = &xdp->socket[k];

        /* All that the kernel has: it took them from here, in this order, and gave none back. */
        for (uint32_t i = *sock->rx.consumer; i != *sock->fill.producer; i++) {
            note(seen, xdp, *xdp_addr_at(&sock->fill, i) / xdp->chunk);
        }
    }
    for (uint32_t buf = NM_BUF_FIRST; buf < xdp->bufs; buf++) {
        wrong += seen[buf] != 1;
    }
    free(seen);
    return wrong;
}

void xdp_wire_inject(const uint8_t *frame, size_t len)
{
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex("cli0")};
    int fd = socket(AF_PACKET, SOCK_RAW, 0);

    CHECK_EQ(sendto(fd, frame, len, 0, (struct sockaddr *)&to, sizeof(to)), len);
    close(fd);
}
