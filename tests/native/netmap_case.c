/* Devices on the fake module; see netmap_case.h. */
#include "netmap_case.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ports/backends.h"

char case_error[PORT_ERROR_MAX];

int case_open(struct device **out, const char *name, const struct device_config *config)
{
    static const struct device_config defaults;
    struct device *device = calloc(1, sizeof(*device));
    int code;

    device->ops = &netmap_device_ops;
    device->event_fd = -1;
    snprintf(device->name, sizeof(device->name), "netmap:%s", name);
    case_error[0] = '\0';
    code = netmap_open_on(device, &fake_kernel, name, config ? config : &defaults, case_error);
    if (code != 0) {
        free(device);
        device = NULL;
    }
    *out = device;
    return code;
}

struct device *case_port(const char *name)
{
    struct device *device;

    if (case_open(&device, name, NULL) != 0) {
        printf("    %s\n", case_error);
        CHECK(!"opens");
    }
    return device;
}

bool case_refused(const char *name, const struct device_config *config, int code, const char *words)
{
    struct device *device = NULL;
    int got = case_open(&device, name, config);

    if (got != code || !strstr(case_error, words)) {
        printf("    %s: %d, %s\n", name, got, case_error);
    }
    if (device) {
        device_close(device);
    }
    return got == code && strstr(case_error, words) && strstr(case_error, name);
}

void case_send(struct port *port, uint32_t n, uint8_t first)
{
    struct nm_ring *ring = port->tx;
    uint32_t head = ring->head;

    for (uint32_t i = 0; i < n; i++) {
        memset(nm_ring_buf(ring, head), first + (int)i, FRAME);
        ring->slot[head].len = FRAME;
        ring->slot[head].flags = 0;
        head = nm_ring_next(ring, head);
    }
    nm_ring_give(ring, head);
}

/* Frames between the port's head and tail; each filled with its number from `first` on. */
uint32_t case_take(struct port *port, uint8_t first)
{
    struct nm_ring *ring = port->rx;
    uint32_t head = ring->head;
    uint32_t n = 0;

    for (; head != nm_ring_tail(ring); head = nm_ring_next(ring, head)) {
        CHECK_EQ(ring->slot[head].len, FRAME);
        CHECK_EQ(nm_ring_buf(ring, head)[FRAME - 1], (uint8_t)(first + n));
        n++;
    }
    nm_ring_give(ring, head);
    return n;
}

void case_arrive(struct fake_port *nic, uint32_t ring, uint8_t number)
{
    uint8_t frame[FRAME];

    memset(frame, number, sizeof(frame));
    fake_receive(nic, ring, frame, sizeof(frame));
}
