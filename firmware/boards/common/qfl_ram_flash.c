#include "qfl_ram_flash.h"

#include <string.h>

void qfl_ram_flash_info(uint8_t *map, uint32_t size, qfl_flash_info *out)
{
    out->size = size;
    out->erase_unit = QFL_RAM_FLASH_ERASE;
    out->program_unit = QFL_RAM_FLASH_PROGRAM;
    out->worst_erase_ms = 1;
    out->map = map;
    out->erased = 0xFF;
    out->write_once = 1;
    out->log_size = size >= 8 * QFL_RAM_FLASH_LOG ? QFL_RAM_FLASH_LOG : 0;
}

int32_t qfl_ram_flash_program(uint8_t *map, uint32_t size, uint32_t at, const uint8_t *p, uint32_t n)
{
    if (at % QFL_RAM_FLASH_PROGRAM != 0 || n % QFL_RAM_FLASH_PROGRAM != 0 || at > size || n > size - at)
        return QFL_E_INVAL;
    for (uint32_t i = 0; i < n; i++)
        if (map[at + i] != 0xFF)
            return QFL_E_IO; /* a second write without an erase: what a real part would silently garble */
    memcpy(map + at, p, n);
    return 0;
}

int32_t qfl_ram_flash_erase(uint8_t *map, uint32_t size, uint32_t at, uint32_t n)
{
    if (at % QFL_RAM_FLASH_ERASE != 0 || n % QFL_RAM_FLASH_ERASE != 0 || at > size || n > size - at)
        return QFL_E_INVAL;
    memset(map + at, 0xFF, n);
    return 0;
}
