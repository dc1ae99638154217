/*
 * Access to the registers of an STM32. A host test defines QFL_FAKE_REGISTERS and gives bodies of its own,
 * so that the code that drives a peripheral runs against a model of that peripheral.
 */
#ifndef QFL_STM32_REG_H
#define QFL_STM32_REG_H

#include <stdint.h>

#ifdef QFL_FAKE_REGISTERS
uint32_t qfl_reg_get(uint32_t at);
void qfl_reg_set(uint32_t at, uint32_t value);
void qfl_irq_off(void);
void qfl_irq_on(void);
void qfl_cpu_wait(void); /* until an interrupt */
#else
static inline uint32_t qfl_reg_get(uint32_t at) { return *(volatile uint32_t *)(uintptr_t)at; }
static inline void qfl_reg_set(uint32_t at, uint32_t value) { *(volatile uint32_t *)(uintptr_t)at = value; }
static inline void qfl_irq_off(void) { __asm volatile("cpsid i" ::: "memory"); }
static inline void qfl_irq_on(void) { __asm volatile("cpsie i" ::: "memory"); }
static inline void qfl_cpu_wait(void) { __asm volatile("wfi" ::: "memory"); }
#endif

/* Replaces the bits of `mask` by those of `value`. */
static inline void qfl_reg_change(uint32_t at, uint32_t mask, uint32_t value)
{
    qfl_reg_set(at, (qfl_reg_get(at) & ~mask) | value);
}

/* 1 when all bits of `mask` were set within `tries` reads, else 0. */
static inline int qfl_reg_wait(uint32_t at, uint32_t mask, uint32_t tries)
{
    while (tries-- > 0)
        if ((qfl_reg_get(at) & mask) == mask)
            return 1;
    return 0;
}

#endif
