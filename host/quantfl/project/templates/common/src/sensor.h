// Where samples come from. You write this.
#pragma once

#include <stdint.h>

// Fills x with n int8 values in the model's input quantisation, and *label with the class (0, 1, ...).
// Returns true where there is a new sample. It is called often and must not wait.
bool read_sensor(int8_t *x, uint32_t n, uint16_t *label);
