/* The histogram of bursts: each pass of the loop by the frames that it received. */
#include "check.h"
#include "peer.h"

enum {
    CLASSES = 7,
    ECHO = 7,
};

static struct peer peer;

static uint64_t passes(uint32_t class)
{
    return peer.sim.worker[0].stack.stats->counter[COUNTER_batch_1 + class];
}

/* So many segments at once, all of them bare ACKs, and the pass that takes them. */
static void burst_of(uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        peer_post(&peer, &(struct send){.seq = 1, .ack = 1, .flags = TCP_ACK, .window = 65535});
    }
    peer_run(&peer, 1000);
    peer_flush(&peer);
}

static void each_turn_is_counted_by_its_frames(void)
{
    static const struct {
        uint32_t frames;
        uint32_t class;
    } bursts[] = {{1, 0},  {2, 1},  {3, 1},  {4, 2},  {7, 2},  {8, 3},
                  {15, 3}, {16, 4}, {31, 4}, {32, 5}, {63, 5}, {64, 6}};

    peer_open(&peer);
    peer_connect(&peer, ECHO);
    peer_run(&peer, 1000);
    for (uint32_t i = 0; i < sizeof(bursts) / sizeof(bursts[0]); i++) {
        uint64_t before[CLASSES];

        for (uint32_t class = 0; class < CLASSES; class ++) {
            before[class] = passes(class);
        }
        burst_of(bursts[i].frames);
        for (uint32_t class = 0; class < CLASSES; class ++) {
            CHECK_EQ(passes(class) - before[class], class == bursts[i].class);
        }
    }
    peer_send(&peer, &(struct send){.seq = 1, .flags = TCP_RST});
    peer_close(&peer);
}

static void what_is_more_than_a_burst_takes_another_turn(void)
{
    uint64_t full;
    uint64_t single;

    peer_open(&peer);
    peer_connect(&peer, ECHO);
    peer_run(&peer, 1000);
    full = passes(6);
    single = passes(0);
    burst_of(129);
    CHECK_EQ(passes(6) - full, 2);
    CHECK_EQ(passes(0) - single, 1);
    peer_run(&peer, 100000); /* passes without a frame are in no class */
    CHECK_EQ(passes(6) - full, 2);
    CHECK_EQ(passes(0) - single, 1);
    peer_send(&peer, &(struct send){.seq = 1, .flags = TCP_RST});
    peer_close(&peer);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"each turn is counted by its frames", each_turn_is_counted_by_its_frames},
        {"what is more than a burst takes another turn",
         what_is_more_than_a_burst_takes_another_turn},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
