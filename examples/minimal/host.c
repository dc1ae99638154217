/* Runs the example on this machine: a package and samples (per sample the input's bytes, then a label byte) from files. */
#include <stdio.h>

#include "qfl_head.h"

_Alignas(16) uint8_t package[1 << 20];
uint32_t package_size;
static FILE *samples;

uint16_t read_sample(int8_t *x, uint32_t n)
{
    int label = -1;
    if (fread(x, 1, n, samples) == n)
        label = fgetc(samples);
    return label < 0 ? 0 : (uint16_t)label;
}

int32_t one_round(qfl_head_score *score);

int main(int argc, char **argv)
{
    qfl_head_score score;
    FILE *f = argc == 3 ? fopen(argv[1], "rb") : NULL;
    samples = argc == 3 ? fopen(argv[2], "rb") : NULL;
    if (f == NULL || samples == NULL) {
        fprintf(stderr, "usage: %s PACKAGE SAMPLES\n", argv[0]);
        return 2;
    }
    package_size = (uint32_t)fread(package, 1, sizeof package, f);
    int32_t size = one_round(&score);
    printf("%ld %lu of %lu\n", (long)size, (unsigned long)score.correct, (unsigned long)score.count);
    return size > 0 ? 0 : 1;
}
