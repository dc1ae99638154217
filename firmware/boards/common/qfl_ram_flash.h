/* Flash kept in memory that behaves like a part: erased before it is written, a unit written once. Emulated boards only. */
#ifndef QFL_RAM_FLASH_H
#define QFL_RAM_FLASH_H

#include <stdint.h>

#include "qfl_port.h"

#ifdef __cplusplus
extern "C" {
#endif

enum { QFL_RAM_FLASH_ERASE = 4096, QFL_RAM_FLASH_PROGRAM = 4, QFL_RAM_FLASH_LOG = 1 << 17 };

void qfl_ram_flash_info(uint8_t *map, uint32_t size, qfl_flash_info *out);
int32_t qfl_ram_flash_program(uint8_t *map, uint32_t size, uint32_t at, const uint8_t *p, uint32_t n);
int32_t qfl_ram_flash_erase(uint8_t *map, uint32_t size, uint32_t at, uint32_t n);

#ifdef __cplusplus
}
#endif

#endif
