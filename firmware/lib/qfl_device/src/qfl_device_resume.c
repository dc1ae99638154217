/*
 * RESUME: the end of a delta or of statistics whose answer a break cut off, from the byte that the host has come to. The object stays where it
 * is until it is no longer wanted, so nothing is computed twice; what the host puts together is checked by the SHA-256 of the whole.
 */
#include <string.h>

#include "qfl_device_internal.h"

enum { TRAIN_REQUEST = 1 + 4 + 4, STATS_REQUEST = 1 + QFL_STATS_BYTES + 4, HEAD = 5 };

/* Request: the kind asked before (TRAIN or STATS) u8, its head u32 or its request (8), offset u32. Answer: for TRAIN samples u16,
 * loss u8, digest u16; then SHA-256 (32) of the whole object, its bytes from offset. STATE: it is not held; ask anew. */
QFL_COLD void qfl_device_on_resume(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    const uint8_t *object = NULL;
    uint8_t body[HEAD + QFL_SHA256_BYTES];
    uint32_t size = 0, at = 0, offset = n >= 4 ? qfl_get32(p + n - 4) : 0;
    if (n == TRAIN_REQUEST && p[0] == QFL_MSG_TRAIN) {
        uint32_t head = qfl_get32(p + 1);
        if (d->have_package && d->have_config && d->round.done && d->round.status == QFL_OK &&
            number == d->round.number && head == d->round.head && head == d->head_hash) {
            qfl_link_counters c;
            qfl_link_get_counters(d->link, &c);
            qfl_put16(body, d->round.samples);
            body[2] = d->round.loss;
            qfl_put16(body + 3, (uint16_t)qfl_device_counters_digest(&c, 0));
            at = HEAD;
            object = (const uint8_t *)d->work;
            size = d->round.size;
        }
    } else if (QFL_STATS && n == STATS_REQUEST && p[0] == QFL_MSG_STATS) {
        if (d->have_package && d->stats.size != 0 && memcmp(p + 1, d->stats.request, QFL_STATS_BYTES) == 0) {
            object = d->stats.out;
            size = d->stats.size;
        }
    } else {
        qfl_device_say(d, QFL_MSG_RESUME, number, QFL_E_FORMAT);
        return;
    }
    if (object == NULL || offset > size) {
        qfl_device_say(d, QFL_MSG_RESUME, number, QFL_E_STATE);
        return;
    }
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, object, size);
    qfl_sha256_end(&h, body + at);
    qfl_device_answer(d, QFL_MSG_RESUME, number, QFL_OK, body, at + QFL_SHA256_BYTES, object + offset,
                      size - offset);
}
