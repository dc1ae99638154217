// @NAME@: the board's port and quantfl's device, nothing else. Your code is in sensor.cpp.
#include <Arduino.h>

#include "port.h"
#include "qfl_device.h"

static const qfl_port *port;
static qfl_device *device;

void setup()
{
    port = board_port(); // nullptr: no room
    if (port != nullptr)
        qfl_device_create(&device, port);
}

void loop()
{
    if (device != nullptr)
        port->sleep(port->ctx, qfl_device_poll(device));
}
