#ifndef ESP_SYSTEM_H
#define ESP_SYSTEM_H
#include <stddef.h>

typedef int esp_err_t;
enum { ESP_OK = 0, ESP_ERR_INVALID_ARG = 0x102 };
typedef enum {
    ESP_RST_UNKNOWN,
    ESP_RST_POWERON,
    ESP_RST_EXT,
    ESP_RST_SW,
    ESP_RST_PANIC,
    ESP_RST_INT_WDT,
    ESP_RST_TASK_WDT,
    ESP_RST_WDT,
    ESP_RST_DEEPSLEEP,
    ESP_RST_BROWNOUT,
    ESP_RST_SDIO
} esp_reset_reason_t;
esp_reset_reason_t esp_reset_reason(void);
void esp_fill_random(void *p, size_t n);
#endif
