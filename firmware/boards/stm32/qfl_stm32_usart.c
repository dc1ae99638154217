/* USART of the L4 and H7 families (RM0351 and RM0433, chapter "USART", register map), without its FIFO. */
#include "qfl_stm32_usart.h"
#include "qfl_stm32_reg.h"

enum {
    CR1 = 0x00, /* USART_CR1 */
    CR1_UE = 1 << 0,
    CR1_RE = 1 << 2,
    CR1_TE = 1 << 3,
    CR1_RXNEIE = 1 << 5,
    CR1_TXEIE = 1 << 7,
    BRR = 0x0C, /* USART_BRR: clock divided by baud, 16 samples a bit */
    ISR = 0x1C, /* USART_ISR */
    ISR_ORE = 1 << 3,
    ISR_RXNE = 1 << 5,
    ISR_TXE = 1 << 7,
    ICR = 0x20, /* USART_ICR: write 1 to clear */
    RDR = 0x24,
    TDR = 0x28
};

void qfl_usart_open(qfl_usart *u, uint32_t base, uint32_t clock, uint32_t baud)
{
    u->base = base;
    qfl_reg_set(base + CR1, 0);
    qfl_reg_set(base + BRR, (clock + baud / 2) / baud);
    qfl_reg_set(base + CR1, CR1_TE | CR1_RE | CR1_RXNEIE);
    qfl_reg_set(base + CR1, CR1_TE | CR1_RE | CR1_RXNEIE | CR1_UE);
}

static void receive(qfl_usart *u)
{
    for (;;) {
        uint32_t state = qfl_reg_get(u->base + ISR);
        if ((state & ISR_ORE) != 0) { /* an overrun keeps its interrupt pending until it is cleared */
            qfl_reg_set(u->base + ICR, ISR_ORE);
            u->lost = u->lost + 1;
        }
        if ((state & ISR_RXNE) == 0)
            return;
        uint8_t byte = (uint8_t)qfl_reg_get(u->base + RDR);
        if (qfl_ring_full(&u->rx))
            u->lost = u->lost + 1;
        else
            qfl_ring_put(&u->rx, byte);
    }
}

void qfl_usart_irq(qfl_usart *u)
{
    receive(u);
    if ((qfl_reg_get(u->base + CR1) & CR1_TXEIE) == 0)
        return;
    uint8_t byte;
    while ((qfl_reg_get(u->base + ISR) & ISR_TXE) != 0) {
        if (qfl_ring_take(&u->tx, &byte, 1) == 0) {
            qfl_reg_change(u->base + CR1, CR1_TXEIE, 0);
            return;
        }
        qfl_reg_set(u->base + TDR, byte);
    }
}

uint32_t qfl_usart_write(qfl_usart *u, const uint8_t *p, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && !qfl_ring_full(&u->tx))
        qfl_ring_put(&u->tx, p[i++]);
    if (i == 0)
        return 0;
    qfl_irq_off(); /* the interrupt changes CR1 too */
    qfl_reg_change(u->base + CR1, CR1_TXEIE, CR1_TXEIE);
    qfl_irq_on();
    return i;
}

uint32_t qfl_usart_read(qfl_usart *u, uint8_t *p, uint32_t n) { return qfl_ring_take(&u->rx, p, n); }
