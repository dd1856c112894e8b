/*
 * Checksums that a sender of this machine left to a card that is not there, for backends that are
 * not told: in the field stands the sum of the pseudo-header. A whole checksum that looks like this
 * is one in 65,536, and taking it for unfinished accepts what is right, or is as rare as damage
 * that a checksum does not see.
 */
#pragma once
#include "ports/port.h"

/* TCP or UDP over IPv4 or IPv6, behind up to two VLAN tags. True: `hdr` says where to finish it. */
bool unfinished_find(const uint8_t *frame, uint32_t len, struct vnet_hdr *hdr);
