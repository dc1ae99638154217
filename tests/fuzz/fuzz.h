/* Shared by the libFuzzer targets: a reader of the input that never runs out, and copies that end where they end. */
#ifndef QFL_FUZZ_H
#define QFL_FUZZ_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Linked with --wrap in place of libFuzzer's own (tests/fuzz/run.py). At 64 bits the sanitizers compare addresses; the code a few
 * bounds. */
void __wrap___sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b);
void __wrap___sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b);
void __wrap___sanitizer_cov_trace_cmp8(uint64_t a, uint64_t b)
{
    (void)a;
    (void)b;
}
void __wrap___sanitizer_cov_trace_const_cmp8(uint64_t a, uint64_t b)
{
    (void)a;
    (void)b;
}

typedef struct input {
    const uint8_t *p;
    size_t n;
} input;

/* The next byte; 0 when all are used up. */
static inline uint8_t u8(input *in)
{
    if (in->n == 0)
        return 0;
    in->n--;
    return *in->p++;
}
static inline uint32_t u16(input *in)
{
    uint32_t low = u8(in);
    return low | (uint32_t)u8(in) << 8;
}
static inline uint32_t u32(input *in)
{
    uint32_t low = u16(in);
    return low | u16(in) << 16;
}

/* The next n bytes, or as many as are left, in *got. */
static inline const uint8_t *bytes(input *in, size_t n, uint32_t *got)
{
    const uint8_t *p = in->p;
    *got = (uint32_t)(n < in->n ? n : in->n);
    in->p += *got;
    in->n -= *got;
    return p;
}

/* A property that must hold whatever the input. */
#define EXPECT(x)                                                                                            \
    do {                                                                                                     \
        if (!(x)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #x);                            \
            abort();                                                                                         \
        }                                                                                                    \
    } while (0)

/* A 16-byte aligned copy in memory of its own, so that a byte beyond it is seen. */
static inline uint8_t *copy_of(const uint8_t *p, size_t n)
{
    uint8_t *q = aligned_alloc(16, (n + 15) / 16 * 16 + (n == 0 ? 16 : 0));
    if (n != 0)
        memcpy(q, p, n);
    return q;
}

/* The file `name` of the folder of bases, whole. */
static inline uint8_t *base_file(const char *name, uint32_t *n)
{
    char path[4096];
    const char *folder = getenv("QFL_FUZZ_BASES");
    snprintf(path, sizeof path, "%s/%s", folder != NULL ? folder : QFL_FUZZ_BASES, name);
    FILE *f = fopen(path, "rb");
    if (f == NULL) {
        fprintf(stderr, "%s is missing: run from a checkout, or set QFL_FUZZ_BASES\n", path);
        abort();
    }
    fseek(f, 0, SEEK_END);
    *n = (uint32_t)ftell(f);
    rewind(f);
    uint8_t *p = aligned_alloc(16, (*n + 15) / 16 * 16);
    EXPECT(fread(p, 1, *n, f) == *n);
    fclose(f);
    return p;
}

#endif
