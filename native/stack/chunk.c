/* Payload buffers and their queues; see chunk.h. */
#include "stack/chunk.h"

#include <stddef.h>

enum {
    CHUNKS_LOW = 64, /* free chunks below which freed ones are needed soon */
    COPY_MAX = 256,  /* bytes cheaper to copy into a started chunk than to spend a chunk on */
};

uint32_t chunk_alloc(struct stack *stack)
{
    struct stack_shared *shared = stack->shared;
    struct chunk *chunk;
    uint32_t index;

    if (shared->chunk_free_n == 0) {
        stats_add(stack->stats, COUNTER_chunks_exhausted, 1);
        return NONE;
    }
    undo_save(&stack->arena, &shared->chunk_free_n);
    index = stack->chunk_free[--shared->chunk_free_n];
    chunk = chunk_at(stack, index);
    chunk->next = NONE; /* not saved: what a free header holds does not matter */
    chunk->start = 0;
    chunk->end = 0;
    chunk->sum = 0;
    return index;
}

void chunk_free(struct stack *stack, uint32_t index)
{
    ENSURE(index < stack->config->chunks_max &&
           stack->shared->chunk_free_n + stack->chunk_freed_n < stack->config->chunks_max);
    stack->chunk_freed[stack->chunk_freed_n++] = index;
    stack->commit_soon |= stack->shared->chunk_free_n < CHUNKS_LOW;
}

void chunk_free_pending(struct stack *stack)
{
    struct stack_shared *shared = stack->shared;

    if (stack->chunk_freed_n == 0) {
        return;
    }
    undo_save(&stack->arena, &shared->chunk_free_n);
    for (uint32_t i = 0; i < stack->chunk_freed_n; i++) {
        undo_save(&stack->arena, &stack->chunk_free[shared->chunk_free_n]);
        stack->chunk_free[shared->chunk_free_n++] = stack->chunk_freed[i];
    }
    stack->chunk_freed_n = 0;
}

void queue_init(struct chunk_queue *queue)
{
    *queue = (struct chunk_queue){.head = NONE, .tail = NONE};
}

void queue_free(struct stack *stack, struct chunk_queue *queue)
{
    while (queue->head != NONE) {
        uint32_t next = chunk_at(stack, queue->head)->next;

        chunk_free(stack, queue->head);
        queue->head = next;
    }
    queue_init(queue);
}

void queue_link(struct stack *stack, struct chunk_queue *queue, uint32_t index)
{
    struct chunk *chunk = chunk_at(stack, index);

    if (chunk->next != NONE) {
        chunk_touch(stack, index)->next = NONE;
    }
    if (queue->tail == NONE) {
        queue->head = index;
    } else {
        chunk_touch(stack, queue->tail)->next = index;
    }
    queue->tail = index;
    queue->bytes += (uint32_t)(chunk->end - chunk->start);
}

uint32_t queue_unlink(struct stack *stack, struct chunk_queue *queue)
{
    uint32_t index = queue->head;
    const struct chunk *chunk = chunk_at(stack, index);

    queue->head = chunk->next;
    queue->bytes -= (uint32_t)(chunk->end - chunk->start);
    if (queue->head == NONE) {
        queue->tail = NONE;
    }
    return index;
}

/* Room at the tail, in a new chunk if need be; 0: the pool is empty. The tail is touched. */
static uint32_t tail_room(struct stack *stack, struct chunk_queue *queue)
{
    uint32_t index;

    if (queue->tail != NONE && chunk_at(stack, queue->tail)->end < CHUNK_BYTES) {
        return CHUNK_BYTES - (uint32_t)chunk_touch(stack, queue->tail)->end;
    }
    index = chunk_alloc(stack);
    if (index == NONE) {
        return 0;
    }
    queue_link(stack, queue, index);
    return CHUNK_BYTES;
}

static void tail_grow(struct stack *stack, struct chunk_queue *queue, uint32_t len)
{
    struct chunk *chunk = chunk_at(stack, queue->tail); /* touched by tail_room */

    chunk->end = (uint16_t)(chunk->end + len);
    chunk->sum = 0;
    queue->bytes += len;
    stats_add(stack->stats, COUNTER_copied_bytes, len);
}

uint32_t queue_append_frame(struct stack *stack, struct chunk_queue *queue,
                            const struct frame *frame, uint32_t off, uint32_t len)
{
    uint32_t done = 0;

    while (done < len) {
        uint32_t part = min_u32(len - done, tail_room(stack, queue));

        if (part == 0) {
            break;
        }
        frame_copy(frame, off + done,
                   chunk_data(stack, queue->tail) + chunk_at(stack, queue->tail)->end, part);
        tail_grow(stack, queue, part);
        done += part;
    }
    return done;
}

uint32_t queue_append(struct stack *stack, struct chunk_queue *queue, const void *data,
                      uint32_t len)
{
    const uint8_t *bytes = data;
    uint32_t done = 0;

    while (done < len) {
        uint32_t part = min_u32(len - done, tail_room(stack, queue));

        if (part == 0) {
            break;
        }
        memcpy(chunk_data(stack, queue->tail) + chunk_at(stack, queue->tail)->end, bytes + done,
               part);
        tail_grow(stack, queue, part);
        done += part;
    }
    return done;
}

void queue_drop(struct stack *stack, struct chunk_queue *queue, uint32_t len)
{
    ENSURE(len <= queue->bytes);
    while (len > 0) {
        struct chunk *chunk = chunk_at(stack, queue->head);
        uint32_t have = (uint32_t)(chunk->end - chunk->start);

        if (len < have) {
            chunk = chunk_touch(stack, queue->head);
            chunk->start = (uint16_t)(chunk->start + len);
            chunk->sum = 0;
            queue->bytes -= len;
            return;
        }
        len -= have;
        chunk_free(stack, queue_unlink(stack, queue));
    }
}

/* Copies the head chunk's first bytes to a started tail. */
static uint32_t move_by_copy(struct stack *stack, struct chunk_queue *from, struct chunk_queue *to,
                             uint32_t len)
{
    const struct chunk *chunk = chunk_at(stack, from->head);
    uint32_t part = min_u32(len, (uint32_t)(chunk->end - chunk->start));

    part = queue_append(stack, to, chunk_data(stack, from->head) + chunk->start, part);
    queue_drop(stack, from, part);
    return part;
}

uint32_t queue_move(struct stack *stack, struct chunk_queue *from, struct chunk_queue *to,
                    uint32_t len)
{
    uint32_t moved = 0;

    if (to->head == NONE && from->bytes <= len) { /* all of it: the queues change places */
        *to = *from;
        queue_init(from);
        return to->bytes;
    }
    while (moved < len && from->head != NONE) {
        const struct chunk *chunk = chunk_at(stack, from->head);
        uint32_t have = (uint32_t)(chunk->end - chunk->start);
        bool scrap = have <= COPY_MAX && to->tail != NONE &&
                     chunk_at(stack, to->tail)->end + have <= CHUNK_BYTES;

        if (have > len - moved || scrap) {
            uint32_t part = move_by_copy(stack, from, to, len - moved);

            if (part == 0) {
                break;
            }
            moved += part;
            continue;
        }
        queue_link(stack, to, queue_unlink(stack, from));
        moved += have;
    }
    return moved;
}
