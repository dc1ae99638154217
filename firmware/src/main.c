/* The whole firmware: a port and the device. */
#include "qfl_board.h"
#include "qfl_device.h"

int main(int argc, char **argv)
{
    qfl_device *device;
    const qfl_port *port = qfl_board_open(argc, argv);
    if (port == NULL || qfl_device_create(&device, port) != QFL_OK)
        return 1;
    for (;;)
        port->sleep(port->ctx, qfl_device_poll(device));
}
