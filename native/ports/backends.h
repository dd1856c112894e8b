/* The backends of this build; device.c picks one by the prefix of a device's name. */
#pragma once
#include "ports/port.h"

extern const struct device_ops mem_device_ops;
extern const struct device_ops packet_device_ops;
extern const struct device_ops netmap_device_ops;
