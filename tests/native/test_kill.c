/*
 * A kill at every store. A shard's turn runs in a child that is stepped instruction by instruction;
 * whenever its arena has changed, a copy is rolled back as a successor would, and must be the state
 * of the last commit: the old one or the new one, never a third. After each such turn the child is
 * gone and the shard is adopted anew, while the conversation goes on and stays byte-exact.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "sim.h"
#include "stack/chunk.h"
#include "worker/rx.h"

enum {
    CONNS = 8,
    CHUNKS = 64,
    STEPS_MAX = 4000000, /* instructions of one turn */
    MESSAGE = 100,       /* bytes of one of sockperf's */
};

/* Under a sanitizer a turn has so many instructions that only some of them are stepped. */
#ifdef __SANITIZE_ADDRESS__
enum {
    STRIDE = 12
};
#else
enum {
    STRIDE = 1
};
#endif

struct watch {
    struct sim *sim;
    uint8_t *seen; /* the arena after the last store */
    uint8_t *copy; /* what the successor finds */
    uint8_t *free_chunk;
    uint64_t committed; /* hash of the last committed state */
    bool open;          /* a transaction was open at the last store */
    uint64_t stores;
    uint64_t commits;
    uint64_t turns;
    uint64_t wrong;
};

static struct stack *shard_stack(struct sim *sim)
{
    return &sim->worker[0].stack;
}

/* The offset of a live arena's object within a copy of it. */
static void *in_copy(const struct watch *watch, const void *object)
{
    const uint8_t *base = shard_stack(watch->sim)->arena.base;

    return watch->copy + ((const uint8_t *)object - base);
}

static uint64_t mix(uint64_t hash, const void *bytes, size_t len)
{
    static const uint64_t key[2] = {1, 2};

    return hash * 0x9e3779b97f4a7c15u + siphash24(key, bytes, len);
}

/* Hash of the bytes that queued chunks hold; what lies in free chunks does not matter. */
static uint64_t hash_payload(const struct watch *watch, uint64_t hash)
{
    const struct stack *stack = shard_stack(watch->sim);
    const struct stack_shared *shared = in_copy(watch, stack->shared);
    const uint32_t *free_list = in_copy(watch, stack->chunk_free);

    memset(watch->free_chunk, 0, CHUNKS);
    for (uint32_t i = 0; i < shared->chunk_free_n; i++) {
        watch->free_chunk[free_list[i]] = 1;
    }
    for (uint32_t i = 0; i < CHUNKS; i++) {
        struct chunk *chunk = in_copy(watch, chunk_at(stack, i));

        if (watch->free_chunk[i]) {
            memset(chunk, 0, sizeof(*chunk));
            continue;
        }
        hash = mix(hash, (uint8_t *)in_copy(watch, chunk_data(stack, i)) + chunk->start,
                   (size_t)(chunk->end - chunk->start));
    }
    return hash;
}

/* Hash of the copy's state after a rollback, without what is allowed to change at any time. */
static uint64_t hash_state(struct watch *watch)
{
    const struct stack *stack = shard_stack(watch->sim);
    struct arena arena = {.base = watch->copy, .size = stack->arena.size, .fd = -1};
    struct stack_shared *shared = in_copy(watch, stack->shared);
    const uint8_t *first = (const uint8_t *)shared;
    const uint8_t *data = in_copy(watch, stack->chunks);
    const uint8_t *headers = data + (size_t)CHUNKS * CHUNK_BYTES;
    const uint8_t *end = watch->copy + stack->arena.size;
    uint64_t hash;

    arena.undo = &arena_header(&arena)->undo;
    undo_rollback(&arena);
    shared->wheel.now = 0; /* follows the clock */
    shared->lane_next = 0; /* a hint */
    shared->sweep = 0;     /* how far the last adoption has looked */
    hash = hash_payload(watch, 0);
    hash = mix(hash, first, (size_t)(data - first));
    return mix(hash, headers, (size_t)(end - headers));
}

static void take_copy(struct watch *watch)
{
    memcpy(watch->copy, shard_stack(watch->sim)->arena.base, shard_stack(watch->sim)->arena.size);
}

/* After a store: the successor's view of this instant. */
static void look(struct watch *watch)
{
    const struct stack *stack = shard_stack(watch->sim);
    bool open = stack->arena.undo->count != 0;
    uint64_t hash;

    watch->stores++;
    take_copy(watch);
    hash = hash_state(watch);
    if (!open && watch->open) { /* this store was the commit */
        watch->committed = hash;
        watch->commits++;
    }
    watch->open = open;
    if (hash != watch->committed && watch->wrong++ == 0) {
        printf("    store %llu of turn %llu, %u lines open: a third state\n",
               (unsigned long long)watch->stores, (unsigned long long)watch->turns,
               stack->arena.undo->count);
    }
}

/* Steps the child to its end. */
static void step_through(struct watch *watch, pid_t child)
{
    const struct stack *stack = shard_stack(watch->sim);
    size_t size = stack->arena.size;
    int status = 0;

    memcpy(watch->seen, stack->arena.base, size);
    for (uint32_t steps = 0; steps < STEPS_MAX; steps++) {
        if (ptrace(PTRACE_SINGLESTEP, child, NULL, NULL) != 0 ||
            waitpid(child, &status, 0) != child) {
            break;
        }
        if (!WIFSTOPPED(status)) {
            break;
        }
        if (memcmp(watch->seen, stack->arena.base, size) != 0) {
            look(watch);
            memcpy(watch->seen, stack->arena.base, size);
        }
    }
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void traced_turn(struct watch *watch)
{
    struct sim *sim = watch->sim;
    pid_t child;
    int status;

    watch->turns++;
    watch->open = false;
    take_copy(watch);
    watch->committed = hash_state(watch);
    child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        _exit(worker_turn(&sim->worker[0], sim->now_us) < 0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
    step_through(watch, child);
    sim_restart_shard(sim, 0);
}

static bool has_work(struct sim *sim)
{
    struct port *port = shard_stack(sim)->port;
    int ready = port->ops->sleep_arm(port);

    port->ops->sleep_disarm(port);
    return ready != 0;
}

static void watch_open(struct watch *watch, struct sim *sim)
{
    size_t size = shard_stack(sim)->arena.size;

    *watch = (struct watch){
        .sim = sim, .seen = malloc(size), .copy = malloc(size), .free_chunk = malloc(CHUNKS)};
}

static void watch_close(struct watch *watch)
{
    printf("    %llu stores in %llu turns and %llu commits looked at\n",
           (unsigned long long)watch->stores, (unsigned long long)watch->turns,
           (unsigned long long)watch->commits);
    CHECK_EQ(watch->wrong, 0);
    CHECK(watch->commits > 0);
    free(watch->seen);
    free(watch->copy);
    free(watch->free_chunk);
}

/* A client that sends 5000 bytes to a service, reads whatever comes, and closes. */
struct chat {
    uint32_t sent[CONNS];
    uint32_t received[CONNS];
    uint32_t want;
    uint32_t ended;
    bool echo;
    bool sockperf; /* says its messages */
    uint32_t wrong;
};

static struct chat chat;

/* What a client says at an offset, and with `answer` what comes back there. */
static uint8_t chat_byte(uint32_t conn, uint64_t offset, bool answer)
{
    static const uint8_t header[] = {0, 3, 0, 0, 0, MESSAGE}; /* sockperf's flags and length */
    uint64_t at = offset % MESSAGE;

    if (!chat.sockperf || at < 8 || at >= 8 + sizeof(header)) {
        return (uint8_t)(offset * 7 + conn);
    }
    return (uint8_t)(header[at - 8] - (answer && at == 9));
}

static bool chat_step(struct stack *stack, uint32_t conn)
{
    uint32_t len;
    const uint8_t *bytes;

    while ((bytes = socket_peek(stack, conn, &len)) != NULL) {
        for (uint32_t i = 0; i < len && chat.echo; i++) {
            chat.wrong += bytes[i] != chat_byte(conn, chat.received[conn] + i, true);
        }
        chat.received[conn] += len;
        socket_consume(stack, conn, len);
    }
    while (chat.sent[conn] < chat.want) {
        uint8_t byte = chat_byte(conn, chat.sent[conn], false);

        if (socket_write(stack, conn, &byte, 1) == 0) {
            return false;
        }
        chat.sent[conn]++;
    }
    socket_shutdown(stack, conn);
    return false;
}

static void chat_closed(struct stack *stack, uint32_t conn, enum close_reason reason)
{
    (void)stack;
    chat.ended++;
    chat.wrong += reason != CLOSE_DONE || (chat.echo && chat.received[conn] != chat.want);
}

static const struct service chat_service = {
    .name = "chat", .step = chat_step, .closed = chat_closed};
static const struct service *const chat_table[] = {&chat_service, NULL};

/* Two connections to a service; every turn of the shard that has work is looked at. */
static void converse(uint16_t tcp_port, const char *faults, uint32_t bytes)
{
    struct sim sim;
    struct watch watch;
    uint32_t idle = 0;
    uint32_t busy = 0;

    sim_open(&sim, &(struct sim_options){.shards = 1,
                                         .clients = 1,
                                         .conns = CONNS,
                                         .chunks = CHUNKS,
                                         .buffers = 16384,
                                         .seed = 3,
                                         .faults = faults});
    memset(&chat, 0, sizeof(chat));
    chat.want = bytes;
    chat.sockperf = tcp_port == 11111;
    chat.echo = tcp_port == 7 || chat.sockperf;
    sim_client_service(&sim, 0, chat_table, NULL);
    watch_open(&watch, &sim);
    sim_connect(&sim, 0, 3000, tcp_port);
    sim_connect(&sim, 0, 3001, tcp_port);
    while (idle < 8000000 / SIM_STEP_US) {
        bool timers = idle % 2000 == 1999;

        CHECK(worker_turn(&sim.client[0].worker, sim.now_us) >= 0);
        if ((has_work(&sim) || timers) && busy++ % STRIDE == 0) {
            traced_turn(&watch);
        } else {
            CHECK(worker_turn(&sim.worker[0], sim.now_us) >= 0);
        }
        sim.now_us += SIM_STEP_US;
        idle = chat.ended == 2 ? idle + 1 : idle + timers;
    }
    CHECK_EQ(chat.ended, 2);
    CHECK_EQ(chat.wrong, 0);
    CHECK_EQ(sim.worker[0].stack.shared->conns_active, 0);
    watch_close(&watch);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void echo_survives_a_kill_at_every_store(void)
{
    converse(7, NULL, 5000);
}

static void a_bad_wire_and_a_kill_at_every_store(void)
{
    converse(7, "drop=8%,reorder=10%,dup=5%", 9000);
}

static void discard_survives_a_kill_at_every_store(void)
{
    converse(9, NULL, 5000);
}

static void sockperf_survives_a_kill_at_every_store(void)
{
    converse(11111, NULL, 50 * MESSAGE);
}

static void daytime_survives_a_kill_at_every_store(void)
{
    converse(13, NULL, 0);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"echo survives a kill at every store", echo_survives_a_kill_at_every_store},
        {"a bad wire and a kill at every store", a_bad_wire_and_a_kill_at_every_store},
        {"discard survives a kill at every store", discard_survives_a_kill_at_every_store},
        {"sockperf survives a kill at every store", sockperf_survives_a_kill_at_every_store},
        {"daytime survives a kill at every store", daytime_survives_a_kill_at_every_store},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
