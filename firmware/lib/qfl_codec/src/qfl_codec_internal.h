/* Shared by the codecs; private to qfl_codec. */
#ifndef QFL_CODEC_INTERNAL_H
#define QFL_CODEC_INTERNAL_H

#include "qfl_codec.h"

uint32_t qfl_codec_values(const qfl_codec_layout *layout); /* 0: out of range */
int qfl_codec_finite(const float *x, uint32_t n);

uint32_t qfl_codec_bu_bits(uint32_t levels); /* 0: not a permitted L */
uint32_t qfl_codec_bu_bound(const qfl_codec_spec *spec, const qfl_codec_layout *layout);
qfl_status qfl_codec_bu_encode(const qfl_codec_spec *spec, const qfl_codec_layout *layout, const float *x, uint8_t *out,
                               uint32_t cap, uint32_t *size);
qfl_status qfl_codec_bu_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, float *x);
qfl_status qfl_codec_dz_decode(const qfl_codec_layout *layout, const uint8_t *in, uint32_t n, float *x);

#endif
