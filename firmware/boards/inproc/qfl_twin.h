/*
 * The twin: one round of many boards inside this process in one call, with threads. Every board is the board of qfl_inproc.h, with
 * the link, the log and the training of the firmware; both ends of its link are the same code as in any run. What is left out is
 * what lies between them: an event loop that hands bytes over. So deltas and traffic counters are those of a round by that loop.
 */
#ifndef QFL_TWIN_H
#define QFL_TWIN_H

#include <stdint.h>

#include "qfl_codec.h"
#include "qfl_device.h"
#include "qfl_inproc.h"
#include "qfl_link.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A board, and the host's end of its link, whose session is up. */
typedef struct qfl_twin_board {
    qfl_inproc *board;
    qfl_device *device;
    qfl_link *link;
} qfl_twin_board;

enum {
    QFL_TWIN_NO_UPDATE = 0, /* the board holds the head to train from */
    QFL_TWIN_CODED = 1,     /* a coded update leads to it: update_n bytes at `updates` + update_at */
    QFL_TWIN_SYMBOLS = 2    /* the symbols of its row lead to it, in steps of code `update_code` */
};

/* A board's part of a round. */
typedef struct qfl_twin_row {
    uint32_t board;     /* in: its place in `boards`; a board has one row at most */
    uint32_t head;      /* in: hash of the head to train from */
    uint32_t update_at; /* in */
    uint32_t update_n;  /* in: bytes of the coded update, out: the same where it was given as symbols */
    /* out: QFL_OK: there is an answer, whatever it says. QFL_E_NOMEM: the update is not worth its bytes, nothing was sent.
     * QFL_E_BUSY: no answer without time passing. QFL_E_STATE: no session. */
    int32_t status;
    uint32_t answer_n; /* out: bytes of the whole answer */
    /* out: what the delta of an answer holds where it was read as DZ: qfl_codec_dz_form. read: qfl_status, 1: not tried */
    int32_t read;
    uint8_t code;
    uint8_t agreed;
    int8_t offset;
    uint8_t update_how; /* in: QFL_TWIN_* */
    uint8_t update_code; /* in */
    uint8_t balanced; /* out: the answer's digest is that of our own counters, seen from the other end */
} qfl_twin_row;

/* A round. */
typedef struct qfl_twin_step {
    uint32_t count; /* rows */
    uint32_t now_ms;
    uint8_t round;
    uint8_t agreed; /* code of the step of the deltas, 0: each board's own */
    uint32_t params;
    uint32_t worth; /* an update of so many bytes or more is not worth sending */
    uint32_t answer_room;
    const qfl_codec_layout *layout;
    const uint8_t *updates;
    uint8_t *answers; /* [count][answer_room]: what boards answered, kind and number first */
} qfl_twin_step;

/*
 * One round of step->count boards, in `threads` threads, this one among them. symbols [count][params]: in, of updates given as
 * symbols; out, of the deltas where they are DZ. rows [count]. QFL_E_NOMEM: no memory for the threads; nothing was sent.
 */
qfl_status qfl_twin_round(const qfl_twin_board *boards, const qfl_twin_step *step, uint32_t threads,
                          int32_t *symbols, qfl_twin_row *rows);

#ifdef __cplusplus
}
#endif

#endif
