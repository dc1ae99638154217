/* The API of ESP-IDF 5; with QFL_FAKE_IDF4 that of ESP-IDF 4.4, which core 2.0.17 has. */
#ifndef ESP_PARTITION_H
#define ESP_PARTITION_H
#include <stddef.h>
#include <stdint.h>

#include "esp_system.h"

#ifdef QFL_FAKE_IDF4
typedef uint32_t spi_flash_mmap_handle_t;
typedef enum { SPI_FLASH_MMAP_DATA, SPI_FLASH_MMAP_INST } spi_flash_mmap_memory_t;
typedef spi_flash_mmap_handle_t fake_mmap_handle;
typedef spi_flash_mmap_memory_t fake_mmap_memory;
#else
#define ESP_ARDUINO_VERSION_MAJOR 3
typedef uint32_t esp_partition_mmap_handle_t;
typedef enum { ESP_PARTITION_MMAP_DATA, ESP_PARTITION_MMAP_INST } esp_partition_mmap_memory_t;
typedef esp_partition_mmap_handle_t fake_mmap_handle;
typedef esp_partition_mmap_memory_t fake_mmap_memory;
#endif
typedef enum { ESP_PARTITION_TYPE_APP = 0, ESP_PARTITION_TYPE_DATA = 1 } esp_partition_type_t;
typedef enum { ESP_PARTITION_SUBTYPE_ANY = 0xFF } esp_partition_subtype_t;
typedef struct {
    uint32_t address, size;
    char label[17];
} esp_partition_t;
const esp_partition_t *esp_partition_find_first(esp_partition_type_t, esp_partition_subtype_t,
                                                const char *label);
esp_err_t esp_partition_mmap(const esp_partition_t *, size_t at, size_t n, fake_mmap_memory, const void **,
                             fake_mmap_handle *);
esp_err_t esp_partition_read(const esp_partition_t *, size_t at, void *p, size_t n);
esp_err_t esp_partition_write(const esp_partition_t *, size_t at, const void *p, size_t n);
esp_err_t esp_partition_erase_range(const esp_partition_t *, size_t at, size_t n);
#endif
