/* The owner directory: one owner a flow, whoever claims at once, and whoever dies meanwhile. */
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/hash.h"
#include "check.h"
#include "stack/directory.h"
#include "stepper.h"
#include "worker/worker.h"

enum {
    SHARDS = 4,
    FLOWS = 3001, /* a prime: any step visits all */
    ROUNDS = 16,
    ROUNDS_MIN = 2,         /* one of each order */
    PATIENCE_US = 10000000, /* for the others: where CPUs are few, all wait for one at each claim */
    TRIES_MAX = 100000,
    INTERLEAVINGS = 100,
};

static uint64_t flow_at(uint64_t seed, uint32_t i)
{
    uint64_t state = seed << 32 | i;

    return splitmix64(&state);
}

static struct directory *new_directory(uint32_t flows)
{
    return directory_init(shared_memory(directory_bytes(flows)), flows);
}

static void delete_directory(struct directory *directory, uint32_t flows)
{
    munmap(directory, directory_bytes(flows));
}

static void the_first_claim_owns_the_flow(void)
{
    struct directory *directory = new_directory(64);
    uint64_t flow = flow_at(1, 1);
    uint32_t owner = 99;

    CHECK(!directory_find(directory, flow, &owner));
    CHECK_EQ(directory_claim(directory, flow, 2, &owner), CLAIM_MINE);
    CHECK_EQ(owner, 2);
    CHECK_EQ(directory_claim(directory, flow, 2, &owner), CLAIM_MINE); /* the SYN again */
    CHECK_EQ(directory_claim(directory, flow, 0, &owner), CLAIM_OTHER);
    CHECK_EQ(owner, 2);
    owner = 99;
    CHECK(directory_find(directory, flow, &owner));
    CHECK_EQ(owner, 2);
    CHECK(!directory_find(directory, flow_at(1, 2), &owner));
    CHECK_EQ(directory_count(directory, 2), 1);
    delete_directory(directory, 64);
}

static void only_the_owner_clears(void)
{
    struct directory *directory = new_directory(64);
    uint64_t flow = flow_at(2, 1);
    uint32_t owner;

    CHECK_EQ(directory_claim(directory, flow, 1, &owner), CLAIM_MINE);
    directory_clear(directory, flow, 0);
    CHECK(directory_find(directory, flow, &owner));
    directory_clear(directory, flow, 1);
    CHECK(!directory_find(directory, flow, &owner));
    directory_clear(directory, flow, 1); /* twice does no harm */
    CHECK_EQ(directory_claim(directory, flow, 0, &owner), CLAIM_MINE);
    CHECK_EQ(directory_count(directory, 0), 1);
    CHECK_EQ(directory_count(directory, 1), 0);
    delete_directory(directory, 64);
}

/* As many flows as it was made for, of any shard, again and again. */
static void it_holds_what_it_was_made_for(void)
{
    static const uint32_t sizes[] = {1, 64, 1000, 1024, 98304, 100000};

    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        struct directory *directory = new_directory(sizes[s]);
        uint32_t owner;

        for (uint64_t life = 0; life < 3; life++) {
            uint32_t refused = 0;
            uint32_t lost = 0;

            for (uint32_t i = 0; i < sizes[s]; i++) {
                refused +=
                    directory_claim(directory, flow_at(life, i), i % SHARDS, &owner) != CLAIM_MINE;
            }
            for (uint32_t i = 0; i < sizes[s]; i++) {
                lost += !directory_find(directory, flow_at(life, i), &owner) || owner != i % SHARDS;
                directory_clear(directory, flow_at(life, i), i % SHARDS);
            }
            CHECK(refused <= sizes[s] / 50000); /* both buckets full, with the table */
            CHECK_EQ(lost, refused);
        }
        for (uint32_t shard = 0; shard < SHARDS; shard++) {
            CHECK_EQ(directory_count(directory, shard), 0);
        }
        delete_directory(directory, sizes[s]);
    }
}

static void a_full_directory_says_so_and_recovers(void)
{
    struct directory *directory = new_directory(8);
    uint32_t owner;
    uint32_t held = 0;

    while (directory_claim(directory, flow_at(3, held), 0, &owner) == CLAIM_MINE) {
        held++;
    }
    CHECK(held >= 8);
    CHECK_EQ(directory_claim(directory, flow_at(3, held), 0, &owner), CLAIM_FULL);
    CHECK(!directory_find(directory, flow_at(3, held), &owner));
    CHECK_EQ(directory_count(directory, 0), held);
    for (uint32_t i = 0; i < held; i++) {
        directory_clear(directory, flow_at(3, i), 0);
    }
    CHECK_EQ(directory_claim(directory, flow_at(3, held), 1, &owner), CLAIM_MINE);
    delete_directory(directory, 8);
}

/* What each process was told about each flow. */
struct verdicts {
    uint8_t claim[SHARDS][FLOWS];
    uint8_t owner[SHARDS][FLOWS];
    uint64_t races[SHARDS];
    _Atomic uint32_t at[SHARDS]; /* how many claims each is about to have made */
};

/* Nobody runs ahead: all claim at one instant. */
static void meet(struct verdicts *verdicts, uint32_t shard, uint32_t at)
{
    atomic_store(&verdicts->at[shard], at + 1);
    for (uint32_t other = 0; other < SHARDS; other++) {
        while (atomic_load(&verdicts->at[other]) <= at) {
            sched_yield();
        }
    }
}

static enum directory_claim claim_one(struct directory *directory, struct verdicts *verdicts,
                                      uint64_t flow, uint32_t shard, uint32_t *owner)
{
    enum directory_claim claim = CLAIM_RACE;

    for (uint32_t tries = 0; claim == CLAIM_RACE && tries < TRIES_MAX; tries++) {
        claim = directory_claim(directory, flow, shard, owner);
        if (claim == CLAIM_RACE) {
            verdicts->races[shard]++;
            sched_yield(); /* the peer's SYN comes again later */
        }
    }
    return claim;
}

static void claim_all(struct directory *directory, struct verdicts *verdicts, uint64_t round,
                      uint32_t shard)
{
    uint32_t step = 1 + (uint32_t)(round * SHARDS + shard); /* an order of its own */

    for (uint32_t i = 0; i < FLOWS; i++) {
        uint32_t flow = round % 4 ? i : i * step % FLOWS; /* all at one place, or anywhere */
        uint32_t owner = SHARDS;

        meet(verdicts, shard, i);
        verdicts->claim[shard][flow] =
            (uint8_t)claim_one(directory, verdicts, flow_at(round, flow), shard, &owner);
        verdicts->owner[shard][flow] = (uint8_t)owner;
    }
}

static uint32_t claims_of(const struct verdicts *verdicts, uint32_t flow, enum directory_claim what)
{
    uint32_t n = 0;

    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        n += verdicts->claim[shard][flow] == what;
    }
    return n;
}

static void check_owners(struct directory *directory, const struct verdicts *verdicts,
                         uint64_t round)
{
    uint32_t held = 0;

    for (uint32_t flow = 0; flow < FLOWS; flow++) {
        uint32_t owner = SHARDS;

        CHECK_EQ(claims_of(verdicts, flow, CLAIM_MINE), 1);
        CHECK_EQ(claims_of(verdicts, flow, CLAIM_OTHER), SHARDS - 1);
        CHECK(directory_find(directory, flow_at(round, flow), &owner));
        for (uint32_t shard = 0; shard < SHARDS; shard++) {
            CHECK_EQ(verdicts->owner[shard][flow], owner);
            CHECK_EQ(verdicts->claim[shard][flow] == CLAIM_MINE, shard == owner);
        }
    }
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        held += directory_count(directory, shard);
    }
    CHECK_EQ(held, FLOWS);
}

/* In processes of their own, as the owners would. */
static void in_each_shard(struct directory *directory, struct verdicts *verdicts, uint64_t round,
                          bool claim)
{
    pid_t child[SHARDS];

    memset(verdicts->claim, 0xff, sizeof(verdicts->claim));
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        verdicts->at[shard] = 0;
    }
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        child[shard] = fork();
        if (child[shard] == 0) {
            if (claim) {
                claim_all(directory, verdicts, round, shard);
            }
            for (uint32_t flow = 0; !claim && flow < FLOWS; flow++) {
                directory_clear(directory, flow_at(round, flow), shard);
            }
            _exit(0);
        }
    }
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        int status = -1;

        waitpid(child[shard], &status, 0);
        CHECK_EQ(status, 0);
    }
}

static void four_processes_find_one_owner_a_flow(void)
{
    struct verdicts *verdicts = shared_memory(sizeof(*verdicts));
    struct directory *directory = new_directory(FLOWS);
    uint32_t winners[SHARDS] = {0};
    uint64_t races = 0;
    uint64_t began_us = worker_clock_us();
    uint32_t round = 0;

    for (; round < ROUNDS_MIN || (round < ROUNDS && worker_clock_us() - began_us < PATIENCE_US);
         round++) {
        in_each_shard(directory, verdicts, round, true);
        check_owners(directory, verdicts, round);
        for (uint32_t shard = 0; shard < SHARDS; shard++) {
            winners[shard] += directory_count(directory, shard);
        }
        in_each_shard(directory, verdicts, round, false);
        for (uint32_t shard = 0; shard < SHARDS; shard++) {
            CHECK_EQ(directory_count(directory, shard), 0);
        }
    }
    for (uint32_t shard = 0; shard < SHARDS; shard++) {
        CHECK(winners[shard] > 0);
        races += verdicts->races[shard];
    }
    printf("    %llu races in %u claims\n", (unsigned long long)races, SHARDS * FLOWS * round);
    delete_directory(directory, FLOWS);
    munmap(verdicts, sizeof(*verdicts));
}

/* One of several shards that claim a flow at one time. */
struct claimant {
    struct directory *directory;
    uint64_t flow;
    uint64_t leaving; /* a flow of its own that it clears first */
    uint32_t shard;
    uint32_t owner;
    enum directory_claim claim;
};

static void claiming(void *arg)
{
    struct claimant *claimant = arg;

    directory_clear(claimant->directory, claimant->leaving, claimant->shard);
    claimant->claim =
        directory_claim(claimant->directory, claimant->flow, claimant->shard, &claimant->owner);
}

/* Another flow that stands in the same two buckets. */
static uint64_t neighbour(uint64_t flow, uint32_t i)
{
    return flow ^ (uint64_t)(i + 1) << 24;
}

/* What three claimants were told agrees with what stands there. */
static void check_claimants(struct directory *directory, struct claimant *const *claimants)
{
    uint64_t flow = claimants[0]->flow;
    uint32_t owner = SHARDS;
    bool owned = directory_find(directory, flow, &owner);
    uint32_t mine = 0;

    for (uint32_t i = 0; i < 3; i++) {
        mine += claimants[i]->claim == CLAIM_MINE;
        CHECK(claimants[i]->claim != CLAIM_FULL);
        CHECK(claimants[i]->claim == CLAIM_RACE || claimants[i]->owner == owner);
    }
    CHECK_EQ(mine, owned);
    for (uint32_t i = 0; i < 3; i++) { /* nothing tentative is left: a SYN that comes now wins */
        CHECK_EQ(directory_claim(directory, flow, i, &owner),
                 owned ? (owner == i ? CLAIM_MINE : CLAIM_OTHER) : CLAIM_MINE);
        owned = true;
    }
}

/* Three shards, interleaved instruction by instruction, while free places come up. */
static void no_interleaving_gives_two_owners(void)
{
    struct claimant *claimants[3];
    uint32_t races = 0;

    for (uint32_t i = 0; i < 3; i++) {
        claimants[i] = shared_memory(sizeof(*claimants[i]));
    }
    for (uint32_t run = 0; run < INTERLEAVINGS; run++) {
        struct directory *directory = new_directory(64);
        uint64_t flow = flow_at(7, run);
        uint32_t owner;

        for (uint32_t i = 0; i < 3 + run % 10; i++) {
            directory_claim(directory, neighbour(flow, i), i % 3, &owner);
        }
        for (uint32_t i = 0; i < 3; i++) {
            *claimants[i] =
                (struct claimant){directory, flow, neighbour(flow, i), i, SHARDS, CLAIM_RACE};
        }
        CHECK(step_together(claiming, (void **)claimants, 3, run));
        for (uint32_t i = 0; i < 3; i++) {
            races += claimants[i]->claim == CLAIM_RACE;
        }
        check_claimants(directory, claimants);
        delete_directory(directory, 64);
    }
    CHECK(races > 0);
    for (uint32_t i = 0; i < 3; i++) {
        munmap(claimants[i], sizeof(*claimants[i]));
    }
}

/* A worker that dies in the middle of something. */
struct death {
    struct directory *directory;
    uint8_t *copy;
    uint64_t flow;
    bool clears;
    uint64_t before; /* deaths that left nothing */
    uint64_t after;  /* deaths that left the flow with the dead shard */
};

static void dying(void *arg)
{
    struct death *death = arg;
    uint32_t owner;

    if (death->clears) {
        directory_clear(death->directory, death->flow, 3);
    } else {
        directory_claim(death->directory, death->flow, 3, &owner);
    }
}

/* The others, before and after the successor has looked at what its predecessor had begun. */
static void look_at_death(void *arg)
{
    struct death *death = arg;
    struct directory *directory = (void *)death->copy;
    enum directory_claim claim;
    uint32_t owner = 0;

    memcpy(death->copy, death->directory, directory_bytes(64));
    claim = directory_claim(directory, death->flow, 1, &owner);
    CHECK(claim == CLAIM_MINE || claim == CLAIM_RACE || (claim == CLAIM_OTHER && owner == 3));
    memcpy(death->copy, death->directory, directory_bytes(64));
    directory_forget_tentative(directory, 2); /* another's is left alone */
    CHECK(memcmp(directory, death->directory, directory_bytes(64)) == 0);
    directory_forget_tentative(directory, 3);
    claim = directory_claim(directory, death->flow, 1, &owner);
    CHECK(claim == CLAIM_MINE || (claim == CLAIM_OTHER && owner == 3));
    death->before += claim == CLAIM_MINE;
    death->after += claim == CLAIM_OTHER;
    CHECK_EQ(directory_count(directory, 1) + directory_count(directory, 3), 1);
}

/* At every store of a claim, and of its end. */
static void a_death_leaves_one_owner_or_none(void)
{
    struct death death = {.directory = new_directory(64),
                          .copy = aligned_alloc(CACHE_LINE, directory_bytes(64)),
                          .flow = flow_at(5, 1)};
    struct stepper stepper = {.act = dying,
                              .look = look_at_death,
                              .arg = &death,
                              .memory = death.directory,
                              .bytes = directory_bytes(64)};

    CHECK_EQ(step_through(&stepper), 2); /* tentative, confirmed */
    CHECK_EQ(death.before, 1);
    CHECK_EQ(death.after, 1);
    death.clears = true;
    CHECK_EQ(step_through(&stepper), 1);
    CHECK_EQ(death.before, 2);
    free(death.copy);
    delete_directory(death.directory, 64);
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"the first claim owns the flow", the_first_claim_owns_the_flow},
        {"only the owner clears", only_the_owner_clears},
        {"it holds what it was made for", it_holds_what_it_was_made_for},
        {"a full directory says so, and recovers", a_full_directory_says_so_and_recovers},
        {"four processes find one owner a flow", four_processes_find_one_owner_a_flow},
        {"no interleaving gives two owners", no_interleaving_gives_two_owners},
        {"a death leaves one owner or none", a_death_leaves_one_owner_or_none},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
