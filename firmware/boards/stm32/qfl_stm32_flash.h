/*
 * The store's part of an STM32's flash: offsets are relative to it, as qfl_port's flash_* functions have
 * them.
 */
#ifndef QFL_STM32_FLASH_H
#define QFL_STM32_FLASH_H

#include "qfl_port.h"

void qfl_stm32_flash_info(qfl_flash_info *out);
int32_t qfl_stm32_flash_read(uint32_t at, uint8_t *p, uint32_t n);
int32_t qfl_stm32_flash_program(uint32_t at, const uint8_t *p, uint32_t n);
int32_t qfl_stm32_flash_erase(uint32_t at, uint32_t n);

#endif
