#if defined(__arm__)
#include "qfl_systick.h"

#define REG(a) (*(volatile uint32_t *)(uintptr_t)(a))
#define CSR    REG(0xE000E010u)
#define RVR    REG(0xE000E014u)
#define CVR    REG(0xE000E018u)

enum { ON = 5, ON_WITH_INTERRUPT = 7, COUNTED = 1 << 16, LONGEST = 0xFFFFFF };

static uint64_t clocks_before; /* of the present load */
static uint32_t load, last;

void SysTick_Handler(void) {}

static void run(uint32_t clocks, uint32_t control)
{
    load = last = clocks;
    RVR = clocks;
    CVR = 0;
    CSR = control;
}

void qfl_systick_start(void) { run(LONGEST, ON); }

uint64_t qfl_systick_now(void)
{
    uint32_t at = CVR;
    if (at == 0 || at > load) /* not reloaded yet */
        at = load;
    clocks_before += at <= last ? last - at : last + (load - at);
    last = at;
    return clocks_before;
}

void qfl_systick_wait(uint32_t clocks)
{
    (void)qfl_systick_now();
    run(clocks, ON_WITH_INTERRUPT);
    __asm volatile("wfi");
    uint32_t at = CVR;
    if ((CSR & COUNTED) != 0)
        clocks_before += clocks;
    else if (at != 0 && at <= clocks)
        clocks_before += clocks - at;
    run(LONGEST, ON);
}
#else
typedef int qfl_systick_is_for_arm;
#endif
