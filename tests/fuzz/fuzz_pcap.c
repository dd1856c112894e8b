/*
 * A capture file of any bytes: lengths, counts, link types, byte orders, a file that ends anywhere.
 * libpcap reads it in the feeder's process, as in a server; it is refused in a sentence, replayed
 * to its end, or named as damaged by a port that stops with a counter. The feeder never crashes.
 */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "check.h"
#include "ports/feeder.h"
#include "rings.h"

enum {
    RINGS = 2,
    SLOTS = 128,
    PATIENCE_S = 20, /* a loaded machine; the file is read in a millisecond */
    WITH_HEADER = 1,
};

/* Little endian, microseconds, frames of Ethernet up to 64 KiB: what most files begin with. */
static const uint8_t header[24] = {0xd4, 0xc3, 0xb2, 0xa1, 2,    0,    4, 0, 0, 0, 0, 0,
                                   0,    0,    0,    0,    0xff, 0xff, 0, 0, 1, 0, 0, 0};

static uint64_t now_s(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec;
}

static int write_file(const uint8_t *data, size_t size)
{
    int fd = memfd_create("capture", MFD_CLOEXEC);

    CHECK(fd >= 0);
    if (size > 0 && (data[0] & WITH_HEADER)) {
        CHECK_EQ(write(fd, header, sizeof(header)), sizeof(header));
    }
    if (size > 1) {
        CHECK_EQ(write(fd, data + 1, size - 1), size - 1);
    }
    fuzz_settle();
    return fd;
}

/* Takes what comes until the ring has ended or stopped. */
static void take_all(struct device *device, struct rings_user *user, uint64_t until_s)
{
    struct pollfd event = {.fd = device->event_fd, .events = POLLIN};

    while (!user->stopped && user->port->counters->rx_ended == 0 && now_s() < until_s) {
        rings_rx(user);
        rings_take(user, SLOTS);
        if (poll(&event, 1, 1) == 1) {
            CHECK_EQ(device_event(device), 0); /* not replaced: it has said why it ended */
        }
    }
    rings_rx(user);
    rings_take(user, SLOTS);
    CHECK(user->stopped || user->port->counters->rx_ended == 1);
    CHECK_EQ(user->stopped, user->port->counters->errors > 0);
}

static void replay(struct device *device)
{
    const struct fed_ring *ring = device->ports[0].priv;
    uint64_t until_s = now_s() + PATIENCE_S;
    uint32_t done = 0;

    struct rings_user user[RINGS];

    for (uint32_t i = 0; i < RINGS; i++) {
        user[i] = (struct rings_user){.port = &device->ports[i],
                                      .bufs = NM_BUF_FIRST + 2 * SLOTS,
                                      .slots = SLOTS,
                                      .min_len = PORT_VNET_HDR_LEN + 1};
    }
    /* A source that waits for room must find it in both rings. */
    while (done == 0 && now_s() < until_s) {
        for (uint32_t i = 0; i < RINGS; i++) {
            rings_rx(&user[i]);
            rings_take(&user[i], SLOTS);
            done += user[i].stopped || user[i].port->counters->rx_ended;
        }
    }
    for (uint32_t i = 0; i < RINGS; i++) {
        take_all(device, &user[i], until_s);
    }
    CHECK(ring->common->ended == 1 || ring->common->gone == EBADMSG);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void *libpcap;
    struct device_config config = {.rings = RINGS, .slots = SLOTS};
    char error[PORT_ERROR_MAX] = "";
    char spec[PORT_NAME_MAX];
    struct device *device;
    int fd;

    libpcap = libpcap ? libpcap : dlopen("libpcap.so.0.8", RTLD_NOW); /* once, not every time */
    if (!libpcap) {
        return 0;
    }
    fd = write_file(data, size);
    snprintf(spec, sizeof(spec), "pcap:/proc/self/fd/%d", fd);
    if (device_open(&device, spec, &config, error) == 0) {
        replay(device);
        device_close(device);
    } else {
        CHECK(strncmp(error, spec, strlen(spec)) == 0);
        fuzz_say("%s\n", error);
    }
    close(fd);
    fuzz_settle();
    return 0;
}
