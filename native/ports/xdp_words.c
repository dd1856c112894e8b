/* What the name of a device says, and what is said of it: refusals and the banner; see xdp.h. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "ports/xdp.h"

static const char *const mode_names[XDP_MODES] = {"zerocopy", "copy", "generic"};

static const char *const mode_texts[XDP_MODES] = {"zero-copy", "copy mode (program in the driver)",
                                                  "generic mode (program behind the driver)"};

int xdp_refuse(char *error, const char *iface, const char *what, int code)
{
    snprintf(error, PORT_ERROR_MAX, "xdp:%.40s: %.140s (%.60s)", iface, what, strerror(-code));
    return code;
}

/* The same, where the way out is another backend. */
static int refer(char *error, const char *iface, const char *what, int code)
{
    snprintf(error, PORT_ERROR_MAX, "xdp:%.24s: %.140s, or use packet:%.24s (%.40s)", iface, what,
             iface, strerror(-code));
    return code;
}

static bool take_word(struct xdp_wishes *wishes, const char *word)
{
    for (int mode = 0; mode < XDP_MODES; mode++) {
        if (strcmp(word, mode_names[mode]) == 0) {
            wishes->mode = mode;
            return true;
        }
    }
    if (strcmp(word, "busy-poll") == 0) {
        wishes->busy_poll = true;
        return true;
    }
    wishes->verify |= strcmp(word, "verify") == 0;
    return strcmp(word, "verify") == 0;
}

/* "IFACE[:MODE][:busy-poll][:verify]"; a colon cannot be part of an interface's name. */
int xdp_parse_name(struct xdp_wishes *wishes, const char *name, char *error)
{
    char text[PORT_NAME_MAX];
    char *rest = NULL;
    char *word;

    *wishes = (struct xdp_wishes){.mode = -1};
    snprintf(text, sizeof(text), "%s", name);
    word = strtok_r(text, ":", &rest);
    snprintf(wishes->iface, sizeof(wishes->iface), "%s", word ? word : "");
    for (word = strtok_r(NULL, ":", &rest); word; word = strtok_r(NULL, ":", &rest)) {
        if (!take_word(wishes, word)) {
            return xdp_refuse(
                error, name,
                "behind the interface stand :zerocopy, :copy or :generic, :busy-poll and "
                ":verify, nothing else",
                -EINVAL);
        }
    }
    return 0;
}

/* What packet_link.c says begins with its own backend's name. */
int xdp_as_ours(char *error, int code)
{
    static const char theirs[] = "packet:";
    static const char ours[] = "xdp:";

    if (code < 0 && strncmp(error, theirs, sizeof(theirs) - 1) == 0) {
        memmove(error + sizeof(ours) - 1, error + sizeof(theirs) - 1,
                strlen(error + sizeof(theirs) - 1) + 1);
        memcpy(error, ours, sizeof(ours) - 1);
    }
    return code;
}

int xdp_refuse_tenant(const char *iface, const struct xdp_tenant *tenant, char *error)
{
    bool dispatcher = strcmp(tenant->name, "xdp_dispatcher") == 0;

    snprintf(error, PORT_ERROR_MAX,
             "xdp:%s: %s \"%s\" (id %u%s) is on the interface: take it off with `%s`, or use "
             "packet:%s",
             iface, dispatcher ? "libxdp's dispatcher" : "the XDP program",
             tenant->name[0] ? tenant->name : "?", tenant->prog_id,
             tenant->generic ? ", generic" : "",
             dispatcher ? "xdp-loader unload DEV --all" : "ip link set DEV xdp off", iface);
    return -EBUSY;
}

static int refuse_mode(const struct xdp_device *xdp, int code, char *error)
{
    const char *iface = xdp->wishes.iface;

    if (xdp->wishes.mode < 0) {
        return refer(error, iface,
                     "this driver has no mode of AF_XDP for it: lower its MTU, give it as many "
                     "receive queues as its peer sends on",
                     code);
    }
    snprintf(error, PORT_ERROR_MAX,
             "xdp:%s: its driver cannot do %s, which was asked for by name (%s): lower the MTU, or "
             "give xdp:%s for the best that there is",
             iface, mode_names[xdp->wishes.mode], strerror(-code), iface);
    return code;
}

static int refuse_kernel(const struct xdp_device *xdp, int code, char *error)
{
    return refer(error, xdp->wishes.iface,
                 "this kernel has no XDP as it is needed here: take Linux 5.10 with "
                 "CONFIG_XDP_SOCKETS and CONFIG_BPF_SYSCALL",
                 code);
}

int xdp_refuse_open(const struct xdp_device *xdp, int code, char *error)
{
    const char *what = NULL;

    if (code == -EPERM || code == -EACCES) {
        return refer(error, xdp->wishes.iface,
                     "no permission: run as root, or with CAP_NET_RAW, CAP_NET_ADMIN and CAP_BPF "
                     "outside of user namespaces",
                     code);
    }
    if (code == -EAFNOSUPPORT) {
        return refuse_kernel(xdp, code, error);
    }
    if (code == -EBUSY || code == -EEXIST) {
        what =
            "another program has an AF_XDP socket on one of its queues, or XDP on the interface: "
            "see `ip link show` and `ss --xdp`, and stop it";
    } else if (code == -ENOBUFS) {
        what = "its buffers are more memory than this process may lock: raise it with "
               "`ulimit -l unlimited`, or use fewer slots";
    } else if (code == -ENOMEM) {
        what = "not enough memory for its rings: use fewer rings or slots";
    } else if (code == -ENODEV) {
        what = "the interface has gone";
    } else if (code == -EADDRNOTAVAIL) {
        what = "the host's kernel tells the card's MAC for this address: leave --mac out";
    }
    return what ? xdp_refuse(error, xdp->wishes.iface, what, code) : refuse_mode(xdp, code, error);
}

/* Anything but permission at this stage is a kernel that was built without it, or is too old. */
int xdp_refuse_program(const struct xdp_device *xdp, int code, char *error)
{
    if (code == -EPERM || code == -EACCES || code == -ENOMEM) {
        return xdp_refuse_open(xdp, code, error);
    }
    return refuse_kernel(xdp, code, error);
}

void xdp_describe(struct device *device)
{
    const struct xdp_device *xdp = device->priv;
    char why[PORT_ERROR_MAX / 2 - 16] = "";
    char of_all[12] = "";
    uint8_t taken = (uint8_t)__builtin_popcountll(xdp->taken);
    bool own = memcmp(device->mac, xdp->link.mac, sizeof(device->mac)) != 0;

    if (taken != xdp->queues) {
        snprintf(of_all, sizeof(of_all), " of %u", (uint8_t)xdp->queues); /* 64 at most */
    }

    for (int mode = 0; mode < XDP_MODES; mode++) {
        size_t used = strlen(why);

        if (xdp->refused[mode] != 0) {
            snprintf(why + used, sizeof(why) - used, "%s no %s: %s", used ? "," : ";",
                     mode_names[mode], strerror(-xdp->refused[mode]));
        }
    }
    snprintf(device->banner, sizeof(device->banner), "AF_XDP: %s, %u%s queue%s, %s%s%s%.120s",
             mode_texts[xdp->mode], taken, of_all, xdp->queues > 1 ? "s" : "",
             xdp->wishes.busy_poll ? "busy-poll" : "need_wakeup",
             xdp->ports[0].unfinished ? ", unfinished checksums of a local peer" : "",
             xdp->promisc_fd < 0 ? ""
             : own               ? ", promiscuous for a MAC of its own"
                                 : ", promiscuous for every frame",
             why);
}
