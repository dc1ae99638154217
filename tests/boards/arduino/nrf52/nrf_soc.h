/* Of the SoftDevice: operations on flash are done later, one at a time, and may fail. */
#ifndef NRF_SOC_H
#define NRF_SOC_H
#include <stdint.h>

enum {
    NRF_SUCCESS = 0,
    NRF_ERROR_INVALID_ADDR = 16,
    NRF_ERROR_BUSY = 17,
    NRF_ERROR_SOC_RAND_NOT_ENOUGH_VALUES = 8205
};
uint32_t sd_flash_page_erase(uint32_t page);
uint32_t sd_flash_write(uint32_t *to, uint32_t const *from, uint32_t words);
uint32_t sd_rand_application_bytes_available_get(uint8_t *n);
uint32_t sd_rand_application_vector_get(uint8_t *p, uint8_t n);
#endif
