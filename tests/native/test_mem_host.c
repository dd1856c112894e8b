/* The software NIC's host rings: "mem:NAME*" and who attaches to "mem:NAME^". */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "ports/mem.h"
#include "ports/portset.h"

enum {
    FRAME = 64,
    NIC_RINGS = 2,
    HOST_RING = NIC_RINGS,
};

static struct device *device;
static struct mem_attachment *wire;
static struct mem_attachment *host;
static char name[PORT_NAME_MAX];

static void open_nic(void)
{
    struct device_config config = {.rings = NIC_RINGS + 1, .links = 2, .slots = 11};
    char error[PORT_ERROR_MAX] = "";

    snprintf(name, sizeof(name), "mem:host-%d*", getpid());
    if (!CHECK_EQ(device_open(&device, name, &config, error), 0)) {
        printf("    %s\n", error);
        exit(1);
    }
    CHECK_EQ(mem_attach_local(&wire, device), 0);
    CHECK_EQ(mem_attach_local_host(&host, device), 0);
}

static void close_nic(void)
{
    mem_detach(host);
    mem_detach(wire);
    CHECK_EQ(device_audit(device), 0);
    device_close(device);
}

static void send(struct port *port, const uint8_t *to, uint8_t number)
{
    struct nm_ring *ring = port->tx;
    uint8_t *buf = nm_ring_buf(ring, ring->head);

    memset(buf, number, FRAME);
    memcpy(buf, to, 6);
    buf[12] = 0x88; /* no IPv4: queue 0 */
    buf[13] = 0xb5;
    ring->slot[ring->head].len = FRAME;
    ring->slot[ring->head].flags = 0;
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    CHECK_EQ(port->ops->tx_sync(port, 0), 0);
}

/* The number in the only frame that has come; -1: none has; -2: several have. */
static int received(struct port *port)
{
    struct nm_ring *ring = port->rx;
    int number;

    CHECK_EQ(port->ops->rx_sync(port, 0), 0);
    if (nm_ring_empty(ring)) {
        return -1;
    }
    number = nm_ring_buf(ring, ring->head)[FRAME - 1];
    nm_ring_give(ring, nm_ring_next(ring, ring->head));
    return nm_ring_empty(ring) ? number : -2;
}

static struct port *ring_port(uint32_t ring)
{
    return &device->ports[ring];
}

static const uint8_t everybody[6] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static void the_interface_is_laid_out_as_netmaps(void)
{
    const struct mem_device *mem;
    struct nm_if *nifp;

    open_nic();
    mem = device->priv;
    nifp = (struct nm_if *)(void *)(mem->base + mem->shared->if_ofs[0]);
    CHECK_EQ(device->rings, NIC_RINGS + 1);
    CHECK_EQ(nifp->tx_rings, NIC_RINGS);
    CHECK_EQ(nifp->host_tx_rings, 1);
    CHECK(nm_tx_ring(nifp, HOST_RING) == ring_port(HOST_RING)->tx);
    CHECK(nm_rx_ring(nifp, HOST_RING) == ring_port(HOST_RING)->rx);
    CHECK_EQ(ring_port(HOST_RING)->rx->ringid, HOST_RING);
    close_nic();
}

static void the_host_and_its_ring_see_each_other_alone(void)
{
    struct port *host_port;
    struct port *wire_port;

    open_nic();
    host_port = mem_attachment_port(host);
    wire_port = mem_attachment_port(wire);
    for (uint8_t i = 0; i < 40; i++) { /* around the rings, whatever the address */
        send(host_port, i % 2 ? everybody : mem_attachment_mac(wire, false), i);
        CHECK_EQ(received(ring_port(0)), -1);
        CHECK_EQ(received(ring_port(1)), -1);
        CHECK_EQ(received(wire_port), -1);
        CHECK_EQ(received(ring_port(HOST_RING)), i);
        send(ring_port(HOST_RING), i % 2 ? everybody : mem_attachment_mac(wire, false), i);
        CHECK_EQ(received(wire_port), -1);
        CHECK_EQ(received(host_port), i);
    }
    close_nic();
}

static void the_wire_does_not_reach_the_host(void)
{
    struct port *wire_port;

    open_nic();
    wire_port = mem_attachment_port(wire);
    for (uint8_t i = 0; i < 40; i++) {
        send(wire_port, everybody, i);
        CHECK_EQ(received(ring_port(0)), i);
        CHECK_EQ(received(ring_port(HOST_RING)), -1);
        send(ring_port(i % NIC_RINGS), i % 4 ? everybody : mem_attachment_mac(wire, false), i);
        CHECK_EQ(received(wire_port), i);
        CHECK_EQ(received(mem_attachment_port(host)), -1);
    }
    close_nic();
}

static void the_host_has_the_cards_address(void)
{
    open_nic();
    CHECK(memcmp(mem_attachment_mac(host, false), device->mac, 6) == 0);
    CHECK(memcmp(mem_attachment_mac(wire, false), device->mac, 6) != 0);
    send(ring_port(0), device->mac, 1); /* from the NIC that goes to nobody */
    CHECK_EQ(received(mem_attachment_port(host)), -1);
    CHECK_EQ(ring_port(0)->counters->tx_dropped, 1);
    close_nic();
}

static void there_is_one_host_and_it_comes_back(void)
{
    struct mem_attachment *other = NULL;

    open_nic();
    CHECK_EQ(mem_attach_local_host(&other, device), -EBUSY);
    mem_detach(host);
    send(ring_port(HOST_RING), device->mac, 1);
    CHECK_EQ(ring_port(HOST_RING)->counters->tx_dropped, 1);
    CHECK_EQ(mem_attach_local_host(&host, device), 0);
    send(ring_port(HOST_RING), everybody, 2);
    CHECK_EQ(received(mem_attachment_port(host)), 2);
    CHECK_EQ(mem_attach_local(&other, device), 0); /* of two links the second: none is the host's */
    mem_detach(other);
    close_nic();
}

static void what_a_host_sent_before_it_hung_up_arrives(void)
{
    open_nic();
    send(mem_attachment_port(host), everybody, 5);
    mem_detach(host);
    send(mem_attachment_port(wire), everybody, 6);
    mem_detach(wire);
    CHECK_EQ(received(ring_port(HOST_RING)), 5);
    CHECK_EQ(received(ring_port(0)), 6);
    CHECK_EQ(mem_attach_local_host(&host, device), 0);
    CHECK_EQ(mem_attach_local(&wire, device), 0);
    send(mem_attachment_port(host), everybody, 7);
    mem_detach(host);
    CHECK_EQ(mem_attach_local_host(&host, device), 0); /* there is one link for it: nobody read */
    CHECK_EQ(received(ring_port(HOST_RING)), 7);
    close_nic();
}

/* Another process attaches by name, says a word, and goes. */
static void play_host(const char *spec)
{
    struct portset set;
    char error[PORT_ERROR_MAX] = "";
    int code = portset_open(&set, spec, &(struct device_config){0}, PORTSET_AUTO, error);

    if (code == 0) {
        send(set.ports[0], everybody, 77);
    }
    _exit(code == 0 ? 0 : 1);
}

static void a_host_attaches_by_name(void)
{
    char spec[PORT_NAME_MAX];
    int status = 1;
    pid_t child;

    open_nic();
    mem_detach(host);
    snprintf(spec, sizeof(spec), "mem:host-%d^", getpid());
    fflush(stdout);
    child = fork();
    if (child == 0) {
        play_host(spec);
    }
    while (waitpid(child, &status, WNOHANG) == 0) {
        CHECK_EQ(device_event(device), 0);
        usleep(1000);
    }
    CHECK_EQ(status, 0);
    CHECK_EQ(received(ring_port(HOST_RING)), 77);
    CHECK_EQ(device_event(device), 0); /* it hung up */
    CHECK_EQ(mem_attach_local_host(&host, device), 0);
    close_nic();
}

static bool refused(const char *spec, const struct device_config *config, const char *words)
{
    struct portset set;
    char error[PORT_ERROR_MAX] = "";
    int code = portset_open(&set, spec, config, PORTSET_AUTO, error);

    if (code == 0) {
        portset_close(&set);
    }
    if (code == 0 || !strstr(error, words)) {
        printf("    %s: %d, %s\n", spec, code, error);
        return false;
    }
    return true;
}

static void what_cannot_be_is_refused_in_words(void)
{
    struct device_config one = {.rings = 1};
    struct device_config many = {.links = MEM_LINKS_MAX};
    struct device_config none = {0};

    CHECK(refused("mem:nobody-here^", &none, "no device with host rings here"));
    CHECK(refused("mem:a*b", &none, "NAME* is a software NIC with host rings"));
    CHECK(refused("mem:*", &none, "NAME* is a software NIC with host rings"));
    CHECK(refused("mem:few*", &one, "at least 2 --workers"));
    CHECK(refused("mem:full*", &many, "at most 32 links"));
}

static void a_card_without_host_rings_has_no_host(void)
{
    struct device_config none = {0};
    struct mem_attachment *other = NULL;
    char spec[PORT_NAME_MAX];
    char error[PORT_ERROR_MAX] = "";

    snprintf(spec, sizeof(spec), "mem:bare-%d", getpid());
    CHECK_EQ(device_open(&device, spec, &none, error), 0);
    CHECK_EQ(mem_attach_local_host(&other, device), -EBUSY);
    strcat(spec, "^");
    CHECK(refused(spec, &none, "no device with host rings here"));
    device_close(device);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the interface is laid out as netmap's", the_interface_is_laid_out_as_netmaps},
        {"the host and its ring see each other alone", the_host_and_its_ring_see_each_other_alone},
        {"the wire does not reach the host", the_wire_does_not_reach_the_host},
        {"the host has the card's address", the_host_has_the_cards_address},
        {"there is one host and it comes back", there_is_one_host_and_it_comes_back},
        {"what a host sent before it hung up arrives", what_a_host_sent_before_it_hung_up_arrives},
        {"a host attaches by name", a_host_attaches_by_name},
        {"what cannot be is refused in words", what_cannot_be_is_refused_in_words},
        {"a card without host rings has no host", a_card_without_host_rings_has_no_host},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
