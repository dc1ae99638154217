/* A byte ring with one producer, an interrupt handler, and one consumer, the port's task. Sizes are powers of two. */
#ifndef QFL_RING_H
#define QFL_RING_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qfl_ring {
    uint8_t *bytes;
    uint32_t size;
    volatile uint32_t head, tail;
} qfl_ring;

static inline uint32_t qfl_ring_used(const qfl_ring *r) { return r->head - r->tail; }
static inline int qfl_ring_full(const qfl_ring *r) { return qfl_ring_used(r) >= r->size; }

static inline void qfl_ring_put(qfl_ring *r, uint8_t byte) /* only where it is not full */
{
    r->bytes[r->head & (r->size - 1u)] = byte;
    r->head = r->head + 1;
}

static inline uint32_t qfl_ring_take(qfl_ring *r, uint8_t *p, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && r->tail != r->head) {
        p[i++] = r->bytes[r->tail & (r->size - 1u)];
        r->tail = r->tail + 1;
    }
    return i;
}

#ifdef __cplusplus
}
#endif

#endif
