/* xdp: opening an interface, losing it, leaving it, being refused. */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "xdp_wire.h"

enum {
    SKIPPED = 2, /* exit codes of a child */
    MEMLOCK = 1 << 20,
};

static const struct xdp_plan plain = {.spec = "xdp:srv0", .queues = 2};

static bool says(const char *error, const char *words)
{
    bool said = error && strstr(error, words);

    if (!said) {
        printf("    said: %s\n", error ? error : "nothing");
    }
    return said;
}

/* What the open says about a name; NULL: it succeeded. */
static const char *refusal(const char *spec, const struct device_config *config, int code)
{
    static char error[PORT_ERROR_MAX];
    struct device *device;
    int got_code;

    error[0] = '\0';
    got_code = device_open(&device, spec, config, error);
    if (got_code == 0) {
        device_close(device);
        return NULL;
    }
    CHECK_EQ(got_code, code);
    CHECK_EQ(strncmp(error, "xdp:", 4), 0);
    CHECK(strlen(error) < PORT_ERROR_MAX - 1); /* not cut */
    return error;
}

/* The program on srv0; 0: none. */
static uint32_t program_on(struct xdp_tenant *tenant)
{
    CHECK_EQ(xdp_tenant_find((int)if_nametoindex("srv0"), tenant), 0);
    return tenant->prog_id;
}

/* It goes when the kernel gets round to it: a moment after the last descriptor. */
static bool is_clean(void)
{
    struct xdp_tenant tenant;
    uint64_t end = wire_now_us() + WAIT_MS * 1000;

    while (program_on(&tenant) != 0) {
        if (wire_now_us() > end) {
            return false;
        }
        usleep(1000);
    }
    return true;
}

static void the_banner_names_the_mode_that_was_obtained(void)
{
    static const char *const specs[] = {"xdp:srv0", "xdp:srv0:copy", "xdp:srv0:generic",
                                        "xdp:srv0:copy:busy-poll:verify"};
    static const char *const words[] = {"copy mode", "copy mode", "generic mode", "busy-poll"};

    for (uint32_t i = 0; i < 4; i++) {
        struct packet_wire wire;
        struct xdp_tenant tenant;

        if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = specs[i], .queues = 2})) {
            return;
        }
        CHECK(says(wire.device->banner, words[i]));
        CHECK(says(wire.device->banner, "2 queues"));
        CHECK_EQ(i == 0, strstr(wire.device->banner, "no zerocopy: Operation not") != NULL);
        CHECK(program_on(&tenant) != 0);
        CHECK_EQ(strcmp(tenant.name, "shardserver"), 0);
        CHECK_EQ(tenant.generic, i == 2);
        CHECK_EQ(wire.device->rings, 1);
        wire_close(&wire);
    }
}

static void a_mode_asked_for_by_name_is_not_exchanged(void)
{
    struct device_config config = {.slots = 128};
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    CHECK(says(refusal("xdp:srv0:zerocopy", &config, -EOPNOTSUPP), "zerocopy, which was asked"));
    CHECK(is_clean());
    close(wire.udp);
    netns_ip("link del cli0");
}

static void each_refusal_says_what_to_do(void)
{
    struct device_config config = {.slots = 128};
    struct device_config few = {.slots = 16};
    struct device_config odd = {.buf_size = 3072};
    struct device_config jumbo = {.mtu = 9000};
    struct device_config rings = {.rings = 3};
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    CHECK(says(refusal("xdp:srv0", &config, -EBUSY), "another server"));
    device_close(wire.device);
    CHECK(says(refusal("xdp:nowhere0", &config, -ENODEV), "no such interface"));
    CHECK(says(refusal("xdp:a-name-that-is-too-long", &config, -ENODEV), "longer"));
    CHECK(says(refusal("xdp:lo", &config, -EOPNOTSUPP), "loopback"));
    CHECK(says(refusal("xdp:srv0:fast", &config, -EINVAL), ":zerocopy, :copy or :generic"));
    CHECK(says(refusal("xdp:srv0", &few, -EINVAL), "128 to 8176 slots"));
    CHECK(says(refusal("xdp:srv0", &odd, -EINVAL), "2048 or 4096"));
    CHECK(says(refusal("xdp:srv0", &jumbo, -EINVAL), "MTU"));
    CHECK(says(refusal("xdp:srv0", &rings, -EINVAL), "ethtool -L srv0 combined 3"));
    CHECK(refusal("xdp:srv0", &config, 0) == NULL); /* none of them left anything */
    CHECK(is_clean());
    CHECK(netns_ip("link set srv0 down"));
    CHECK(says(refusal("xdp:srv0", &config, -ENETDOWN), "ip link set"));
    close(wire.udp);
    netns_ip("link del cli0");
}

static void a_program_that_is_there_is_left_alone(void)
{
    struct device_config config = {.slots = 128};
    struct xdp_program theirs;
    struct xdp_tenant before;
    struct xdp_tenant after;
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    for (int generic = 0; generic < 2; generic++) {
        const char *said;
        char id[32];

        CHECK_EQ(xdp_program_load(&theirs, 1, &(struct filter){0}), 0);
        CHECK_EQ(xdp_program_attach(&theirs, (int)if_nametoindex("srv0"), generic), 0);
        CHECK(program_on(&before) != 0);
        snprintf(id, sizeof(id), "\"shardserver\" (id %u%s)", before.prog_id,
                 generic ? ", generic" : "");
        said = refusal("xdp:srv0", &config, -EBUSY);
        CHECK(says(said, id));
        CHECK(says(said, "xdp off"));
        CHECK_EQ(program_on(&after), before.prog_id);
        xdp_program_close(&theirs);
        CHECK(is_clean());
    }
    CHECK(refusal("xdp:srv0", &config, 0) == NULL);
    close(wire.udp);
    netns_ip("link del cli0");
}

/* A program that passes everything, by the name that libxdp gives to its own. */
static int attach_dispatcher(int *link)
{
    const struct bpf_insn code[] = {
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 0, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_EXIT}};
    union bpf_attr prog = {.prog_type = BPF_PROG_TYPE_XDP,
                           .insns = (uint64_t)(uintptr_t)code,
                           .insn_cnt = 2,
                           .license = (uint64_t)(uintptr_t)"BSD",
                           .prog_name = "xdp_dispatcher"};
    int fd = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &prog, sizeof(prog));
    union bpf_attr attr = {.link_create = {.prog_fd = (uint32_t)fd,
                                           .target_ifindex = if_nametoindex("srv0"),
                                           .attach_type = BPF_XDP}};

    *link = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &attr, sizeof(attr));
    return fd;
}

static void libxdp_s_dispatcher_is_named(void)
{
    struct device_config config = {.slots = 128};
    struct packet_wire wire;
    const char *said;
    int link;
    int prog;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    prog = attach_dispatcher(&link);
    CHECK(prog >= 0 && link >= 0);
    said = refusal("xdp:srv0", &config, -EBUSY);
    CHECK(says(said, "libxdp's dispatcher \"xdp_dispatcher\" (id "));
    CHECK(says(said, "xdp-loader unload"));
    close(link);
    close(prog);
    CHECK(is_clean());
    close(wire.udp);
    netns_ip("link del cli0");
}

static void a_queue_that_is_taken_is_refused(void)
{
    struct device_config config = {.slots = 128};
    struct xdp_port theirs = {.sockets = 1, .socket = {{.fd = -1, .queue = 1}}, .wait_fd = -1};
    struct packet_wire wire;
    struct packet_link link;
    char error[PORT_ERROR_MAX];

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    CHECK_EQ(packet_link_find(&link, "srv0", error), 0);
    CHECK_EQ(xdp_port_map(&theirs, 128, XDP_CHUNK_MIN), 0);
    CHECK_EQ(xdp_port_bind(&theirs, &link, XDP_MODE_COPY), 0);
    CHECK(says(refusal("xdp:srv0", &config, -EBUSY), "AF_XDP socket on one of its queues"));
    CHECK(is_clean());
    xdp_port_unbind(&theirs);
    xdp_port_unmap(&theirs);
    CHECK(refusal("xdp:srv0", &config, 0) == NULL); /* busy for a moment, and waited for */
    close(wire.udp);
    netns_ip("link del cli0");
}

static bool drop_lock_capability(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];

    if (syscall(SYS_capget, &header, data) != 0) {
        return false;
    }
    data[CAP_TO_INDEX(CAP_IPC_LOCK)].effective &= ~CAP_TO_MASK(CAP_IPC_LOCK);
    return syscall(SYS_capset, &header, data) == 0;
}

static int without_locked_memory(void)
{
    struct rlimit limit = {MEMLOCK, MEMLOCK};
    struct device_config config = {0};

    if (setrlimit(RLIMIT_MEMLOCK, &limit) != 0 || !drop_lock_capability()) {
        return SKIPPED;
    }
    return says(refusal("xdp:srv0", &config, -ENOBUFS), "ulimit -l") ? 0 : 1;
}

static int without_capabilities(void)
{
    struct device_config config = {.slots = 128};

    /* No capability to begin with after this: an ordinary process. */
    for (int cap = 0; prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0; cap++) {
    }
    if (setresuid(65534, 65534, 65534) != 0) {
        return SKIPPED;
    }
    return says(refusal("xdp:srv0", &config, -EPERM), "CAP_BPF") ? 0 : 1;
}

/* As a kernel that was built without a system call, or with a family of sockets less. */
static bool kernel_without(int number, uint32_t first_argument, uint32_t error)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, first_argument, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(code) / sizeof(code[0]), code};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

static int without_bpf(void)
{
    struct device_config config = {.slots = 128};

    if (!kernel_without(SYS_bpf, BPF_MAP_CREATE, ENOSYS)) {
        return SKIPPED;
    }
    return says(refusal("xdp:srv0", &config, -ENOSYS), "CONFIG_BPF_SYSCALL") ? 0 : 1;
}

static int without_af_xdp(void)
{
    struct device_config config = {.slots = 128};

    if (!kernel_without(SYS_socket, AF_XDP, EAFNOSUPPORT)) {
        return SKIPPED;
    }
    return says(refusal("xdp:srv0", &config, -EAFNOSUPPORT), "CONFIG_XDP_SOCKETS") ? 0 : 1;
}

/* The exit code of what a child does. */
static int in_child(int (*what)(void))
{
    int status = 0;
    pid_t pid = fork();

    if (pid == 0) {
        _exit(what());
    }
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void without_permission_it_names_the_capability(void)
{
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    CHECK_EQ(in_child(without_capabilities), 0);
    CHECK_EQ(in_child(without_locked_memory), 0);
    CHECK(is_clean());
    close(wire.udp);
    netns_ip("link del cli0");
}

static void a_kernel_without_xdp_is_named(void)
{
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    CHECK_EQ(in_child(without_bpf), 0);
    CHECK_EQ(in_child(without_af_xdp), 0);
    CHECK(is_clean());
    close(wire.udp);
    netns_ip("link del cli0");
}

/* The processes of a server are killed one after the other: the interface is as it was. */
static void a_killed_server_leaves_a_clean_interface(void)
{
    struct device_config config = {.rings = 1, .slots = 128};
    struct packet_wire wire;
    struct xdp_tenant tenant;
    int started[2];
    char byte;
    pid_t pid;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    CHECK(pipe(started) == 0);
    pid = fork();
    if (pid == 0) {
        bool opened = wire_open_device(&wire, "xdp:srv0", &config);

        if (write(started[1], "x", opened) == 1) {
            pause();
        }
        _exit(1);
    }
    CHECK_EQ(read(started[0], &byte, 1), 1);
    CHECK(program_on(&tenant) != 0);
    kill(pid, SIGKILL);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    CHECK(is_clean());
    CHECK(refusal("xdp:srv0", &config, 0) == NULL);
    close(started[0]);
    close(started[1]);
    close(wire.udp);
    netns_ip("link del cli0");
}

/* A worker that hangs does not keep the program on the interface, nor does it keep its siblings. */
static void a_process_may_keep_one_ring(void)
{
    struct packet_wire wire;
    int started[2];
    char byte;
    pid_t pid;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0", .queues = 4, .rings = 4})) {
        return;
    }
    CHECK(pipe(started) == 0);
    pid = fork();
    if (pid == 0) {
        int fd = wire.device->ports[1].wait_fd;
        bool kept = device_keep_only(wire.device, 2) == 0 && send(fd, "x", 1, 0) != 0 &&
                    errno == EBADF &&
                    wire.device->ports[2].ops->rx_sync(&wire.device->ports[2], 1) == 0;

        if (write(started[1], kept ? "y" : "n", 1) == 1) {
            pause();
        }
        _exit(1);
    }
    CHECK_EQ(read(started[0], &byte, 1), 1);
    CHECK_EQ(byte, 'y');
    device_close(wire.device);
    CHECK(is_clean());
    kill(pid, SIGKILL);
    CHECK_EQ(waitpid(pid, NULL, 0), pid);
    close(started[0]);
    close(started[1]);
    close(wire.udp);
    netns_ip("link del cli0");
}

static void a_deleted_interface_ends_the_port(void)
{
    for (unsigned queues = 1; queues <= 2; queues++) {
        struct packet_wire wire;
        struct port *port;
        int code = 0;

        if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0", .queues = queues})) {
            return;
        }
        port = &wire.device->ports[0];
        CHECK(netns_ip("link del cli0"));
        for (int i = 0; i < 10 && code == 0; i++) {
            code = port->ops->rx_sync(port, wire_now_us());
            port->ops->sleep_arm(port);
            port->ops->sleep_disarm(port);
        }
        CHECK_EQ(code, -ENODEV);
        wire_push_udp(&wire, "x", 1);
        CHECK_EQ(port->ops->tx_sync(port, wire_now_us()), 0);
        close(wire.udp);
        device_close(wire.device);
    }
}

static void another_mac_makes_the_card_promiscuous(void)
{
    struct device_config config = {
        .rings = 1, .slots = 256, .ip = ADDR_SERVICE, .mac = {2, 0, 0, 9, 9, 9}};
    struct packet_wire wire;

    if (!xdp_wire_open(&wire, &plain)) {
        return;
    }
    device_close(wire.device);
    if (wire_open_device(&wire, "xdp:srv0", &config)) {
        struct port *port = &wire.device->ports[0];

        CHECK(memcmp(wire.device->mac, config.mac, 6) == 0);
        CHECK(says(wire.device->banner, "promiscuous"));
        CHECK(netns_ip("-d link show srv0 | grep -q 'promiscuity 1'"));
        CHECK(wire_resolve(config.mac));
        CHECK_EQ(send(wire.udp, "ours", 4, 0), 4);
        CHECK(wire_receive(port));
        CHECK(memcmp(got.data + UDP_HEADERS, "ours", 4) == 0);
        device_close(wire.device);
        CHECK(netns_ip("-d link show srv0 | grep -q 'promiscuity 0'"));
    }
    close(wire.udp);
    netns_ip("link del cli0");
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the banner names the mode that was obtained",
         the_banner_names_the_mode_that_was_obtained},
        {"a mode asked for by name is not exchanged", a_mode_asked_for_by_name_is_not_exchanged},
        {"each refusal says what to do", each_refusal_says_what_to_do},
        {"a program that is there is left alone", a_program_that_is_there_is_left_alone},
        {"libxdp's dispatcher is named", libxdp_s_dispatcher_is_named},
        {"a queue that is taken is refused", a_queue_that_is_taken_is_refused},
        {"without permission it names the capability", without_permission_it_names_the_capability},
        {"a kernel without XDP is named", a_kernel_without_xdp_is_named},
        {"a killed server leaves a clean interface", a_killed_server_leaves_a_clean_interface},
        {"a process may keep one ring", a_process_may_keep_one_ring},
        {"a deleted interface ends the port", a_deleted_interface_ends_the_port},
        {"another MAC makes the card promiscuous", another_mac_makes_the_card_promiscuous},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
