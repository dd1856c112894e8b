/* Sealed shared mappings and the rollback of an unfinished transaction. */
#include "base/arena.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static int sealed_memfd(const char *name, size_t size)
{
    int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0) {
        return -errno;
    }
    if (ftruncate(fd, (off_t)size) != 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

int arena_create(struct arena *arena, size_t size, uint32_t shard)
{
    int fd = sealed_memfd("shardserver-arena", size);
    struct arena_header *header;
    void *base;

    if (fd < 0) {
        return fd;
    }
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        int error = -errno;
        close(fd);
        return error;
    }
    madvise(base, size, MADV_HUGEPAGE); /* advice only: 4 KiB pages serve as well */
    header = base;
    header->magic = ARENA_MAGIC;
    header->version = ARENA_VERSION;
    header->size = size;
    header->used = (sizeof(*header) + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    header->shard = shard;
    *arena = (struct arena){
        .base = base, .size = size, .undo = &header->undo, .fd = fd, .transaction = 1};
    return 0;
}

void arena_destroy(struct arena *arena)
{
    if (arena->base) {
        munmap(arena->base, arena->size);
        close(arena->fd);
    }
    *arena = (struct arena){.fd = -1};
}

void *arena_carve(const struct arena *arena, size_t *used, size_t bytes)
{
    size_t start = *used;

    ENSURE(bytes <= arena->size - start);
    *used = start + (bytes + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
    return arena->base + start;
}

void *arena_shared_map(const char *name, size_t size)
{
    int fd = sealed_memfd(name, size);
    void *base;

    if (fd < 0) {
        errno = -fd;
        return NULL;
    }
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    close(fd); /* the mapping keeps it */
    return base == MAP_FAILED ? NULL : base;
}

uint32_t undo_rollback(struct arena *arena)
{
    struct undo_log *undo = arena->undo;
    uint32_t restored = undo->count;

    ENSURE(restored <= UNDO_LINES_MAX);
    for (uint32_t n = restored; n-- > 0;) {
        ENSURE((size_t)undo->line[n] < arena->size / CACHE_LINE);
        memcpy(arena->base + (size_t)undo->line[n] * CACHE_LINE, undo->image[n], CACHE_LINE);
    }
    undo_commit(arena);
    return restored;
}
