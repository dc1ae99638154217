// Your sensor. This stub gives noise of two classes, so that the firmware can be tried before a sensor is wired.
//
// The model takes int8: q = round(value / scale) + zero_point, cut to -128..127. `quantfl convert` and the model's
// page in Netron say scale and zero_point. The label is what a person, a button or another sensor says it was.
#include "sensor.h"

#include <Arduino.h>

enum { SAMPLES = 40, EVERY_MS = 5 };

bool read_sensor(int8_t *x, uint32_t n, uint16_t *label)
{
    static uint32_t given, last;
    if (given >= SAMPLES || millis() - last < EVERY_MS)
        return false;
    last = millis();
    *label = (uint16_t)(given++ % 2);
    for (uint32_t i = 0; i < n; i++)
        x[i] = (int8_t)(random(-40, 40) + (*label != 0 && i < n / 2 ? 60 : -60));
    return true;
}
