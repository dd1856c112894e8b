/*
 * What the measured loops share: one CPU, an end by time, one line of figures.
 *
 * A receiver that finds nothing naps for 2 ms: figures are of frames in batches, not of wake-ups,
 * whose number depends on who else is on the machine. Each program says "ready" once it can
 * receive, runs for so many seconds, then prints frames, seconds and its own CPU seconds, user and
 * system.
 */
#pragma once
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <time.h>

enum {
    LOOP_BURST = 64,
    LOOP_FRAME = 60,
    LOOP_VNET = 12, /* virtio header with num_buffers; AF_PACKET wants the first ten bytes */
    LOOP_NAP_US = 2000,
};

static volatile sig_atomic_t loop_over;
static double loop_started;
static double loop_cpu_before;

static inline void loop_need(bool ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static inline void loop_end(int number)
{
    (void)number;
    loop_over = 1;
}

static inline double loop_now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static inline double loop_cpu(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* The n-th CPU that this process may use, if there are so many. */
static inline void loop_pin(int n)
{
    cpu_set_t allowed;
    cpu_set_t one;

    loop_need(sched_getaffinity(0, sizeof(allowed), &allowed) == 0, "sched_getaffinity");
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (CPU_ISSET(cpu, &allowed) && n-- == 0) {
            CPU_SET(cpu, &one);
            loop_need(sched_setaffinity(0, sizeof(one), &one) == 0, "sched_setaffinity");
        }
    }
}

static inline void loop_nap(void)
{
    const struct timespec nap = {.tv_nsec = LOOP_NAP_US * 1000L};

    nanosleep(&nap, NULL);
}

static inline void loop_start(int cpu, const char *seconds)
{
    struct itimerval timer = {
        .it_value = {.tv_sec = (time_t)atof(seconds),
                     .tv_usec = (suseconds_t)(atof(seconds) * 1e6) % 1000000}};
    struct sigaction action = {.sa_handler = loop_end};

    loop_pin(cpu);
    loop_need(sigaction(SIGALRM, &action, NULL) == 0 && sigaction(SIGTERM, &action, NULL) == 0,
              "sigaction");
    puts("ready");
    fflush(stdout);
    loop_need(setitimer(ITIMER_REAL, &timer, NULL) == 0, "setitimer");
    loop_started = loop_now();
    loop_cpu_before = loop_cpu();
}

static inline void loop_report(uint64_t frames, uint32_t sum)
{
    double seconds = loop_now() - loop_started;

    printf("%llu %.6f %.6f %u\n", (unsigned long long)frames, seconds, loop_cpu() - loop_cpu_before,
           sum & 1); /* the sum is read: no loop is left out */
}

/* A UDP frame to a MAC; nobody's port. */
static inline void loop_frame(uint8_t *frame, const char *mac)
{
    static const uint8_t ip[20] = {
        0x45, 0, 0, LOOP_FRAME - 14, 0, 0, 0, 0, 64, 17, 0xf6, 0xb6, 10, 9, 0, 1, 10, 9, 0, 2};

    memset(frame, 0, LOOP_FRAME);
    for (int i = 0; i < 6; i++) {
        frame[i] = (uint8_t)strtoul(mac + 3 * (size_t)i, NULL, 16);
    }
    frame[6] = 0x02;
    frame[12] = 0x08;
    memcpy(frame + 14, ip, sizeof(ip));
    frame[36] = 0x1b; /* UDP port 7000 */
    frame[37] = 0x58;
    frame[39] = LOOP_FRAME - 34;
}
