/*
 * Engine bench for emulated boards: runs a package on inputs that QEMU's loader put into memory, prints instructions and
 * stack per inference and the outputs on UART0. With `-icount shift=0` an instruction is one nanosecond: 40 a tick of the MPS2's
 * timer, 31.25 a tick of the MPS3 AN547's counter (where QFL_COUNTER is defined).
 *
 * A package with a head is also fitted for one epoch on the features of the inputs, labels counting up modulo the classes.
 *
 * A package of 0 bytes: the codec's bench instead. JOB then holds, after the number of values n: u32 columns (n is a kernel of whole
 * rows and a bias of one), u32 code of the step, n float32.
 *
 * Memory, from QFL_MEMORY: 0x400000 package, 0x300000: u32 package size, u32 inputs, then the inputs; 0x800000 arena;
 * 0xC00000 parameters, momentum, scratch and features of the head.
 */
#include <string.h>

#include "qfl_codec.h"
#include "qfl_head.h"
#include "qfl_nn.h"

#define REG(a) (*(volatile uint32_t *)(uintptr_t)(a))

enum {
    UART0 = QFL_UART0,
    JOB = QFL_MEMORY + 0x300000,
    PACKAGE = QFL_MEMORY + 0x400000,
    ARENA = QFL_MEMORY + 0x800000,
    HEAD = QFL_MEMORY + 0xC00000,
    PAINT = 0x5A5A5A5A
};

extern uint32_t __stack_limit[];

static void put(char c)
{
    while (REG(UART0 + 4) & 1)
        ;
    REG(UART0) = (uint8_t)c;
}

static void text(const char *s)
{
    while (*s)
        put(*s++);
}

static void number(const char *name, uint32_t v)
{
    char b[12];
    int i = 12;
    text(name);
    do
        b[--i] = (char)('0' + v % 10);
    while (v /= 10);
    while (i < 12)
        put(b[i++]);
    put('\n');
}

static void leave(void)
{
    register uint32_t r0 __asm("r0") = 0x18; /* SYS_EXIT, ADP_Stopped_ApplicationExit */
    register uint32_t r1 __asm("r1") = 0x20026;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    for (;;)
        ;
}

#ifdef QFL_COUNTER
static void start_timer(void) { REG(QFL_COUNTER) = 1; }
static uint32_t ticks(void) { return REG(QFL_COUNTER + 8); }
static uint32_t insns_of(uint32_t t) { return t / 4 * 125 + t % 4 * 125 / 4; }
#else
static void start_timer(void)
{
    REG(QFL_TIMER0 + 8) = REG(QFL_TIMER0 + 4) = 0xFFFFFFFFu;
    REG(QFL_TIMER0) = 1;
}
static uint32_t ticks(void) { return ~REG(QFL_TIMER0 + 4); }
static uint32_t insns_of(uint32_t t) { return t * 40; }
#endif

/* Runs with the stack below painted; returns its depth in bytes. */
static __attribute__((noinline)) uint32_t run_painted(const qfl_nn *nn, uint32_t *insns)
{
    uint32_t *here = __builtin_frame_address(0), *p = __stack_limit;
    for (; p < here - 16; p++)
        *p = PAINT;
    uint32_t start = ticks();
    qfl_nn_run(nn, (uint8_t *)ARENA, 0, nn->op_count);
    *insns = insns_of(ticks() - start);
    for (p = __stack_limit; *p == PAINT; p++)
        ;
    return (uint32_t)((uint8_t *)here - (uint8_t *)p);
}

/* One epoch with the stack below painted; returns its depth in bytes. */
static __attribute__((noinline)) uint32_t fit_painted(qfl_head_fit *fit, uint32_t *insns)
{
    uint32_t *here = __builtin_frame_address(0), *p = __stack_limit;
    for (; p < here - 16; p++)
        *p = PAINT;
    uint32_t start = ticks();
    while (qfl_head_fit_step(fit))
        ;
    *insns = insns_of(ticks() - start);
    for (p = __stack_limit; *p == PAINT; p++)
        ;
    return (uint32_t)((uint8_t *)here - (uint8_t *)p);
}

/* Instructions and RAM of one epoch of minibatches of ten over the inputs' features. */
static void train(const qfl_nn *nn, uint32_t inputs)
{
    qfl_head_shape shape = {nn->head_layers, (const qfl_head_layer *)nn->head_list, nn->file, nn->file_size};
    qfl_head_config config = {0.001f, 0.9f, 0.0f, 0.0f, 1, 10, 1, 0};
    qfl_head_fit fit;
    if (qfl_head_param_count(&shape) != nn->head_param_count)
        return;
    uint32_t params = nn->head_param_count, features = nn->feature_count, insns;
    float *w = (float *)HEAD, *v = w + params, *scratch = v + params;
    uint16_t *labels = (uint16_t *)(scratch + qfl_head_scratch_size(&shape) / 4);
    int8_t *q = (int8_t *)(labels + inputs);
    memcpy(w, nn->head_params, 4 * params);
    for (uint32_t i = 0; i < inputs; i++) {
        memcpy((uint8_t *)ARENA + nn->input_offset, (const uint8_t *)JOB + 8 + i * nn->input_size,
               nn->input_size);
        qfl_nn_run(nn, (uint8_t *)ARENA, 0, nn->cut_op);
        memcpy(q + i * features, (const uint8_t *)ARENA + nn->feature_offset, features);
        labels[i] = (uint16_t)(i % qfl_head_classes(&shape));
    }
    qfl_head_data data = {q, labels, inputs, nn->feature_scale, nn->feature_zero_point, 0};
    if (qfl_head_fit_begin(&fit, &shape, &config, &data, w, NULL, v, scratch) != QFL_OK)
        return;
    uint32_t stack = fit_painted(&fit, &insns), sum = 0;
    number("train ", insns);
    number("train_scratch ", qfl_head_scratch_size(&shape));
    number("train_state ", sizeof fit);
    number("train_stack ", stack);
    for (uint32_t i = 0; i < params; i++) /* of the trained bits: the same on every core */
        sum = (sum << 5 | sum >> 27) ^ ((const uint32_t *)(const void *)w)[i];
    number("train_sum ", sum);
}

static const char hex[] = "0123456789abcdef";

/* What a board does to a delta: feedback, quantising, writing; and reading it back. In the memory it has at that time. */
static __attribute__((noinline)) void codec_steps(uint32_t n, const qfl_codec_layout *layout, uint32_t code,
                                                  uint32_t insns[3], uint32_t *size)
{
    float *x = (float *)ARENA;
    int8_t *residual = (int8_t *)HEAD;
    uint8_t *out = (uint8_t *)HEAD + 0x40000;
    qfl_codec_dz_form form = {(uint8_t)code, 1, 0};
    uint32_t start = ticks();
    qfl_codec_dz_with_feedback(x, n, layout->size[1], residual, qfl_codec_dz_value(code), code);
    int32_t *symbols = (int32_t *)(void *)x;
    insns[0] = ticks() - start;
    start = ticks();
    (void)qfl_codec_dz_write(layout, symbols, &form, out, 0x40000, size);
    insns[1] = ticks() - start;
    start = ticks();
    (void)qfl_codec_dz_read(layout, out, *size, code, symbols, &form);
    insns[2] = ticks() - start;
}

static __attribute__((noinline)) void codec(uint32_t n)
{
    uint32_t columns = REG(JOB + 8), code = REG(JOB + 12), insns[3], size = 0;
    uint32_t *here = __builtin_frame_address(0), *p = __stack_limit;
    qfl_codec_layout layout = {2, {n - columns, columns}};
    memcpy((void *)ARENA, (const void *)(JOB + 16), 4 * n);
    for (; p < here - 32; p++)
        *p = PAINT;
    codec_steps(n, &layout, code, insns, &size);
    for (p = __stack_limit; *p == PAINT; p++)
        ;
    number("stack ", (uint32_t)((uint8_t *)here - (uint8_t *)p));
    number("quantise ", insns_of(insns[0]));
    number("write ", insns_of(insns[1]));
    number("read ", insns_of(insns[2]));
    text("output ");
    for (uint32_t k = 0; k < size; k++) {
        uint8_t v = ((const uint8_t *)HEAD + 0x40000)[k];
        put(hex[v >> 4]);
        put(hex[v & 15]);
    }
    put('\n');
}

int main(void)
{
    uint32_t size = REG(JOB), inputs = REG(JOB + 4), insns = 0, at, n;
    qfl_nn nn;
    start_timer();
    REG(UART0 + 16) = 16;
    REG(UART0 + 8) = 1;
    if (size == 0) {
        codec(inputs);
        leave();
    }
    uint32_t start = ticks();
    qfl_status status = qfl_nn_open(&nn, (const uint8_t *)PACKAGE, size);
    number("open ", insns_of(ticks() - start));
    number("status ", (uint32_t)-status);
    if (status != QFL_OK)
        leave();
    number("arena ", nn.arena_size);
    qfl_nn_output(&nn, nn.op_count - 1, &at, &n);
    for (uint32_t i = 0; i < inputs; i++) {
        memcpy((uint8_t *)ARENA + nn.input_offset, (const uint8_t *)JOB + 8 + i * nn.input_size,
               nn.input_size);
        number("stack ", run_painted(&nn, &insns));
        number("insns ", insns);
        text("output ");
        for (uint32_t k = 0; k < n; k++) {
            uint8_t v = ((const uint8_t *)ARENA)[at + k];
            put(hex[v >> 4]);
            put(hex[v & 15]);
        }
        put('\n');
    }
    if (nn.head_layers != 0)
        train(&nn, inputs);
    leave();
    return 0;
}
