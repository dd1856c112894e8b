/* The services of this server: echo, discard, chargen, daytime, http, sockperf. */
#pragma once
#include "stack/events.h"
#include "stack/socket.h"

/* In the order of ss_service_name(); ends with NULL. */
extern const struct service *const service_table[];
/* Index by name, -1: none. */
int service_find(const char *name);
