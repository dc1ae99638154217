/*
 * Start-up code of STM32 images without a vendor's framework: vectors, memory, faults. The board's file
 * gives qfl_irq_link and qfl_irq_samples, and the build gives their numbers (QFL_IRQ_LINK,
 * QFL_IRQ_SAMPLES).
 */
#include <stdint.h>

extern uint32_t __data_start[], __data_end[], __data_load[], __bss_start[], __bss_end[], __stack_top[];
int main(int argc, char **argv);
void qfl_irq_link(void);
void qfl_irq_samples(void);
void qfl_irq_tick(void);
void Reset_Handler(void);

void Reset_Handler(void)
{
    *(volatile uint32_t *)0xE000ED88u |= 0xFu << 20; /* CPACR (Armv7-M manual, B3.2.20): the FPU is on */
    __asm volatile("dsb\n isb");
    for (uint32_t *d = __data_start, *s = __data_load; d < __data_end;)
        *d++ = *s++;
    for (uint32_t *d = __bss_start; d < __bss_end;)
        *d++ = 0;
    main(0, 0);
    for (;;)
        __asm volatile("wfi");
}

/* A fault restarts the board; RCC_CSR then says "software". */
static void fault(void)
{
    *(volatile uint32_t *)0xE000ED0Cu = 0x05FA0004u; /* AIRCR: SYSRESETREQ */
    for (;;)
        ;
}

enum { LAST_IRQ = QFL_IRQ_LINK > QFL_IRQ_SAMPLES ? QFL_IRQ_LINK : QFL_IRQ_SAMPLES };

typedef void (*vector)(void);
#pragma GCC diagnostic ignored "-Woverride-init"
#pragma GCC diagnostic ignored "-Wpedantic"
__attribute__((section(".vectors"), used)) const vector qfl_vectors[16 + LAST_IRQ + 1] = {
    (vector)(uintptr_t)__stack_top,
    Reset_Handler,
    [2 ... 14] = fault,
    [15] = qfl_irq_tick,
    [16 ... 16 + LAST_IRQ] = fault,
    [16 + QFL_IRQ_LINK] = qfl_irq_link,
    [16 + QFL_IRQ_SAMPLES] = qfl_irq_samples,
};
