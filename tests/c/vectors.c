/*
 * The golden vectors of tests/vectors/codec.txt in C: encoded and decoded to the byte, refused when cut or lengthened. Built with
 * sanitizers by tests/unit/test_codec_vectors.py. Usage: vectors FILE. Prints how many vectors passed.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qfl_codec.h"

enum { LINE = 1 << 16, VALUES = 4096 };

static uint32_t unhex(const char *s, uint8_t *out)
{
    uint32_t n = 0;
    unsigned v;
    for (; s[0] != 0 && s[1] != 0 && sscanf(s, "%2x", &v) == 1; s += 2)
        out[n++] = (uint8_t)v;
    return n;
}

static int fail(const char *name, const char *what)
{
    fprintf(stderr, "%s: %s\n", name, what);
    return 0;
}

/* Memory of exactly n bytes, so that a sanitizer sees one byte beyond. */
static uint8_t *exact(const uint8_t *p, uint32_t n)
{
    uint8_t *q = malloc(n != 0 ? n : 1);
    memcpy(q, p, n);
    return q;
}

static int check(char *fields[6])
{
    static uint8_t raw[4 * VALUES], bytes[4 * VALUES], out[8 * VALUES], y[4 * VALUES];
    static float x[VALUES], got[VALUES];
    qfl_codec_layout layout = {0, {0}};
    unsigned a, b, c, agreed = 0;
    int offset;
    uint32_t n, size, length;
    qfl_status status;
    for (char *t = strtok(fields[2], ","); t != NULL; t = strtok(NULL, ","))
        layout.size[layout.tensors++] = (uint32_t)atoi(t);
    n = unhex(fields[3], raw) / 4;
    memcpy(x, raw, 4 * n);
    length = unhex(fields[4], bytes);
    if (unhex(fields[5], y) != 4 * n)
        return fail(fields[0], "y is not as long as x");
    if (sscanf(fields[1], "spec %u %u %u", &a, &b, &c) == 3) {
        qfl_codec_spec spec = {(uint8_t)a, (uint8_t)b, (uint16_t)c};
        uint32_t bound = qfl_codec_bound(&spec, &layout);
        if (bound == 0 || bound > sizeof out)
            return fail(fields[0], "its bound");
        status = qfl_codec_encode(&spec, &layout, x, out, bound, &size);
    } else if (sscanf(fields[1], "dz %u %u %d", &a, &b, &offset) == 3) {
        qfl_codec_dz_form form = {(uint8_t)a, (uint8_t)b, (int8_t)offset};
        agreed = a;
        status =
            qfl_codec_dz_write(&layout, qfl_codec_dz_quantise(x, n, a, NULL), &form, out, sizeof out, &size);
    } else {
        return fail(fields[0], "how");
    }
    if (status != QFL_OK || size != length || memcmp(out, bytes, length) != 0)
        return fail(fields[0], "other bytes");
    uint8_t *in = exact(bytes, length);
    status = qfl_codec_decode(&layout, in, length, agreed, got);
    if (status != QFL_OK || memcmp(got, y, 4 * n) != 0)
        return fail(fields[0], "other values");
    for (uint32_t cut = 0; cut < length;
         cut++) { /* some prefixes of a range-coded delta are deltas; none reads beyond its end */
        uint8_t *part = exact(bytes, cut);
        (void)qfl_codec_decode(&layout, part, cut, agreed, got);
        free(part);
    }
    memcpy(out, bytes, length);
    out[length] = 0;
    if (qfl_codec_decode(&layout, out, length + 1, agreed, got) == QFL_OK)
        return fail(fields[0], "a zero more is taken");
    free(in);
    return 1;
}

int main(int argc, char **argv)
{
    static char line[LINE];
    int passed = 0, failed = 0;
    FILE *f = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (f == NULL)
        return 2;
    while (fgets(line, sizeof line, f) != NULL) {
        char *fields[6], *at = line;
        int count = 0;
        if (line[0] == '#')
            continue;
        line[strcspn(line, "\n")] = 0;
        while (count < 6 && at != NULL) {
            fields[count++] = at;
            if ((at = strchr(at, ';')) != NULL)
                *at++ = 0;
        }
        if (count == 6 && check(fields))
            passed++;
        else
            failed++;
    }
    fclose(f);
    printf("%d\n", passed);
    return failed != 0 || passed == 0;
}
