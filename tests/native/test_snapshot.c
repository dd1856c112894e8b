/*
 * Connections read beside their worker: at every store of its turns, while it runs in a process of
 * its own, and after it was killed anywhere. What is read is always the state of its last commit.
 */
#include <arpa/inet.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "peer.h"
#include "stack/snapshot.h"
#include "stepper.h"
#include "talk.h"

enum {
    CONNS = 64,
    ROUNDS = 12,
    ROUND_US = 60000,       /* at least, */
    ROUND_FOUND = 2000,     /* and until so many connections were seen, */
    PATIENCE_US = 60000000, /* but no longer than that */
    FROM_PORT = 20000,      /* talk.c */
    STEPS = 3000000 / SIM_STEP_US,
};

/* Under a sanitizer a turn has so many instructions that only some of them are stepped. */
#ifdef __SANITIZE_ADDRESS__
enum {
    STRIDE = 2
};
#else
enum {
    STRIDE = 1
};
#endif

struct watch {
    struct sim *sim;
    struct stack view; /* of the live arena */
    struct stack past; /* of a copy of it that was rolled back */
    uint8_t *copy;
    uint64_t looked;
    uint64_t found;
    uint64_t open;
    uint64_t wrong;
};

static void watch_open(struct watch *watch, struct sim *sim)
{
    struct server *server = sim->server;
    struct arena copy = server->arenas[0];

    *watch = (struct watch){.sim = sim, .copy = aligned_alloc(CACHE_LINE, copy.size)};
    snapshot_view(&watch->view, &server->config, &server->arenas[0]);
    copy.base = watch->copy;
    copy.undo = &arena_header(&copy)->undo;
    snapshot_view(&watch->past, &server->config, &copy);
}

/* The state that a successor would find: without the log, without a second look. */
static void roll_back(struct watch *watch)
{
    memcpy(watch->copy, watch->view.arena.base, watch->view.arena.size);
    undo_rollback(&watch->past.arena);
}

static bool alike(const struct watch *watch, uint32_t conn, const struct conn_image *image)
{
    const struct stack *past = &watch->past;

    return memcmp(&image->hot, &past->hot[conn], sizeof(image->hot)) == 0 &&
           memcmp(&image->cold, &past->cold[conn], sizeof(image->cold)) == 0 &&
           (image->hot.active == NONE ||
            memcmp(&image->active, &past->active[image->hot.active], sizeof(image->active)) == 0);
}

/* The worker stands still: what is read equals what its successor would find. */
static void look(void *arg)
{
    struct watch *watch = arg;

    roll_back(watch);
    watch->looked++;
    watch->open += watch->view.arena.undo->count != 0;
    for (uint32_t conn = 0; conn < watch->view.config->conns_max; conn++) {
        struct conn_image image;
        bool free = watch->past.hot[conn].state == CONN_FREE;
        enum snapshot_found found = snapshot_conn(&watch->view, conn, &image);

        watch->found += !free;
        if (free ? found != SNAPSHOT_NONE
                 : found != SNAPSHOT_CONN || !alike(watch, conn, &image) ||
                       conn >= snapshot_end(&watch->view)) {
            if (watch->wrong++ == 0) {
                printf("    look %llu: record %u is not what was committed, %u lines open\n",
                       (unsigned long long)watch->looked, conn, watch->view.arena.undo->count);
            }
        }
    }
}

static void turn(void *arg)
{
    struct watch *watch = arg;

    if (worker_turn(&watch->sim->worker[0], watch->sim->now_us) < 0) {
        _exit(1);
    }
}

static void step_turns(struct watch *watch, uint16_t tcp_port)
{
    struct sim *sim = watch->sim;
    struct stepper stepper = {turn, look, watch, watch->view.shared,
                              (size_t)(watch->view.chunks - (uint8_t *)watch->view.shared)};
    uint64_t stores = 0;
    uint32_t turns = 0;

    sim_connect(sim, 0, FROM_PORT, tcp_port);
    sim_connect(sim, 0, FROM_PORT + 1, tcp_port);
    for (uint32_t step = 0; step < STEPS; step++) {
        struct port *port = sim->worker[0].stack.port;
        bool work;

        CHECK(worker_turn(&sim->client[0].worker, sim->now_us) >= 0);
        work = port->ops->sleep_arm(port) != 0;
        port->ops->sleep_disarm(port);
        if (work && turns++ % STRIDE == 0) {
            stores += step_through(&stepper);
            sim_restart_shard(sim, 0);
        } else {
            CHECK(worker_turn(&sim->worker[0], sim->now_us) >= 0);
        }
        sim->now_us += SIM_STEP_US;
    }
    printf("    %llu stores looked at, in %llu of them a transaction was open\n",
           (unsigned long long)stores, (unsigned long long)watch->open);
}

/* A client that sends 3000 bytes and closes, whatever comes back. */
static bool chat_step(struct stack *stack, uint32_t conn)
{
    static uint32_t sent[CONNS];
    static const uint8_t bytes[1000];
    uint32_t len;

    while (socket_peek(stack, conn, &len) != NULL) {
        socket_consume(stack, conn, len);
    }
    while (sent[conn] < 3) {
        if (socket_write(stack, conn, bytes, sizeof(bytes)) < sizeof(bytes)) {
            return false;
        }
        sent[conn]++;
    }
    sent[conn] = 0;
    socket_shutdown(stack, conn);
    return false;
}

static void chat_closed(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    (void)stack, (void)conn, (void)reason;
}

static const struct service chat_service = {
    .name = "chat", .step = chat_step, .closed = chat_closed};
static const struct service *const chat_table[] = {&chat_service, NULL};

static void at_every_store(uint16_t tcp_port)
{
    struct sim sim;
    struct watch watch;

    sim_open(&sim,
             &(struct sim_options){
                 .shards = 1, .clients = 1, .conns = 8, .chunks = 64, .buffers = 16384, .seed = 9});
    sim_client_service(&sim, 0, chat_table, NULL);
    watch_open(&watch, &sim);
    step_turns(&watch, tcp_port);
    CHECK(watch.looked > 50);
    CHECK(watch.open > 50);
    CHECK(watch.found > 50);
    CHECK_EQ(watch.wrong, 0);
    free(watch.copy);
    sim_close(&sim);
}

static void echo_is_seen_as_committed_at_every_store(void)
{
    at_every_store(7);
}

static void daytime_is_seen_as_committed_at_every_store(void)
{
    at_every_store(13);
}

static bool queue_is_sound(const struct chunk_queue *queue, const struct stack_config *config)
{
    return queue->bytes == 0 ? queue->head == NONE && queue->tail == NONE
                             : queue->head < config->chunks_max && queue->tail < config->chunks_max;
}

/* What holds of a connection of talk_echo at every commit: the records agree with each other. */
static bool possible(const struct stack *view, uint32_t conn, const struct conn_image *image)
{
    const struct stack_config *config = view->config;
    const struct conn_hot *hot = &image->hot;
    const struct conn_active *active = &image->active;
    uint32_t from = (uint32_t)ntohs(hot->tuple.rport) - FROM_PORT;
    uint32_t queued = hot->active == NONE ? 0 : active->snd.bytes;

    if (hot->state < CONN_SYN_RCVD || hot->state >= CONN_STATES || hot->tuple.laddr != config->ip ||
        hot->tuple.raddr != htonl(SHARD_IP + 1) || hot->tuple.lport != htons(7) || from >= CONNS ||
        hot->service != 0 || !(hot->flags & CONN_PASSIVE) ||
        hot->snd_max - hot->snd_una > queued + 1 || hot->snd_nxt - hot->snd_una > queued + 1 ||
        image->cold.rto_us < config->rto_min_us) {
        return false;
    }
    return hot->active == NONE ||
           (active->conn == conn && active->cwnd >= hot->mss &&
            active->rcv.bytes <= config->rcv_buf && active->snd.bytes <= config->snd_buf &&
            queue_is_sound(&active->snd, config) && queue_is_sound(&active->rcv, config) &&
            queue_is_sound(&active->ooo, config));
}

/* A worker and its clients in a process of their own, until it is killed. */
static pid_t fork_churn(struct sim *sim)
{
    pid_t child = fork();

    while (child == 0) {
        if (!talk_echo(sim, CONNS, 20000, 60000000)) {
            _exit(1);
        }
        sim_run(sim, 2000000);
    }
    return child;
}

static void look_beside(struct watch *watch, uint64_t *changing)
{
    struct conn_image image;

    for (uint32_t conn = 0; conn < watch->view.config->conns_max; conn++) {
        enum snapshot_found found = snapshot_conn(&watch->view, conn, &image);

        watch->looked++;
        *changing += found == SNAPSHOT_CHANGING;
        watch->found += found == SNAPSHOT_CONN;
        if (found == SNAPSHOT_CONN && !possible(&watch->view, conn, &image)) {
            if (watch->wrong++ == 0) {
                printf("    record %u: state %u, port %u, in flight %u, queued %u: impossible\n",
                       conn, image.hot.state, ntohs(image.hot.tuple.rport),
                       image.hot.snd_max - image.hot.snd_una, image.active.snd.bytes);
            }
        }
    }
}

/* Each round ends by a kill at whatever instant it is, and a look at what is left. */
static void churn_round(struct watch *sum, uint64_t *changing)
{
    struct sim sim;
    struct watch watch;
    uint64_t began_us = worker_clock_us();
    uint64_t for_us = 0;
    pid_t child;
    int status;

    sim_open(&sim, &(struct sim_options){
                       .shards = 1, .clients = 1, .conns = 2 * CONNS, .chunks = 4096, .seed = 11});
    watch_open(&watch, &sim);
    child = fork_churn(&sim);
    while (for_us < ROUND_US || (watch.found < ROUND_FOUND && for_us < PATIENCE_US)) {
        look_beside(&watch, changing);
        for_us = worker_clock_us() - began_us;
    }
    kill(child, SIGKILL);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    look(&watch);
    look_beside(&watch, changing);
    sum->looked += watch.looked;
    sum->found += watch.found;
    sum->wrong += watch.wrong;
    sum->open += watch.open;
    free(watch.copy);
    sim_close(&sim);
}

static void nothing_impossible_is_seen_beside_a_running_worker(void)
{
    struct watch sum = {0};
    uint64_t changing = 0;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        churn_round(&sum, &changing);
    }
    printf("    %llu records looked at, %llu connections seen, %llu changed too often; of %u kills "
           "%llu fell into a transaction\n",
           (unsigned long long)sum.looked, (unsigned long long)sum.found,
           (unsigned long long)changing, ROUNDS, (unsigned long long)sum.open);
    CHECK(sum.found >= (uint64_t)ROUNDS * ROUND_FOUND);
    CHECK_EQ(sum.wrong, 0);
    CHECK(changing * 100 < sum.found);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"echo is seen as committed at every store", echo_is_seen_as_committed_at_every_store},
        {"daytime is seen as committed at every store",
         daytime_is_seen_as_committed_at_every_store},
        {"nothing impossible is seen beside a running worker",
         nothing_impossible_is_seen_beside_a_running_worker},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
