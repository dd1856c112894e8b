/*
 * packet: on a real wire, for tests: a veth pair in a namespace of the test's own, with the kernel
 * as the peer. The service's address is nobody's, so the kernel itself never answers.
 */
#pragma once
#include "base/wire.h"
#include "check.h"
#include "netns.h"
#include "ports/packet.h"

enum {
    WAIT_MS = 20000, /* for what must come, on a machine that does other things, too */
    UDP_HDR = 8,
    UDP_HEADERS = ETH_HDR_LEN + IPV4_HDR_LEN + UDP_HDR,
    SERVICE_PORT = 7,
    CLIENT_PORT = 40000,
    JUMBO = 9000,
    ADDR_CLIENT = 0x0a090001, /* 10.9.0.1 on cli0 */
    ADDR_SERVICE = 0x0a090002,
};

/* One wire for a case: cli0 with an address, srv0 opened as packet:srv0. */
struct packet_wire {
    struct device *device;
    int udp; /* a kernel socket on the client's side, connected to the service */
    uint8_t client_mac[6];
    char error[PORT_ERROR_MAX];
};

/* A received frame in one piece. */
struct whole_frame {
    struct vnet_hdr hdr;
    uint32_t len;
    uint32_t slots;
    uint8_t data[70000];
};

extern struct whole_frame got; /* by wire_take */

uint64_t wire_now_us(void);
/* cli0 and srv0 in a new namespace; false: skipped or failed, and said so. */
bool wire_make(unsigned queues, unsigned mtu);
/* Tells the client's kernel which MAC the service has. */
bool wire_resolve(const uint8_t mac[6]);
bool wire_open_device(struct packet_wire *wire, const char *spec,
                      const struct device_config *config);
/* Both, with rings of 256 slots and a UDP socket on the client's side. */
bool wire_open(struct packet_wire *wire, unsigned rings, unsigned mtu);
void wire_close(struct packet_wire *wire);
/* A UDP socket from `local_port` to the service. */
int wire_client(uint16_t local_port);
/* False: the case is skipped. */
bool wire_has_libpcap(void);
/* The frame at the ring's head, into `got`; false: there is none. Gives its slots back. */
bool wire_take(struct port *port);
/* Waits for a frame the way a worker does. */
bool wire_receive(struct port *port);
/* The next datagram that our kernel got; one that is due is waited for: a busy kernel is late. */
bool wire_datagram(const struct packet_wire *wire, void *bytes, size_t len, bool due);
uint16_t wire_word(uint32_t offset);
uint32_t wire_long(uint32_t offset);
void wire_fill(uint8_t *bytes, uint32_t len, uint32_t seed);
/* Ethernet and IPv4 headers of a frame from the service to the client; returns where L4 begins. */
uint8_t *wire_write_ip(const struct packet_wire *wire, uint8_t *buf, uint8_t protocol,
                       uint32_t l4_len);
/* Puts a frame, behind its virtio header, into as many TX slots as it takes. */
void wire_push(struct port *port, const struct vnet_hdr *hdr, const uint8_t *frame, uint32_t len);
/* A datagram from the service to the client's socket, without UDP checksum. */
void wire_push_udp(const struct packet_wire *wire, const void *payload, uint32_t len);
/* The kernel's TCP connects and sends super-segments; some go back. On ring 0. */
void wire_tcp_both_ways(const struct packet_wire *wire);
/* The host's side of a TAP or a switch: cli0 has its address, and knows the service's MAC. */
bool wire_open_host(struct packet_wire *wire, const char *spec, const struct device_config *config);
void wire_close_host(struct packet_wire *wire);
/* Learns the MAC of cli0. */
void wire_read_client_mac(struct packet_wire *wire);
/* Enters a namespace of the test's own; false: skipped. */
bool wire_enter(void);
