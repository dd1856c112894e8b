/* Servers on loopback with bad manners; see bad_server.h. */
#include "bad_server.h"

#include <arpa/inet.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    PIECE = 4096,
    LIE_AT = 200,
    BACKLOG = 64,
};

/* What comes goes back, as the manners have it; returns at the end of what comes. */
static void converse(int fd, enum manners manners, uint32_t bytes)
{
    uint8_t piece[PIECE];
    uint32_t at = 0;
    ssize_t got;

    while ((got = recv(fd, piece, sizeof(piece), 0)) > 0) {
        uint32_t len = (uint32_t)got;

        if (manners == IS_SILENT) {
            continue;
        }
        if (manners == CLOSES_EARLY) {
            send(fd, piece, len / 2, MSG_NOSIGNAL);
            return;
        }
        if (manners == LIES && at <= LIE_AT && LIE_AT < at + len) {
            piece[LIE_AT - at] ^= 0x10;
        }
        at += len;
        if (send(fd, piece, len, MSG_NOSIGNAL) != got) {
            return;
        }
        if (manners == TALKS_TOO_MUCH && at == bytes) {
            send(fd, "abc", 3, MSG_NOSIGNAL);
        }
    }
    if (manners == NEVER_ENDS) {
        pause(); /* until the parent ends us */
    }
}

static void serve(int fd, enum manners manners, uint32_t bytes)
{
    struct linger reset = {.l_onoff = 1};
    uint8_t byte;

    if (manners == RESETS) {
        (void)!recv(fd, &byte, 1, 0);
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
    } else if (manners != CLOSES) {
        converse(fd, manners, bytes);
    }
    close(fd);
}

/* A process for each connection; they all end with the server. */
static void accept_all(int listener, enum manners manners, uint32_t bytes)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);

        if (fd >= 0 && fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            close(listener);
            serve(fd, manners, bytes);
            _exit(0);
        }
        close(fd);
    }
}

struct bad_server bad_server_start(enum manners manners, uint32_t bytes)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);
    struct bad_server server = {0};
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (bind(listener, (struct sockaddr *)&address, len) != 0 ||
        getsockname(listener, (struct sockaddr *)&address, &len) != 0 ||
        (manners != REFUSES && listen(listener, BACKLOG) != 0)) {
        printf("no TCP port on loopback\n");
        exit(2);
    }
    server.tcp_port = ntohs(address.sin_port);
    if (manners != REFUSES) {
        server.pid = fork();
        if (server.pid == 0) {
            accept_all(listener, manners, bytes);
        }
    }
    close(listener);
    return server;
}

void bad_server_stop(struct bad_server *server)
{
    if (server->pid > 0) {
        kill(server->pid, SIGKILL);
        waitpid(server->pid, NULL, 0);
    }
    *server = (struct bad_server){0};
}
