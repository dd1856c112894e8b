/* Regions that several pipes share: mem:NAME{ID@REGION. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "ports/pipe.h"
#include "ports/portset.h"
#include "soft_wire.h"

enum {
    SLOTS = 11,
    FRAMES = 500,
};

static const uint8_t mac[6] = {2, 0, 0, 0, 0, 1};
static const struct device_config config = {.slots = SLOTS};

/* The two ends of a pipe of this process; the first end of all answers for the memory. */
struct pair {
    struct device *device[2];
    struct port *near;
    struct port *far;
};

static struct pair open_pair(const char *name, const char *region, struct device *host)
{
    struct pair pair;

    for (int end = 0; end < 2; end++) {
        char rest[40];

        snprintf(rest, sizeof(rest), "%c%s%s", end ? '}' : '{', name, region);
        pair.device[end] = soft_wire_open(soft_wire_name("mem:r", rest), &config, host);
        host = host ? host : pair.device[0];
    }
    pair.near = &pair.device[0]->ports[0];
    pair.far = &pair.device[1]->ports[0];
    return pair;
}

static void close_pair(struct pair *pair)
{
    CHECK_EQ(device_audit(pair->device[0]), 0);
    device_close(pair->device[1]);
    device_close(pair->device[0]);
}

static bool may_exchange(const struct port *from, const struct port *to)
{
    return port_same_region(from, from->rx, to, to->tx);
}

/* What a forwarder does: the buffers of an RX and a TX slot change places. */
static void swap_over(struct port *from, struct port *to)
{
    struct nm_slot *in = &from->rx->slot[from->rx->head];
    struct nm_slot *out = &to->tx->slot[to->tx->head];
    uint32_t buf = in->buf_idx;

    in->buf_idx = out->buf_idx;
    in->flags = NM_BUF_CHANGED;
    *out = (struct nm_slot){.buf_idx = buf, .len = in->len, .flags = NM_BUF_CHANGED};
    nm_ring_give(from->rx, nm_ring_next(from->rx, from->rx->head));
    nm_ring_give(to->tx, nm_ring_next(to->tx, to->tx->head));
}

static void a_frame_goes_through_two_pipes_and_stays_in_its_buffer(void)
{
    struct pair one = open_pair("1", "@reg", NULL);
    struct pair two = open_pair("2", "@reg", one.device[0]);

    CHECK(may_exchange(one.far, two.near));
    CHECK(strstr(one.device[0]->banner, "region reg") != NULL);
    for (uint32_t i = 0; i < FRAMES; i++) {
        uint32_t buf = one.near->tx->slot[one.near->tx->head].buf_idx;

        CHECK(soft_wire_put(one.near, mac, mac, i));
        soft_wire_tx(one.near);
        soft_wire_rx(one.far);
        CHECK_EQ(one.far->rx->slot[one.far->rx->head].buf_idx, buf);
        swap_over(one.far, two.near);
        soft_wire_tx(two.near);
        soft_wire_rx(two.far);
        CHECK_EQ(two.far->rx->slot[two.far->rx->head].buf_idx, buf);
        CHECK_EQ(soft_wire_take(two.far), i);
        soft_wire_rx(one.far);
        soft_wire_rx(two.far);
    }
    close_pair(&two);
    close_pair(&one);
}

static void the_pipes_of_a_region_are_links_of_their_own(void)
{
    struct pair one = open_pair("1", "@reg", NULL);
    struct pair two = open_pair("2", "@reg", one.device[0]);

    CHECK(memcmp(one.device[0]->mac, two.device[0]->mac, 6) != 0);
    for (uint32_t i = 0; i < FRAMES; i++) {
        CHECK(soft_wire_put(i % 2 ? one.near : two.far, mac, mac, i));
        soft_wire_tx(i % 2 ? one.near : two.far);
        soft_wire_rx(one.far);
        soft_wire_rx(two.near);
        CHECK_EQ(soft_wire_take(one.far), i % 2 ? i : UINT32_MAX);
        CHECK_EQ(soft_wire_take(two.near), i % 2 ? UINT32_MAX : i);
    }
    close_pair(&two);
    close_pair(&one);
}

static void without_a_region_memory_is_a_pipes_own(void)
{
    struct pair own = open_pair("1", "", NULL);
    struct pair other = open_pair("2", "", NULL);
    struct pair shared = open_pair("1", "@reg", NULL); /* another pipe, whatever its name */
    struct pair elsewhere = open_pair("1", "@reg2", NULL);

    CHECK(!may_exchange(own.far, other.near));
    CHECK(!may_exchange(own.far, shared.near));
    CHECK(!may_exchange(shared.far, elsewhere.near));
    CHECK(may_exchange(shared.far, shared.near));
    CHECK(soft_wire_put(own.near, mac, mac, 1));
    soft_wire_tx(own.near);
    soft_wire_rx(shared.far);
    CHECK_EQ(soft_wire_take(shared.far), UINT32_MAX);
    close_pair(&elsewhere);
    close_pair(&shared);
    close_pair(&other);
    close_pair(&own);
}

static void a_region_holds_so_many_pipes_and_gives_free_ones_away(void)
{
    struct pair pairs[PIPE_LINKS_MAX];
    char error[PORT_ERROR_MAX];
    struct pair again;
    char name[8];

    for (uint32_t i = 0; i < PIPE_LINKS_MAX; i++) {
        snprintf(name, sizeof(name), "%u", i);
        pairs[i] = open_pair(name, "@reg", i ? pairs[0].device[0] : NULL);
    }
    CHECK_EQ(soft_wire_refused(soft_wire_name("mem:r", "{x@reg"), pairs[0].device[0], error),
             -ENOSPC);
    CHECK(strstr(error, "all 16 pipes of this region are taken") != NULL);
    CHECK(soft_wire_put(pairs[5].near, mac, mac, 5)); /* never read: not for its successor */
    soft_wire_tx(pairs[5].near);
    close_pair(&pairs[5]);
    again = open_pair("x", "@reg", pairs[0].device[0]);
    soft_wire_rx(again.far);
    CHECK_EQ(soft_wire_take(again.far), UINT32_MAX);
    CHECK(soft_wire_put(again.near, mac, mac, 6));
    soft_wire_tx(again.near);
    soft_wire_rx(again.far);
    CHECK_EQ(soft_wire_take(again.far), 6);
    close_pair(&again);
    for (uint32_t i = PIPE_LINKS_MAX; i-- > 0;) {
        if (i != 5) {
            close_pair(&pairs[i]);
        }
    }
}

static void regions_that_cannot_be_are_refused_in_a_sentence(void)
{
    static const char *const wrong[] = {"{1@", "{1@a-b", "{1@0123456789abcdefg", "{@reg"};
    char error[PORT_ERROR_MAX];

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        CHECK_EQ(soft_wire_refused(soft_wire_name("mem:r", wrong[i]), NULL, error), -EINVAL);
        CHECK(strstr(error, "in a region NAME{ID@REGION") != NULL);
    }
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a frame goes through two pipes and stays in its buffer",
         a_frame_goes_through_two_pipes_and_stays_in_its_buffer},
        {"the pipes of a region are links of their own",
         the_pipes_of_a_region_are_links_of_their_own},
        {"without a region, memory is a pipe's own", without_a_region_memory_is_a_pipes_own},
        {"a region holds so many pipes, and gives free ones away",
         a_region_holds_so_many_pipes_and_gives_free_ones_away},
        {"regions that cannot be are refused in a sentence",
         regions_that_cannot_be_are_refused_in_a_sentence},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
