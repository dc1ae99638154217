/*
 * qfl_codec: float32 deltas to bytes and back, the same on the host and on every board.
 *
 * BU(L), bucket-uniform, after QuantFL (arXiv 2603.17507; definition in docs/CODEC.md): lo and hi of the values, L equal
 * buckets between them, each value sent as its bucket's index in ceil(log2 L) bits, reconstructed at the bucket's
 * midpoint, or at the mean of the values that fell into it (option). One range per message or per tensor (option).
 *
 * Encoded form (little-endian): one byte kind | flags, one byte ceil(log2 L), then per range
 *     lo float32, hi float32, [L means float32], indices packed from the lowest bit of the first byte, zero-padded.
 * A range with lo == hi (a constant) has neither means nor indices. FP32: the kind byte, then the floats.
 * Encoding refuses NaN and infinity; decoding refuses whatever encoding cannot have made.
 */
#ifndef QFL_CODEC_H
#define QFL_CODEC_H

#include <stdint.h>

#include "qfl_status.h"

enum { QFL_CODEC_MAX_TENSORS = 16 };

typedef enum qfl_codec_kind {
    QFL_CODEC_FP32 = 0, /* the baseline: 4 bytes per value */
    QFL_CODEC_BU = 1    /* bucket-uniform */
} qfl_codec_kind;

enum {
    QFL_CODEC_PER_TENSOR = 0x10, /* one range per tensor instead of one per message */
    QFL_CODEC_MEANS = 0x20       /* reconstruct at bucket means, which are sent */
};

typedef struct qfl_codec_spec {
    uint8_t kind;    /* qfl_codec_kind */
    uint8_t flags;   /* QFL_CODEC_PER_TENSOR | QFL_CODEC_MEANS, BU only */
    uint16_t levels; /* L of BU: 4, 8, 16, 32, 64 or 256; 0 for FP32 */
} qfl_codec_spec;

/* The tensors of a delta, in order; their sizes sum to the number of values. */
typedef struct qfl_codec_layout {
    uint32_t tensors; /* 1..QFL_CODEC_MAX_TENSORS */
    uint32_t size[QFL_CODEC_MAX_TENSORS];
} qfl_codec_layout;

/* QFL_OK when the spec is one this build can do, QFL_E_UNSUPPORTED otherwise. */
qfl_status qfl_codec_check(const qfl_codec_spec *spec);

/* Largest encoded size in bytes; 0 when spec or layout is out of range. */
uint32_t qfl_codec_bound(const qfl_codec_spec *spec, const qfl_codec_layout *layout);

/*
 * Encodes x (all tensors, one after the other) into out [cap]; *size gets the bytes written. x is left unchanged.
 * QFL_E_NONFINITE: x holds NaN or infinity. QFL_E_RANGE: hi - lo overflows float32. QFL_E_NOMEM: cap is too small.
 */
qfl_status qfl_codec_encode(const qfl_codec_spec *spec, const qfl_codec_layout *layout, const float *x, uint8_t *out,
                            uint32_t cap, uint32_t *size);

/*
 * Decodes n bytes into x, adding weight * value to each element when `add` is 1, else storing the value itself.
 * QFL_E_FORMAT: not exactly one encoding of this layout (wrong length, non-finite range, set padding bits);
 * QFL_E_UNSUPPORTED: a kind this build does not know. When add is 1, x is changed only if the result is QFL_OK.
 */
qfl_status qfl_codec_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, float *x, int add, float weight);

#endif
