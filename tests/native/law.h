/* What every TCP sender owes its peer, checked on each frame as it leaves: RFC 9293, 3.4 and 3.8.
 */
#pragma once
#include "base/compiler.h"

/*
 * Forgets all flows, then law_frame() looks at each frame sent by either side of any. A SYN and a
 * FIN keep their place, nothing lies beyond a FIN or the window that the peer offered (but for one
 * byte, a probe), what was never sent is not acknowledged, acknowledgements and windows do not step
 * back, and a byte is the same each time.
 */
void law_begin(void);
void law_frame(const uint8_t *frame, uint32_t len);
/* Segments that were looked at. */
uint64_t law_segments(void);
