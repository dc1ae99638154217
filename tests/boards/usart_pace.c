/*
 * The USART driver of firmware/boards/stm32 on a model of the peripheral, in virtual time of one byte on
 * the line. The line takes or brings one byte a step; while the processor is deaf (an erase stalls it) no
 * interrupt runs, and a byte that comes while the receive register is full is lost. Prints one line of
 * JSON: steps used and bytes that went wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qfl_stm32_reg.h"
#include "qfl_stm32_usart.h"

enum {
    BASE = 0x40004400,
    CR1 = 0x00,
    BRR = 0x0C,
    ISR = 0x1C,
    ICR = 0x20,
    RDR = 0x24,
    TDR = 0x28,
    MTU = 1024
};
enum { UE = 1, RXNEIE = 1 << 5, TXEIE = 1 << 7, ORE = 1 << 3, RXNE = 1 << 5, TXE = 1 << 7 };

static struct {
    uint32_t cr1, brr, isr;
    uint8_t rdr, tdr;
    int masked, deaf;
    uint32_t interrupts;
} part;
static qfl_usart usart;
static uint8_t rx[4096], tx[2 * MTU], *sent;
static uint32_t sent_n, dropped;

static void misuse(const char *what)
{
    fprintf(stderr, "USART misused: %s\n", what);
    exit(1);
}

uint32_t qfl_reg_get(uint32_t at)
{
    switch (at - BASE) {
    case CR1: return part.cr1;
    case ISR: return part.isr;
    case RDR: part.isr &= ~(uint32_t)RXNE; return part.rdr;
    default: misuse("a register that is not read"); return 0;
    }
}

void qfl_reg_set(uint32_t at, uint32_t value)
{
    switch (at - BASE) {
    case CR1: part.cr1 = value; break;
    case BRR:
        if ((part.cr1 & UE) != 0)
            misuse("the rate is changed while the USART is on");
        part.brr = value;
        break;
    case ICR: part.isr &= ~value; break;
    case TDR:
        if ((part.isr & TXE) == 0)
            misuse("a byte is written over one that waits");
        part.tdr = (uint8_t)value;
        part.isr &= ~(uint32_t)TXE;
        break;
    default: misuse("a register that is not written");
    }
}

static void interrupt(void)
{
    if (part.masked || part.deaf)
        return;
    uint32_t due = ((part.cr1 & TXEIE) != 0 && (part.isr & TXE) != 0) ||
                   ((part.cr1 & RXNEIE) != 0 && (part.isr & (RXNE | ORE)) != 0);
    if (due) {
        part.interrupts++;
        qfl_usart_irq(&usart);
    }
}

void qfl_irq_off(void) { part.masked = 1; }
void qfl_irq_on(void)
{
    part.masked = 0;
    interrupt();
}

static void step(int come, uint8_t byte)
{
    if ((part.isr & TXE) == 0) {
        sent[sent_n++] = part.tdr;
        part.isr |= TXE;
    }
    if (come) {
        if ((part.isr & RXNE) != 0) {
            part.isr |= ORE;
            dropped++;
        } else {
            part.rdr = byte;
            part.isr |= RXNE;
        }
    }
    interrupt();
}

int main(int argc, char **argv)
{
    if (argc != 4)
        return 2;
    /* bytes each way, steps between two looks of the task, steps of deafness in the middle */
    uint32_t n = (uint32_t)atol(argv[1]), every = (uint32_t)atol(argv[2]), deaf = (uint32_t)atol(argv[3]);
    uint8_t *data = malloc(n), *got = malloc(n);
    sent = malloc(n);
    uint32_t rng = 7, given = 0, got_n = 0, out_steps = 0, in_steps = 0;
    for (uint32_t i = 0; i < n; i++)
        data[i] = (uint8_t)((rng = rng * 1664525u + 1013904223u) >> 24);
    part.isr = TXE;
    usart.rx = (qfl_ring){rx, sizeof rx, 0, 0};
    usart.tx = (qfl_ring){tx, sizeof tx, 0, 0};
    qfl_usart_open(&usart, BASE, 80000000, 921600);
    for (; sent_n < n && out_steps < 100 * n; out_steps++) {
        if (out_steps % every == 0)
            given += qfl_usart_write(&usart, data + given, n - given < MTU ? n - given : MTU);
        step(0, 0);
    }
    step(0, 0);
    uint32_t idle = part.interrupts;
    for (int i = 0; i < 100; i++)
        step(0, 0);
    idle = part.interrupts - idle; /* with nothing to send the interrupt has to be off */
    for (; in_steps < n; in_steps++) {
        part.deaf = in_steps >= n / 2 && in_steps < n / 2 + deaf;
        step(1, data[in_steps]);
        if (!part.deaf && in_steps % every == 0)
            got_n += qfl_usart_read(&usart, got + got_n, n - got_n);
    }
    got_n += qfl_usart_read(&usart, got + got_n, n - got_n);
    uint32_t missing = n - got_n, head = 0;
    while (head < got_n && got[head] == data[head])
        head++;
    int tail = memcmp(got + head, data + head + missing, got_n - head) == 0;
    printf("{\"brr\": %u, \"out_steps\": %u, \"sent_right\": %d, \"idle_interrupts\": %u, \"in_steps\": %u, "
           "\"missing\": %u, "
           "\"dropped\": %u, \"lost\": %u, \"rest_right\": %d}\n",
           part.brr, out_steps, sent_n == n && memcmp(sent, data, n) == 0, idle, in_steps, missing, dropped,
           usart.lost, tail);
    return 0;
}
