/* Who has put an XDP program on an interface: the link's attributes by rtnetlink; see xdp.h. */
#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ports/xdp.h"

enum {
    ANSWER_MAX = 32768, /* of one link; the kernel's dump buffers are no larger */
    HAS_PROGRAM = 4,    /* attributes of IFLA_XDP that name a program */
};

struct request {
    struct nlmsghdr header;
    struct ifinfomsg info;
};

/* The attribute of a type in [at, at + len), or NULL. Lengths come from the kernel, checked. */
static const struct nlattr *find_attr(const uint8_t *at, size_t len, uint16_t type)
{
    while (len >= sizeof(struct nlattr)) {
        const struct nlattr *attr = (const struct nlattr *)(const void *)at;
        size_t step = NLA_ALIGN(attr->nla_len);

        if (attr->nla_len < sizeof(*attr) || attr->nla_len > len) {
            return NULL;
        }
        if ((attr->nla_type & NLA_TYPE_MASK) == type) {
            return attr;
        }
        if (step >= len) {
            return NULL;
        }
        at += step;
        len -= step;
    }
    return NULL;
}

static const uint8_t *payload_of(const struct nlattr *attr)
{
    return (const uint8_t *)attr + sizeof(*attr);
}

static uint32_t number_of(const struct nlattr *attr)
{
    uint32_t number = 0;

    if (attr && attr->nla_len >= sizeof(*attr) + sizeof(number)) {
        memcpy(&number, payload_of(attr), sizeof(number));
    }
    return number;
}

static int ask_link(int fd, int ifindex, uint8_t *answer, size_t *len)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct request request = {.header = {.nlmsg_len = sizeof(request),
                                         .nlmsg_type = RTM_GETLINK,
                                         .nlmsg_flags = NLM_F_REQUEST},
                              .info = {.ifi_family = AF_UNSPEC, .ifi_index = ifindex}};
    ssize_t got;

    if (sendto(fd, &request, sizeof(request), 0, (struct sockaddr *)&kernel, sizeof(kernel)) < 0) {
        return -errno;
    }
    got = recv(fd, answer, ANSWER_MAX, 0);
    if (got < 0) {
        return -errno;
    }
    *len = (size_t)got;
    return 0;
}

/* The IFLA_XDP nest names one program, or, with several modes at once, one for each. */
static void read_programs(const struct nlattr *nest, struct xdp_tenant *tenant)
{
    static const uint16_t kinds[HAS_PROGRAM] = {IFLA_XDP_PROG_ID, IFLA_XDP_DRV_PROG_ID,
                                                IFLA_XDP_SKB_PROG_ID, IFLA_XDP_HW_PROG_ID};
    size_t len = nest->nla_len - sizeof(*nest);

    for (int i = 0; i < HAS_PROGRAM && tenant->prog_id == 0; i++) {
        tenant->prog_id = number_of(find_attr(payload_of(nest), len, kinds[i]));
    }
    tenant->generic = find_attr(payload_of(nest), len, IFLA_XDP_SKB_PROG_ID) != NULL;
}

/* Only root may ask for a program by its number: without a name the number stands alone. */
static void read_name(struct xdp_tenant *tenant)
{
    union bpf_attr by_id = {.prog_id = tenant->prog_id};
    struct bpf_prog_info info = {0};
    union bpf_attr about = {.info = {.info_len = sizeof(info), .info = (uint64_t)(uintptr_t)&info}};
    int fd = (int)syscall(SYS_bpf, BPF_PROG_GET_FD_BY_ID, &by_id, sizeof(by_id));

    if (fd < 0) {
        return;
    }
    about.info.bpf_fd = (uint32_t)fd;
    if (syscall(SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &about, sizeof(about)) == 0) {
        memcpy(tenant->name, info.name, sizeof(tenant->name));
        tenant->name[sizeof(tenant->name) - 1] = '\0';
    }
    close(fd);
}

int xdp_tenant_find(int ifindex, struct xdp_tenant *tenant)
{
    static const size_t start = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(struct ifinfomsg));
    _Alignas(NLMSG_ALIGNTO) uint8_t answer[ANSWER_MAX];
    const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)answer;
    const struct nlattr *nest;
    size_t len = 0;
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    int code;

    *tenant = (struct xdp_tenant){0};
    if (fd < 0) {
        return -errno;
    }
    code = ask_link(fd, ifindex, answer, &len);
    close(fd);
    if (code != 0 || len < start || header->nlmsg_type != RTM_NEWLINK) {
        return code != 0 ? code : -ENODEV;
    }
    nest = find_attr(answer + start, len - start, IFLA_XDP);
    if (nest) {
        read_programs(nest, tenant);
    }
    if (tenant->prog_id != 0) {
        read_name(tenant);
    }
    return 0;
}
