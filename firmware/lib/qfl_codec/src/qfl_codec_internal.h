/* Shared by the codecs; private to qfl_codec. */
#ifndef QFL_CODEC_INTERNAL_H
#define QFL_CODEC_INTERNAL_H

#include "qfl_codec.h"
#include "qfl_options.h"

#define LINKED(kind)   ((QFL_CODECS >> (kind)) & 1u)
#define BUCKETS_LINKED (LINKED(QFL_CODEC_BU) || LINKED(QFL_CODEC_BQ))

uint32_t qfl_codec_values(const qfl_codec_layout *layout); /* 0: out of range */
int qfl_codec_finite(const float *x, uint32_t n);

/* qfl_codec_buckets.c: BU and BQ */
uint32_t qfl_codec_bucket_bits(uint32_t levels); /* 0: not a permitted L */
uint32_t qfl_codec_bucket_bound(const qfl_codec_spec *spec, const qfl_codec_layout *layout);
qfl_status qfl_codec_bucket_encode(const qfl_codec_spec *spec, const qfl_codec_layout *layout, const float *x,
                                   uint8_t *out, uint32_t cap, uint32_t *size);
qfl_status qfl_codec_bucket_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, float *x);

/* qfl_codec_edges.c: where the buckets of BQ begin and end. edges: L + 1 float32, at any address. */
void qfl_codec_quantile_edges(const float *x, uint32_t n, uint32_t levels, uint8_t *edges);

#endif
