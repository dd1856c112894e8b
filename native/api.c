/* The public functions about devices, servers and workers: arguments are checked here. */
#include "api.h"

#include <arpa/inet.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "base/confine.h"
#include "engine_picotcp/picotcp.h"
#include "service/service.h"
#include "worker/server.h"

/* Defaults where an option is zero. */
enum {
    DEFAULT_CONNS = 16384,
    DEFAULT_CHUNKS = 16384,
    DEFAULT_RCV_BUF = 262144,
    DEFAULT_SND_BUF = 262144,
    DEFAULT_BACKLOG = 4096,
    DEFAULT_RTO_MIN_US = 200000,
    RTO_INITIAL_US = 1000000,
    DEFAULT_DELACK_US = 40000,
    DEFAULT_TIME_WAIT_US = 60000000,
    DEFAULT_RETRIES = 15,
    DEFAULT_MTU = 1500,
    MTU_MIN = 576,
    MTU_MAX = 9000,
};

uint32_t ss_abi_version(void)
{
    return SS_ABI_VERSION;
}

static int refuse(char *error, const char *what)
{
    snprintf(error, SS_ERROR_MAX, "%s", what);
    return -EINVAL;
}

int32_t ss_device_open(struct ss_device **out, const char *spec,
                       const struct ss_device_options *options, char *error)
{
    struct device_config config;
    struct device *device = NULL;
    int code;

    if (!out || !spec || !options || !error) {
        return -EINVAL;
    }
    error[0] = '\0';
    config = (struct device_config){.rings = options->rings,
                                    .slots = options->slots,
                                    .buf_size = options->buf_size,
                                    .links = options->links,
                                    .mtu = options->mtu,
                                    .ip = options->ip,
                                    .take = options->take,
                                    .queues = options->queues,
                                    .seed = options->seed};
    memcpy(config.mac, options->mac, sizeof(config.mac));
    memcpy(config.tcp_ports, options->tcp_ports, sizeof(config.tcp_ports));
    memcpy(config.faults, options->faults, sizeof(config.faults));
    config.faults[sizeof(config.faults) - 1] = '\0';
    if (options->rings > PORT_RINGS_MAX) {
        return refuse(error, "more than 64 rings: give fewer --workers");
    }
    if (options->take > SS_TAKE_ALL) {
        return refuse(error, "take must be one of enum ss_take");
    }
    code = device_open(&device, spec, &config, error);
    *out = (struct ss_device *)device;
    return code;
}

int32_t ss_device_describe(const struct ss_device *handle, struct ss_device_info *info)
{
    const struct device *device = (const struct device *)handle;

    if (!device || !info) {
        return -EINVAL;
    }
    memset(info, 0, sizeof(*info));
    memcpy(info->name, device->name, sizeof(info->name));
    snprintf(info->backend, sizeof(info->backend), "%s", device->ops->backend);
    memcpy(info->banner, device->banner, sizeof(info->banner));
    memcpy(info->mac, device->mac, sizeof(info->mac));
    info->rings = device->rings;
    info->mtu = device->mtu;
    info->region = device->region;
    info->event_fd = device->event_fd;
    return 0;
}

int32_t ss_device_event(struct ss_device *device)
{
    return device ? device_event((struct device *)device) : -EINVAL;
}

int32_t ss_device_audit(struct ss_device *device)
{
    return device ? device_audit((struct device *)device) : -EINVAL;
}

int32_t ss_device_leave(struct ss_device *device)
{
    if (!device) {
        return -EINVAL;
    }
    device_leave((struct device *)device);
    return 0;
}

void ss_device_close(struct ss_device *device)
{
    if (device) {
        device_close((struct device *)device);
    }
}

static uint32_t or_default(uint32_t value, uint32_t fallback)
{
    return value ? value : fallback;
}

static int take_listeners(struct stack_config *config, const struct ss_server_options *options,
                          char *error)
{
    for (uint32_t i = 0; i < options->services_n; i++) {
        const struct ss_service_options *wanted = &options->services[i];
        char name[sizeof(wanted->name) + 1] = {0};
        int service;

        memcpy(name, wanted->name, sizeof(wanted->name));
        service = service_find(name);
        if (service < 0) {
            snprintf(error, SS_ERROR_MAX,
                     "service \"%s\" does not exist: give echo, discard, chargen, daytime, http or "
                     "sockperf",
                     name);
            return -EINVAL;
        }
        if (wanted->tcp_port == 0 || wanted->tcp_port > UINT16_MAX) {
            return refuse(error, "a service's TCP port must be 1 to 65535");
        }
        config->listeners[i] = (struct listener){.tcp_port = htons((uint16_t)wanted->tcp_port),
                                                 .service = (uint8_t)service};
    }
    config->listeners_n = (uint8_t)options->services_n;
    return 0;
}

static void take_sizes(struct stack_config *config, const struct ss_server_options *options)
{
    config->conns_max = or_default(options->conns_max, DEFAULT_CONNS);
    config->actives_max = or_default(options->actives_max, config->conns_max);
    config->chunks_max = or_default(options->chunks_max, DEFAULT_CHUNKS);
    config->rcv_buf = or_default(options->rcv_buf, DEFAULT_RCV_BUF);
    config->snd_buf = or_default(options->snd_buf, DEFAULT_SND_BUF);
    config->backlog_max = or_default(options->backlog_max, DEFAULT_BACKLOG);
    config->rto_min_us = or_default(options->rto_min_us, DEFAULT_RTO_MIN_US);
    config->rto_initial_us = RTO_INITIAL_US;
    config->delack_us = or_default(options->delack_us, DEFAULT_DELACK_US);
    config->time_wait_us = or_default(options->time_wait_us, DEFAULT_TIME_WAIT_US);
    config->retries_max = or_default(options->retries_max, DEFAULT_RETRIES);
    config->nodelay = !options->nagle;
}

/* picoTCP walks its connections for every segment: it gets fewer, by default and at most. */
static int fit_picotcp(struct stack_config *config, const struct ss_server_options *options,
                       char *error)
{
    if (options->conns_max > PICOTCP_CONNS_MAX) {
        snprintf(error, SS_ERROR_MAX,
                 "engine picotcp carries %d connections a worker: give --conns-max %d or fewer",
                 PICOTCP_CONNS_MAX, PICOTCP_CONNS_MAX);
        return -EINVAL;
    }
    config->conns_max = or_default(options->conns_max, PICOTCP_CONNS_DEFAULT);
    config->actives_max =
        min_u32(or_default(options->actives_max, config->conns_max), config->conns_max);
    return 0;
}

/* The engine's table, NULL for the native one; its library is tried here, before anything runs. */
static int find_engine(const struct ss_server_options *options, const struct engine_ops **engine,
                       struct picotcp_library *library, char *error)
{
    char name[sizeof(options->engine) + 1] = {0};

    memcpy(name, options->engine, sizeof(options->engine));
    *engine = NULL;
    *library = (struct picotcp_library){.fd = -1};
    if (name[0] == '\0' || strcmp(name, "native") == 0) {
        return 0;
    }
    if (strcmp(name, engine_picotcp.name) != 0) {
        snprintf(error, SS_ERROR_MAX, "engine \"%s\" does not exist: give native or picotcp", name);
        return -EINVAL;
    }
    *engine = &engine_picotcp;
    return picotcp_library_open(library, error, SS_ERROR_MAX);
}

static const char *check_sizes(const struct stack_config *config)
{
    if (config->conns_max > 16777216 || config->actives_max > config->conns_max) {
        return "conns_max must be at most 16,777,216 and actives_max at most conns_max";
    }
    if (config->chunks_max < 64 || config->chunks_max > 16777216) {
        return "chunks_max must be 64 to 16,777,216";
    }
    if (config->rcv_buf < 4096 || config->rcv_buf > (1u << 30) - 1 || config->snd_buf < 4096 ||
        config->snd_buf > (1u << 30) - 1) {
        return "rcv_buf and snd_buf must be 4 KiB to 1 GiB";
    }
    if (config->mtu < MTU_MIN || config->mtu > MTU_MAX) {
        return "mtu must be 576 to 9000";
    }
    return NULL;
}

static int make_config(struct stack_config *config, const struct device *device,
                       const struct ss_server_options *options, char *error)
{
    static const uint8_t no_mac[6];
    const char *wrong;
    uint32_t mtu = or_default(options->mtu, device->mtu ? device->mtu : DEFAULT_MTU);

    if (options->prefix > 32 || options->services_n > SS_SERVICES_MAX || options->ip == 0) {
        return refuse(error, "an address with a prefix of 0 to 32 and at most 16 services");
    }
    take_sizes(config, options);
    config->ip = htonl(options->ip);
    config->netmask = htonl(options->prefix ? UINT32_MAX << (32 - options->prefix) : 0);
    config->gateway = htonl(options->gateway);
    config->mtu = (uint16_t)(mtu < MTU_MAX ? mtu : MTU_MAX);
    config->shards = or_default(options->shards, device->rings);
    config->host_arp = device->host_arp;
    memcpy(config->mac, memcmp(options->mac, no_mac, 6) ? options->mac : device->mac, 6);
    wrong = check_sizes(config);
    if (wrong) {
        return refuse(error, wrong);
    }
    if (config->shards > device->rings) {
        snprintf(error, SS_ERROR_MAX, "%s: %u workers for %u rings: give fewer --workers",
                 device->name, config->shards, device->rings);
        return -EINVAL;
    }
    return take_listeners(config, options, error);
}

int32_t ss_server_create(struct ss_server **out, struct ss_device *handle,
                         const struct ss_server_options *options, char *error)
{
    struct device *device = (struct device *)handle;
    struct stack_config config = {0};
    struct server *server = NULL;
    const struct engine_ops *engine;
    struct picotcp_library library;
    int code;

    if (!out || !device || !options || !error) {
        return -EINVAL;
    }
    error[0] = '\0';
    code = find_engine(options, &engine, &library, error);
    if (code == 0) {
        code = make_config(&config, device, options, error);
    }
    if (code == 0 && engine) {
        code = fit_picotcp(&config, options, error);
    }
    if (code == 0) {
        code = server_create(&server, device, &config, options->secret, error);
    }
    if (code == 0) {
        server->spin_us = options->spin_us;
        server->engine = engine;
        server->library = library;
    } else {
        picotcp_library_close(&library);
    }
    *out = (struct ss_server *)server;
    return code;
}

const char *ss_server_engine(const struct ss_server *server)
{
    const struct picotcp_api *api = server ? ((const struct server *)server)->library.api : NULL;

    return api ? api->version : "native";
}

uint32_t ss_server_conns_max(const struct ss_server *server)
{
    return server ? ((const struct server *)server)->config.conns_max : 0;
}

void ss_server_destroy(struct ss_server *server)
{
    if (server) {
        server_destroy((struct server *)server);
    }
}

int32_t ss_server_wake(struct ss_server *server)
{
    if (!server) {
        return -EINVAL;
    }
    server_wake((const struct server *)server);
    return 0;
}

int32_t ss_worker_adopt(struct ss_server *handle, uint32_t shard, struct ss_adoption *adoption,
                        char *error)
{
    struct server *server = (struct server *)handle;
    uint64_t began = worker_clock_us();
    uint64_t undone;
    int code;

    if (!server || !adoption || !error || shard >= server->config.shards || server->worker) {
        return -EINVAL;
    }
    error[0] = '\0';
    memset(adoption, 0, sizeof(*adoption));
    undone = server->stats[shard].counter[COUNTER_undone_lines];
    code = server_adopt(server, shard, &adoption->adopted, &adoption->dropped);
    if (code != 0) {
        snprintf(error, SS_ERROR_MAX, "%s-%u: the ring could not be taken over (errno %d)",
                 server->device->name, shard, -code);
        return code;
    }
    adoption->undone_lines =
        (uint32_t)(server->stats[shard].counter[COUNTER_undone_lines] - undone);
    adoption->generation = arena_header(&server->arenas[shard])->generation;
    adoption->took_us = worker_clock_us() - began;
    return 0;
}

int32_t ss_worker_keep_only(struct ss_server *handle, uint32_t shard)
{
    struct server *server = (struct server *)handle;

    if (!server || shard >= server->config.shards) {
        return -EINVAL;
    }
    return device_keep_only(server->device, shard);
}

/* The worker that this process runs, if it is that shard's. */
static struct worker *own_worker(struct server *server, uint32_t shard)
{
    if (!server || !server->worker || server->worker->stack.shard != shard) {
        return NULL;
    }
    return server->worker;
}

int32_t ss_worker_run(struct ss_server *server, uint32_t shard, uint64_t for_us)
{
    struct worker *worker = own_worker((struct server *)server, shard);

    return worker ? worker_run(worker, for_us) : -EINVAL;
}

int32_t ss_worker_drain(struct ss_server *server, uint32_t shard, uint32_t on)
{
    struct worker *worker = own_worker((struct server *)server, shard);

    if (!worker) {
        return -EINVAL;
    }
    worker->stack.shared->draining = on != 0;
    return 0;
}

int32_t ss_worker_abort_all(struct ss_server *server, uint32_t shard)
{
    struct worker *worker = own_worker((struct server *)server, shard);

    return worker ? worker_abort_all(worker) : -EINVAL;
}

int32_t ss_worker_confine(void)
{
    return base_confine();
}

int32_t ss_die_with_parent(void)
{
    return prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0) == 0 ? 0 : -errno;
}
