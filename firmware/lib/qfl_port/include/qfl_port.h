/*
 * qfl_port: all that the quantfl libraries ask of a board.
 *
 * A board fills one qfl_port (see firmware/boards/) and hands it to qfl_device_create().
 * Every function is called from one task, never from an interrupt, and gets `ctx` first, so one process may hold many
 * boards. Interrupt and BLE callback code stays inside the port and hands bytes over through a ring. A port never calls
 * into the libraries. Negative results are codes of qfl_status.h:
 * QFL_E_IO the hardware failed, QFL_E_INVAL a bad argument (an unaligned flash address), QFL_E_STATE the link is not
 * connected, QFL_E_BUSY try again, QFL_E_UNSUPPORTED the board has no such thing.
 */
#ifndef QFL_PORT_H
#define QFL_PORT_H

#include <stdint.h>

#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The board's flash region for quantfl. Offsets passed to flash_* are relative to it. */
typedef struct qfl_flash_info {
    uint32_t size;           /* bytes in the region, a multiple of erase_unit */
    uint32_t erase_unit;     /* bytes erased at once */
    uint32_t program_unit; /* bytes programmed at once: 1..256; addresses and lengths are multiples of it */
    uint32_t worst_erase_ms; /* longest time one erase may take, ms */
    const uint8_t *
        map; /* memory-mapped view of the region, 16-byte aligned; qfl_store demands it: NULL, no package is kept */
    uint8_t erased; /* value of an erased byte, 0xFF on most parts */
    uint8_t write_once; /* 1: a program unit may be written once between erases */
    /* bytes of the region for the log of rounds, two halves of whole erase units; 0: a reset board
       * keeps its package only (docs/STORE.md says what a log costs in wear) */
    uint32_t log_size;
} qfl_flash_info;

typedef struct qfl_port {
    void *ctx;
    const char *board; /* board id as in platformio.ini, e.g. "qemu_m4" */
    uint32_t ram_bytes; /* RAM of the part */
    uint32_t flash_bytes; /* flash of the part */

    void (*poll)(void *ctx); /* housekeeping; called at least every 10 ms, also between training steps */
    uint32_t (*ms)(void *ctx); /* wrapping millisecond clock */
    uint32_t (*us)(void *ctx); /* wrapping microsecond clock */

    /* Links: 0 is the first serial or BLE link. */
    int32_t (*link_up)(void *ctx, uint8_t link); /* 1 connected, 0 not */
    uint32_t (*link_connections)(void *ctx,
                                 uint8_t link); /* counts reconnections, so that half frames are dropped */
    uint32_t (*link_mtu)(void *ctx, uint8_t link); /* bytes taken at once; may change; 20 at first on BLE */
    /*
     * Copies and never blocks; returns the bytes taken, 0: later. A serial port needs a transmit ring of at least link_mtu bytes that
     * an interrupt or DMA drains: the device calls this a few times per sleep, and a port that only fills the UART's own
     * register sends one byte per call, which is about 1 KB/s.
     */
    int32_t (*link_write)(void *ctx, uint8_t link, const uint8_t *p, uint32_t n);
    int32_t (*link_read)(void *ctx, uint8_t link, uint8_t *p,
                         uint32_t n); /* never blocks; returns bytes read */
    uint32_t (*link_lost)(void *ctx, uint8_t link); /* bytes lost to ring overflow since start */

    int32_t (*flash_info)(void *ctx, qfl_flash_info *out);
    int32_t (*flash_read)(void *ctx, uint32_t at, uint8_t *p, uint32_t n);
    int32_t (*flash_program)(void *ctx, uint32_t at, const uint8_t *p, uint32_t n);
    int32_t (*flash_erase)(void *ctx, uint32_t at, uint32_t n);

    int32_t (*entropy)(void *ctx, uint8_t *p,
                       uint32_t n); /* random bytes; returns how many are truly random */
    int32_t (*uid)(void *ctx, uint8_t *p,
                   uint32_t n); /* the part's unique id, at most n bytes; returns its length */
    /* 0 power, 1 pin, 2 software, 3 watchdog, 4 other. Parts keep flags of older resets: read and clear them when the board opens. */
    uint32_t (*reset_cause)(void *ctx);
    /* Idles at most ms. It has to end at once when a byte of a link arrives, and may end early for any other interrupt. */
    void (*sleep)(void *ctx, uint32_t ms);
    void (*reboot)(void *ctx);

    /*
     * Local data, as a sensor would give it. x: n int8 values in the model's input quantisation, written in full or in
     * part while the port waits for the rest (x stays the same buffer). Returns 1: x and *label are a new sample,
     * 0: none yet, negative: error. A sample whose length is not n is dropped and counted in sample_lost.
     */
    int32_t (*next_sample)(void *ctx, int8_t *x, uint32_t n, uint16_t *label);
    uint32_t (*sample_lost)(void *ctx);

    uint8_t *(*arena)(void *ctx, uint32_t *size); /* the one big block of RAM, 16-byte aligned */

    /* May be NULL: charge of the battery, 0..100 per cent; negative: not known, or no battery. Called seldom, may take some ms. */
    int32_t (*battery_percent)(void *ctx);
} qfl_port;

#ifdef __cplusplus
}
#endif

#endif
