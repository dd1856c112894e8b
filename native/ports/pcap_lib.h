/*
 * The few functions of libpcap that the pcap: backend uses, opened at run time: our own
 * declarations of its documented, stable interface. A machine without it has all other backends.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>
#include <sys/time.h>

enum {
    PCAP_ERROR_BYTES = 256,
    PCAP_DIRECTION_IN = 1,
    PCAP_LINK_ETHERNET = 1,
    PCAP_READ_END = -2, /* of pcap_next_ex: the end of a file */
    PCAP_WANTED_MAJOR = 1,
};

/* pcap_t: opaque. */
struct pcap_handle;

/* struct pcap_pkthdr */
struct pcap_packet {
    struct timeval ts;
    uint32_t caplen;
    uint32_t len;
};

/* struct bpf_program; its instructions are the kernel's struct sock_filter. */
struct pcap_program {
    unsigned count;
    void *code;
};

/* struct pcap_stat */
struct pcap_counts {
    unsigned received;
    unsigned dropped;
    unsigned dropped_by_card;
};

struct pcap_lib {
    void *object; /* of dlopen */
    const char *(*lib_version)(void);
    struct pcap_handle *(*create)(const char *device, char *error);
    int (*set_snaplen)(struct pcap_handle *, int bytes);
    int (*set_promisc)(struct pcap_handle *, int on);
    int (*set_timeout)(struct pcap_handle *, int ms);
    int (*set_immediate_mode)(struct pcap_handle *, int on);
    int (*set_buffer_size)(struct pcap_handle *, int bytes);
    int (*activate)(struct pcap_handle *);
    int (*setnonblock)(struct pcap_handle *, int on, char *error);
    int (*setdirection)(struct pcap_handle *, int direction);
    int (*setfilter)(struct pcap_handle *, struct pcap_program *);
    int (*datalink)(struct pcap_handle *);
    int (*get_selectable_fd)(struct pcap_handle *);
    int (*next_ex)(struct pcap_handle *, struct pcap_packet **, const unsigned char **);
    int (*inject)(struct pcap_handle *, const void *, size_t);
    int (*stats)(struct pcap_handle *, struct pcap_counts *);
    struct pcap_handle *(*open_offline)(const char *path, char *error);
    char *(*geterr)(struct pcap_handle *);
    const char *(*statustostr)(int);
    void (*close)(struct pcap_handle *);
};

/* 0, or -errno with a sentence for `spec` in error: what is missing and how to get it. */
int pcap_lib_open(struct pcap_lib *lib, const char *spec, char *error);
void pcap_lib_close(struct pcap_lib *lib);
