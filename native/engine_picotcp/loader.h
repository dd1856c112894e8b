/* Finding and opening the picoTCP library: one private copy an instance. */
#pragma once
#include <stdbool.h>
#include <stddef.h>

#include "engine_picotcp/abi.h"

/* An opened copy; `handle` NULL: none. */
struct picotcp_library {
    void *handle;
    const struct picotcp_api *api;
    int fd; /* of the copy: its number is its name, and must stay taken */
};

/*
 * Where it is: $SHARDSERVER_PICOTCP, else beside this library, else in build/picotcp of a source
 * tree. False: nowhere; the path is then the one to name.
 */
bool picotcp_library_find(char *path, size_t size);

/*
 * Opens a copy of its own, so that two instances in one process share nothing. 0, or -errno with a
 * sentence in error[size].
 */
int picotcp_library_open(struct picotcp_library *library, char *error, unsigned size);
void picotcp_library_close(struct picotcp_library *library);
