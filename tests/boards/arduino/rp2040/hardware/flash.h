#ifndef HARDWARE_FLASH_H
#define HARDWARE_FLASH_H
#include <stddef.h>
#include <stdint.h>

#define FLASH_PAGE_SIZE   256u
#define FLASH_SECTOR_SIZE 4096u
#define XIP_BASE          0x10000000u
/* What the core's linker script says of 2 MB with a file system of 1 MB. */
#define QFL_STORE_BEGIN ((uintptr_t)0x100FF000u)
#define QFL_STORE_END   ((uintptr_t)0x101FF000u)
void flash_range_erase(uint32_t at, size_t n);
void flash_range_program(uint32_t at, const uint8_t *p, size_t n);
#endif
