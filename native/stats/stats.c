/* The names of verdicts and counters, from stats.def. */
#include "stats/stats.h"

struct named {
    const char *name;
    const char *text;
};

static const struct named verdicts[] = {
#define VERDICT(name, text) {#name, text},
#define COUNTER(name, text)
#include "stats/stats.def"
#undef VERDICT
#undef COUNTER
};

static const struct named counters[] = {
#define VERDICT(name, text)
#define COUNTER(name, text) {#name, text},
#include "stats/stats.def"
#undef VERDICT
#undef COUNTER
};

const char *stats_verdict_name(enum verdict verdict)
{
    return verdict < VERDICT_COUNT ? verdicts[verdict].name : NULL;
}

const char *stats_verdict_text(enum verdict verdict)
{
    return verdict < VERDICT_COUNT ? verdicts[verdict].text : NULL;
}

const char *stats_counter_name(enum counter counter)
{
    return counter < COUNTER_COUNT ? counters[counter].name : NULL;
}

const char *stats_counter_text(enum counter counter)
{
    return counter < COUNTER_COUNT ? counters[counter].text : NULL;
}

uint64_t stats_verdict_sum(const struct stats_page *page)
{
    uint64_t sum = 0;

    for (unsigned v = 0; v < VERDICT_COUNT; v++) {
        sum += page->verdict[v];
    }
    return sum;
}
