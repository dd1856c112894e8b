/* vde: a port of a real vde_switch; the other end is libvdeplug itself, without our backend. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "conformance.h"
#include "netns.h"

enum {
    QUEUE_FRAMES = 512,
};

struct vde_connection;

struct peer {
    char folder[32];
    char path[40];
    pid_t vde_switch;
    int input;  /* its commands: it ends with them */
    int output; /* its answers */
    void *object;
    struct vde_connection *connection;
    struct vde_connection *(*open)(char *url, char *description, int version, void *arguments);
    ssize_t (*recv)(struct vde_connection *, void *, size_t, int flags);
    ssize_t (*send)(struct vde_connection *, const void *, size_t, int flags);
    int (*datafd)(struct vde_connection *);
    int (*close)(struct vde_connection *);
};

enum {
    SWITCH_FRAME = ETH_HDR_LEN + 1504, /* longer ones it cuts */
};

static const uint16_t vlans[] = {7, 100, 0};

static bool usable(struct peer *peer)
{
    void *symbol[5];

    peer->object = dlopen("libvdeplug.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!peer->object || system("command -v vde_switch >/dev/null") != 0) {
        check_skip("the VDE switch or its library is missing (packages vde2, libvdeplug2)");
        return false;
    }
    symbol[0] = dlsym(peer->object, "vde_open_real");
    symbol[1] = dlsym(peer->object, "vde_recv");
    symbol[2] = dlsym(peer->object, "vde_send");
    symbol[3] = dlsym(peer->object, "vde_close");
    memcpy(&peer->open, &symbol[0], sizeof(symbol[0]));
    memcpy(&peer->recv, &symbol[1], sizeof(symbol[1]));
    memcpy(&peer->send, &symbol[2], sizeof(symbol[2]));
    memcpy(&peer->close, &symbol[3], sizeof(symbol[3]));
    symbol[4] = dlsym(peer->object, "vde_datafd");
    memcpy(&peer->datafd, &symbol[4], sizeof(symbol[4]));
    return CHECK(symbol[0] && symbol[1] && symbol[2] && symbol[3] && symbol[4]);
}

static void run_switch(struct peer *peer)
{
    int input[2];
    int output[2];

    CHECK_EQ(pipe2(input, O_CLOEXEC), 0);
    CHECK_EQ(pipe2(output, O_CLOEXEC), 0);
    peer->vde_switch = fork();
    if (peer->vde_switch == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (dup2(input[0], STDIN_FILENO) < 0 || dup2(output[1], STDOUT_FILENO) < 0 ||
            !freopen("/dev/null", "w", stderr)) {
            _exit(1);
        }
        execlp("vde_switch", "vde_switch", "-s", peer->path, (char *)NULL);
        _exit(127);
    }
    close(input[0]);
    close(output[1]);
    peer->input = input[1];
    peer->output = output[0];
}

/* One command in one write; the switch answers "1000 Success" when it is done. */
static void tell_switch(const struct peer *peer, const char *command)
{
    struct pollfd fd = {.fd = peer->output, .events = POLLIN};
    char answer[512] = "";

    CHECK_EQ(write(peer->input, command, strlen(command)), strlen(command));
    CHECK_EQ(poll(&fd, 1, COME_MS), 1);
    if (read(peer->output, answer, sizeof(answer) - 1) < 0 || !strstr(answer, "Success")) {
        printf("    %s    %s", command, answer);
        CHECK(!"the switch did what it was told");
    }
}

/* A frame with a tag passes from ports that are in its VLAN to others that are. */
static void make_vlans(const struct peer *peer)
{
    char command[40];

    for (const uint16_t *vlan = vlans; *vlan; vlan++) {
        snprintf(command, sizeof(command), "vlan/create %u\n", *vlan);
        tell_switch(peer, command);
        for (int port = 1; port <= 2; port++) {
            snprintf(command, sizeof(command), "vlan/addport %u %d\n", *vlan, port);
            tell_switch(peer, command);
        }
    }
}

/* The queues of sockets are as long as the namespace says when they are made. */
static void lengthen_queues(void)
{
    FILE *file = fopen("/proc/sys/net/unix/max_dgram_qlen", "w");

    if (file) {
        fprintf(file, "%d", QUEUE_FRAMES);
        fclose(file);
    }
}

static bool connect_peer(struct peer *peer)
{
    char description[] = "conformance";
    uint64_t end = real_now_us() + COME_MS * 1000;

    while (!peer->connection && real_now_us() < end) { /* the switch may still be starting */
        usleep(10000);
        peer->connection = peer->open(peer->path, description, 1, NULL);
    }
    return CHECK(peer->connection != NULL) &&
           CHECK_EQ(fcntl(peer->datafd(peer->connection), F_SETFL, O_NONBLOCK), 0);
}

static bool start_switch(struct peer *peer)
{
    const char *why = NULL;

    if (!netns_enter(&why)) {
        check_skip(why);
        return false;
    }
    lengthen_queues();
    if (!usable(peer) || !CHECK(mkdtemp(peer->folder) != NULL)) {
        return false;
    }
    snprintf(peer->path, sizeof(peer->path), "%s/sw", peer->folder);
    run_switch(peer);
    return connect_peer(peer);
}

static bool vde_open(struct rig *rig)
{
    static const uint8_t theirs[6] = {0x02, 0, 0, 0, 0, 0x0b};
    struct device_config config = {.rings = 1, .slots = rig->slots, .mtu = 1500};
    char error[PORT_ERROR_MAX] = "";
    char spec[PORT_NAME_MAX];
    struct peer *peer = calloc(1, sizeof(*peer));

    *peer = (struct peer){.folder = "/tmp/ssvdeXXXXXX"};
    rig->peer = peer;
    if (!start_switch(peer)) {
        return false;
    }
    snprintf(spec, sizeof(spec), "vde:%s", peer->path);
    if (!CHECK_EQ(device_open(&rig->device, spec, &config, error), 0)) {
        printf("    %s\n", error);
        return false;
    }
    make_vlans(peer);
    rig->port = &rig->device->ports[0];
    memcpy(rig->ours, rig->device->mac, 6);
    memcpy(rig->theirs, theirs, 6);
    return true;
}

static void end_switch(struct rig *rig)
{
    struct peer *peer = rig->peer;

    if (peer->vde_switch > 0) {
        kill(peer->vde_switch, SIGCONT);
        kill(peer->vde_switch, SIGTERM);
        waitpid(peer->vde_switch, NULL, 0);
    }
    peer->vde_switch = 0;
}

static void vde_close(struct rig *rig)
{
    struct peer *peer = rig->peer;
    char command[80];

    device_close(rig->device);
    peer->close(peer->connection);
    end_switch(rig);
    close(peer->input);
    close(peer->output);
    dlclose(peer->object);
    snprintf(command, sizeof(command), "rm -r %s", peer->folder);
    CHECK_EQ(system(command), 0);
    free(peer);
}

static bool inject(struct rig *rig, const struct frame *frame)
{
    ssize_t sent = rig->peer->send(rig->peer->connection, frame->data, frame->len, MSG_DONTWAIT);

    if (sent < 0) {
        CHECK(errno == EAGAIN || errno == ENOBUFS);
    }
    return sent > 0;
}

static bool collect(struct rig *rig, struct frame *frame)
{
    ssize_t len =
        rig->peer->recv(rig->peer->connection, frame->data, sizeof(frame->data), MSG_DONTWAIT);

    frame->hdr = (struct vnet_hdr){0};
    frame->len = len > 0 ? (uint32_t)len : 0;
    return len > 0;
}

static int audit(struct rig *rig)
{
    return rig_audit_rings(rig->port);
}

/* A switch that stands still: its sockets fill, and nothing passes. */
static void stall(struct rig *rig, bool on)
{
    CHECK_EQ(kill(rig->peer->vde_switch, on ? SIGSTOP : SIGCONT), 0);
}

static void set_link(struct rig *rig, bool up)
{
    stall(rig, !up);
}

const struct wire wire_vde = {
    .name = "vde",
    .net = true,
    .frame_max = SWITCH_FRAME,
    .vlans = vlans,
    .open = vde_open,
    .close = vde_close,
    .inject = inject,
    .collect = collect,
    .audit = audit,
    .stall = stall,
    .link = set_link,
    .remove = end_switch,
    .gone = -ENODEV,
    .holds = true,
};
