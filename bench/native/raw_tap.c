/*
 * A TAP queue without us: read and write, one frame each.
 * Run: raw_tap rx NAME SECONDS CPU, raw_tap tx NAME SECONDS CPU
 */
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "loop.h"

static int open_tap(const char *name)
{
    struct ifreq ifr = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_MULTI_QUEUE};
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK);
    int size = LOOP_VNET;
    int up = socket(AF_INET, SOCK_DGRAM, 0);

    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", name);
    loop_need(fd >= 0 && ioctl(fd, TUNSETIFF, &ifr) == 0, "TUNSETIFF");
    loop_need(ioctl(fd, TUNSETVNETHDRSZ, &size) == 0, "TUNSETVNETHDRSZ");
    loop_need(ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4) == 0, "TUNSETOFFLOAD");
    ifr.ifr_flags = IFF_UP;
    loop_need(ioctl(up, SIOCSIFFLAGS, &ifr) == 0, "SIOCSIFFLAGS");
    close(up);
    return fd;
}

static void receive(int fd)
{
    static uint8_t frame[LOOP_VNET + 65580];
    uint64_t frames = 0;
    uint32_t sum = 0;

    while (!loop_over) {
        ssize_t len = read(fd, frame, sizeof(frame));

        if (len < 0) {
            loop_need(errno == EAGAIN || errno == EINTR, "read");
            loop_nap();
            continue;
        }
        sum += frame[LOOP_VNET + 12];
        frames++;
    }
    loop_report(frames, sum);
}

static void transmit(int fd)
{
    uint8_t bytes[LOOP_VNET + LOOP_FRAME] = {0};
    uint8_t frame[LOOP_FRAME];
    uint64_t frames = 0;

    loop_frame(frame, "02:00:00:00:00:99"); /* not the host's: its IP does not look */
    while (!loop_over) {
        memcpy(bytes + LOOP_VNET, frame, LOOP_FRAME);
        if (write(fd, bytes, sizeof(bytes)) > 0) {
            frames++;
        }
    }
    loop_report(frames, 0);
}

int main(int argc, char **argv)
{
    bool rx = argc == 5 && strcmp(argv[1], "rx") == 0;
    int fd;

    if (argc != 5 || (!rx && strcmp(argv[1], "tx") != 0)) {
        fputs("raw_tap rx|tx NAME SECONDS CPU\n", stderr);
        return 2;
    }
    fd = open_tap(argv[2]);
    loop_start(atoi(argv[4]), argv[3]);
    if (rx) {
        receive(fd);
    } else {
        transmit(fd);
    }
    return 0;
}
