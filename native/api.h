/* The implementation's view of the public header: every ss_ function is exported. */
#pragma once

#pragma GCC visibility push(default)
#include "shardserver.h"
#pragma GCC visibility pop
