/* A packet socket that says and takes whole frames with their checksums' state; see raw_peer.h. */
#include "raw_peer.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <linux/if_ether.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ports/packet.h"

enum {
    RECEIVE_BYTES = 64 << 20,
    MACS_LEN = 2 * ETH_ALEN_BYTES,
    VLAN_LEN = 4,
};

static bool set_int(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof(value)) == 0;
}

static bool read_mac(int fd, const char *iface, uint8_t mac[6])
{
    struct ifreq ifr = {0};

    snprintf(ifr.ifr_name, sizeof(ifr.ifr_name), "%s", iface);
    if (ioctl(fd, SIOCGIFHWADDR, &ifr) != 0) {
        return false;
    }
    memcpy(mac, ifr.ifr_hwaddr.sa_data, 6);
    return true;
}

int raw_peer_open(const char *iface, uint8_t mac[6])
{
    int fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct sockaddr_ll addr = {.sll_family = AF_PACKET,
                               .sll_protocol = htons(ETH_P_ALL),
                               .sll_ifindex = (int)if_nametoindex(iface)};

    CHECK(set_int(fd, SOL_PACKET, PACKET_VNET_HDR, 1));
    CHECK(set_int(fd, SOL_PACKET, PACKET_AUXDATA, 1));
    CHECK(set_int(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, 1));
    CHECK(set_int(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1));
    if (!set_int(fd, SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)) {
        set_int(fd, SOL_SOCKET, SO_RCVBUF, RECEIVE_BYTES);
    }
    CHECK(read_mac(fd, iface, mac));
    CHECK_EQ(bind(fd, (struct sockaddr *)&addr, sizeof(addr)), 0);
    return fd;
}

bool raw_peer_inject(int fd, const struct frame *frame)
{
    struct iovec iov[2] = {{(void *)(uintptr_t)&frame->hdr, PACKET_VNET_LEN},
                           {(void *)(uintptr_t)frame->data, frame->len}};
    ssize_t sent = writev(fd, iov, 2);

    if (sent < 0) {
        CHECK(errno == ENOBUFS || errno == EAGAIN || errno == ENETDOWN || errno == EINTR);
        return false;
    }
    return CHECK_EQ(sent, PACKET_VNET_LEN + frame->len);
}

/* Puts a tag that the kernel took off back into its place. */
static void put_tag_back(struct frame *frame, const struct tpacket_auxdata *aux)
{
    uint16_t tag[2] = {htons(ETH_P_8021Q), htons(aux->tp_vlan_tci)};

    if (!(aux->tp_status & TP_STATUS_VLAN_VALID)) {
        return;
    }
    if (aux->tp_status & TP_STATUS_VLAN_TPID_VALID) {
        tag[0] = htons(aux->tp_vlan_tpid);
    }
    memmove(frame->data + MACS_LEN + VLAN_LEN, frame->data + MACS_LEN, frame->len - MACS_LEN);
    memcpy(frame->data + MACS_LEN, tag, sizeof(tag));
    frame->len += VLAN_LEN;
    frame->hdr.csum_start = (uint16_t)(frame->hdr.csum_start + VLAN_LEN);
}

bool raw_peer_collect(int fd, struct frame *frame)
{
    struct iovec iov[2] = {{&frame->hdr, PACKET_VNET_LEN},
                           {frame->data, sizeof(frame->data) - VLAN_LEN}};
    _Alignas(struct cmsghdr) uint8_t control[CMSG_SPACE(sizeof(struct tpacket_auxdata))];
    struct msghdr msg = {
        .msg_iov = iov, .msg_iovlen = 2, .msg_control = control, .msg_controllen = sizeof(control)};
    ssize_t len = recvmsg(fd, &msg, 0);
    const struct cmsghdr *cmsg;
    struct tpacket_auxdata aux;

    if (len <= PACKET_VNET_LEN) {
        CHECK(len >= 0 || errno == EAGAIN || errno == ENETDOWN || errno == EINTR);
        return false;
    }
    frame->hdr.num_buffers = 0;
    frame->len = (uint32_t)len - PACKET_VNET_LEN;
    cmsg = CMSG_FIRSTHDR(&msg);
    if (CHECK(cmsg && cmsg->cmsg_type == PACKET_AUXDATA)) {
        memcpy(&aux, CMSG_DATA(cmsg), sizeof(aux));
        put_tag_back(frame, &aux);
    }
    return true;
}
