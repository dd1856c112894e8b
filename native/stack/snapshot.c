/*
 * Reads connections beside their worker; see snapshot.h.
 *
 * A line that the open transaction has changed is in the undo log as it was before, so what is
 * committed can be read at any instant. All of it is read twice: the worker goes on meanwhile, and
 * only what was the same both times was there at one instant.
 */
#include "stack/snapshot.h"

enum {
    CONN_LINES = 3, /* hot, and cold on two lines at most */
    ACTIVE_LINES = 2,
};

/* An object of the arena and where its copy goes. */
struct piece {
    const uint8_t *from;
    uint8_t *to;
    size_t bytes;
};

/* Loads before it are done before those after it; the compiler keeps none of them. */
static void fence(void)
{
    atomic_thread_fence(memory_order_acquire);
}

static uint32_t open_lines(const struct undo_log *undo)
{
    return min_u32(undo->count, UNDO_LINES_MAX); /* from shared memory */
}

/* A line may stand in the log twice: what was there before the transaction comes first. */
static const uint8_t *image_of(const struct undo_log *undo, uint32_t count, uint32_t line)
{
    const volatile uint32_t *lines = undo->line;

    for (uint32_t n = 0; n < count; n++) {
        if (lines[n] == line) {
            return undo->image[n];
        }
    }
    return NULL;
}

/* Overwrites the bytes of a copy that lie on one line with those of the line's pre-image. */
static void take_back(const struct stack *view, const struct piece *piece, const uint8_t *image,
                      uint32_t line)
{
    const uint8_t *line_start = view->arena.base + (size_t)line * CACHE_LINE;
    const uint8_t *start = piece->from > line_start ? piece->from : line_start;
    const uint8_t *end = piece->from + piece->bytes;

    if (end > line_start + CACHE_LINE) {
        end = line_start + CACHE_LINE;
    }
    memcpy(piece->to + (start - piece->from), image + (start - line_start), (size_t)(end - start));
}

/* Copies an object as it was committed last. */
static void copy(const struct stack *view, const struct piece *piece)
{
    const struct undo_log *undo = view->arena.undo;
    size_t offset = (size_t)(piece->from - view->arena.base);
    uint32_t first = (uint32_t)(offset / CACHE_LINE);
    uint32_t last = (uint32_t)((offset + piece->bytes - 1) / CACHE_LINE);
    uint32_t count;

    memcpy(piece->to, piece->from, piece->bytes);
    fence(); /* a line is logged before it changes: first the line, then the log */
    count = open_lines(undo);
    for (uint32_t line = first; count > 0 && line <= last; line++) {
        const uint8_t *image = image_of(undo, count, line);

        if (image) {
            take_back(view, piece, image, line);
        }
    }
    fence();
}

/* Every index in it is checked here. */
static bool take(const struct stack *view, uint32_t conn, struct conn_image *image)
{
    copy(view, &(struct piece){(const uint8_t *)&view->hot[conn], (uint8_t *)&image->hot,
                               sizeof(image->hot)});
    if (image->hot.state == CONN_FREE) {
        return true;
    }
    copy(view, &(struct piece){(const uint8_t *)&view->cold[conn], (uint8_t *)&image->cold,
                               sizeof(image->cold)});
    if (image->hot.active == NONE) {
        memset(&image->active, 0, sizeof(image->active));
        return true;
    }
    if (image->hot.active >= view->config->actives_max) {
        return false;
    }
    copy(view, &(struct piece){(const uint8_t *)&view->active[image->hot.active],
                               (uint8_t *)&image->active, sizeof(image->active)});
    return image->active.conn == conn;
}

/* Field by field: there are unused bytes between them. */
static bool same(const struct conn_image *a, const struct conn_image *b)
{
    return memcmp(&a->hot, &b->hot, sizeof(a->hot)) == 0 &&
           memcmp(&a->cold, &b->cold, sizeof(a->cold)) == 0 &&
           memcmp(&a->active, &b->active, sizeof(a->active)) == 0;
}

enum snapshot_found snapshot_conn(const struct stack *view, uint32_t conn, struct conn_image *image)
{
    struct conn_image again;

    ENSURE(conn < view->config->conns_max);
    for (uint32_t tries = 0; tries < SNAPSHOT_TRIES; tries++) {
        bool sound = take(view, conn, image);

        if (sound && image->hot.state == CONN_FREE) {
            return SNAPSHOT_NONE;
        }
        if (sound && image->hot.state < CONN_STATES && take(view, conn, &again) &&
            same(image, &again)) {
            return SNAPSHOT_CONN;
        }
    }
    return SNAPSHOT_CHANGING;
}

uint32_t snapshot_end(const struct stack *view)
{
    const volatile uint32_t *conn_free = view->conn_free;
    uint32_t conns = view->config->conns_max;
    uint32_t untouched = 0;
    uint32_t free_n;

    copy(view, &(struct piece){(const uint8_t *)&view->shared->conn_free_n, (uint8_t *)&free_n,
                               sizeof(free_n)});
    /* pools_init puts the last record at the bottom, and records are taken from the top */
    free_n = min_u32(free_n, conns);
    while (untouched < free_n && conn_free[untouched] == conns - 1 - untouched) {
        untouched++;
    }
    return conns - untouched;
}

void snapshot_view(struct stack *view, const struct stack_config *config, const struct arena *arena)
{
    *view = (struct stack){.config = config, .arena = *arena};
    stack_layout(view);
}
