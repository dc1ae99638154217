/*
 * Reset, vector table and fault handling for emulated Cortex-M boards. A fault restarts the board and is counted, so
 * that the firmware can report it. The stack is painted, so that its depth can be read from outside.
 */
#include <stdint.h>

extern uint32_t __data_start[], __data_end[], __data_load[], __bss_start[], __bss_end[], __stack_limit[],
    __stack_top[];
int main(int argc, char **argv);
void Reset_Handler(void);

enum { FAULT_MAGIC = 0x4641554C, PAINT = 0xA5A5A5A5 };

/* Kept over a reset (.noinit); valid only with the magic beside it. */
__attribute__((section(".noinit"))) static uint32_t fault_magic;
__attribute__((section(".noinit"))) uint32_t qfl_fault_resets;

static void reset(void)
{
    *(volatile uint32_t *)0xE000ED0Cu = 0x05FA0004u;
    for (;;)
        ;
}

void Fault_Handler(void)
{
    qfl_fault_resets = fault_magic == FAULT_MAGIC ? qfl_fault_resets + 1 : 1;
    fault_magic = FAULT_MAGIC;
    reset();
}

void Default_Handler(void) { Fault_Handler(); }
/* Only ends a WFI; a port whose clock it is has its own. */
__attribute__((weak)) void SysTick_Handler(void) { *(volatile uint32_t *)0xE000E010u = 0; }

void Reset_Handler(void)
{
#if defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* FPU (and Helium) on */
    __asm volatile("dsb\n isb");
#endif
    for (uint32_t *d = __data_start, *s = __data_load; d < __data_end;)
        *d++ = *s++;
    for (uint32_t *d = __bss_start; d < __bss_end;)
        *d++ = 0;
    uint32_t *here;
    __asm volatile("mov %0, sp" : "=r"(here));
    for (volatile uint32_t *p = __stack_limit; p < here - 8; p++)
        *p = PAINT;
    if (fault_magic != FAULT_MAGIC)
        qfl_fault_resets = 0;
    main(0, 0);
    for (;;)
        __asm volatile("wfi");
}

#define WEAK __attribute__((weak, alias("Default_Handler")))
void qfl_irq_link(void) WEAK;
void qfl_irq_samples(void) WEAK;

/* QFL_IRQ_LINK, QFL_IRQ_SAMPLES: the board's numbers of both receive interrupts. Each MPS UART has transmit and receive next to
 * each other, in an order that differs between boards; only receiving is enabled, so both vectors lead to one handler. */
#ifndef QFL_IRQ_SAMPLES
#define QFL_IRQ_SAMPLES (QFL_IRQ_LINK + 2)
#endif
enum {
    LAST_IRQ = QFL_IRQ_LINK > QFL_IRQ_SAMPLES ? QFL_IRQ_LINK : QFL_IRQ_SAMPLES,
    IRQS = LAST_IRQ + 2
}; /* no other is enabled */

typedef void (*vector)(void);
#pragma GCC diagnostic ignored "-Woverride-init"
#pragma GCC diagnostic ignored "-Wpedantic"
__attribute__((section(".vectors"), used)) const vector qfl_vectors[16 + IRQS] = {
    (vector)(uintptr_t)__stack_top,
    Reset_Handler,
    Fault_Handler,
    Fault_Handler,
    [4 ... 14] = Default_Handler,
    [15] = SysTick_Handler,
    [16 ... 15 + IRQS] = Default_Handler,
    [16 + QFL_IRQ_LINK] = qfl_irq_link,
    [16 + QFL_IRQ_LINK + 1] = qfl_irq_link,
    [16 + QFL_IRQ_SAMPLES] = qfl_irq_samples,
    [16 + QFL_IRQ_SAMPLES + 1] = qfl_irq_samples,
};
