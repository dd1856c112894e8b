/*
 * The same loops over a port of ours: what the raw programs beside it are compared with.
 * Run: port_loop rx DEVICE SECONDS CPU, port_loop tx DEVICE SECONDS CPU MAC
 */
#include "loop.h"
#include "ports/port.h"

static struct port *open_port(const char *spec)
{
    struct device_config config = {.rings = 1, .every_frame = false};
    struct device *device;
    char error[PORT_ERROR_MAX] = "";

    if (device_open(&device, spec, &config, error) != 0) {
        fprintf(stderr, "port_loop: %s\n", error);
        exit(1);
    }
    return &device->ports[0];
}

static uint64_t now_us(void)
{
    return (uint64_t)(loop_now() * 1e6);
}

static uint32_t header_of(const struct port *port)
{
    return port->caps & PORT_CAP_VNET_HDR ? PORT_VNET_HDR_LEN : 0;
}

static void rest(struct port *port)
{
    if (port->ops->sleep_arm(port) == 0) {
        loop_nap();
    }
    port->ops->sleep_disarm(port);
}

static void receive(struct port *port)
{
    struct nm_ring *rx = port->rx;
    uint32_t header = header_of(port);
    uint64_t frames = 0;
    uint32_t sum = 0;

    while (!loop_over) {
        uint32_t tail;

        loop_need(port->ops->rx_sync(port, now_us()) == 0, "rx_sync");
        tail = nm_ring_tail(rx);
        if (rx->head == tail) {
            rest(port);
            continue;
        }
        for (uint32_t at = rx->head; at != tail; at = nm_ring_next(rx, at)) {
            sum += nm_ring_buf(rx, at)[header + 12];
            frames++;
        }
        nm_ring_give(rx, tail);
    }
    loop_report(frames, sum);
}

static void transmit(struct port *port, const char *mac)
{
    struct nm_ring *tx = port->tx;
    uint32_t header = header_of(port);
    uint64_t before = port->counters->tx_frames;
    uint8_t frame[LOOP_FRAME];

    loop_frame(frame, mac);
    while (!loop_over) {
        uint32_t n = min_u32(nm_ring_space(tx), LOOP_BURST);
        uint32_t at = tx->head;

        for (; n > 0; n--) {
            uint8_t *buf = nm_ring_buf(tx, at);

            memset(buf, 0, header);
            memcpy(buf + header, frame, LOOP_FRAME);
            tx->slot[at].len = (uint16_t)(header + LOOP_FRAME);
            tx->slot[at].flags = 0;
            at = nm_ring_next(tx, at);
        }
        nm_ring_give(tx, at);
        loop_need(port->ops->tx_sync(port, now_us()) == 0, "tx_sync");
    }
    loop_report(port->counters->tx_frames - before, 0);
}

int main(int argc, char **argv)
{
    bool rx = argc == 5 && strcmp(argv[1], "rx") == 0;
    bool tx = argc == 6 && strcmp(argv[1], "tx") == 0 && strlen(argv[5]) == 17;
    struct port *port;

    if (!rx && !tx) {
        fputs("port_loop rx DEVICE SECONDS CPU | tx DEVICE SECONDS CPU MAC\n", stderr);
        return 2;
    }
    port = open_port(argv[2]);
    loop_start(atoi(argv[4]), argv[3]);
    if (rx) {
        receive(port);
    } else {
        transmit(port, argv[5]);
    }
    return 0;
}
