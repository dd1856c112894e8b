/* packet: opening an interface, losing it, being refused. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "packet_wire.h"

static void rings_default_to_the_card_s_queues(void)
{
    struct packet_wire wire;
    struct device_config config = {0};

    if (!wire_make(3, 1500)) {
        return;
    }
    if (wire_open_device(&wire, "packet:srv0:queue", &config)) {
        CHECK_EQ(wire.device->rings, 3);
        CHECK(strstr(wire.device->banner, "queue") != NULL);
        device_close(wire.device);
    }
    netns_ip("link del cli0");
}

static void an_interface_may_go_down_and_come_back(void)
{
    struct packet_wire wire;
    struct port *port;
    struct pollfd fd;
    uint32_t dropped = 0;

    if (!wire_open(&wire, 2, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    fd = (struct pollfd){.fd = port->wait_fd, .events = POLLIN};
    CHECK(netns_ip("link set srv0 down"));
    CHECK_EQ(poll(&fd, 1, WAIT_MS), 1);
    CHECK_EQ(port->ops->sleep_arm(port), 0);
    port->ops->sleep_disarm(port);
    CHECK_EQ(poll(&fd, 1, 0), 0); /* the error was read: no busy loop */
    CHECK_EQ(port->ops->rx_sync(port, wire_now_us()), 0);
    for (uint32_t i = 0; i < 3; i++) {
        wire_push_udp(&wire, "x", 1);
        CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
        CHECK_EQ(port->ops->tx_sync(port, wire_now_us() + 20000), 0);
        dropped++;
    }
    CHECK_EQ(port->counters->tx_dropped, dropped);
    CHECK(netns_ip("link set srv0 up"));
    CHECK(wire_resolve(wire.device->mac));
    for (uint16_t flow = 0; flow < 20; flow++) {
        int udp = wire_client((uint16_t)(42000 + flow));

        CHECK(send(udp, "x", 1, 0) == 1);
        close(udp);
    }
    CHECK(wire_receive(port));
    CHECK(wire_receive(&wire.device->ports[1]));
    wire_close(&wire);
}

/* Without carrier the kernel refuses as it does when a queue is full: wait first, then drop. */
static void a_refused_frame_keeps_its_slot_for_a_while(void)
{
    struct packet_wire wire;
    struct port *port;
    uint64_t now = wire_now_us();
    char back[8];

    if (!wire_open(&wire, 1, 1500)) {
        return;
    }
    port = &wire.device->ports[0];
    for (uint32_t round = 0; round < 2; round++) {
        CHECK(netns_ip("link set cli0 down"));
        wire_push_udp(&wire, "x", 1);
        CHECK_EQ(port->ops->tx_sync(port, now), 0);
        CHECK_EQ(port->ops->tx_sync(port, now + 9000), 0);
        CHECK_EQ(nm_ring_space(port->tx), port->tx->num_slots - 2);
        CHECK_EQ(port->ops->sleep_arm(port), 1);
        CHECK(netns_ip("link set cli0 up"));
        CHECK_EQ(port->ops->tx_sync(port, now + 9500), 0);
        CHECK_EQ(recv(wire.udp, back, sizeof(back), 0), 1);
        CHECK_EQ(port->counters->tx_frames, round + 1);
    }
    CHECK_EQ(port->counters->tx_dropped, 0);
    CHECK(netns_ip("link set cli0 down"));
    wire_push_udp(&wire, "x", 1);
    CHECK_EQ(port->ops->tx_sync(port, now), 0);
    CHECK_EQ(port->ops->tx_sync(port, now + 10000), 0);
    CHECK_EQ(port->counters->tx_dropped, 1);
    CHECK_EQ(nm_ring_space(port->tx), port->tx->num_slots - 1);
    wire_close(&wire);
}

static void another_mac_makes_the_card_promiscuous(void)
{
    struct device_config config = {.rings = 1, .slots = 256, .mac = {2, 0, 0, 9, 9, 9}};
    struct packet_wire wire;

    if (!wire_make(1, 1500)) {
        return;
    }
    if (wire_open_device(&wire, "packet:srv0", &config)) {
        struct port *port = &wire.device->ports[0];
        int udp = wire_client(CLIENT_PORT);

        CHECK(memcmp(wire.device->mac, config.mac, 6) == 0);
        CHECK(strstr(wire.device->banner, "promiscuous") != NULL);
        CHECK(send(udp, "card", 4, 0) == 4); /* to the card's own MAC: not ours */
        CHECK(wire_resolve(config.mac));
        CHECK(send(udp, "ours", 4, 0) == 4);
        CHECK(wire_receive(port));
        CHECK(memcmp(got.data + UDP_HEADERS, "ours", 4) == 0);
        CHECK_EQ(port->counters->rx_frames, 1);
        close(udp);
        device_close(wire.device);
    }
    netns_ip("link del cli0");
}

/* What the open says about a name; NULL: it succeeded. */
static const char *refusal(const char *spec, const struct device_config *config, int code)
{
    static char error[PORT_ERROR_MAX];
    struct device *device;

    error[0] = '\0';
    if (device_open(&device, spec, config, error) == 0) {
        device_close(device);
        return NULL;
    }
    CHECK_EQ(device_open(&device, spec, config, error), code);
    return error;
}

static bool says(const char *error, const char *words)
{
    bool said = error && strstr(error, words);

    if (!said) {
        printf("    said: %s\n", error ? error : "nothing");
    }
    return said;
}

static void each_refusal_says_what_to_do(void)
{
    struct device_config config = {.slots = 128};
    struct device_config few = {.slots = 16};
    struct device_config jumbo = {.mtu = 9000};
    struct packet_wire wire;

    if (!wire_make(1, 1500)) {
        return;
    }
    CHECK(says(refusal("packet:nowhere0", &config, -ENODEV), "no such interface"));
    CHECK(says(refusal("packet:a-name-that-is-too-long", &config, -ENODEV), "longer"));
    CHECK(says(refusal("packet:srv0", &few, -EINVAL), "128 to 8176 slots"));
    CHECK(says(refusal("packet:srv0", &jumbo, -EINVAL), "MTU"));
    if (wire_open_device(&wire, "packet:srv0", &config)) {
        CHECK(says(refusal("packet:srv0", &config, -EBUSY), "another server"));
        device_close(wire.device);
    }
    CHECK(refusal("packet:srv0", &config, 0) == NULL); /* the lock went with the device */
    CHECK(netns_ip("link set srv0 down"));
    CHECK(says(refusal("packet:srv0", &config, -ENETDOWN), "ip link set"));
    netns_ip("link del cli0");
}

static void without_permission_it_names_the_capability(void)
{
    struct device_config config = {.slots = 128};
    int status = 0;
    pid_t pid;

    if (!wire_make(1, 1500)) {
        return;
    }
    pid = fork();
    if (pid == 0) {
        /* No capability to begin with after this: an ordinary process. */
        for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++) {
        }
        if (setresuid(65534, 65534, 65534) != 0) {
            _exit(2); /* one uid is all there is in this namespace */
        }
        _exit(says(refusal("packet:srv0", &config, -EPERM), "CAP_NET_RAW") ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    if (WEXITSTATUS(status) == 2) {
        check_skip("no second uid in this user namespace");
    } else {
        CHECK_EQ(status, 0);
    }
    netns_ip("link del cli0");
}

static void a_process_may_keep_one_ring(void)
{
    struct packet_wire wire;
    int fd;

    if (!wire_open(&wire, 4, 1500)) {
        return;
    }
    fd = wire.device->ports[1].wait_fd;
    CHECK_EQ(device_keep_only(wire.device, 2), 0);
    CHECK(send(fd, "x", 1, 0) != 0 && errno == EBADF);
    CHECK_EQ(wire.device->ports[2].ops->rx_sync(&wire.device->ports[2], wire_now_us()), 0);
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"rings default to the card's queues", rings_default_to_the_card_s_queues},
        {"an interface may go down and come back", an_interface_may_go_down_and_come_back},
        {"a refused frame keeps its slot for a while", a_refused_frame_keeps_its_slot_for_a_while},
        {"another MAC makes the card promiscuous", another_mac_makes_the_card_promiscuous},
        {"each refusal says what to do", each_refusal_says_what_to_do},
        {"without permission it names the capability", without_permission_it_names_the_capability},
        {"a process may keep one ring", a_process_may_keep_one_ring},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
