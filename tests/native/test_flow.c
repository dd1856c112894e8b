/* The flow table: whatever the key, neighbouring ports spread over it as strangers do. */
#include <arpa/inet.h>
#include <string.h>

#include "base/hash.h"
#include "check.h"
#include "sim.h"
#include "stack/flow.h"

enum {
    FLOWS = 1535, /* three quarters of 256 buckets: the most that they are made for */
    KEYS = 4000,
};

struct clients {
    uint32_t hosts;
    uint16_t step; /* between a host's ports: kernels give every second one to connect() */
};

static struct tuple flow_of(const struct clients *clients, uint32_t i)
{
    return (struct tuple){.laddr = htonl(0x0a4d0002),
                          .raddr = htonl(0x0a4d000a + i % clients->hosts),
                          .lport = htons(7),
                          .rport = htons((uint16_t)(32768 + i / clients->hosts * clients->step))};
}

/* So many flows find room. */
static uint32_t fill(struct stack *stack, const struct clients *clients)
{
    memset(stack->flow_table, 0, sizeof(uint64_t) * FLOW_BUCKET_ENTRIES * (stack->flow_mask + 1));
    for (uint32_t i = 0; i < FLOWS; i++) {
        uint64_t hash;
        uint64_t *entry;

        stack->hot[i].tuple = flow_of(clients, i);
        hash = flow_hash(stack->cluster->flow_key, &stack->hot[i].tuple);
        entry = flow_room(stack, hash);
        if (!entry) {
            return i;
        }
        flow_insert(stack, entry, i, hash);
        undo_commit(&stack->arena);
    }
    return FLOWS;
}

/* Of the flows: how many lie where the first look goes. */
static uint32_t found_at_once(const struct stack *stack)
{
    uint32_t found = 0;

    for (uint32_t i = 0; i < FLOWS; i++) {
        const struct tuple *tuple = &stack->hot[i].tuple;
        uint64_t hash = flow_hash(stack->cluster->flow_key, tuple);
        uint64_t entry = *flow_first(stack, flow_bucket_a(stack, hash), hash);

        found += flow_match(stack, entry, tuple, hash) == i;
        CHECK_EQ(flow_lookup(stack, tuple, hash), i);
    }
    return found;
}

static void neighbouring_ports_fill_the_table_with_any_key(void)
{
    static const struct clients clients[] = {{1, 1}, {1, 2}, {16, 1}, {FLOWS, 1}};
    struct sim_options options = {.shards = 1, .conns = FLOWS, .seed = 1};
    static struct sim sim;
    uint64_t random = 1;
    struct stack *stack;

    sim_open(&sim, &options);
    stack = &sim.worker[0].stack;
    CHECK_EQ(stack->flow_mask + 1, 256);
    for (uint32_t i = 0; i < KEYS && check_failures() == 0; i++) {
        const struct clients *those = &clients[i % 4];

        sim.server->cluster.flow_key[0] = splitmix64(&random);
        sim.server->cluster.flow_key[1] = splitmix64(&random);
        CHECK_EQ(fill(stack, those), FLOWS);
        CHECK(found_at_once(stack) > FLOWS * 2 / 5);
    }
    memset(stack->flow_table, 0, sizeof(uint64_t) * FLOW_BUCKET_ENTRIES * (stack->flow_mask + 1));
    sim_close(&sim);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"neighbouring ports fill the table with any key",
         neighbouring_ports_fill_the_table_with_any_key},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
