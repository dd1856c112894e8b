/* What a warm worker gives up: capabilities, new files, sockets, processes. */
#pragma once

/* no_new_privs, all capabilities dropped, seccomp filter. 0 or -errno. */
int base_confine(void);
