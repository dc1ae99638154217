/* What differs between the emulated boards with one UART; each board has one qfl_single_<machine>.c. */
#ifndef QFL_SINGLE_H
#define QFL_SINGLE_H

#include <stdint.h>

#include "qfl_port.h"

void qfl_single_open(void);
/* In the receive interrupt, and by the task with it masked: 1 and the byte, or 0. */
int qfl_single_receive(uint8_t *byte);
void qfl_single_receive_on(int on);  /* off: the emulator holds further bytes back */
int qfl_single_send(uint8_t byte);   /* 0: later */
void qfl_single_mask(int masked);    /* interrupts */
uint64_t qfl_single_us(void);
/* With interrupts masked: waits for one, at most ms long. */
void qfl_single_wait(uint32_t ms);
int32_t qfl_single_flash_info(qfl_flash_info *out);
int32_t qfl_single_flash_program(uint32_t at, const uint8_t *p, uint32_t n);
int32_t qfl_single_flash_erase(uint32_t at, uint32_t n);
int32_t qfl_single_entropy(uint8_t *p, uint32_t n);
_Noreturn void qfl_single_reboot(void);

/* The port's, called by the interrupt. */
void qfl_irq_link(void);

#endif
