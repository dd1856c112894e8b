/*
 * netmap's control requests, from their published layout: our own declarations. One request is a
 * header that points to a body (and to options, of which we use none). The kernel writes its answer
 * into the body; build header and body afresh for every call.
 */
#pragma once
#include "base/compiler.h"

enum {
    NM_API = 14,
    NM_NAME_MAX = 64,
    NM_IFNAME_MAX = 16,
    NM_BODY_MAX = 64,
};

/* ioctl numbers; the two syncs take no argument and act on every ring of the descriptor. */
#define NM_IOC_CTRL 0xC0586997UL
#define NM_IOC_TXSYNC 0x6994UL
#define NM_IOC_RXSYNC 0x6995UL

enum nm_reqtype {
    NM_REQ_REGISTER = 1,
    NM_REQ_PORT_INFO_GET = 2,
    NM_REQ_POOLS_INFO_GET = 12,
};

/* Which rings a descriptor is bound to. */
enum nm_mode {
    NM_MODE_ALL_NIC = 1,
    NM_MODE_SW = 2,
    NM_MODE_NIC_SW = 3,
    NM_MODE_ONE_NIC = 4,
    NM_MODE_ONE_SW = 8,
};

enum nm_reg_flag {
    NM_REG_MONITOR_TX = 0x100,
    NM_REG_MONITOR_RX = 0x200,
    NM_REG_ZCOPY_MON = 0x400,
    NM_REG_EXCLUSIVE = 0x800,
    NM_REG_RX_RINGS_ONLY = 0x2000,
    NM_REG_TX_RINGS_ONLY = 0x4000,
    NM_REG_NO_TX_POLL = 0x20000,
    NM_REG_MONITOR = NM_REG_MONITOR_TX | NM_REG_MONITOR_RX | NM_REG_ZCOPY_MON,
};

struct nm_req_header {
    uint16_t version;
    uint16_t reqtype;
    uint32_t reserved;
    char name[NM_NAME_MAX];
    uint64_t options;
    uint64_t body;
};

/* The six counts go both ways: 0 lets netmap choose; honoured by whoever creates the port. */
struct nm_req_register {
    uint64_t offset; /* out: of the netmap_if in the mapping */
    uint64_t memsize;
    uint32_t tx_slots;
    uint32_t rx_slots;
    uint16_t tx_rings;
    uint16_t rx_rings;
    uint16_t host_tx_rings;
    uint16_t host_rx_rings;
    uint16_t mem_id; /* in: wanted region or 0; out: the region */
    uint16_t ringid;
    uint32_t mode;
    uint32_t extra_bufs; /* in: wanted; out: granted */
    uint32_t pad;
    uint64_t flags;
};

struct nm_req_port_info {
    uint64_t memsize;
    uint32_t tx_slots;
    uint32_t rx_slots;
    uint16_t tx_rings;
    uint16_t rx_rings;
    uint16_t host_tx_rings;
    uint16_t host_rx_rings;
    uint16_t mem_id;
    uint16_t pad[3];
};

struct nm_req_pools_info {
    uint64_t memsize;
    uint16_t mem_id;
    uint16_t pad[3];
    uint64_t if_offset;
    uint32_t if_total;
    uint32_t if_size;
    uint64_t ring_offset;
    uint32_t ring_total;
    uint32_t ring_size;
    uint64_t buf_offset;
    uint32_t buf_total;
    uint32_t buf_size;
};

_Static_assert(sizeof(struct nm_req_header) == 88, "nmreq_header");
_Static_assert(offsetof(struct nm_req_header, name) == 8, "nmreq_header.nr_name");
_Static_assert(offsetof(struct nm_req_header, options) == 72, "nmreq_header.nr_options");
_Static_assert(offsetof(struct nm_req_header, body) == 80, "nmreq_header.nr_body");
_Static_assert(sizeof(struct nm_req_register) == 56, "nmreq_register");
_Static_assert(offsetof(struct nm_req_register, tx_slots) == 16, "nmreq_register.nr_tx_slots");
_Static_assert(offsetof(struct nm_req_register, tx_rings) == 24, "nmreq_register.nr_tx_rings");
_Static_assert(offsetof(struct nm_req_register, mem_id) == 32, "nmreq_register.nr_mem_id");
_Static_assert(offsetof(struct nm_req_register, mode) == 36, "nmreq_register.nr_mode");
_Static_assert(offsetof(struct nm_req_register, extra_bufs) == 40, "nmreq_register.nr_extra_bufs");
_Static_assert(offsetof(struct nm_req_register, flags) == 48, "nmreq_register.nr_flags");
_Static_assert(sizeof(struct nm_req_port_info) == 32, "nmreq_port_info_get");
_Static_assert(offsetof(struct nm_req_port_info, mem_id) == 24, "nmreq_port_info_get.nr_mem_id");
_Static_assert(sizeof(struct nm_req_pools_info) == 64, "nmreq_pools_info");
_Static_assert(offsetof(struct nm_req_pools_info, if_total) == 24, "nmreq_pools_info.if_objtotal");
_Static_assert(offsetof(struct nm_req_pools_info, buf_size) == 60, "nmreq_pools_info.buf_objsize");
