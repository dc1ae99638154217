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
 *
 * DZ, the default: dead-zone uniform quantiser whose symbols go through an adaptive range coder (docs/CODEC.md). Encoded: the
 * kind byte alone when all symbols are zero, else the kind byte, the step's code, and the coder's bytes.
 * Encoding refuses NaN and infinity; decoding refuses whatever encoding cannot have made.
 */
#ifndef QFL_CODEC_H
#define QFL_CODEC_H

#include <stdint.h>

#include "qfl_status.h"

enum { QFL_CODEC_MAX_TENSORS = 16 };

typedef enum qfl_codec_kind {
    QFL_CODEC_FP32 = 0, /* the baseline: 4 bytes per value */
    QFL_CODEC_BU = 1,   /* bucket-uniform */
    QFL_CODEC_DZ = 2    /* dead-zone quantiser, range-coded */
} qfl_codec_kind;

enum {
    QFL_CODEC_PER_TENSOR = 0x10, /* one range per tensor instead of one per message */
    QFL_CODEC_MEANS = 0x20       /* reconstruct at bucket means, which are sent */
};

typedef struct qfl_codec_spec {
    uint8_t kind;    /* qfl_codec_kind */
    uint8_t flags;   /* QFL_CODEC_PER_TENSOR | QFL_CODEC_MEANS, BU only */
    uint16_t levels; /* BU: L = 4, 8, 16, 32, 64 or 256; DZ: step in 1/16 of the values' rms, 1..1024; FP32: 0 */
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
 * Decodes n bytes into x. QFL_E_FORMAT: not exactly one encoding of this layout (wrong length, non-finite range, set
 * padding bits); QFL_E_UNSUPPORTED: a kind this build does not know. x may be changed in part on failure.
 */
qfl_status qfl_codec_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, float *x);

/* Building blocks of DZ. A step's code is 4 * (e + 40) + m - 4 for the step m * 2^e, m in 4..7. */
float qfl_codec_dz_value(uint32_t code);
/* Code of the largest step not above `sixteenths` / 16 times the root mean square of x [n]. */
uint32_t qfl_codec_dz_step(const float *x, uint32_t n, uint32_t sixteenths);
/* sign(x) * floor(|x| / step + 1/2) in float32, at most 2^24 in magnitude. */
int32_t qfl_codec_dz_symbol(float x, float step);
/* Encodes x with a given step; otherwise as qfl_codec_encode. */
qfl_status qfl_codec_dz_encode(const qfl_codec_layout *layout, const float *x, uint32_t code, uint8_t *out, uint32_t cap,
                               uint32_t *size);

#endif
