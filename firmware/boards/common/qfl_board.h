/* What each board offers to main: its port, ready to use. NULL when the board cannot start. */
#ifndef QFL_BOARD_H
#define QFL_BOARD_H

#include "qfl_port.h"

#ifdef __cplusplus
extern "C" {
#endif

const qfl_port *qfl_board_open(int argc, char **argv);

#ifdef __cplusplus
}
#endif

#endif
