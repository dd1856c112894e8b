/* ICMP; see icmp.h. */
#include "stack/icmp.h"

#include <string.h>

#include "base/csum.h"
#include "stack/eth.h"
#include "stack/ipv4.h"

enum {
    ICMP_ECHO_REPLY = 0,
    ICMP_UNREACHABLE = 3,
    ICMP_QUENCH = 4,
    ICMP_ECHO_REQUEST = 8,
    ICMP_TIME_EXCEEDED = 11,
    ICMP_PARAMETER = 12,
};

static bool is_error(uint8_t type)
{
    return type == ICMP_UNREACHABLE || type == ICMP_QUENCH || type == ICMP_TIME_EXCEEDED ||
           type == ICMP_PARAMETER;
}

static enum verdict handle(struct stack *stack, const struct frame *frame)
{
    struct wire_icmp icmp;
    struct reply *reply;

    if (frame->l4_len < ICMP_HDR_LEN || frame->contig < (uint32_t)frame->l4_off + ICMP_HDR_LEN ||
        (frame->csum == FRAME_CSUM_NONE &&
         csum_fold(frame_sum(frame, frame->l4_off, frame->l4_len)) != 0)) {
        return VERDICT_icmp_malformed;
    }
    memcpy(&icmp, frame->data + frame->l4_off, sizeof(icmp));
    if (is_error(icmp.type)) {
        return VERDICT_icmp_error; /* never ends a connection (RFC 5927) */
    }
    /* echo to a group is not answered (P), nor what does not fit one packet of ours */
    if (icmp.type != ICMP_ECHO_REQUEST || icmp.code != 0 || frame->broadcast ||
        frame->l4_len > (uint32_t)stack->config->mtu - IPV4_HDR_LEN) {
        return VERDICT_icmp_ignored;
    }
    reply = reply_add(stack, REPLY_ICMP_ECHO);
    if (reply) {
        memcpy(reply->mac, frame->data + ETH_ALEN_BYTES, sizeof(reply->mac));
        reply->ip = frame->tuple.raddr;
        reply->frame = frame;
    }
    return VERDICT_icmp_echo;
}

void icmp_input(struct stack *stack, struct frame *frame)
{
    frame->verdict = (uint8_t)handle(stack, frame);
}

bool reply_send_icmp(struct stack *stack, const struct reply *reply)
{
    const struct frame *frame = reply->frame;
    uint8_t *buf = tx_reserve(stack);
    uint8_t *l4;
    uint16_t check;

    if (!buf) {
        return false;
    }
    l4 = buf + ETH_HDR_LEN + IPV4_HDR_LEN;
    eth_write(stack, buf, reply->mac, ETHERTYPE_IPV4);
    ipv4_write(stack, buf + ETH_HDR_LEN, reply->ip, PROTO_ICMP, frame->l4_len);
    frame_copy(frame, frame->l4_off, l4, frame->l4_len);
    l4[0] = ICMP_ECHO_REPLY;
    memset(l4 + offsetof(struct wire_icmp, check), 0, sizeof(check));
    check = csum_fold(csum_add(l4, frame->l4_len, 0));
    memcpy(l4 + offsetof(struct wire_icmp, check), &check, sizeof(check));
    tx_push(stack, ETH_HDR_LEN + IPV4_HDR_LEN + frame->l4_len);
    return true;
}
