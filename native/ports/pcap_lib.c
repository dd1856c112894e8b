/* Opening libpcap; see pcap_lib.h. */
#include "ports/pcap_lib.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ports/framewise.h"

/* The function's name in the library, and where its address goes. */
struct symbol {
    const char *name;
    size_t offset;
};

static const struct symbol symbols[] = {
    {"pcap_lib_version", offsetof(struct pcap_lib, lib_version)},
    {"pcap_create", offsetof(struct pcap_lib, create)},
    {"pcap_set_snaplen", offsetof(struct pcap_lib, set_snaplen)},
    {"pcap_set_promisc", offsetof(struct pcap_lib, set_promisc)},
    {"pcap_set_timeout", offsetof(struct pcap_lib, set_timeout)},
    {"pcap_set_immediate_mode", offsetof(struct pcap_lib, set_immediate_mode)},
    {"pcap_set_buffer_size", offsetof(struct pcap_lib, set_buffer_size)},
    {"pcap_activate", offsetof(struct pcap_lib, activate)},
    {"pcap_setnonblock", offsetof(struct pcap_lib, setnonblock)},
    {"pcap_setdirection", offsetof(struct pcap_lib, setdirection)},
    {"pcap_setfilter", offsetof(struct pcap_lib, setfilter)},
    {"pcap_datalink", offsetof(struct pcap_lib, datalink)},
    {"pcap_get_selectable_fd", offsetof(struct pcap_lib, get_selectable_fd)},
    {"pcap_next_ex", offsetof(struct pcap_lib, next_ex)},
    {"pcap_inject", offsetof(struct pcap_lib, inject)},
    {"pcap_stats", offsetof(struct pcap_lib, stats)},
    {"pcap_open_offline", offsetof(struct pcap_lib, open_offline)},
    {"pcap_geterr", offsetof(struct pcap_lib, geterr)},
    {"pcap_statustostr", offsetof(struct pcap_lib, statustostr)},
    {"pcap_close", offsetof(struct pcap_lib, close)},
};

static const char *const names[] = {"libpcap.so.0.8", "libpcap.so.1", "libpcap.so"};

static const char how_to_get[] = "`apt install libpcap0.8`";

static void *open_object(void)
{
    void *object = NULL;

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !object; i++) {
        object = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    return object;
}

/* "libpcap version 1.10.3 (with TPACKET_V3)": the interface above is that of version 1. */
static bool version_known(const struct pcap_lib *lib)
{
    const char *version = strstr(lib->lib_version(), "version ");

    return version && strtol(version + strlen("version "), NULL, 10) == PCAP_WANTED_MAJOR;
}

static int find_symbols(struct pcap_lib *lib, const char *spec, char *error)
{
    for (size_t i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        void *address = dlsym(lib->object, symbols[i].name);

        if (!address) {
            snprintf(error, PORT_ERROR_MAX,
                     "%s: the libpcap found here has no %s: version 1.5 or later is needed, %s",
                     spec, symbols[i].name, how_to_get);
            return -EOPNOTSUPP;
        }
        memcpy((uint8_t *)lib + symbols[i].offset, &address, sizeof(address));
    }
    return 0;
}

int pcap_lib_open(struct pcap_lib *lib, const char *spec, char *error)
{
    int code;

    *lib = (struct pcap_lib){.object = open_object()};
    if (!lib->object) {
        snprintf(error, PORT_ERROR_MAX, "%s: unavailable: this machine has no libpcap: %s", spec,
                 how_to_get);
        return -EOPNOTSUPP;
    }
    code = find_symbols(lib, spec, error);
    if (code == 0 && !version_known(lib)) {
        snprintf(error, PORT_ERROR_MAX,
                 "%s: unavailable: \"%.80s\" is not the libpcap 1 that this build knows: %s", spec,
                 lib->lib_version(), how_to_get);
        code = -EOPNOTSUPP;
    }
    if (code != 0) {
        pcap_lib_close(lib);
    }
    return code;
}

void pcap_lib_close(struct pcap_lib *lib)
{
    if (lib->object) {
        dlclose(lib->object);
    }
    lib->object = NULL;
}
