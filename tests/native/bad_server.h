/* Servers on loopback that do what no server should, each in a process of its own. */
#pragma once
#include <stdint.h>
#include <sys/types.h>

enum manners {
    ECHOES,         /* as it should */
    REFUSES,        /* nobody listens */
    CLOSES,         /* accepts, and closes at once */
    RESETS,         /* reads a byte, and resets */
    CLOSES_EARLY,   /* echoes half of the first message, and closes */
    LIES,           /* echoes with one bit wrong, at byte 200 */
    TALKS_TOO_MUCH, /* echoes, and adds three bytes after the last */
    IS_SILENT,      /* reads, and never answers */
    NEVER_ENDS,     /* echoes, and keeps the connection after the client's FIN */
};

struct bad_server {
    uint16_t tcp_port;
    pid_t pid; /* 0: none */
};

/* Ends the test program when loopback gives no port. `bytes` is what each client sends. */
struct bad_server bad_server_start(enum manners manners, uint32_t bytes);
void bad_server_stop(struct bad_server *server);
