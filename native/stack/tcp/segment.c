/* From a frame to a segment: lengths, checksum, options; nothing here touches a connection. */
#include <arpa/inet.h>

#include "base/csum.h"
#include "stack/tcp/tcp.h"

enum {
    OPT_END = 0,
    OPT_NOP = 1,
    OPT_MSS = 2,
    OPT_WSCALE = 3,
    OPTIONS_MAX = 40,
};

/* Options may come in any segment (MUST-5); unknown ones are skipped (MUST-6). */
static bool parse_options(const uint8_t *opt, uint32_t len, struct segment *seg)
{
    uint32_t i = 0;

    while (i < len && opt[i] != OPT_END) {
        uint32_t size;

        if (opt[i] == OPT_NOP) {
            i++;
            continue;
        }
        if (i + 1 >= len || opt[i + 1] < 2 || opt[i + 1] > len - i) {
            return false; /* MUST-7 */
        }
        size = opt[i + 1];
        if (opt[i] == OPT_MSS && size == 4) {
            seg->mss = (uint16_t)(opt[i + 2] << 8 | opt[i + 3]);
        } else if (opt[i] == OPT_WSCALE && size == 3) {
            seg->wscale = opt[i + 2] < TCP_WSCALE_MAX ? opt[i + 2] : TCP_WSCALE_MAX;
        }
        i += size;
    }
    return true;
}

static bool checksum_right(const struct frame *frame)
{
    uint64_t sum = csum_pseudo(frame->tuple.raddr, frame->tuple.laddr, PROTO_TCP, frame->l4_len);

    if (frame->contig >= frame->l4_off + frame->l4_len) {
        sum = csum_add(frame->data + frame->l4_off, frame->l4_len, sum);
    } else {
        sum += frame_sum(frame, frame->l4_off, frame->l4_len);
    }
    return csum_fold(sum) == 0;
}

enum verdict segment_parse(struct stack *stack, const struct frame *frame, struct segment *seg)
{
    struct wire_tcp tcp;
    uint8_t options[OPTIONS_MAX];
    uint32_t header;

    (void)stack;
    if (frame->l4_len < TCP_HDR_LEN || frame->contig < (uint32_t)frame->l4_off + TCP_HDR_LEN) {
        return VERDICT_tcp_bad_header;
    }
    memcpy(&tcp, frame->data + frame->l4_off, sizeof(tcp));
    header = (uint32_t)(tcp.data_off >> 4) * 4;
    if (header < TCP_HDR_LEN || header > frame->l4_len) {
        return VERDICT_tcp_bad_header;
    }
    if (frame->csum == FRAME_CSUM_NONE && !checksum_right(frame)) {
        return VERDICT_tcp_bad_checksum;
    }
    *seg = (struct segment){.frame = frame,
                            .seq = ntohl(tcp.seq),
                            .ack = ntohl(tcp.ack),
                            .wnd = ntohs(tcp.window),
                            .off = frame->l4_off + header,
                            .len = frame->l4_len - header,
                            .flags = tcp.flags,
                            .wscale = UINT8_MAX};
    if (header > TCP_HDR_LEN && (tcp.flags & TCP_SYN)) {
        frame_copy(frame, frame->l4_off + TCP_HDR_LEN, options, header - TCP_HDR_LEN);
        if (!parse_options(options, header - TCP_HDR_LEN, seg)) {
            return VERDICT_tcp_bad_header;
        }
    }
    return VERDICT_NONE;
}
