/*
 * qfl_codec: float32 deltas to bytes and back, the same on the host and on every board. docs/CODEC.md has every byte.
 *
 * BU(L), bucket-uniform, and BQ(L), bucket-quantile, after QuantFL (arXiv 2603.17507; definitions in docs/CODEC.md): L
 * buckets, each value sent as its bucket's index in ceil(log2 L) bits, reconstructed at the bucket's midpoint, or at the mean
 * of the values that fell into it (option). One range per message or per tensor (option); indices packed or entropy-coded
 * (option).
 *
 * DZ, the default: dead-zone uniform quantiser whose symbols go through an adaptive range coder. The step is sent, or it is
 * one that both ends agreed on before. "Nothing to say", all symbols zero, is one byte.
 *
 * Encoding refuses NaN and infinity. Decoding refuses what has not the form of a delta of the layout given, and never reads or
 * writes out of bounds; of range-coded bytes another ending than the encoder's may pass.
 */
#ifndef QFL_CODEC_H
#define QFL_CODEC_H

#include <stdint.h>

#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_CODEC_MAX_TENSORS = 16 };

typedef enum qfl_codec_kind {
    QFL_CODEC_FP32 = 0,     /* the baseline: 4 bytes per value */
    QFL_CODEC_BU = 1,       /* bucket-uniform */
    QFL_CODEC_DZ = 2,       /* dead-zone quantiser, range-coded */
    QFL_CODEC_BQ = 3,       /* bucket-quantile */
    QFL_CODEC_DZ_AGREED = 4 /* first byte of a DZ delta whose step was agreed on; not a kind of a spec */
} qfl_codec_kind;

enum {
    QFL_CODEC_PER_TENSOR = 0x10, /* BU, BQ: one range per tensor instead of one per message */
    QFL_CODEC_MEANS = 0x20,      /* BU, BQ: reconstruct at bucket means, which are sent */
    QFL_CODEC_CODED = 0x40       /* BU, BQ up to 64 levels: indices by an adaptive range coder; lossless */
};

typedef struct qfl_codec_spec {
    uint8_t kind;    /* qfl_codec_kind */
    uint8_t flags;   /* QFL_CODEC_PER_TENSOR | QFL_CODEC_MEANS | QFL_CODEC_CODED; BU and BQ only */
    /* BU, BQ: L = 4, 8, 16, 32, 64 or 256; DZ: step in 1/16 of the values' rms, 1..1024; FP32: 0 */
    uint16_t levels;
} qfl_codec_spec;

/* The tensors of a delta, in order; their sizes sum to the number of values. */
typedef struct qfl_codec_layout {
    uint32_t tensors; /* 1..QFL_CODEC_MAX_TENSORS */
    uint32_t size[QFL_CODEC_MAX_TENSORS];
} qfl_codec_layout;

/* The codecs of this build (QFL_CODECS, qfl_options.h): bit k for every qfl_codec_kind k. */
uint32_t qfl_codec_kinds(void);

/* QFL_OK when the spec is one this build can do, QFL_E_UNSUPPORTED otherwise. */
qfl_status qfl_codec_check(const qfl_codec_spec *spec);

/* Bytes of output that encoding may need (its largest result, and what it uses there meanwhile); 0: spec or layout is out of
 * range. DZ has no tight bound: what takes more than FP32 is refused when it is encoded. */
uint32_t qfl_codec_bound(const qfl_codec_spec *spec, const qfl_codec_layout *layout);

/*
 * Encodes x (all tensors, one after the other) into out [cap]; *size gets the bytes written. x is left unchanged, except by DZ,
 * which turns it into symbols (qfl_codec_dz_quantise).
 * QFL_E_NONFINITE: x holds NaN or infinity. QFL_E_RANGE: hi - lo overflows float32. QFL_E_NOMEM: cap is too small.
 */
qfl_status qfl_codec_encode(const qfl_codec_spec *spec, const qfl_codec_layout *layout, float *x,
                            uint8_t *out, uint32_t cap, uint32_t *size);

/*
 * Decodes n bytes into x. agreed: code of the step of QFL_CODEC_DZ_AGREED, 0: none. QFL_E_FORMAT: not an encoding of
 * this layout (wrong length, non-finite range, set padding bits); QFL_E_UNSUPPORTED: a kind this build does not know. x may be
 * changed in part on failure.
 */
qfl_status qfl_codec_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, uint32_t agreed,
                            float *x);

/*
 * DZ in steps. A step's code is 4 * (e + 40) + m - 4 for the step m * 2^e, m in 4..7: 1..255, four per octave; 0 stands for
 * none. symbol = sign(x) * floor(|x| / step + 1/2) in float32, at most 2^24 in magnitude; value = symbol * step.
 */
enum {
    QFL_CODEC_DZ_CODES = 256,
    QFL_CODEC_RESIDUAL =
        33, /* parts of a step that a residual is kept in; odd, so that half a step does not come back as one */
    QFL_CODEC_FED = 2 /* largest magnitude of a symbol where what it loses is kept */
};

float qfl_codec_dz_value(uint32_t code);
/* Code of the largest step not above `sixteenths` / 16 times the root mean square of x [n]; at least 1. */
uint32_t qfl_codec_dz_step(const float *x, uint32_t n, uint32_t sixteenths);

/*
 * Replaces the n floats of x by their int32 symbols, in the same memory, which it returns. residual [n]: what the symbols lose goes
 * there, in 1/QFL_CODEC_RESIDUAL of the step, at most 127 (saturating), and symbols go no further than QFL_CODEC_FED in magnitude: the
 * rest of a large value waits for the next delta. NULL: what is lost is dropped.
 */
int32_t *qfl_codec_dz_quantise(float *x, uint32_t n, uint32_t code, int8_t *residual);

/*
 * What a board does: adds to x [n] what coding left out of earlier deltas (error feedback), residual / QFL_CODEC_RESIDUAL * unit; takes from each
 * row of `columns` values its mean, 0: takes nothing; then as qfl_codec_dz_quantise. In the last layer of a classifier a number
 * added to all classes changes nothing after the softmax, so neither bytes nor residual need carry it.
 */
void qfl_codec_dz_with_feedback(float *x, uint32_t n, uint32_t columns, int8_t *residual, float unit,
                                uint32_t code);

enum {
    QFL_CODEC_DZ_FINER = -5,
    QFL_CODEC_DZ_COARSER = 10
}; /* a host's steps end finer than boards would choose */

/* How a DZ delta is or was written. */
typedef struct qfl_codec_dz_form {
    uint8_t code; /* of the step */
    uint8_t agreed; /* the step is not in the delta: the other end knows it */
    /* with `agreed`: by how many codes the encoder's own choice would have been coarser, QFL_CODEC_DZ_FINER..QFL_CODEC_DZ_COARSER,
       * saturated */
    int8_t offset;
} qfl_codec_dz_form;

/* Symbols to bytes. QFL_E_NOMEM: they take more than cap. QFL_E_INVAL: the layout or the code is out of range. */
qfl_status qfl_codec_dz_write(const qfl_codec_layout *layout, const int32_t *symbols,
                              const qfl_codec_dz_form *form, uint8_t *out, uint32_t cap, uint32_t *size);

/* Bytes to symbols; agreed as in qfl_codec_decode. form->code is 0 when nothing was said and no step was agreed. */
qfl_status qfl_codec_dz_read(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, uint32_t agreed,
                             int32_t *symbols, qfl_codec_dz_form *form);

/*
 * The same bytes without an array of symbols: one tensor of one row, symbol by symbol. `stream` is the caller's memory,
 * qfl_codec_dz_stream_size() bytes at an 8-byte boundary.
 */
typedef struct qfl_codec_dz_stream qfl_codec_dz_stream;
uint32_t qfl_codec_dz_stream_size(void);
/* out [cap] must outlive the stream. */
void qfl_codec_dz_stream_begin(qfl_codec_dz_stream *stream, uint32_t code, uint8_t *out, uint32_t cap);
void qfl_codec_dz_stream_put(qfl_codec_dz_stream *stream, int32_t symbol);
/* QFL_E_NOMEM: it took more than cap. */
qfl_status qfl_codec_dz_stream_end(qfl_codec_dz_stream *stream, uint32_t *size);
/* The symbol of one value. */
int32_t qfl_codec_dz_symbol(float x, float step);

#ifdef __cplusplus
}
#endif

#endif
