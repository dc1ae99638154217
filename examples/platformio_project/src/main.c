/*
 * Classifies one image with the model of a quantfl package: the backbone by qfl_nn, the trained last layers by
 * qfl_head. The package lies beside platformio.ini: quantfl convert MODEL.tflite -o package.tflite
 */
#include <stdio.h>
#include <string.h>

#include "qfl_head.h"
#include "qfl_nn.h"

enum { ARENA = 8192, SCRATCH = 256 };

/* The package, in flash, 16-byte aligned. */
__asm__(".section .rodata\n"
        ".balign 16\n"
        ".global package, package_end\n"
        "package: .incbin \"package.tflite\"\n"
        "package_end: .byte 0\n"
        ".previous\n");
extern const uint8_t package[], package_end[];

static _Alignas(16) uint8_t arena[ARENA];
static float scratch[SCRATCH];

/* An image of 8 x 8 with a bright bar in the middle, as a camera driver would give it. */
static void take_picture(int8_t *x)
{
    memset(x, -128, 64);
    for (int row = 0; row < 8; row++)
        x[8 * row + 3] = x[8 * row + 4] = 127;
}

int main(void)
{
    qfl_nn nn;
    if (qfl_nn_open(&nn, package, (uint32_t)(package_end - package)) != QFL_OK || nn.arena_size > ARENA)
        return 1;
    qfl_head_shape shape = {nn.head_layers, nn.head_list, nn.file, nn.file_size};
    uint32_t classes = qfl_head_classes(&shape), best = 0;
    if (qfl_head_check(&shape) != QFL_OK || qfl_head_scratch_size(&shape) > sizeof scratch)
        return 1;

    take_picture((int8_t *)arena + nn.input_offset);
    if (qfl_nn_run(&nn, arena, 0, nn.cut_op) != QFL_OK) /* the backbone, up to the features */
        return 1;
    const int8_t *features = (const int8_t *)arena + nn.feature_offset;
    const float *z =
        qfl_head_logits(&shape, nn.head_params, features, nn.feature_scale, nn.feature_zero_point, scratch);
    for (uint32_t i = 1; i < classes; i++)
        if (z[i] > z[best])
            best = i;
    printf("class %u of %u\n", (unsigned)best, (unsigned)classes);
    return 0;
}
