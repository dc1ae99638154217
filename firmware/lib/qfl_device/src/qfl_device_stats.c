/*
 * STATS: the sufficient statistics of the cached features, which are class sums, class counts and within-class scatter, coded, for
 * closed-form initialisation. Uses work (sums) and
 * momentum (a row, the coder, its bytes), so a round's delta or a staged update is gone after it.
 */
#include <string.h>

#include "qfl_device_internal.h"

#if QFL_STATS

/*
 * Request: step of the scatter in 1/16 of the mean of its diagonal u8, step of the sums in 1/16 of their root mean square u8,
 * dims u16 (0: no sketch), seed u32. Answer: samples u16, bytes of scatter u32, bytes of sums u32, then as DZ deltas: the scatter
 * (upper triangle, row by row, one tensor), the sums (kernel [d][K]), the counts (one tensor [K], step 1).
 */
enum { LENGTHS = 10 };

static void answer(qfl_device *d, qfl_status status)
{
    if (d->asked.waiting && status != QFL_OK)
        qfl_device_say(d, QFL_MSG_STATS, d->asked.number, status);
    else if (d->asked.waiting)
        qfl_device_answer(d, QFL_MSG_STATS, d->asked.number, status, NULL, 0, d->stats.out, d->stats.size);
    d->asked.waiting = 0;
}

/* Lays the row, the coder and the output out in momentum. */
static qfl_status lay_out(qfl_device *d)
{
    uint32_t room = 4 * d->params + SLACK_BYTES, row = (4 * d->stats.gram.dims + 7u) & ~7u;
    uint32_t coder = (qfl_codec_dz_stream_size() + 7u) & ~7u;
    if (room < row + coder + LENGTHS)
        return QFL_E_NOMEM;
    d->stats.stream = (qfl_codec_dz_stream *)(void *)((uint8_t *)d->momentum + row);
    d->stats.out = (uint8_t *)d->momentum + row + coder;
    d->stats.cap = room - row - coder;
    return QFL_OK;
}

static uint32_t step_below(float wanted)
{
    float one = wanted > 0.0f ? wanted : 1.0f;
    return qfl_codec_dz_step(&one, 1, 16);
}

QFL_COLD void qfl_device_on_stats(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    qfl_status status = QFL_OK;
    if (n != QFL_STATS_BYTES)
        status = QFL_E_FORMAT;
    else if (!d->have_package)
        status = QFL_E_STATE;
    else if (!qfl_head_one_dense(&d->shape) || d->nn.recompute)
        status = QFL_E_UNSUPPORTED; /* only one dense layer over cached features has a closed form */
    else if (p[0] == 0 || p[1] == 0)
        status = QFL_E_INVAL;
    if (status == QFL_OK) {
        int same = memcmp(p, d->stats.request, QFL_STATS_BYTES) == 0 &&
                   (d->stats.size != 0 || d->state == QFL_DEVICE_STATISTICS);
        if (!same) {
            qfl_head_data data = qfl_device_data(d);
            qfl_device_cancel(d);
            d->round.done = 0;
            d->put.staged = 0;
            d->stats.data = data;
            status = qfl_head_stats_begin(&d->stats.gram, &d->stats.data, qfl_head_features(&d->shape),
                                          qfl_head_classes(&d->shape), qfl_get16(p + 2), qfl_get32(p + 4),
                                          (int32_t *)(void *)d->work);
            if (status == QFL_OK)
                status = lay_out(d);
        }
        if (status == QFL_OK) {
            d->asked.waiting = 1;
            d->asked.kind = QFL_MSG_STATS;
            d->asked.number = number;
            if (same && d->stats.size != 0) {
                answer(d, QFL_OK);
            } else if (!same) {
                uint32_t code = step_below((float)p[0] / 16.0f * qfl_head_stats_diagonal(&d->stats.gram));
                memcpy(d->stats.request, p, QFL_STATS_BYTES);
                d->stats.row = 0;
                d->stats.step = qfl_codec_dz_value(code);
                qfl_codec_dz_stream_begin(d->stats.stream, code, d->stats.out + LENGTHS,
                                          d->stats.cap - LENGTHS);
                d->state = QFL_DEVICE_STATISTICS;
            }
            return;
        }
    }
    qfl_device_say(d, QFL_MSG_STATS, number, status);
}

/* Behind the scatter: sums and counts. */
static qfl_status finish(qfl_device *d)
{
    uint32_t k = d->stats.gram.classes, values = d->stats.gram.dims * k, size, at = LENGTHS;
    qfl_codec_layout layout = {2, {values, k}};
    int32_t *symbols = (int32_t *)(void *)d->work;
    qfl_status status = qfl_codec_dz_stream_end(d->stats.stream, &size);
    if (status != QFL_OK)
        return status;
    qfl_put16(d->stats.out, (uint16_t)d->samples);
    qfl_put32(d->stats.out + 2, size);
    at += size;
    for (uint32_t i = 0; i < values; i++) {
        float v = (float)symbols[i];
        memcpy(&d->work[i], &v, 4);
    }
    qfl_codec_dz_form form = {(uint8_t)qfl_codec_dz_step(d->work, values, d->stats.request[1]), 0, 0};
    (void)qfl_codec_dz_quantise(d->work, values, form.code, NULL);
    layout.tensors = 1;
    status = qfl_codec_dz_write(&layout, symbols, &form, d->stats.out + at, d->stats.cap - at, &size);
    if (status != QFL_OK)
        return status;
    qfl_put32(d->stats.out + 6, size);
    at += size;
    layout.size[0] = k;
    form.code = (uint8_t)step_below(1.0f);
    status =
        qfl_codec_dz_write(&layout, symbols + values, &form, d->stats.out + at, d->stats.cap - at, &size);
    if (status == QFL_OK)
        d->stats.size = at + size;
    return status;
}

QFL_COLD void qfl_device_stats_slice(qfl_device *d)
{
    int32_t *row = (int32_t *)(void *)d->momentum;
    if (d->stats.row < d->stats.gram.dims) {
        uint32_t n = d->stats.gram.dims - d->stats.row;
        qfl_head_stats_row(&d->stats.gram, d->stats.row++, row);
        for (uint32_t i = 0; i < n; i++)
            qfl_codec_dz_stream_put(d->stats.stream, qfl_codec_dz_symbol((float)row[i], d->stats.step));
        return;
    }
    qfl_status status = finish(d);
    d->state = QFL_DEVICE_IDLE;
    answer(d, status);
}

#endif
