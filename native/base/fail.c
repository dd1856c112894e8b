/* The one place where a broken invariant ends the process. */
#include <stdio.h>
#include <stdlib.h>

#include "base/compiler.h"

_Noreturn void base_fail(const char *condition, const char *file, int line)
{
    fprintf(stderr, "shardserver: assertion failed: %s (%s:%d)\n", condition, file, line);
    abort();
}
