/* Named shared memory with ends; see soft.h. */
#include "ports/soft.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "ports/handoff.h"

enum {
    SOFT_MAGIC = 0x736f6674,
    GATE = SOFT_ENDS_MAX, /* the name of the gate is that of an end that cannot be */
    GATE_TRIES = 2000,    /* of 1 ms each */
    READY_TRIES = 2000,
    ANSWER_S = 1, /* how long an end may take to answer */
};

/* What an end sends to those who come; the memory and the bells come with it. */
struct welcome {
    uint32_t magic;
    uint32_t ends;
    uint64_t bytes;
};

static socklen_t make_address(struct sockaddr_un *address, const struct soft *soft, uint32_t end)
{
    return handoff_address(address, "%s/%s/%u", soft->kind, soft->name, end);
}

/* A socket bound to the name of an end, or -errno. */
static int bind_name(const struct soft *soft, uint32_t end)
{
    struct sockaddr_un address;
    socklen_t len = make_address(&address, soft, end);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, len) != 0) {
        int error = -errno;

        close(fd);
        return error;
    }
    return fd < 0 ? -errno : fd;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* One opens at a time: the gate is a name that only one can bind, and that no death leaves shut. */
static int enter_gate(struct soft *soft)
{
    struct timespec pause = {.tv_nsec = 1000000};

    for (int i = 0; i < GATE_TRIES; i++) {
        soft->gate_fd = bind_name(soft, GATE);
        if (soft->gate_fd != -EADDRINUSE) {
            break;
        }
        nanosleep(&pause, NULL);
    }
    return soft->gate_fd < 0 ? soft->gate_fd : 0;
}

/* A connection to an end that answers, or -errno. */
static int connect_end(const struct soft *soft, uint32_t end)
{
    struct sockaddr_un address;
    socklen_t len = make_address(&address, soft, end);
    struct timeval patience = {.tv_sec = ANSWER_S};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    int error = 0;

    if (fd < 0) {
        return -errno;
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    if (connect(fd, (struct sockaddr *)&address, len) != 0) {
        error = -errno;
    } else if (!handoff_peer_allowed(fd)) {
        error = -EPERM;
    }
    if (error) {
        close(fd);
        return error;
    }
    return fd;
}

/* The memory and the bells, or -errno. */
static int receive_fds(int fd, struct welcome *welcome, int fds[HANDOFF_FDS_MAX])
{
    int n = handoff_receive(fd, welcome, sizeof(*welcome), fds);

    if (n < 0 || (welcome->magic == SOFT_MAGIC && welcome->ends <= SOFT_ENDS_MAX &&
                  (uint32_t)n == 1 + welcome->ends)) {
        return n;
    }
    while (n-- > 0) {
        close(fds[n]);
    }
    return -EPROTO;
}

static int send_fds(int fd, const struct soft *soft)
{
    struct welcome welcome = {SOFT_MAGIC, soft->ends, soft->bytes};
    int fds[1 + SOFT_ENDS_MAX] = {soft->memfd};

    memcpy(fds + 1, soft->bells, sizeof(int) * soft->ends);
    return handoff_send(fd, &welcome, sizeof(welcome), fds, 1 + soft->ends);
}

/* Locks belong to an open file description: everybody needs one of his own. */
static int reopen(int fd)
{
    char path[40];
    int own;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    own = open(path, O_RDWR | O_CLOEXEC);
    own = own < 0 ? -errno : own;
    close(fd);
    return own;
}

/* `memfd` becomes ours, or is closed. */
static int map_memory(struct soft *soft, int memfd)
{
    struct stat stat;

    soft->memfd = reopen(memfd);
    if (soft->memfd < 0) {
        return soft->memfd;
    }
    if (fstat(soft->memfd, &stat) != 0) {
        return -errno;
    }
    if ((uint64_t)stat.st_size != soft->bytes) {
        return -EPROTO;
    }
    soft->inode = (uint64_t)stat.st_ino | (uint64_t)stat.st_dev << 40;
    soft->base = mmap(NULL, soft->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, soft->memfd, 0);
    if (soft->base == MAP_FAILED) {
        soft->base = NULL;
        return -errno;
    }
    return 0;
}

/* From an end that lives: 0; -ENOENT: there is none. */
static int join(struct soft *soft)
{
    struct welcome welcome;
    int fds[HANDOFF_FDS_MAX];
    int code = -ENOENT;

    for (uint32_t end = 0; end < soft->ends; end++) {
        int fd = connect_end(soft, end);
        int n;

        if (fd == -ECONNREFUSED || fd == -ENOENT) {
            continue;
        }
        n = fd < 0 ? fd : receive_fds(fd, &welcome, fds);
        if (fd >= 0) {
            close(fd);
        }
        if (n > 0) {
            soft->ends = welcome.ends;
            soft->bytes = welcome.bytes;
            memcpy(soft->bells, fds + 1, sizeof(int) * soft->ends);
            return map_memory(soft, fds[0]);
        }
        code = n; /* somebody is there who does not answer: perhaps the next one does */
    }
    return code;
}

static int create(struct soft *soft, const struct soft_plan *plan)
{
    int memfd = memfd_create("shardserver-soft", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    int code;

    if (memfd < 0) {
        return -errno;
    }
    if (ftruncate(memfd, (off_t)plan->bytes) != 0 ||
        fcntl(memfd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        code = -errno;
        close(memfd);
        return code;
    }
    soft->bytes = plan->bytes;
    code = map_memory(soft, memfd);
    for (uint32_t i = 0; i < soft->ends && code == 0; i++) {
        soft->bells[i] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        code = soft->bells[i] < 0 ? -errno : 0;
    }
    if (code == 0) {
        plan->build(soft->base, plan->arg);
    }
    return code;
}

static void explain(const struct soft_plan *plan, int code, char *error)
{
    const char *why = "its memory could not be made: use fewer slots";

    if (code == -EAGAIN || code == -EADDRINUSE) {
        why = "another end of it does not answer: end that program, or give it time";
    } else if (code == -EPERM) {
        why = "it belongs to another user";
    }
    snprintf(error, PORT_ERROR_MAX, "%s:%s: %s (errno %d)",
             strcmp(plan->kind, "vale") == 0 ? plan->kind : "mem", plan->name, why, -code);
}

int soft_open(struct soft *soft, const struct soft_plan *plan, char *error)
{
    int code;

    memset(soft, 0, sizeof(*soft));
    soft->memfd = soft->gate_fd = soft->listen_fd = -1;
    memset(soft->bells, 0xff, sizeof(soft->bells));
    soft->ends = plan->ends;
    soft->end = SOFT_ENDS_MAX;
    snprintf(soft->kind, sizeof(soft->kind), "%s", plan->kind);
    snprintf(soft->name, sizeof(soft->name), "%s", plan->name);
    code = enter_gate(soft);
    if (code == 0) {
        code = join(soft);
        code = code == -ENOENT ? create(soft, plan) : code;
    }
    if (code != 0) {
        explain(plan, code, error);
        soft_close(soft);
    }
    return code;
}

static struct flock lock_of(uint32_t end, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)end, .l_len = 1};
}

int soft_take(struct soft *soft, uint32_t end)
{
    struct flock lock = lock_of(end, F_WRLCK);

    if (fcntl(soft->memfd, F_OFD_SETLK, &lock) != 0) {
        return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
    }
    soft->end = end;
    return 0;
}

/* A dying predecessor may have lost its lock a moment before its name. */
int soft_ready(struct soft *soft)
{
    struct timespec pause = {.tv_nsec = 1000000};
    int fd = -EADDRINUSE;

    for (int i = 0; i < READY_TRIES && fd == -EADDRINUSE; i++) {
        fd = bind_name(soft, soft->end);
        if (fd == -EADDRINUSE) {
            nanosleep(&pause, NULL);
        }
    }
    if (fd < 0) {
        return fd;
    }
    soft->listen_fd = fd;
    if (listen(fd, SOFT_ENDS_MAX) != 0) {
        return -errno;
    }
    close_fd(&soft->gate_fd);
    return 0;
}

int soft_serve(struct soft *soft)
{
    while (soft->listen_fd >= 0) {
        int fd = accept4(soft->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd < 0) {
            return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? 0 : -errno;
        }
        if (handoff_peer_allowed(fd)) {
            send_fds(fd, soft); /* one that has gone meanwhile needs none */
        }
        close(fd);
    }
    return 0;
}

bool soft_alive(const struct soft *soft, uint32_t end)
{
    struct flock lock = lock_of(end, F_WRLCK);

    return end == soft->end ||
           (fcntl(soft->memfd, F_OFD_GETLK, &lock) == 0 && lock.l_type != F_UNLCK);
}

void soft_unlisten(struct soft *soft)
{
    close_fd(&soft->listen_fd);
}

void soft_close(struct soft *soft)
{
    close_fd(&soft->listen_fd);
    if (soft->base) {
        munmap(soft->base, soft->bytes);
        soft->base = NULL;
    }
    close_fd(&soft->memfd);
    for (uint32_t i = 0; i < SOFT_ENDS_MAX; i++) {
        close_fd(&soft->bells[i]);
    }
    close_fd(&soft->gate_fd);
}

void soft_ring(const struct soft *soft, uint32_t end, struct port_counters *counters)
{
    static const uint64_t one = 1;

    counters->syscalls++;
    if (write(soft->bells[end], &one, sizeof(one)) < 0) {
        ENSURE(errno == EAGAIN); /* already ringing */
    }
}

void soft_mac(const char *name, uint32_t end, uint8_t mac[6])
{
    uint32_t hash = 2166136261u; /* FNV-1a */

    for (const char *c = name; *c; c++) {
        hash = (hash ^ (uint8_t)*c) * 16777619u;
    }
    mac[0] = 0x02;
    for (int i = 0; i < 4; i++) {
        mac[1 + i] = (uint8_t)(hash >> (8 * i));
    }
    mac[5] = (uint8_t)end;
}
