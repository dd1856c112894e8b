/* The public functions about tools: arguments are checked here. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "api.h"
#include "client/histogram.h"
#include "tools/tool.h"

_Static_assert((int)HISTOGRAM_BUCKETS == 4096, "ss_tool_stats.latency");

static const char *check(const struct ss_tool_options *options)
{
    if (options->kind >= SS_TOOL_KINDS) {
        return "there is no such tool";
    }
    if (options->role[0] > SS_RINGS_CLIENT || options->role[1] > SS_RINGS_CLIENT) {
        return "there is no such role";
    }
    if (options->udp_port > UINT16_MAX || options->src_port.first > UINT16_MAX ||
        options->dst_port.first > UINT16_MAX || options->src_port.n > 65536 ||
        options->dst_port.n > 65536) {
        return "UDP ports are at most 65535";
    }
    if (options->pipes > SS_TOOL_PIPES_MAX) {
        return "at most 32 pipes";
    }
    if (options->size > 65535 || options->burst > 65536 || options->threads > PORT_RINGS_MAX ||
        options->extra > 1048576 || options->rings > PORT_RINGS_MAX) {
        return "a size, burst, number of threads, rings or extra frames is too large";
    }
    return NULL;
}

int32_t ss_tool_open(struct ss_tool **out, const struct ss_tool_options *options, char *error)
{
    struct ss_tool_options checked;
    const char *wrong;

    if (!out || !options || !error) {
        return -EINVAL;
    }
    error[0] = '\0';
    checked = *options;
    checked.port[0][sizeof(checked.port[0]) - 1] = '\0';
    checked.port[1][sizeof(checked.port[1]) - 1] = '\0';
    wrong = check(&checked);
    if (wrong) {
        snprintf(error, SS_ERROR_MAX, "%s", wrong);
        return -EINVAL;
    }
    return tool_open((struct tool **)out, &checked, error);
}

int32_t ss_tool_describe(const struct ss_tool *handle, uint32_t port, struct ss_rings_info *info)
{
    const struct tool *tool = (const struct tool *)handle;

    if (!tool || !info || port >= tool->sets_n) {
        return -EINVAL;
    }
    describe_portset(&tool->sets[port], info);
    return 0;
}

int32_t ss_tool_start(struct ss_tool *handle)
{
    struct tool *tool = (struct tool *)handle;

    return tool && !tool->started ? tool_start(tool) : -EINVAL;
}

void ss_tool_stop(struct ss_tool *tool)
{
    if (tool) {
        tool_stop((struct tool *)tool);
    }
}

int32_t ss_tool_read(const struct ss_tool *tool, struct ss_tool_stats *stats)
{
    if (!tool || !stats) {
        return -EINVAL;
    }
    tool_read((const struct tool *)tool, stats);
    return 0;
}

uint64_t ss_tool_quantile(const struct ss_tool_stats *stats, double q)
{
    return stats && q >= 0 && q <= 1 ? histogram_quantile(stats->latency, q) : 0;
}

void ss_tool_close(struct ss_tool *tool)
{
    if (tool) {
        tool_close((struct tool *)tool);
    }
}
