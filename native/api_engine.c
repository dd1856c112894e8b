/* The public function about engines that are libraries of their own. */
#include "api.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine_picotcp/picotcp.h"

int32_t ss_engine_find(struct ss_engine_info *info, const char *engine, char *error)
{
    struct picotcp_library library;
    int code;

    if (!info || !engine || !error) {
        return -EINVAL;
    }
    memset(info, 0, sizeof(*info));
    error[0] = '\0';
    if (strcmp(engine, engine_picotcp.name) != 0) {
        snprintf(error, SS_ERROR_MAX, "engine \"%.32s\" is no library of its own", engine);
        return -EINVAL;
    }
    if (!picotcp_library_find(info->path, sizeof(info->path))) {
        snprintf(error, SS_ERROR_MAX, "engine picotcp: %.160s is not built", info->path);
        info->path[0] = '\0';
        return -ENOENT;
    }
    code = picotcp_library_open(&library, error, SS_ERROR_MAX);
    if (code == 0) {
        snprintf(info->version, sizeof(info->version), "%s", library.api->version);
        picotcp_library_close(&library);
    }
    return code;
}
