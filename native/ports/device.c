/* Opening a device by name: "BACKEND:NAME", wrapped in faults if asked. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ports/backends.h"

/* One line each. */
static const struct device_ops *const backends[] = {
    &mem_device_ops,    /* a software NIC in shared memory */
    &packet_device_ops, /* AF_PACKET */
    &xdp_device_ops,    /* AF_XDP */
    &tap_device_ops,    /* a TAP of the host */
    &pcap_device_ops,   /* libpcap, and files */
    &vde_device_ops,    /* a VDE switch */
    &vale_device_ops,   /* a learning switch in shared memory */
    &netmap_device_ops, /* the netmap kernel module */
};

enum {
    BACKENDS_N = sizeof(backends) / sizeof(backends[0]),
};

const char *device_backend_name(uint32_t index)
{
    return index < BACKENDS_N ? backends[index]->backend : NULL;
}

static const struct device_ops *find_backend(const char *spec, const char **name)
{
    const char *colon = strchr(spec, ':');
    size_t len = colon ? (size_t)(colon - spec) : 0;

    for (uint32_t i = 0; i < BACKENDS_N && colon; i++) {
        if (strlen(backends[i]->backend) == len && strncmp(spec, backends[i]->backend, len) == 0) {
            *name = colon + 1;
            return backends[i] == &mem_device_ops && strpbrk(*name, "{}") ? &pipe_device_ops
                                                                          : backends[i];
        }
    }
    return NULL;
}

static int wrap_ports(struct device *device, const struct device_config *config, char *error)
{
    if (config->faults[0] == '\0') {
        return 0;
    }
    for (uint32_t i = 0; i < device->rings; i++) {
        int code = faulty_wrap(&device->ports[i], config->faults, config->seed + i, error);

        if (code != 0) {
            while (i-- > 0) {
                faulty_unwrap(&device->ports[i]);
            }
            return code;
        }
    }
    return 0;
}

static int open_backend(struct device *device, const char *name, const struct device_config *config,
                        char *error)
{
    int code = device->ops->open(device, name, config, error);

    if (code != 0) {
        return code;
    }
    code = wrap_ports(device, config, error);
    if (code != 0) {
        device->ops->close(device);
    }
    return code;
}

int device_open(struct device **out, const char *spec, const struct device_config *config,
                char *error)
{
    const char *name = NULL;
    const struct device_ops *ops = find_backend(spec, &name);
    struct device *device;
    int code;

    if (!ops || name[0] == '\0' || strlen(spec) >= PORT_NAME_MAX) {
        size_t used = (size_t)snprintf(error, PORT_ERROR_MAX,
                                       "%.64s: not a device: give BACKEND:NAME, with", spec);

        for (uint32_t i = 0; i < BACKENDS_N && used < PORT_ERROR_MAX; i++) {
            used += (size_t)snprintf(error + used, PORT_ERROR_MAX - used, "%s %s",
                                     i == 0                ? ""
                                     : i + 1 == BACKENDS_N ? " or"
                                                           : ",",
                                     backends[i]->backend);
        }
        return -EINVAL;
    }
    device = calloc(1, sizeof(*device));
    if (!device) {
        snprintf(error, PORT_ERROR_MAX, "%s: out of memory", spec);
        return -ENOMEM;
    }
    device->ops = ops;
    device->event_fd = -1;
    snprintf(device->name, sizeof(device->name), "%s", spec);
    code = open_backend(device, name, config, error);
    if (code != 0) {
        free(device);
        return code;
    }
    *out = device;
    return 0;
}

int device_event(struct device *device)
{
    return device->ops->event ? device->ops->event(device) : -ENOTSUP;
}

int device_audit(struct device *device)
{
    return device->ops->audit ? device->ops->audit(device) : -ENOTSUP;
}

int device_keep_only(struct device *device, uint32_t ring_id)
{
    if (ring_id >= device->rings) {
        return -EINVAL;
    }
    if (device->ops->keep_only) {
        device->ops->keep_only(device, ring_id);
    }
    return 0;
}

void device_leave(struct device *device)
{
    if (device->ops->leave) {
        device->ops->leave(device);
    }
}

void device_close(struct device *device)
{
    for (uint32_t i = 0; i < device->rings; i++) {
        faulty_unwrap(&device->ports[i]);
    }
    device->ops->close(device);
    free(device);
}
