/* A network namespace of a test's own; see netns.h. */
#include "netns.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    COMMAND_MAX = 512,
};

static bool write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool written;

    if (fd < 0) {
        return false;
    }
    written = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return written;
}

static bool map_id(const char *path, unsigned id)
{
    char line[64];

    snprintf(line, sizeof(line), "0 %u 1", id);
    return write_file(path, line);
}

static bool enter_user(void)
{
    unsigned uid = geteuid();
    unsigned gid = getegid();

    return unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 &&
           write_file("/proc/self/setgroups", "deny") && map_id("/proc/self/uid_map", uid) &&
           map_id("/proc/self/gid_map", gid);
}

bool netns_enter(const char **why)
{
    bool entered = geteuid() == 0 && unshare(CLONE_NEWNET) == 0;

    if (!entered && !enter_user()) {
        *why = errno == EPERM || errno == EACCES
                   ? "no root, and this system refuses user namespaces"
                   : "no new network namespace can be made";
        return false;
    }
    if (!netns_ip("link set lo up")) {
        *why = "the ip command is missing (package iproute2) or may do nothing here";
        return false;
    }
    write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1");
    write_file("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
    return true;
}

bool netns_ip(const char *arguments, ...)
{
    char command[COMMAND_MAX] = "PATH=$PATH:/usr/sbin:/sbin ip ";
    size_t used = strlen(command);
    va_list list;

    va_start(list, arguments);
    vsnprintf(command + used, sizeof(command) - used, arguments, list);
    va_end(list);
    return system(command) == 0;
}

bool netns_veth(const char *name, const char *peer, unsigned queues, unsigned mtu)
{
    return netns_ip("link add name %s mtu %u numtxqueues %u numrxqueues %u type veth "
                    "peer name %s mtu %u numtxqueues %u numrxqueues %u",
                    name, mtu, queues, queues, peer, mtu, queues, queues) &&
           netns_ip("link set %s up", name) && netns_ip("link set %s up", peer);
}
