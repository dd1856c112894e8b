/* The backends of this build; device.c picks one by the prefix of a device's name. */
#pragma once
#include "ports/port.h"

extern const struct device_ops mem_device_ops;
extern const struct device_ops pipe_device_ops; /* mem:NAME{ID, mem:NAME}ID */
extern const struct device_ops vale_device_ops;
extern const struct device_ops packet_device_ops;
extern const struct device_ops xdp_device_ops;
extern const struct device_ops tap_device_ops;
extern const struct device_ops pcap_device_ops;
extern const struct device_ops vde_device_ops;
extern const struct device_ops netmap_device_ops;
