/* The implementation's view of the public header: every ss_ function is exported. */
#pragma once

#pragma GCC visibility push(default)
#include "shardserver.h"
#pragma GCC visibility pop

struct portset;
/* api_rings.c */
void describe_portset(const struct portset *set, struct ss_rings_info *info);
