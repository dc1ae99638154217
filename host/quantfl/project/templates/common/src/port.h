// The board, as quantfl sees it.
#pragma once

#include "qfl_port.h"

// The port, ready to use: link 0 is Serial.
const qfl_port *board_port();
