/*
 * Records on the sample channel of emulated boards: 0xA5 0x5A, label u16, length u32 (little-endian), then `length`
 * int8 values. Real boards have a sensor instead. Shared by the ports of boards/.
 */
#ifndef QFL_SAMPLE_RECORD_H
#define QFL_SAMPLE_RECORD_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qfl_sample_reader {
    uint8_t head[8];
    uint8_t head_n;
    uint8_t skipping;  /* the record has another length than asked for */
    uint16_t label;
    uint32_t left;     /* bytes of the record still to come */
    uint32_t lost;     /* records dropped */
} qfl_sample_reader;

/* Reads up to n bytes without blocking; returns how many. */
typedef uint32_t (*qfl_sample_source)(void *ctx, uint8_t *p, uint32_t n);

/* One call of a port's next_sample: 1 when x [n] is complete. Nonsense before a record is skipped. */
int32_t qfl_sample_next(qfl_sample_reader *r, qfl_sample_source read, void *ctx, int8_t *x, uint32_t n,
                        uint16_t *label);

#ifdef __cplusplus
}
#endif

#endif
