/* vde: two devices of ours on a real vde_switch. */
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "packet_wire.h"

enum {
    FLOWS = 60,
    READY_MS = 10000, /* for another program to start, on a busy machine */
};

/* A switch in a folder of its own, and two servers on it. */
struct pair {
    char folder[32];
    char spec[PORT_NAME_MAX];
    pid_t vde_switch;
    struct packet_wire a;
    struct packet_wire b;
};

/* The switch reads commands on its standard input, and ends with it. */
static pid_t run_switch(const char *path)
{
    int input[2];
    pid_t pid;

    CHECK_EQ(pipe(input), 0);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(input[0], STDIN_FILENO) < 0 || !freopen("/dev/null", "w", stdout) ||
            !freopen("/dev/null", "w", stderr)) {
            _exit(1);
        }
        execlp("vde_switch", "vde_switch", "-s", path, "-x", (char *)NULL);
        _exit(127);
    }
    close(input[0]);
    return pid; /* the other end stays open as long as this program */
}

static bool start_switch(struct pair *pair)
{
    char path[40];
    char error[PORT_ERROR_MAX];
    struct device_config config = {.rings = 1};
    struct device *probe;
    uint64_t end = wire_now_us() + READY_MS * 1000;

    *pair = (struct pair){.folder = "/tmp/ssvdeXXXXXX"};
    if (!CHECK(mkdtemp(pair->folder) != NULL)) {
        return false;
    }
    snprintf(path, sizeof(path), "%s/sw", pair->folder);
    snprintf(pair->spec, sizeof(pair->spec), "vde:%s", path);
    pair->vde_switch = run_switch(path);
    while (device_open(&probe, pair->spec, &config, error) != 0) { /* its socket is there first */
        if (!CHECK(wire_now_us() < end)) {
            return false;
        }
        usleep(10000);
    }
    device_close(probe);
    return true;
}

static void stop_switch(struct pair *pair)
{
    char command[80];

    if (pair->vde_switch > 0) {
        kill(pair->vde_switch, SIGTERM);
        waitpid(pair->vde_switch, NULL, 0);
    }
    pair->vde_switch = 0;
    snprintf(command, sizeof(command), "rm -r %s", pair->folder);
    CHECK_EQ(system(command), 0);
}

static bool usable(void)
{
    void *object;

    object = dlopen("libvdeplug.so.2", RTLD_NOW);
    if (!object || system("command -v vde_switch >/dev/null") != 0) {
        check_skip("the VDE switch or its library is missing (packages vde2, libvdeplug2)");
        return false;
    }
    dlclose(object);
    return true;
}

static bool pair_open(struct pair *pair, uint32_t rings)
{
    struct device_config config = {.rings = rings, .slots = 256};

    if (!usable() || !start_switch(pair) || !wire_open_device(&pair->a, pair->spec, &config)) {
        return false;
    }
    config.mac[0] = 0x02;
    config.mac[5] = 0x0b;
    if (!wire_open_device(&pair->b, pair->spec, &config)) {
        return false;
    }
    memcpy(pair->a.client_mac, pair->b.device->mac, 6);
    memcpy(pair->b.client_mac, pair->a.device->mac, 6);
    return true;
}

static void pair_close(struct pair *pair)
{
    device_close(pair->a.device);
    device_close(pair->b.device);
    stop_switch(pair);
}

/* Sends from one to the other, on ring 0; the ring where it came. */
static int pass(const struct packet_wire *from, const struct packet_wire *to, uint16_t flow,
                uint32_t len)
{
    static uint8_t payload[1472];
    struct port *port = &from->device->ports[0];
    uint16_t udp[4] = {htons(SERVICE_PORT), htons(flow), htons((uint16_t)(UDP_HDR + len)), 0};
    uint8_t frame[UDP_HEADERS + sizeof(payload)];
    struct vnet_hdr hdr = {0};
    uint64_t end = wire_now_us() + WAIT_MS * 1000;
    uint8_t *l4 = wire_write_ip(from, frame, PROTO_UDP, UDP_HDR + len);

    wire_fill(payload, len, flow);
    memcpy(l4, udp, sizeof(udp));
    memcpy(l4 + UDP_HDR, payload, len);
    wire_push(port, &hdr, frame, UDP_HEADERS + len);
    CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
    while (wire_now_us() < end) {
        for (uint32_t ring = 0; ring < to->device->rings; ring++) {
            struct port *there = &to->device->ports[ring];

            CHECK_EQ(there->ops->rx_sync(there, wire_now_us()), 0);
            if (wire_take(there)) {
                CHECK_EQ(got.len, UDP_HEADERS + len);
                CHECK(memcmp(got.data, frame, got.len) == 0);
                return (int)ring;
            }
        }
        usleep(50);
    }
    CHECK(!"a frame came");
    return -1;
}

static void a_flow_stays_on_its_ring(void)
{
    struct pair pair;
    uint32_t flows[4] = {0};

    if (!pair_open(&pair, 4)) {
        return;
    }
    for (uint16_t flow = 0; flow < FLOWS; flow++) {
        int owner = pass(&pair.a, &pair.b, (uint16_t)(41000 + flow), 10);

        CHECK_EQ(pass(&pair.a, &pair.b, (uint16_t)(41000 + flow), 20), owner);
        flows[owner & 3]++;
    }
    CHECK(flows[0] && flows[1] && flows[2] && flows[3]);
    pair_close(&pair);
}

static void a_switch_that_ends_ends_the_port(void)
{
    struct pair pair;
    struct port *port;
    uint64_t end;
    int code = 0;

    if (!pair_open(&pair, 2)) {
        return;
    }
    port = &pair.a.device->ports[1];
    kill(pair.vde_switch, SIGTERM);
    waitpid(pair.vde_switch, NULL, 0);
    pair.vde_switch = 0;
    end = wire_now_us() + READY_MS * 1000;
    while (code == 0 && wire_now_us() < end) {
        code = port->ops->rx_sync(port, wire_now_us());
        usleep(1000);
    }
    CHECK_EQ(code, -ENODEV);
    pair_close(&pair);
}

static void a_path_without_a_switch_is_refused(void)
{
    struct device_config config = {.rings = 1};
    struct device *device = NULL;
    char error[PORT_ERROR_MAX] = "";

    if (!usable()) {
        return;
    }
    CHECK_EQ(device_open(&device, "vde:/nosuch/sw.ctl", &config, error), -ENOENT);
    CHECK(strstr(error, "vde_switch -d -s PATH") != NULL);
    CHECK(device_open(&device, "vde:/tmp", &config, error) < 0); /* a folder, but no switch in it */
    CHECK(strncmp(error, "vde:/tmp: ", 10) == 0);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a flow stays on its ring", a_flow_stays_on_its_ring},
        {"a switch that ends ends the port", a_switch_that_ends_ends_the_port},
        {"a path without a switch is refused", a_path_without_a_switch_is_refused},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
