/*
 * Confinement of a warm worker, and of a feeder (DESIGN 2.3): it keeps what it was forked with and
 * can open nothing else. Fatal calls end the process with SIGSYS; harmless ones are refused.
 */
#include "base/confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
enum {
    AUDIT_ARCH_HERE = AUDIT_ARCH_X86_64
};
#elif defined(__aarch64__)
enum {
    AUDIT_ARCH_HERE = AUDIT_ARCH_AARCH64
};
#endif

enum {
    FATAL_N = 11,
    REFUSED_N = 9,
};

/* No program of ours calls these once it is warm. */
static const int fatal[FATAL_N] = {
    SYS_execve,  SYS_execveat, SYS_ptrace,      SYS_bpf,        SYS_io_uring_setup,   SYS_mount,
    SYS_unshare, SYS_setns,    SYS_init_module, SYS_kexec_load, SYS_process_vm_writev};

/* Python or libzmq may try these: they fail as they would for lack of permission. */
static const int refused[REFUSED_N] = {SYS_socket,       SYS_openat,  SYS_openat2,
                                       SYS_fork,         SYS_connect, SYS_bind,
                                       SYS_memfd_create, SYS_kill,    SYS_userfaultfd};

static int drop_capabilities(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2] = {{0}, {0}};

    return syscall(SYS_capset, &header, data) == 0 ? 0 : -errno;
}

static struct sock_filter jump_if(int number, uint8_t skip)
{
    return (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)number, skip, 0);
}

static int install_filter(void)
{
    struct sock_filter filter[4 + FATAL_N + REFUSED_N + 3];
    struct sock_fprog program = {.filter = filter};
    uint16_t n = 0;

    filter[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_HERE, 1, 0);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    filter[n++] =
        (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (int i = 0; i < FATAL_N; i++) { /* to KILL: over the rest, REFUSED and ALLOW, ERRNO */
        filter[n++] = jump_if(fatal[i], (uint8_t)(FATAL_N - 1 - i + REFUSED_N + 2));
    }
    for (int i = 0; i < REFUSED_N; i++) { /* to ERRNO: over the rest and ALLOW */
        filter[n++] = jump_if(refused[i], (uint8_t)(REFUSED_N - 1 - i + 1));
    }
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
    filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    program.len = n;
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 ? 0 : -errno;
}

int base_confine(void)
{
    int error = 0;

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) {
        return -errno;
    }
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    error = drop_capabilities();
    return error ? error : install_filter();
}
