/*
 * Numbers in messages, records and files: little-endian, at any address. The one place that takes bytes apart; inline, so that
 * it costs no call, and for the libraries and ports only (the host's binding leaves it out).
 */
#ifndef QFL_BYTES_H
#define QFL_BYTES_H

#include <stdint.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

static inline uint16_t qfl_get16(const uint8_t *p) { return (uint16_t)(p[0] | p[1] << 8); }

static inline uint32_t qfl_get32(const uint8_t *p)
{
    return p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline float qfl_get_float(const uint8_t *p)
{
    float v;
    uint32_t u = qfl_get32(p);
    memcpy(&v, &u, sizeof v);
    return v;
}

static inline void qfl_put16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void qfl_put32(uint8_t *p, uint32_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
    p[2] = (uint8_t)(v >> 16);
    p[3] = (uint8_t)(v >> 24);
}

static inline void qfl_put_float(uint8_t *p, float v)
{
    uint32_t u;
    memcpy(&u, &v, sizeof u);
    qfl_put32(p, u);
}

#ifdef __cplusplus
}
#endif

#endif
