/* SHA-256 (FIPS 180-4), incremental. */
#ifndef QFL_SHA256_H
#define QFL_SHA256_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_SHA256_BYTES = 32 };

typedef struct qfl_sha256 {
    uint32_t state[8];
    uint64_t bytes; /* hashed so far */
    uint8_t block[64];
} qfl_sha256;

void qfl_sha256_begin(qfl_sha256 *s);
void qfl_sha256_add(qfl_sha256 *s, const uint8_t *p, uint32_t n);
void qfl_sha256_end(qfl_sha256 *s, uint8_t *digest); /* digest: 32 bytes */

#ifdef __cplusplus
}
#endif

#endif
