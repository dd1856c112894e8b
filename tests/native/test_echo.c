/* End to end on virtual time: our stack as the client, our shards as the server, over mem:. */
#include "check.h"
#include "talk.h"

static void one_connection_echoes_and_closes(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 1, .clients = 1, .seed = 1});
    talk_echo(&sim, 1, 100, 5000000);
    sim_run(&sim, 3000000);
    CHECK_EQ(sim.worker[0].stack.shared->conns_active, 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void bulk_is_byte_exact_over_two_shards(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2, .clients = 1, .seed = 1});
    talk_echo(&sim, 8, 1000000, 60000000);
    sim_run(&sim, 3000000);
    CHECK(sim.worker[0].stack.stats->counter[COUNTER_conns_accepted] > 0);
    CHECK(sim.worker[1].stack.stats->counter[COUNTER_conns_accepted] > 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void many_connections_share_the_shards(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){
                       .shards = 4, .clients = 1, .conns = 2048, .chunks = 8192, .seed = 1});
    talk_echo(&sim, 1000, 3000, 60000000);
    sim_run(&sim, 3000000);
    sim_check_laws(&sim);
    sim_close(&sim);
}

static void a_bad_wire_changes_no_byte(void)
{
    struct sim sim;

    sim_open(&sim, &(struct sim_options){.shards = 2,
                                         .clients = 1,
                                         .seed = 7,
                                         .faults = "drop=5%,reorder=5%,dup=2%,corrupt=0.1%"});
    talk_echo(&sim, 16, 200000, 600000000);
    sim_run(&sim, 200000000);
    CHECK(sim.worker[0].stack.stats->verdict[VERDICT_tcp_ooo] > 0);
    sim_check_laws(&sim);
    sim_close(&sim);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"one connection echoes and closes", one_connection_echoes_and_closes},
        {"bulk is byte-exact over two shards", bulk_is_byte_exact_over_two_shards},
        {"many connections share the shards", many_connections_share_the_shards},
        {"a bad wire changes no byte", a_bad_wire_changes_no_byte},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
