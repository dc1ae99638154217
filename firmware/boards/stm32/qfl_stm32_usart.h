/*
 * A USART whose interrupt fills a ring of received bytes and drains a ring of bytes to send. Both rings
 * belong to the caller; their sizes are powers of two.
 */
#ifndef QFL_STM32_USART_H
#define QFL_STM32_USART_H

#include "../common/qfl_ring.h"

typedef struct qfl_usart {
    uint32_t base;          /* address of the peripheral */
    qfl_ring rx, tx;
    volatile uint32_t
        lost; /* bytes lost: the ring was full, or the part overran (then it counts one for a burst) */
} qfl_usart;

/*
 * clock: Hz that feed the USART. 8 data bits, no parity, one stop bit. The caller enables the interrupt in
 * the NVIC.
 */
void qfl_usart_open(qfl_usart *u, uint32_t base, uint32_t clock, uint32_t baud);
/* The interrupt handler. */
void qfl_usart_irq(qfl_usart *u);
/* Never blocks. Returns the bytes that fitted the ring; the interrupt sends them. */
uint32_t qfl_usart_write(qfl_usart *u, const uint8_t *p, uint32_t n);
/* Never blocks. Returns the bytes taken out of the ring. */
uint32_t qfl_usart_read(qfl_usart *u, uint8_t *p, uint32_t n);

#endif
