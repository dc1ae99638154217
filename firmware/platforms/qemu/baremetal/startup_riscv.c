/*
 * Reset and traps for QEMU's RISC-V "virt" machine, machine mode. External interrupts come through the PLIC to qfl_irq_link;
 * the timer's only ends a WFI; anything else restarts the board and is counted, as startup_cortexm.c does.
 */
#include <stdint.h>

#define REG(a) (*(volatile uint32_t *)(uintptr_t)(a))

extern uint32_t __data_start[], __data_end[], __data_load[], __bss_start[], __bss_end[], __stack_limit[];
int main(int argc, char **argv);
void qfl_irq_link(void);

enum {
    FAULT_MAGIC = 0x4641554C,
    PAINT = 0xA5A5A5A5,
    PLIC_CLAIM = 0x0C200004,
    TEST = 0x00100000,
    TEST_RESET = 0x7777
};

__attribute__((section(".noinit"))) static uint32_t fault_magic;
__attribute__((section(".noinit"))) uint32_t qfl_fault_resets;

__attribute__((section(".init.start"), naked, used)) void _start(void)
{
    __asm volatile(".option push\n .option norelax\n la gp, __global_pointer$\n .option pop\n"
                   "la sp, __stack_top\n j qfl_start");
}

__attribute__((weak)) void qfl_irq_link(void) {}

__attribute__((interrupt("machine"), aligned(4))) static void trap(void)
{
    uint32_t cause;
    __asm volatile("csrr %0, mcause" : "=r"(cause));
    if (cause == 0x8000000Bu) { /* external */
        uint32_t id = REG(PLIC_CLAIM);
        qfl_irq_link();
        REG(PLIC_CLAIM) = id;
    } else if (cause == 0x80000007u) { /* timer: off until it is set again */
        __asm volatile("csrc mie, %0" ::"r"(1u << 7));
    } else {
        qfl_fault_resets = fault_magic == FAULT_MAGIC ? qfl_fault_resets + 1 : 1;
        fault_magic = FAULT_MAGIC;
        REG(TEST) = TEST_RESET;
        for (;;)
            ;
    }
}

__attribute__((used)) void qfl_start(void)
{
    for (uint32_t *d = __data_start, *s = __data_load; d < __data_end;)
        *d++ = *s++;
    for (uint32_t *d = __bss_start; d < __bss_end;)
        *d++ = 0;
    uint32_t *here = __builtin_frame_address(0);
    for (volatile uint32_t *p = __stack_limit; p < here - 16; p++)
        *p = PAINT;
    if (fault_magic != FAULT_MAGIC)
        qfl_fault_resets = 0;
    __asm volatile("csrw mtvec, %0" ::"r"(trap));
    main(0, 0);
    for (;;)
        __asm volatile("wfi");
}
