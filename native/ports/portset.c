/* Opening, serving and waiting for sets of ports; see portset.h. */
#include "ports/portset.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "ports/hooks.h"

enum {
    AUTO_TRIES = 3, /* two that start at once: one becomes the owner, the other tries again */
    ANSWER_NS = 200000,
    NAP_US = 20, /* of a port that must not sleep, or has nothing to sleep on */
};

/* The name behind "mem:", if that is a device which links can be attached to, or its host. */
static const char *link_name(const char *spec)
{
    bool mem = strncmp(spec, "mem:", 4) == 0 && spec[4] != '\0' && !strpbrk(spec, "{}*");

    return mem ? spec + 4 : NULL;
}

static void take_device(struct portset *set)
{
    struct device *device = set->device;

    for (uint32_t i = 0; i < device->rings; i++) {
        set->ports[i] = &device->ports[i];
    }
    set->n = device->rings;
    set->mtu = device->mtu;
    memcpy(set->mac, device->mac, 6);
    memset(set->peer_mac, 0xff, 6);
    memcpy(set->banner, device->banner, sizeof(set->banner));
}

static void take_link(struct portset *set)
{
    set->ports[0] = mem_attachment_port(set->link);
    set->n = 1;
    set->mtu = mem_attachment_mtu(set->link);
    memcpy(set->mac, mem_attachment_mac(set->link, false), 6);
    memcpy(set->peer_mac, mem_attachment_mac(set->link, true), 6);
    snprintf(set->banner, sizeof(set->banner), "link %u of a software NIC in shared memory",
             mem_attachment_link(set->link));
}

static int attach(struct portset *set, const char *spec, char *error)
{
    const char *name = link_name(spec);
    int code;

    if (!name) {
        snprintf(error, PORT_ERROR_MAX,
                 "%.64s: only mem:NAME and mem:NAME^ are attached to: open it as the owner", spec);
        return -EINVAL;
    }
    code = mem_attach(&set->link, name, error);
    if (code == 0) {
        take_link(set);
    }
    return code;
}

int portset_attach(struct portset *set, const struct portset *owner, char *error)
{
    int code = -EINVAL;

    memset(set, 0, sizeof(*set));
    snprintf(set->name, sizeof(set->name), "%s", owner->name);
    if (owner->device && strncmp(owner->name, "mem:", 4) == 0 && !strpbrk(owner->name, "{}")) {
        code = mem_attach_local(&set->link, owner->device);
    }
    if (code != 0) {
        snprintf(error, PORT_ERROR_MAX, "%s: no link to be had: %s", owner->name,
                 code == -EINVAL ? "only the owner of a mem: device gives links"
                                 : "all are taken: open it with more links");
        return code;
    }
    take_link(set);
    return 0;
}

static int own(struct portset *set, const char *spec, const struct device_config *config,
               char *error)
{
    int code = device_open(&set->device, spec, config, error);

    if (code == 0) {
        take_device(set);
    }
    return code;
}

static int attach_or_own(struct portset *set, const char *spec, const struct device_config *config,
                         char *error)
{
    int code = -EADDRINUSE;

    if (!link_name(spec)) {
        return own(set, spec, config, error);
    }
    for (int i = 0; i < AUTO_TRIES && code == -EADDRINUSE; i++) {
        code = attach(set, spec, error);
        if ((code == -ECONNREFUSED || code == -ENOENT) && !strchr(spec, '^')) {
            error[0] = '\0';
            code = own(set, spec, config, error);
        }
    }
    return code;
}

int portset_open(struct portset *set, const char *spec, const struct device_config *config,
                 enum portset_role role, char *error)
{
    memset(set, 0, sizeof(*set));
    snprintf(set->name, sizeof(set->name), "%s", spec);
    if (role == PORTSET_CLIENT) {
        return attach(set, spec, error);
    }
    return role == PORTSET_OWNER ? own(set, spec, config, error)
                                 : attach_or_own(set, spec, config, error);
}

void portset_close(struct portset *set)
{
    for (uint32_t i = 0; i < set->n; i++) {
        hooks_unwrap(set->ports[i]);
    }
    if (set->link) {
        mem_detach(set->link);
    }
    if (set->device) {
        device_close(set->device);
    }
    memset(set, 0, sizeof(*set));
}

int portset_serve(struct portset *set)
{
    if (set->link) {
        return mem_attachment_alive(set->link) ? 0 : -EPIPE;
    }
    return set->device->event_fd >= 0 ? device_event(set->device) : 0;
}

static void *answer_main(void *argument)
{
    struct portset_answer *answer = argument;
    struct timespec pause = {.tv_nsec = ANSWER_NS};

    while (!atomic_load(&answer->done) && portset_serve(answer->set) == 0) {
        nanosleep(&pause, NULL);
    }
    return NULL;
}

int portset_answer_start(struct portset_answer *answer, struct portset *set)
{
    sigset_t all;
    sigset_t before;
    int code;

    answer->set = set;
    atomic_store(&answer->done, false);
    sigfillset(&all); /* signals are the starter's */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    code = pthread_create(&answer->thread, NULL, answer_main, answer);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    answer->running = code == 0;
    return -code;
}

void portset_answer_stop(struct portset_answer *answer)
{
    if (answer->running) {
        atomic_store(&answer->done, true);
        pthread_join(answer->thread, NULL);
        answer->running = false;
    }
}

int portset_event_fd(const struct portset *set)
{
    return set->device ? set->device->event_fd : mem_attachment_fd(set->link);
}

bool port_same_region(const struct port *a, const struct nm_ring *ring_a, const struct port *b,
                      const struct nm_ring *ring_b)
{
    const uint8_t *bufs_a = (const uint8_t *)ring_a + ring_a->buf_ofs;
    const uint8_t *bufs_b = (const uint8_t *)ring_b + ring_b->buf_ofs;
    bool named = a->region != 0 && a->region == b->region;

    return (named || bufs_a == bufs_b) && ring_a->nr_buf_size == ring_b->nr_buf_size;
}

/* False: a port must not sleep. */
static bool arm_all(struct port_watch *watch)
{
    bool sleepable = true;

    for (uint32_t i = 0; i < watch->n; i++) {
        sleepable &= watch->ports[i]->ops->sleep_arm(watch->ports[i]) == 0;
        sleepable &= watch->ports[i]->wait_fd >= 0;
    }
    return sleepable;
}

int port_watch_wait(struct port_watch *watch, uint64_t us)
{
    struct pollfd fds[2 * PORT_RINGS_MAX + 4];
    struct timespec ts;
    nfds_t n = 0;
    int code;

    if (!arm_all(watch) && us > NAP_US) {
        us = NAP_US;
    }
    for (uint32_t i = 0; i < watch->n; i++) {
        fds[n++] = (struct pollfd){.fd = watch->ports[i]->wait_fd, .events = POLLIN};
    }
    for (uint32_t i = 0; i < watch->fds_n; i++) {
        fds[n++] = (struct pollfd){.fd = watch->fds[i], .events = POLLIN};
    }
    ts.tv_sec = (time_t)(us / 1000000);
    ts.tv_nsec = (long)(us % 1000000) * 1000;
    code = ppoll(fds, n, &ts, NULL) < 0 ? -errno : 0;
    for (uint32_t i = 0; i < watch->n; i++) {
        watch->ports[i]->ops->sleep_disarm(watch->ports[i]);
    }
    return code;
}
