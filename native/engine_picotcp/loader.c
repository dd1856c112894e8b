/* Finding and opening the picoTCP library; see loader.h. */
#include "engine_picotcp/loader.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

static const char file_name[] = "libshardserver_picotcp.so";
static const char *const places[] = {"", "../build/picotcp/", "../picotcp/"};

/* The folder of whatever holds this function: our library, or a test program. */
static void own_folder(char *folder, size_t size)
{
    Dl_info info;
    char path[PATH_MAX];
    char *slash;

    folder[0] = '\0';
    if (dladdr(file_name, &info) && realpath(info.dli_fname, path)) {
        slash = strrchr(path, '/');
        snprintf(folder, size, "%.*s", (int)(slash - path), path);
    }
}

bool picotcp_library_find(char *path, size_t size)
{
    const char *given = getenv("SHARDSERVER_PICOTCP");
    char folder[PATH_MAX];

    if (given && given[0]) {
        snprintf(path, size, "%s", given);
        return access(path, R_OK) == 0;
    }
    own_folder(folder, sizeof(folder));
    for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
        if ((size_t)snprintf(path, size, "%s/%s%s", folder, places[i], file_name) < size &&
            access(path, R_OK) == 0) {
            return true;
        }
    }
    snprintf(path, size, "%s", file_name);
    return false;
}

/* dlopen would give the same instance twice for the same file: each gets an anonymous copy. */
static int copy_of(const char *path)
{
    int from = open(path, O_RDONLY | O_CLOEXEC);
    int to = from < 0 ? -1 : memfd_create("picotcp", MFD_CLOEXEC);
    struct stat status;
    off_t at = 0;

    if (to < 0 || fstat(from, &status) != 0) {
        to = -1;
    }
    while (to >= 0 && at < status.st_size) {
        if (sendfile(to, from, &at, (size_t)(status.st_size - at)) <= 0) {
            close(to);
            to = -1;
        }
    }
    if (from >= 0) {
        close(from);
    }
    return to;
}

static int refuse(char *error, unsigned size, const char *path, const char *cause)
{
    snprintf(error, size, "engine picotcp: %.120s %.100s: run make picotcp", path, cause);
    return -ENODEV;
}

int picotcp_library_open(struct picotcp_library *library, char *error, unsigned size)
{
    char path[PATH_MAX];
    char copy[64];
    picotcp_entry *entry;
    void *symbol;

    *library = (struct picotcp_library){.fd = -1};
    if (!picotcp_library_find(path, sizeof(path))) {
        return refuse(error, size, path, "is not built");
    }
    library->fd = copy_of(path);
    if (library->fd < 0) {
        return refuse(error, size, path, strerror(errno));
    }
    snprintf(copy, sizeof(copy), "/proc/self/fd/%d", library->fd);
    library->handle = dlopen(copy, RTLD_NOW | RTLD_LOCAL);
    if (!library->handle) {
        const char *cause = dlerror();
        const char *colon = cause ? strstr(cause, ": ") : NULL; /* after the copy's own name */

        picotcp_library_close(library);
        return refuse(error, size, path, colon ? colon + 2 : "cannot be loaded");
    }
    symbol = dlsym(library->handle, "shardserver_picotcp");
    memcpy(&entry, &symbol, sizeof(entry)); /* ISO C has no cast for it */
    library->api = symbol ? entry() : NULL;
    if (!library->api || library->api->abi != PICOTCP_ABI) {
        picotcp_library_close(library);
        return refuse(error, size, path, "is of another version of this program");
    }
    return 0;
}

void picotcp_library_close(struct picotcp_library *library)
{
    if (library->handle) {
        dlclose(library->handle);
    }
    if (library->fd >= 0) {
        close(library->fd);
    }
    *library = (struct picotcp_library){.fd = -1};
}
