/* When each connection waited for its replies, and how long: struct ss_load_gaps. */
#pragma once
#include "client/load.h"

/* A reply has come: what passed since the one before, or since the first message of all. */
void gaps_note(struct load *load, uint32_t index, uint64_t now_us);
/* The connection is lost: the reply that it still waited for will never come. */
void gaps_note_loss(struct load *load, uint32_t index, uint64_t now_us);
