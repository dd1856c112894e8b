/*
 * netmap's names of ports, as its own tools write them, and a form with keywords:
 *
 *   NAME[{ID|}ID][-N|^|^N|*][/xzrtRT][@MEM][@share=PORT][@conf:KEY=N,...]
 *   vale0:PORT[...]
 *   iface=NAME[,ring=N|,host=N|,host=all][,flags=xzrtRT][,mem=N][,share=PORT][,KEY=N...]
 *
 * KEY is rings, tx-rings, rx-rings, host-rings, host-tx-rings, host-rx-rings, slots, tx-slots,
 * rx-slots, extra-bufs or no-tx-poll. Where an interface's own name holds one of - * ^ / @ { }, the
 * longest interface that exists wins; the keywords are never ambiguous.
 */
#pragma once
#include "ports/netmap_req.h"

enum netmap_kind {
    NETMAP_NIC,
    NETMAP_PIPE,
    NETMAP_VALE,
};

/* What a new port is asked to have, and what an existing one is compared with; 0: no wish. */
struct netmap_conf {
    uint32_t tx_slots;
    uint32_t rx_slots;
    uint32_t tx_rings;
    uint32_t rx_rings;
    uint32_t host_tx_rings;
    uint32_t host_rx_rings;
    uint32_t extra_bufs;
    uint32_t no_tx_poll; /* not 0: a poll for frames does not send */
};

struct netmap_name {
    enum netmap_kind kind;
    char port[NM_NAME_MAX];    /* as the kernel wants it: "eth0", "eth0{1", "vale0:1" */
    char iface[NM_IFNAME_MAX]; /* of a NIC; "": the port is on no interface */
    char share[NM_NAME_MAX];   /* the port whose memory region is wanted; "": none */
    uint32_t mode;             /* enum nm_mode */
    uint16_t ring;             /* for ONE_NIC and ONE_SW */
    uint16_t mem_id;           /* 0: netmap's choice */
    uint64_t flags;            /* enum nm_reg_flag */
    struct netmap_conf conf;
};

typedef bool netmap_exists_fn(const char *iface);

enum {
    NETMAP_WHY_MAX = 128,
};

/*
 * Pure but for `exists`, which says whether there is an interface of that name. 0, or -EINVAL and
 * in `why` what is wrong with the text; -ENOTSUP: netmap has it, we do not.
 */
int netmap_name_parse(struct netmap_name *name, const char *text, netmap_exists_fn *exists,
                      char why[NETMAP_WHY_MAX]);
