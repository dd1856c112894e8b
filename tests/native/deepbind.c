/*
 * libvdeplug opens its modules with RTLD_DEEPBIND, at which AddressSanitizer ends the program: its
 * own malloc would not be the module's. Here dlopen() forgets the flag, so that vde: is tested
 * under it as well.
 */
#ifdef __SANITIZE_ADDRESS__
#include <dlfcn.h>
#include <string.h>

__attribute__((visibility("default"))) void *dlopen(const char *name, int flags)
{
    void *(*next)(const char *, int);
    void *symbol = dlsym(RTLD_NEXT, "dlopen");

    memcpy(&next, &symbol, sizeof(next));
    return next(name, flags & ~RTLD_DEEPBIND);
}
#else
typedef int nothing_to_do; /* a file may not be empty */
#endif
