/* The whole firmware in an Arduino core, whose own main() calls these: the twin of src/main.c. */
#include <Arduino.h>

#include "../common/qfl_board.h"
#include "qfl_device.h"

static const qfl_port *port;
static qfl_device *device;

void setup()
{
    port = qfl_board_open(0, NULL);
    if (port == NULL || qfl_device_create(&device, port) != QFL_OK)
        port = NULL; /* a board that cannot start stays silent; the core's own port goes on working */
}

void loop()
{
    if (port == NULL) {
        delay(1000);
        return;
    }
    port->sleep(port->ctx, qfl_device_poll(device));
}
