/*
 * netmap: opening ports ring by ring and letting go of them: what is bound, what is refused and in
 * which words, and that nothing is left.
 */
#include <errno.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "netmap_case.h"

enum {
    STEPS_MAX = 40,
};

static bool registered(uint32_t at, uint32_t mode, uint32_t ring)
{
    const struct fake_call *call = &fake->call[at];

    return call->what == 'r' && call->mode == mode && call->ring == ring;
}

static void a_holder_of_all_rings_is_opened_first_and_closed_last(void)
{
    struct device *device;

    fake_begin();
    fake_nic("eth0", 2, 2, SLOTS);
    device = case_port("eth0");
    CHECK_EQ(device->rings, 2);
    CHECK(registered(0, NM_MODE_ALL_NIC, 0));
    CHECK(registered(1, NM_MODE_ONE_NIC, 0));
    CHECK(registered(2, NM_MODE_ONE_NIC, 1));
    fake->calls = 0;
    device_close(device);
    CHECK_EQ(fake->calls, 3);
    CHECK_EQ(fake->call[2].what, 'c');
    CHECK_EQ(fake->call[2].mode, 2); /* the one that was bound to both rings */
    CHECK(fake_end());
}

static void every_name_binds_its_rings(void)
{
    static const struct {
        const char *name;
        uint32_t rings;
        uint32_t call;
        uint32_t mode;
        uint32_t ring;
    } cases[] = {
        {"eth0", 3, 2, NM_MODE_ONE_NIC, 1},   {"eth0-2", 1, 0, NM_MODE_ONE_NIC, 2},
        {"eth0^", 2, 1, NM_MODE_ONE_SW, 0},   {"eth0^1", 1, 0, NM_MODE_ONE_SW, 1},
        {"eth0*", 5, 4, NM_MODE_ONE_SW, 0},   {"eth0*", 5, 0, NM_MODE_NIC_SW, 0},
        {"eth0/x", 3, 0, NM_MODE_ONE_NIC, 0}, {"iface=eth0,ring=1", 1, 0, NM_MODE_ONE_NIC, 1},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct device *device;

        fake_begin();
        fake_nic("eth0", 3, 3, SLOTS)->host_rings = 2;
        device = case_port(cases[i].name);
        CHECK_EQ(device->rings, cases[i].rings);
        CHECK(registered(cases[i].call, cases[i].mode, cases[i].ring));
        device_close(device);
        CHECK(fake_end());
    }
}

static void unequal_rings_are_clamped_or_refused(void)
{
    struct device *device;

    fake_begin();
    fake_nic("eth0", 4, 2, SLOTS);
    fake_nic("eth1", 1, 3, SLOTS);
    device = case_port("eth0");
    CHECK_EQ(device->rings, 2); /* two transmit rings more do no harm */
    device_close(device);
    CHECK(case_refused("eth1", NULL, -EINVAL, "3 receive rings and 1 transmit rings"));
    CHECK(case_refused("eth1-1", NULL, -EINVAL, "no ring pair 1"));
    CHECK(case_refused("eth0-2", NULL, -EINVAL, "no ring pair 2"));
    device = case_port("eth1/R");
    CHECK_EQ(device->rings, 3);
    device_close(device);
    CHECK(fake_end());
}

static void workers_and_rings_must_match(void)
{
    struct device_config three = {.rings = 3};
    struct device_config two = {.rings = 2};
    struct device *device = NULL;

    fake_begin();
    fake_nic("eth0", 2, 2, SLOTS);
    CHECK(case_refused("eth0", &three, -EINVAL, "2 ring pairs for 3 workers"));
    CHECK(case_refused("eth0-0", &two, -EINVAL, "1 ring pair for 2 workers"));
    CHECK_EQ(case_open(&device, "eth0", &two), 0);
    device_close(device);
    CHECK(fake_end());
}

static void wishes_that_an_existing_port_ignores_are_refused(void)
{
    struct device_config slots = {.slots = 512};
    struct device *device;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("x{1@conf:slots=16");
    CHECK(case_refused("x}1@conf:slots=32", NULL, -EBUSY, "not what was asked for"));
    CHECK(case_refused("eth0", &slots, -EBUSY, "ethtool -G"));
    CHECK(case_refused("eth0@3", NULL, -EINVAL, "memory region"));
    device_close(device);
    CHECK(fake_end());
}

static void the_kernels_refusals_are_explained(void)
{
    struct device *device;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    fake_nic("eth1", 1, 1, 4096);
    CHECK(case_refused("eth9", NULL, -ENXIO, "no such interface"));
    CHECK(case_refused("eth1", NULL, -ENOMEM, "4096 slots takes 65792 bytes, netmap's hold 36864"));
    device = case_port("eth0");
    CHECK(case_refused("eth0/x", NULL, -EBUSY, "/x wants them alone"));
    device_close(device);
    device = case_port("eth0/x");
    CHECK(case_refused("eth0", NULL, -EBUSY, "belong to another program alone"));
    device_close(device);
    CHECK(case_refused("eth0-", NULL, -EINVAL, "expected a number"));
    fake->admits = false;
    fake->open_code = -ENOENT;
    CHECK(case_refused("eth0", NULL, -ENOENT, "modprobe netmap"));
    fake->open_code = -EACCES;
    CHECK(case_refused("eth0", NULL, -EACCES, "udev rule"));
    CHECK(fake_end());
}

static void an_interface_must_be_up_and_ethernet(void)
{
    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    fake->link.up = false;
    CHECK(case_refused("eth0", NULL, -ENETDOWN, "ip link set"));
    fake->link.up = true;
    fake->link.ethernet = false;
    CHECK(case_refused("eth0", NULL, -EINVAL, "not an Ethernet interface"));
    CHECK(fake_end());
}

static void the_open_waits_for_the_carrier(void)
{
    struct device *device;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    fake->link.running = false;
    fake->carrier_after = 20;
    device = case_port("eth0");
    CHECK_EQ(fake->carrier_after, 0);
    CHECK(!strstr(device->banner, "no carrier"));
    device_close(device);
    fake->link.running = false;
    device = case_port("eth0");
    CHECK(strstr(device->banner, "no carrier yet") != NULL);
    device_close(device);
    CHECK(fake_end());
}

static void the_banner_tells_the_adapter_and_the_region(void)
{
    struct device *device;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    device = case_port("eth0");
    CHECK(strstr(device->banner, "emulated adapter") && strstr(device->banner, "region 1"));
    device_close(device);
    fake->link.native = true;
    device = case_port("eth0");
    CHECK(strstr(device->banner, "native adapter") != NULL);
    device_close(device);
    fake->admode = 2;
    device = case_port("eth0");
    CHECK(strstr(device->banner, "emulated adapter") != NULL);
    device_close(device);
    CHECK(fake_end());
}

static bool is_deaf(const char *port, const char *words)
{
    struct device *device = case_port(port);
    bool told = strstr(device->banner, words) != NULL;

    device_close(device);
    return told;
}

/* As seen with the module on Linux 6.1: of 2, 3 and 4 rings of a veth the last one heard nothing.
 */
static void the_banner_names_the_ring_of_a_veth_that_is_deaf(void)
{
    fake_begin();
    fake_nic("eth0", 2, 2, SLOTS);
    CHECK(!is_deaf("eth0", "hears nothing"));
    fake->link.veth = true;
    CHECK(is_deaf("eth0", ", ring 1 hears nothing unless its veth peer sends on 3 queues"));
    CHECK(is_deaf("eth0-1", ", ring 1 hears nothing"));
    CHECK(!is_deaf("eth0-0", "hears nothing"));
    CHECK(!is_deaf("eth0^", "hears nothing"));
    fake->link.native = true; /* that would be netmap's own */
    CHECK(!is_deaf("eth0", "hears nothing"));
    CHECK(fake_end());
    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    fake->link.veth = true;
    CHECK(!is_deaf("eth0", "hears nothing"));
    CHECK(fake_end());
}

static void another_mac_makes_the_interface_promiscuous(void)
{
    struct device_config other = {.mac = {2, 0, 0, 0, 0, 9}};
    struct device_config same = {.mac = {0x52, 0x54, 0, 1, 2, 3}};
    struct device *device = NULL;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    CHECK_EQ(case_open(&device, "eth0", &same), 0);
    CHECK(!fake->promiscuous);
    device_close(device);
    CHECK_EQ(case_open(&device, "eth0", &other), 0);
    CHECK(fake->promiscuous);
    CHECK(memcmp(device->mac, other.mac, 6) == 0);
    device_close(device);
    CHECK(fake_end());
}

static void the_mtu_is_what_one_buffer_holds_at_most(void)
{
    struct device_config small = {.mtu = 600};
    struct device_config large = {.mtu = 9000};
    struct device *device = NULL;

    fake_begin();
    fake_nic("eth0", 1, 1, SLOTS);
    fake->link.mtu = 9000;
    CHECK_EQ(case_open(&device, "eth0", NULL), 0);
    CHECK_EQ(device->mtu, FAKE_BUF_SIZE - 18);
    device_close(device);
    CHECK_EQ(case_open(&device, "eth0", &small), 0);
    CHECK_EQ(device->mtu, 600);
    device_close(device);
    CHECK(case_refused("eth0", &large, -EINVAL, "one buffer holds"));
    CHECK(fake_end());
}

static void extra_buffers_are_held_and_given_back(void)
{
    struct device *device;
    const struct netmap_device *netmap;
    uint32_t before;

    fake_begin();
    fake_nic("eth0", 2, 2, SLOTS);
    before = fake_free_bufs();
    device = case_port("eth0@conf:extra-bufs=10");
    netmap = device->priv;
    CHECK_EQ(netmap->extra_n, 10);
    CHECK_EQ(fake_free_bufs(), before - 10 - 4 * SLOTS);
    for (uint32_t i = 0; i < netmap->extra_n; i++) { /* whoever uses them overwrites the links */
        memset(fake_buf(netmap->extra[i]), 0xff, FAKE_BUF_SIZE);
    }
    device_close(device);
    device = case_port("eth0-1@conf:extra-bufs=3");
    device_close(device);
    CHECK(fake_end()); /* none was lost */
}

/* What a worker's child keeps: its own descriptor and mapping, nothing of the others. */
static int in_child(struct device *device, const struct fake_port *nic)
{
    struct port *port = &device->ports[1];
    const struct netmap_device *netmap = device->priv;

    device_keep_only(device, 1);
    if (netmap->holder.fd != -1 || netmap->ring[0].file.fd != -1 || netmap->ring[0].file.map ||
        netmap->extra_n != 0) {
        return 1;
    }
    if (port->ops->rx_sync(port, 0) != 0 || nm_ring_space(port->rx) != 1) {
        return 2;
    }
    return nic->fds == 3 ? 0 : 3;
}

static void a_worker_keeps_its_own_ring_only(void)
{
    struct fake_port *nic;
    struct device *device;
    int status = -1;
    pid_t pid;

    fake_begin();
    nic = fake_nic("eth0", 2, 2, SLOTS);
    device = case_port("eth0@conf:extra-bufs=2");
    case_arrive(nic, 1, 1);
    pid = fork();
    if (pid == 0) {
        _exit(in_child(device, nic));
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(nm_ring_space(device->ports[1].rx), 1); /* the same rings */
    CHECK_EQ(device->ports[1].counters->rx_frames, 1);
    fake->mappings++; /* the child took one off for ring 0, as it should: put the parent's back */
    device_close(device);
    fake_end();
}

/* Whatever fails, what came before it is undone. */
static void every_failure_leaves_nothing(void)
{
    static const char *const names[] = {"eth0@conf:extra-bufs=4", "eth0-1", "eth0*", "x{1"};
    uint32_t failures = 0;

    for (size_t k = 0; k < sizeof(names) / sizeof(names[0]); k++) {
        for (uint32_t step = 1; step < STEPS_MAX; step++) {
            struct device_config config = {.mac = {2, 1, 1, 1, 1, 1}};
            struct device *device = NULL;

            fake_begin();
            fake_nic("eth0", 2, 2, SLOTS);
            fake->fail_at = step;
            fake->fail_code = -ENOMEM;
            if (case_open(&device, names[k], &config) == 0) {
                device_close(device);
            } else {
                failures++;
                CHECK(case_error[0] != '\0');
            }
            CHECK(fake_end());
        }
    }
    CHECK(failures > 20);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a holder of all rings is opened first and closed last",
         a_holder_of_all_rings_is_opened_first_and_closed_last},
        {"every name binds its rings", every_name_binds_its_rings},
        {"unequal rings are clamped or refused", unequal_rings_are_clamped_or_refused},
        {"workers and rings must match", workers_and_rings_must_match},
        {"wishes that an existing port ignores are refused",
         wishes_that_an_existing_port_ignores_are_refused},
        {"the kernel's refusals are explained", the_kernels_refusals_are_explained},
        {"an interface must be up and Ethernet", an_interface_must_be_up_and_ethernet},
        {"the open waits for the carrier", the_open_waits_for_the_carrier},
        {"the banner tells the adapter and the region",
         the_banner_tells_the_adapter_and_the_region},
        {"the banner names the ring of a veth that is deaf",
         the_banner_names_the_ring_of_a_veth_that_is_deaf},
        {"another MAC makes the interface promiscuous",
         another_mac_makes_the_interface_promiscuous},
        {"the MTU is what one buffer holds at most", the_mtu_is_what_one_buffer_holds_at_most},
        {"extra buffers are held and given back", extra_buffers_are_held_and_given_back},
        {"a worker keeps its own ring only", a_worker_keeps_its_own_ring_only},
        {"every failure leaves nothing", every_failure_leaves_nothing},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
