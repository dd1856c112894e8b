/* Finding and opening the picoTCP library: one private copy an instance. */
#pragma once
#include <stdbool.h>

#include "engine_picotcp/abi.h"

/* An opened copy; `handle` NULL: none. */
struct picotcp_library {
    void *handle;
    const struct picotcp_api *api;
    int fd; /* of the copy: its number is its name, and must stay taken */
};

/*
 * Opens a copy of its own, so that two instances in one process share nothing. Looked for at
 * $SHARDSERVER_PICOTCP, beside this library, and in build/picotcp of a source tree. 0, or -errno
 * with a sentence in error[size].
 */
int picotcp_library_open(struct picotcp_library *library, char *error, unsigned size);
void picotcp_library_close(struct picotcp_library *library);
