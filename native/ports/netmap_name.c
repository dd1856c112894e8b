/* Parsing the names of netmap's ports; see netmap_name.h. */
#include "ports/netmap_name.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum {
    RING_MAX = 4094,
    MEM_ID_MAX = 65535,
    COUNT_MAX = 65535,
    SLOTS_MAX = 1 << 20,
};

static const char specials[] = "-*^/@{}";

struct parse {
    struct netmap_name *name;
    const char *at;
    char *why;
    bool mode_given;
};

static int refuse(const struct parse *parse, const char *what, const char *at)
{
    snprintf(parse->why, NETMAP_WHY_MAX, "%s at \"%.32s\"", what, at);
    return -EINVAL;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_word(char c)
{
    return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* Decimal, at most `max`; moves parse->at behind it. */
static int take_number(struct parse *parse, uint32_t max, uint32_t *number)
{
    const char *start = parse->at;
    uint64_t value = 0;

    for (; is_digit(*parse->at) && parse->at - start < 10; parse->at++) {
        value = value * 10 + (uint64_t)(*parse->at - '0');
    }
    if (parse->at == start || is_digit(*parse->at) || value > max) {
        char what[48];

        snprintf(what, sizeof(what), "expected a number of at most %u", max);
        return refuse(parse, what, start);
    }
    *number = (uint32_t)value;
    return 0;
}

static int copy_text(const struct parse *parse, char *to, size_t room, size_t len)
{
    if (len == 0 || len >= room) {
        return refuse(parse, len == 0 ? "a name is missing" : "a name is too long", parse->at);
    }
    memcpy(to, parse->at, len);
    to[len] = '\0';
    return 0;
}

static int set_mode(struct parse *parse, uint32_t mode, uint32_t ring, const char *at)
{
    if (parse->mode_given) {
        return refuse(parse, "a second choice of rings", at);
    }
    parse->mode_given = true;
    parse->name->mode = mode;
    parse->name->ring = (uint16_t)ring;
    return 0;
}

static int take_rings(struct parse *parse)
{
    const char *start = parse->at++;
    uint32_t ring = 0;
    int code = 0;

    if (*start == '*') {
        return set_mode(parse, NM_MODE_NIC_SW, 0, start);
    }
    if (*start == '^' && !is_digit(*parse->at)) {
        return set_mode(parse, NM_MODE_SW, 0, start);
    }
    code = take_number(parse, RING_MAX, &ring);
    if (code != 0) {
        return code;
    }
    return set_mode(parse, *start == '-' ? NM_MODE_ONE_NIC : NM_MODE_ONE_SW, ring, start);
}

static uint64_t flag_of(char letter)
{
    switch (letter) {
    case 'x':
        return NM_REG_EXCLUSIVE;
    case 'z':
        return NM_REG_ZCOPY_MON;
    case 't':
        return NM_REG_MONITOR_TX;
    case 'r':
        return NM_REG_MONITOR_RX;
    case 'R':
        return NM_REG_RX_RINGS_ONLY;
    case 'T':
        return NM_REG_TX_RINGS_ONLY;
    default:
        return 0;
    }
}

/* Letters up to the end of the text or one of `ends`. */
static int take_flags(struct parse *parse, const char *ends)
{
    const char *start = parse->at;

    for (; *parse->at != '\0' && !strchr(ends, *parse->at); parse->at++) {
        uint64_t flag = flag_of(*parse->at);

        if (flag == 0) {
            return refuse(parse, "flags are x, z, r, t, R and T", parse->at);
        }
        parse->name->flags |= flag;
    }
    return parse->at == start ? refuse(parse, "flags are missing", start) : 0;
}

static int take_memory(struct parse *parse)
{
    uint32_t id = 0;
    int code = take_number(parse, MEM_ID_MAX, &id);

    if (code == 0 && id == 0) {
        return refuse(parse, "a memory region has a number from 1 on", parse->at);
    }
    parse->name->mem_id = (uint16_t)id;
    return code;
}

static int take_share(struct parse *parse, const char *ends)
{
    size_t len = strcspn(parse->at, ends);
    int code = copy_text(parse, parse->name->share, sizeof(parse->name->share), len);

    parse->at += len;
    return code;
}

struct conf_key {
    const char *key;
    uint32_t max;
    size_t first; /* offsets in struct netmap_conf */
    size_t second;
};

#define BOTH(tx, rx) offsetof(struct netmap_conf, tx), offsetof(struct netmap_conf, rx)

static const struct conf_key conf_keys[] = {
    {"rings", COUNT_MAX, BOTH(tx_rings, rx_rings)},
    {"tx-rings", COUNT_MAX, BOTH(tx_rings, tx_rings)},
    {"rx-rings", COUNT_MAX, BOTH(rx_rings, rx_rings)},
    {"host-rings", COUNT_MAX, BOTH(host_tx_rings, host_rx_rings)},
    {"host-tx-rings", COUNT_MAX, BOTH(host_tx_rings, host_tx_rings)},
    {"host-rx-rings", COUNT_MAX, BOTH(host_rx_rings, host_rx_rings)},
    {"slots", SLOTS_MAX, BOTH(tx_slots, rx_slots)},
    {"tx-slots", SLOTS_MAX, BOTH(tx_slots, tx_slots)},
    {"rx-slots", SLOTS_MAX, BOTH(rx_slots, rx_slots)},
    {"extra-bufs", SLOTS_MAX, BOTH(extra_bufs, extra_bufs)},
    {"no-tx-poll", 1, BOTH(no_tx_poll, no_tx_poll)},
};

enum {
    CONF_KEYS_N = sizeof(conf_keys) / sizeof(conf_keys[0]),
};

/* True and behind the "=": the text goes on with this key. */
static bool take_key(struct parse *parse, const char *key)
{
    size_t len = strlen(key);

    if (strncmp(parse->at, key, len) != 0 || parse->at[len] != '=') {
        return false;
    }
    parse->at += len + 1;
    return true;
}

static int take_conf_key(struct parse *parse)
{
    uint8_t *conf = (uint8_t *)&parse->name->conf;

    for (uint32_t i = 0; i < CONF_KEYS_N; i++) {
        const struct conf_key *key = &conf_keys[i];
        uint32_t number = 0;
        int code;

        if (!take_key(parse, key->key)) {
            continue;
        }
        code = take_number(parse, key->max, &number);
        if (code == 0 && number == 0) {
            return refuse(parse, "expected a number from 1 on", parse->at - 1);
        }
        memcpy(conf + key->first, &number, sizeof(number));
        memcpy(conf + key->second, &number, sizeof(number));
        return code;
    }
    return refuse(parse, "unknown key", parse->at);
}

static int take_conf(struct parse *parse)
{
    int code = take_conf_key(parse);

    while (code == 0 && *parse->at == ',') {
        parse->at++;
        code = take_conf_key(parse);
    }
    return code;
}

static bool skip(struct parse *parse, const char *word)
{
    size_t len = strlen(word);

    if (strncmp(parse->at, word, len) != 0) {
        return false;
    }
    parse->at += len;
    return true;
}

static int take_option(struct parse *parse)
{
    const char *start = parse->at++;

    if (is_digit(*parse->at)) {
        return take_memory(parse);
    }
    if (skip(parse, "conf:")) {
        return take_conf(parse);
    }
    if (skip(parse, "share=") || skip(parse, "share:")) {
        return take_share(parse, "@");
    }
    if (skip(parse, "extmem:") || skip(parse, "offset:")) {
        refuse(parse, "extmem and offset are netmap's, but not supported here", start);
        return -ENOTSUP;
    }
    return refuse(parse, "expected @NUMBER, @share=PORT or @conf:KEY=NUMBER", start);
}

/* Everything behind the port's name. */
static int take_suffix(struct parse *parse)
{
    int code = 0;

    while (code == 0 && *parse->at != '\0') {
        switch (*parse->at) {
        case '-':
        case '^':
        case '*':
            code = take_rings(parse);
            break;
        case '/':
            parse->at++;
            code = take_flags(parse, "@-^*");
            break;
        case '@':
            code = take_option(parse);
            break;
        default:
            return refuse(parse, "expected -N, ^, *, /FLAGS or @OPTION", parse->at);
        }
    }
    return code;
}

/* Length of the longest beginning that is an interface's name; 0: there is none. */
static size_t existing_prefix(const char *text, netmap_exists_fn *exists)
{
    size_t len = strlen(text);

    for (len = len < NM_IFNAME_MAX ? len : NM_IFNAME_MAX - 1; len > 0; len--) {
        char candidate[NM_IFNAME_MAX] = {0};

        memcpy(candidate, text, len);
        if ((text[len] == '\0' || strchr(specials, text[len])) && exists(candidate)) {
            return len;
        }
    }
    return 0;
}

static int take_vale(struct parse *parse)
{
    const char *colon = strchr(parse->at, ':');
    size_t len = strcspn(colon + 1, specials);
    int code;

    parse->name->kind = NETMAP_VALE;
    if (len == 0) {
        return refuse(parse, "expected valeSWITCH:PORT", parse->at);
    }
    len += (size_t)(colon + 1 - parse->at);
    code = copy_text(parse, parse->name->port, NM_IFNAME_MAX, len);
    parse->at += len;
    return code;
}

/* "{ID" or "}ID" becomes part of the port's name. */
static int take_pipe(struct parse *parse)
{
    struct netmap_name *name = parse->name;
    const char *start = parse->at;
    size_t have = strlen(name->port);
    size_t len = 1;

    while (is_word(start[len])) {
        len++;
    }
    if (len == 1) {
        return refuse(parse, "a pipe's name is letters, digits and _", start);
    }
    if (have + len >= sizeof(name->port)) {
        return refuse(parse, "a name is too long", start);
    }
    memcpy(name->port + have, start, len);
    name->port[have + len] = '\0';
    name->iface[0] = '\0';
    name->kind = NETMAP_PIPE;
    parse->at += len;
    return 0;
}

static int take_port(struct parse *parse, netmap_exists_fn *exists)
{
    struct netmap_name *name = parse->name;
    size_t len;
    int code;

    if (strncmp(parse->at, "vale", 4) == 0 && strchr(parse->at, ':')) {
        code = take_vale(parse);
    } else {
        len = existing_prefix(parse->at, exists);
        len = len > 0 ? len : strcspn(parse->at, specials);
        code = copy_text(parse, name->iface, sizeof(name->iface), len);
        parse->at += code == 0 ? len : 0;
        memcpy(name->port, name->iface, sizeof(name->iface));
    }
    if (code == 0 && (*parse->at == '{' || *parse->at == '}')) {
        code = take_pipe(parse);
    }
    return code;
}

static int take_host(struct parse *parse)
{
    const char *start = parse->at;
    uint32_t ring = 0;
    int code;

    if (skip(parse, "all")) {
        return set_mode(parse, NM_MODE_SW, 0, start);
    }
    code = take_number(parse, RING_MAX, &ring);
    return code != 0 ? code : set_mode(parse, NM_MODE_ONE_SW, ring, start);
}

static int take_keyword(struct parse *parse)
{
    const char *start = parse->at;
    uint32_t ring = 0;
    int code;

    if (take_key(parse, "ring")) {
        code = take_number(parse, RING_MAX, &ring);
        return code != 0 ? code : set_mode(parse, NM_MODE_ONE_NIC, ring, start);
    }
    if (take_key(parse, "host")) {
        return take_host(parse);
    }
    if (take_key(parse, "flags")) {
        return take_flags(parse, ",");
    }
    if (take_key(parse, "mem")) {
        return take_memory(parse);
    }
    if (take_key(parse, "share")) {
        return take_share(parse, ",");
    }
    return take_conf_key(parse);
}

/* The form with keywords, behind "iface=". */
static int take_keywords(struct parse *parse)
{
    struct netmap_name *name = parse->name;
    size_t len = strcspn(parse->at, ",");
    int code = copy_text(parse, name->iface, sizeof(name->iface), len);

    parse->at += len;
    memcpy(name->port, name->iface, sizeof(name->iface));
    while (code == 0 && *parse->at == ',') {
        parse->at++;
        code = take_keyword(parse);
    }
    if (code == 0 && *parse->at != '\0') {
        return refuse(parse, "expected a comma", parse->at);
    }
    return code;
}

/* What single parts cannot know. */
static int check_whole(const struct parse *parse)
{
    const struct netmap_name *name = parse->name;
    bool host =
        name->mode == NM_MODE_SW || name->mode == NM_MODE_ONE_SW || name->mode == NM_MODE_NIC_SW;
    const char *what = NULL;

    if ((name->flags & NM_REG_RX_RINGS_ONLY) && (name->flags & NM_REG_TX_RINGS_ONLY)) {
        what = "R and T exclude each other";
    } else if (host && name->kind != NETMAP_NIC) {
        what = "pipes and vale ports have no host rings";
    } else if (name->mem_id != 0 && name->share[0] != '\0') {
        what = "a memory region is named twice, by @NUMBER and by share=";
    }
    return what ? refuse(parse, what, name->port) : 0;
}

int netmap_name_parse(struct netmap_name *name, const char *text, netmap_exists_fn *exists,
                      char why[NETMAP_WHY_MAX])
{
    struct parse parse = {.name = name, .at = text, .why = why};
    int code;

    *name = (struct netmap_name){.kind = NETMAP_NIC, .mode = NM_MODE_ALL_NIC};
    why[0] = '\0';
    if (skip(&parse, "iface=")) {
        code = take_keywords(&parse);
    } else {
        code = take_port(&parse, exists);
        code = code != 0 ? code : take_suffix(&parse);
    }
    return code != 0 ? code : check_whole(&parse);
}
