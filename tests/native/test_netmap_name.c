/* netmap: the grammar of port names, and the arithmetic of netmap's memory pools. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "check.h"
#include "ports/netmap_limits.h"
#include "ports/netmap_name.h"

static struct netmap_name name;
static char why[NETMAP_WHY_MAX];

static bool no_interface(const char *iface)
{
    (void)iface;
    return false;
}

static bool some_interfaces(const char *iface)
{
    return strcmp(iface, "eth0") == 0 || strcmp(iface, "br-lan") == 0 ||
           strcmp(iface, "eth0-1") == 0 || strcmp(iface, "br") == 0;
}

static bool parses(const char *text)
{
    int code = netmap_name_parse(&name, text, no_interface, why);

    if (code != 0) {
        printf("    %s: %s\n", text, why);
    }
    return code == 0;
}

static bool refuses(const char *text, const char *words)
{
    int code = netmap_name_parse(&name, text, no_interface, why);

    if (code == 0 || !strstr(why, words)) {
        printf("    %s: %d, %s\n", text, code, why);
    }
    return code < 0 && strstr(why, words);
}

static bool is(const char *port, uint32_t mode, uint32_t ring)
{
    return strcmp(name.port, port) == 0 && name.mode == mode && name.ring == ring;
}

static void a_bare_name_means_all_rings_of_a_nic(void)
{
    CHECK(parses("eth0"));
    CHECK(is("eth0", NM_MODE_ALL_NIC, 0));
    CHECK_EQ(name.kind, NETMAP_NIC);
    CHECK(strcmp(name.iface, "eth0") == 0);
    CHECK_EQ(name.flags, 0);
    CHECK_EQ(name.mem_id, 0);
}

static void every_choice_of_rings_has_its_mode(void)
{
    CHECK(parses("eth0-0") && is("eth0", NM_MODE_ONE_NIC, 0));
    CHECK(parses("eth0-17") && is("eth0", NM_MODE_ONE_NIC, 17));
    CHECK(parses("eth0-4094") && is("eth0", NM_MODE_ONE_NIC, 4094));
    CHECK(parses("eth0^") && is("eth0", NM_MODE_SW, 0));
    CHECK(parses("eth0^3") && is("eth0", NM_MODE_ONE_SW, 3));
    CHECK(parses("eth0*") && is("eth0", NM_MODE_NIC_SW, 0));
}

static void flags_are_letters_behind_a_slash(void)
{
    CHECK(parses("eth0/x"));
    CHECK_EQ(name.flags, NM_REG_EXCLUSIVE);
    CHECK(parses("eth0-1/zrt"));
    CHECK_EQ(name.flags, NM_REG_ZCOPY_MON | NM_REG_MONITOR_RX | NM_REG_MONITOR_TX);
    CHECK(is("eth0", NM_MODE_ONE_NIC, 1));
    CHECK(parses("eth0/R"));
    CHECK_EQ(name.flags, NM_REG_RX_RINGS_ONLY);
    CHECK(parses("eth0/T"));
    CHECK_EQ(name.flags, NM_REG_TX_RINGS_ONLY);
}

static void pipes_are_part_of_the_ports_name(void)
{
    CHECK(parses("eth0{1") && is("eth0{1", NM_MODE_ALL_NIC, 0));
    CHECK_EQ(name.kind, NETMAP_PIPE);
    CHECK(name.iface[0] == '\0');
    CHECK(parses("x}a_2-0") && is("x}a_2", NM_MODE_ONE_NIC, 0));
    CHECK(parses("vale1:a{7") && is("vale1:a{7", NM_MODE_ALL_NIC, 0));
    CHECK_EQ(name.kind, NETMAP_PIPE);
}

static void vale_ports_carry_their_switch(void)
{
    CHECK(parses("vale0:1") && is("vale0:1", NM_MODE_ALL_NIC, 0));
    CHECK_EQ(name.kind, NETMAP_VALE);
    CHECK(parses("valeX:vm3-2") && is("valeX:vm3", NM_MODE_ONE_NIC, 2));
    CHECK(parses("vale0") && is("vale0", NM_MODE_ALL_NIC, 0)); /* an interface of that name */
    CHECK_EQ(name.kind, NETMAP_NIC);
}

static void memory_regions_are_numbers_or_another_ports(void)
{
    CHECK(parses("eth0@3"));
    CHECK_EQ(name.mem_id, 3);
    CHECK(parses("vale0:1@share=eth0{2"));
    CHECK(strcmp(name.share, "eth0{2") == 0);
    CHECK(parses("eth0-1/x@2@conf:slots=512"));
    CHECK_EQ(name.mem_id, 2);
    CHECK_EQ(name.conf.tx_slots, 512);
}

static void conf_sets_single_or_both_directions(void)
{
    CHECK(parses("x{1@conf:rings=4,rx-rings=2,tx-slots=64,host-rings=3,extra-bufs=9"));
    CHECK_EQ(name.conf.tx_rings, 4);
    CHECK_EQ(name.conf.rx_rings, 2);
    CHECK_EQ(name.conf.tx_slots, 64);
    CHECK_EQ(name.conf.rx_slots, 0);
    CHECK_EQ(name.conf.host_tx_rings, 3);
    CHECK_EQ(name.conf.host_rx_rings, 3);
    CHECK_EQ(name.conf.extra_bufs, 9);
}

static void keywords_are_never_ambiguous(void)
{
    CHECK(parses("iface=br-lan") && is("br-lan", NM_MODE_ALL_NIC, 0));
    CHECK(parses("iface=en@x,ring=5,flags=xR,mem=2") && is("en@x", NM_MODE_ONE_NIC, 5));
    CHECK_EQ(name.flags, NM_REG_EXCLUSIVE | NM_REG_RX_RINGS_ONLY);
    CHECK_EQ(name.mem_id, 2);
    CHECK(parses("iface=a,host=all") && is("a", NM_MODE_SW, 0));
    CHECK(parses("iface=a,host=1,slots=128") && is("a", NM_MODE_ONE_SW, 1));
    CHECK_EQ(name.conf.rx_slots, 128);
}

static void the_longest_interface_that_exists_wins(void)
{
    CHECK_EQ(netmap_name_parse(&name, "br-lan-2", some_interfaces, why), 0);
    CHECK(is("br-lan", NM_MODE_ONE_NIC, 2));
    CHECK_EQ(netmap_name_parse(&name, "eth0-1", some_interfaces, why), 0);
    CHECK(is("eth0-1", NM_MODE_ALL_NIC, 0));
    CHECK_EQ(netmap_name_parse(&name, "eth0-10", some_interfaces, why), 0);
    CHECK(is("eth0", NM_MODE_ONE_NIC, 10));
    CHECK_EQ(netmap_name_parse(&name, "br-lam", some_interfaces, why), -EINVAL);
}

static void nonsense_is_refused_with_its_place(void)
{
    CHECK(refuses("", "a name is missing"));
    CHECK(refuses("-1", "a name is missing"));
    CHECK(refuses("eth0-", "expected a number"));
    CHECK(refuses("eth0-x", "expected a number"));
    CHECK(refuses("eth0-4095", "at most 4094"));
    CHECK(refuses("eth0-99999999999999999999", "expected a number"));
    CHECK(refuses("eth0-1-2", "a second choice of rings"));
    CHECK(refuses("eth0^*", "a second choice of rings"));
    CHECK(refuses("eth0/", "flags are missing"));
    CHECK(refuses("eth0/q", "flags are x, z, r, t, R and T"));
    CHECK(refuses("eth0/RT", "exclude each other"));
    CHECK(refuses("eth0@", "expected @NUMBER"));
    CHECK(refuses("eth0@0", "from 1 on"));
    CHECK(refuses("eth0@conf:", "unknown key"));
    CHECK(refuses("eth0@conf:slots=0", "from 1 on"));
    CHECK(refuses("eth0@conf:slots", "unknown key"));
    CHECK(refuses("eth0@1@share=x", "named twice"));
    CHECK(refuses("averylonginterfacename", "a name is too long"));
    CHECK(refuses("x@conf:slots=8,", "unknown key"));
    CHECK(refuses("x{", "letters, digits"));
    CHECK(refuses("x{1^", "no host rings"));
    CHECK(refuses("vale0:", "valeSWITCH:PORT"));
    CHECK(refuses("iface=", "a name is missing"));
    CHECK(refuses("iface=a,ring=1,host=0", "a second choice"));
    CHECK(refuses("iface=a,colour=red", "unknown key"));
    CHECK_EQ(netmap_name_parse(&name, "eth0@extmem:file=x", no_interface, why), -ENOTSUP);
}

/* Any text is either refused in words or gives names that end within their fields. */
static void no_text_breaks_the_parser(void)
{
    static const char alphabet[] = "e0-^*/@{}:=,xRvalconfsthri1";
    uint64_t seed = 7;

    for (int i = 0; i < 200000; i++) {
        char text[48];
        size_t len = seed % (sizeof(text) - 1);

        for (size_t k = 0; k < len; k++) {
            seed = seed * 6364136223846793005u + 1442695040888963407u;
            text[k] = alphabet[(seed >> 33) % (sizeof(alphabet) - 1)];
        }
        text[len] = '\0';
        if (netmap_name_parse(&name, text, some_interfaces, why) != 0) {
            CHECK(why[0] != '\0' && strnlen(why, sizeof(why)) < sizeof(why));
        } else {
            CHECK(strnlen(name.port, sizeof(name.port)) < sizeof(name.port));
            CHECK(strnlen(name.iface, sizeof(name.iface)) < sizeof(name.iface));
            CHECK(name.port[0] != '\0' && name.mode != 0);
        }
    }
}

static bool too_much(struct netmap_want want, const char *words)
{
    static const struct netmap_limits limits = {.ring_size = 36864,
                                                .ring_num = 200,
                                                .if_size = 1024,
                                                .if_num = 100,
                                                .buf_size = 2048,
                                                .buf_num = 163840};
    char sentence[256] = "";
    bool fits = netmap_limits_check(&limits, &want, sentence, sizeof(sentence));

    if (words && !strstr(sentence, words)) {
        printf("    %s\n", sentence);
    }
    return words ? !fits && strstr(sentence, words) : !fits;
}

static void the_pools_limits_are_computed_as_the_module_does(void)
{
    CHECK_EQ(netmap_ring_bytes(4096), 65792);
    CHECK_EQ(netmap_if_bytes(121), 1024);
    CHECK(!too_much((struct netmap_want){.tx_slots = 2288, .rx_slots = 2288}, NULL));
    CHECK(too_much((struct netmap_want){.rx_slots = 2289}, "down to 2288 slots"));
    CHECK(too_much((struct netmap_want){.tx_slots = 4096}, "echo 65792 > /sys/module/netmap"));
    CHECK(!too_much((struct netmap_want){.all_rings = 121}, NULL));
    CHECK(too_much((struct netmap_want){.all_rings = 122}, "echo 1032 >"));
    CHECK(too_much((struct netmap_want){.tx_rings = 101, .rx_rings = 100}, "echo 201 >"));
    CHECK(too_much(
        (struct netmap_want){.tx_rings = 80, .rx_rings = 80, .tx_slots = 1024, .rx_slots = 1025},
        "163920 buffers"));
    CHECK(too_much((struct netmap_want){.extra_bufs = 163841}, "buf_num"));
    CHECK(too_much((struct netmap_want){.descriptors = 101}, "if_num"));
    CHECK(!too_much((struct netmap_want){.mtu = 2030}, NULL));
    CHECK(too_much((struct netmap_want){.mtu = 9000}, "ip link set mtu 2030"));
}

static void unknown_limits_refuse_nothing(void)
{
    struct netmap_limits limits = {0};
    struct netmap_want want = {.tx_slots = 1 << 20, .all_rings = 9999, .descriptors = 9999};
    char sentence[256];

    CHECK(netmap_limits_check(&limits, &want, sentence, sizeof(sentence)));
}

int main(int argc, char **argv)
{
    static const struct check_case cases[] = {
        {"a bare name means all rings of a NIC", a_bare_name_means_all_rings_of_a_nic},
        {"every choice of rings has its mode", every_choice_of_rings_has_its_mode},
        {"flags are letters behind a slash", flags_are_letters_behind_a_slash},
        {"pipes are part of the port's name", pipes_are_part_of_the_ports_name},
        {"vale ports carry their switch", vale_ports_carry_their_switch},
        {"memory regions are numbers or another port's",
         memory_regions_are_numbers_or_another_ports},
        {"conf sets single or both directions", conf_sets_single_or_both_directions},
        {"keywords are never ambiguous", keywords_are_never_ambiguous},
        {"the longest interface that exists wins", the_longest_interface_that_exists_wins},
        {"nonsense is refused with its place", nonsense_is_refused_with_its_place},
        {"no text breaks the parser", no_text_breaks_the_parser},
        {"the pools' limits are computed as the module does",
         the_pools_limits_are_computed_as_the_module_does},
        {"unknown limits refuse nothing", unknown_limits_refuse_nothing},
    };

    return check_run(cases, sizeof(cases) / sizeof(cases[0]), argc, argv);
}
