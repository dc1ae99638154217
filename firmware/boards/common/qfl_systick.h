/* SysTick as a clock that also ends a sleep, for emulated Cortex-M boards without a timer that QEMU models. */
#ifndef QFL_SYSTICK_H
#define QFL_SYSTICK_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

void qfl_systick_start(void);
/* Core clocks since the start. Has to be called more often than SysTick wraps, every 2^24 clocks. */
uint64_t qfl_systick_now(void);
/* Waits for an interrupt, at most `clocks` (below 2^24) long. Called with interrupts masked (PRIMASK), which WFI sees through. */
void qfl_systick_wait(uint32_t clocks);

#ifdef __cplusplus
}
#endif

#endif
