/*
 * Payload buffers: 2 KiB chunks in the arena, their headers apart, and queues of them by index.
 * A queue is changed only inside a transaction; whoever owns the queue has saved it already.
 */
#pragma once
#include "stack/conn.h"

static inline uint8_t *chunk_data(const struct stack *stack, uint32_t index)
{
    ENSURE(index < stack->config->chunks_max);
    return stack->chunks + (size_t)index * CHUNK_BYTES;
}

static inline struct chunk *chunk_at(const struct stack *stack, uint32_t index)
{
    ENSURE(index < stack->config->chunks_max);
    return (struct chunk *)(void *)(stack->chunks +
                                    (size_t)stack->config->chunks_max * CHUNK_BYTES) +
           index;
}

static inline struct chunk *chunk_touch(struct stack *stack, uint32_t index)
{
    struct chunk *chunk = chunk_at(stack, index);

    undo_save(&stack->arena, chunk);
    return chunk;
}

/* An empty chunk, NONE when the pool is exhausted (counted). */
uint32_t chunk_alloc(struct stack *stack);
/* Its bytes stay until the commit: a rollback needs them. */
void chunk_free(struct stack *stack, uint32_t index);
/* The commit's share: what was freed may be used again. */
void chunk_free_pending(struct stack *stack);

void queue_init(struct chunk_queue *queue);
void queue_free(struct stack *stack, struct chunk_queue *queue);
/* Appends bytes of a frame; returns how many found room in chunks. */
uint32_t queue_append_frame(struct stack *stack, struct chunk_queue *queue,
                            const struct frame *frame, uint32_t off, uint32_t len);
uint32_t queue_append(struct stack *stack, struct chunk_queue *queue, const void *data,
                      uint32_t len);
/* Drops bytes from the head. */
void queue_drop(struct stack *stack, struct chunk_queue *queue, uint32_t len);
/* Moves at most `len` bytes to the end of another queue: whole chunks by index, scraps by copy. */
uint32_t queue_move(struct stack *stack, struct chunk_queue *from, struct chunk_queue *to,
                    uint32_t len);
/* Links a chunk that belongs to no queue to the end. */
void queue_link(struct stack *stack, struct chunk_queue *queue, uint32_t index);
/* Takes the first chunk off. */
uint32_t queue_unlink(struct stack *stack, struct chunk_queue *queue);
