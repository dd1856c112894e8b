/*
 * The parser of fault specifications: any text is taken as a whole or refused with a sentence, and
 * leaves the port as it was. A specification that was taken means the same when its parts are in
 * another order, and its text fits the grammar as written down here once more.
 */
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "fuzz.h"
#include "ports/swring.h"

enum {
    SPEC_MAX = 600,
};

static int idle_sync(struct port *port, uint64_t now_us)
{
    (void)port;
    (void)now_us;
    return 0;
}

static const struct port_ops idle_ops = {
    .backend = "idle", .rx_sync = idle_sync, .tx_sync = idle_sync};

static bool is_key(const char *key, size_t len)
{
    static const char *const keys[] = {"drop", "dup", "reorder", "corrupt", "delay"};

    if (len > 3 && (strncmp(key, "rx.", 3) == 0 || strncmp(key, "tx.", 3) == 0)) {
        key += 3;
        len -= 3;
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        if (len == strlen(keys[i]) && memcmp(key, keys[i], len) == 0) {
            return true;
        }
    }
    return false;
}

static bool ends_in_unit(const char *item, size_t len)
{
    return item[len - 1] == '%' || (len > 2 && (memcmp(item + len - 2, "ms", 2) == 0 ||
                                                memcmp(item + len - 2, "us", 2) == 0));
}

/* What the grammar asks of every item at least: a known key, "=", a unit at the end. */
static bool may_be_taken(const char *spec)
{
    for (;;) {
        size_t len = strcspn(spec, ",");
        const char *equals = memchr(spec, '=', len);

        if (!equals || !is_key(spec, (size_t)(equals - spec)) || !ends_in_unit(spec, len)) {
            return false;
        }
        if (spec[len] == '\0') {
            return true;
        }
        spec += len + 1;
    }
}

static void try_spec(const char *spec)
{
    struct swring rings;
    struct port port = {.ops = &idle_ops};
    struct port before;
    char error[PORT_ERROR_MAX];
    int code;

    CHECK_EQ(swring_create(&rings, 8, 2048, sizeof(struct port_counters)), 0);
    port.rx = rings.rx;
    port.tx = rings.tx;
    port.counters = rings.extra;
    before = port;
    memset(error, 0, sizeof(error));
    code = faulty_wrap(&port, spec, 7, error);
    if (code == 0) {
        CHECK(may_be_taken(spec));
        CHECK_EQ(port.ops->rx_sync(&port, 1000), 0);
        CHECK_EQ(port.ops->tx_sync(&port, 1000), 0);
        faulty_unwrap(&port);
    } else {
        CHECK(strlen(error) > 0 && strlen(error) < PORT_ERROR_MAX);
    }
    CHECK(memcmp(&port, &before, sizeof(port)) == 0);
    swring_destroy(&rings);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *spec;

    if (size > SPEC_MAX) {
        return 0;
    }
    spec = malloc(size + 1); /* as long as the text: reads behind it are found */
    if (spec) {
        memcpy(spec, data, size);
        spec[size] = '\0';
        fuzz_say("\"%s\"\n", spec);
        try_spec(spec);
        free(spec);
    }
    fuzz_settle();
    return 0;
}
