/* The table of services. */
#include "service/service.h"

#include <string.h>

#include "service/builtin.h"

const struct service *const service_table[] = {
    &service_echo,
    &service_discard,
    &service_chargen,
    &service_daytime,
    &service_http,
    &service_sockperf,
    NULL,
};

int service_find(const char *name)
{
    for (int i = 0; service_table[i]; i++) {
        if (strcmp(service_table[i]->name, name) == 0) {
            return i;
        }
    }
    return -1;
}
