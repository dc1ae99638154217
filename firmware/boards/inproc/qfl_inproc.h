/*
 * A board inside another process: the port of simulations and tests. All of its state, flash and arena lie in memory the
 * caller gives; bytes to and from the host go through two rings.
 */
#ifndef QFL_INPROC_H
#define QFL_INPROC_H

#include <stddef.h>
#include <stdint.h>

#include "qfl_port.h"
#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct qfl_inproc qfl_inproc;

/* Bytes of memory for a board with this much flash (a multiple of 4096) and arena (a multiple of 16). */
size_t qfl_inproc_size(uint32_t flash_bytes, uint32_t ram_bytes);
/* board: qfl_inproc_size bytes, 16-byte aligned. uid: at most 16 bytes. Flash starts erased. */
qfl_status qfl_inproc_init(qfl_inproc *board, uint32_t flash_bytes, uint32_t ram_bytes, const uint8_t *uid,
                           uint32_t uid_n);
/* Before the device is created: n bytes of other memory are its flash. They are the caller's, and are taken as they are. */
void qfl_inproc_use_flash(qfl_inproc *board, uint8_t *flash, uint32_t n);
/* Offset in its memory, and length, of what a board needs nothing of while it has nothing to say or hear; *n 0: it has. */
uint32_t qfl_inproc_spare(const qfl_inproc *board, uint32_t *n);
const qfl_port *qfl_inproc_port(qfl_inproc *board);
/* The host's side of link 0: bytes taken or given, less than n when the ring is full or empty. */
uint32_t qfl_inproc_host_write(qfl_inproc *board, const uint8_t *p, uint32_t n);
uint32_t qfl_inproc_host_read(qfl_inproc *board, uint8_t *p, uint32_t n);
/* The sensor: n samples of `size` values each, served once in order. The arrays stay the caller's and must live on. */
void qfl_inproc_set_samples(qfl_inproc *board, const int8_t *x, const uint16_t *labels, uint32_t n,
                            uint32_t size);
/* Virtual time. */
void qfl_inproc_set_ms(qfl_inproc *board, uint32_t ms);
/* A power cycle: rings and arena are cleared, flash stays. The device has to be created again. */
void qfl_inproc_reset(qfl_inproc *board);

#ifdef __cplusplus
}
#endif

#endif
