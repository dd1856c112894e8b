/* xdp: the program says of every frame what filter_takes() says. */
#include <arpa/inet.h>
#include <linux/bpf.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/wire.h"
#include "xdp_wire.h"

enum {
    OURS = 0x0a000001,
    FRAMES = 4000, /* for each rule */
    LONGEST = 100,
    ECHO = 7,
    HIGH = 65535,
};

/* What the program answers: XDP_PASS or XDP_REDIRECT; -1: it could not be run. */
static int answer(const struct xdp_program *program, const uint8_t *frame, uint32_t len)
{
    union bpf_attr attr = {.test = {.prog_fd = (uint32_t)program->prog_fd,
                                    .data_in = (uint64_t)(uintptr_t)frame,
                                    .data_size_in = len,
                                    .repeat = 1}};

    if (syscall(SYS_bpf, BPF_PROG_TEST_RUN, &attr, sizeof(attr)) != 0) {
        return -1;
    }
    return (int)attr.test.retval;
}

/* Mostly of a kind that gets far in the program, by turns wrong in one place. */
static uint32_t make(uint8_t frame[LONGEST], uint64_t *seed)
{
    static const uint16_t kinds[] = {ETHERTYPE_IPV4, ETHERTYPE_IPV4, ETHERTYPE_IPV4, ETHERTYPE_IPV4,
                                     ETHERTYPE_ARP,  0x86dd,         0x8100,         0x88a8};
    static const uint16_t tcp_ports[] = {ECHO, HIGH, 22, ECHO << 8};
    uint64_t dice[8];
    uint32_t header;

    for (uint32_t i = 0; i < 8; i++) {
        dice[i] = splitmix64(seed);
    }
    for (uint32_t i = 0; i < LONGEST; i++) {
        frame[i] = (uint8_t)splitmix64(seed);
    }
    store_u16(frame + 12, htons(kinds[dice[0] % 8]));
    frame[14] = dice[1] % 4 ? 0x45 : (uint8_t)dice[1];
    header = (frame[14] & 15u) * 4;
    store_u16(frame + 20, dice[2] % 4 ? htons(0x4000) : (uint16_t)(dice[2] >> 8));
    frame[23] = dice[3] % 4 ? PROTO_TCP : (uint8_t)(dice[3] >> 8);
    if (dice[4] % 8) {
        store_u32(frame + 30, htonl(OURS));
    }
    store_u16(frame + 14 + header + 2, htons(tcp_ports[dice[5] % 4]));
    if (dice[0] % 8 == 4 && dice[6] % 4) {
        store_u32(frame + 38, htonl(OURS));
    }
    return dice[7] % 4 ? 60 : 14 + (uint32_t)(dice[7] >> 8) % (LONGEST - 14);
}

static void compare(int socket, uint32_t take, uint32_t ip)
{
    struct device_config config = {.take = take, .ip = ip, .tcp_ports = {ECHO, HIGH}};
    struct xdp_program program;
    struct filter filter;
    uint64_t seed = 1;
    uint32_t ours = 0;

    filter_set(&filter, &config);
    if (!CHECK_EQ(xdp_program_load(&program, 1, &filter), 0)) {
        return;
    }
    CHECK_EQ(xdp_program_set_socket(&program, 0, socket), 0);
    for (uint32_t i = 0; i < FRAMES && check_failures() == 0; i++) {
        uint8_t frame[LONGEST];
        uint32_t len = make(frame, &seed);
        bool takes = filter_takes(&filter, frame, len);

        ours += takes;
        CHECK_EQ(answer(&program, frame, len), takes ? XDP_REDIRECT : XDP_PASS);
    }
    CHECK(ours > FRAMES / 20);
    CHECK_EQ(ours == FRAMES, take == PORT_TAKE_ALL);
    xdp_program_close(&program);
}

static void the_program_and_the_filter_agree(void)
{
    struct packet_wire wire;
    const struct xdp_device *xdp;

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0"})) {
        return;
    }
    xdp = wire.device->priv;
    compare(xdp->ports[0].socket[0].fd, PORT_TAKE_ALL, OURS);
    compare(xdp->ports[0].socket[0].fd, PORT_TAKE_ADDRESS, OURS);
    compare(xdp->ports[0].socket[0].fd, PORT_TAKE_ADDRESS, 0);
    compare(xdp->ports[0].socket[0].fd, PORT_TAKE_PORTS, OURS);
    wire_close(&wire);
}

static void what_has_no_socket_is_the_hosts(void)
{
    struct device_config config = {.take = PORT_TAKE_ALL};
    struct packet_wire wire;
    struct xdp_program program;
    struct filter filter;
    uint8_t frame[60] = {0};

    if (!xdp_wire_open(&wire, &(struct xdp_plan){.spec = "xdp:srv0"})) {
        return;
    }
    filter_set(&filter, &config);
    CHECK_EQ(xdp_program_load(&program, 4, &filter), 0);
    CHECK_EQ(answer(&program, frame, sizeof(frame)), XDP_PASS);
    xdp_program_close(&program);
    wire_close(&wire);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the program and the filter agree", the_program_and_the_filter_agree},
        {"what has no socket is the host's", what_has_no_socket_is_the_hosts},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
