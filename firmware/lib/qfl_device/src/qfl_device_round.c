/* A run's configuration, rounds, updates of the global head, evaluation. */
#include <string.h>

#include "qfl_device_internal.h"

enum { EVAL_SLICE = 8, TRAIN_BYTES = 5 };

QFL_COLD void qfl_device_cancel(qfl_device *d)
{
    if (d->have_package)
        d->state = QFL_DEVICE_IDLE;
    if (QFL_PERSONAL)
        d->personal.scored = QFL_SCORED_NONE;
    if (d->nn.recompute)
        d->nn_op = 0; /* features on their way to a visit that will not be */
    d->asked.waiting = d->round.unsaved = 0;
    if (QFL_STATS)
        d->stats.size = 0;
}

QFL_COLD qfl_status qfl_device_take_config(qfl_device *d, const uint8_t *p)
{
    qfl_device_config c;
    qfl_status status = qfl_device_unpack_config(p, &c);
    if (status != QFL_OK)
        return status;
    /* The ranges are those of qfl_head_fit_begin, asked with no samples: it must get as far as missing them. */
    qfl_head_data none = qfl_device_data(d);
    none.count = 0;
    qfl_head_fit fit;
    status = qfl_head_fit_begin(&fit, &d->shape, &c.fit, &none, d->work, d->global, d->momentum, d->scratch);
    status = status == QFL_E_STATE ? qfl_codec_check(&c.codec) : status;
    if (status == QFL_OK && qfl_codec_bound(&c.codec, &d->layout) > 4 * d->params + SLACK_BYTES)
        status = QFL_E_NOMEM;
    if (status == QFL_OK)
        status = qfl_device_personal_reserve(d, c.personal, c.fit.holdout);
    if (status != QFL_OK)
        return status;
    d->config = c.fit;
    d->codec = c.codec;
    d->round.residual_decay = c.residual_decay;
    memcpy(d->config_bytes, p, QFL_CONFIG_BYTES);
    d->have_config = 1;
    d->round.done = 0;
    d->round.residual_step = 0.0f; /* of another run */
    return QFL_OK;
}

QFL_COLD void qfl_device_on_config(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    qfl_status status = QFL_OK;
    if (!d->have_package)
        status = QFL_E_STATE;
    else if (n != QFL_CONFIG_BYTES)
        status = QFL_E_FORMAT;
    else if (!d->have_config || memcmp(p, d->config_bytes, QFL_CONFIG_BYTES) != 0) {
        status = qfl_device_persist_ready(d, n) ? QFL_OK : QFL_E_BUSY;
        if (status == QFL_OK && p[0] == QFL_CONFIG_FORMAT)
            qfl_device_cancel(d);
        if (status == QFL_OK)
            status = qfl_device_take_config(d, p);
        if (status == QFL_OK)
            qfl_device_persist_config(d);
    }
    qfl_device_say(d, QFL_MSG_CONFIG, number, status);
}

/*
 * Applies a coded delta that leads to head `result`. Nothing changes unless the outcome has that hash: a delta for
 * another head than the one held is recognised by it, and answered STALE.
 */
static qfl_status apply_update(qfl_device *d, uint32_t result, int staged, const uint8_t *p, uint32_t n)
{
    if (d->head_hash == result)
        return QFL_OK; /* done before; the answer got lost */
    if (staged) {
        p = (const uint8_t *)d->momentum;
        n = d->put.staged;
    }
    if (!qfl_device_persist_ready(d, n + 4))
        return QFL_E_BUSY;
    qfl_device_cancel(d);
    qfl_status status = qfl_device_lead(d, result, p, n);
    if (status == QFL_OK)
        qfl_device_persist_update(d, p, n);
    return status;
}

QFL_COLD qfl_status qfl_device_lead(qfl_device *d, uint32_t result, const uint8_t *p, uint32_t n)
{
    d->round.done = 0;
    qfl_status status = qfl_codec_decode(&d->layout, p, n, 0, d->work);
    if (status != QFL_OK)
        return status;
    for (uint32_t i = 0; i < d->params; i++)
        d->work[i] = d->global[i] + d->work[i];
    if (qfl_device_head_hash(d->work, d->params) != result)
        return QFL_E_STALE;
    memcpy(d->global, d->work, 4 * d->params);
    d->head_hash = result;
    d->put.staged = 0;
    return QFL_OK;
}

QFL_COLD void qfl_device_on_update(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    qfl_status status;
    if (!d->have_package)
        status = QFL_E_STATE;
    else if (n < 5)
        status = QFL_E_FORMAT;
    else
        status = apply_update(d, qfl_get32(p + 1), p[0] & QFL_UPDATE_STAGED, p + 5, n - 5);
    qfl_device_say_u32(d, QFL_MSG_UPDATE, number, status, d->head_hash);
}

/* Samples, loss, and the digest of this end's traffic counters, before the delta. */
static void answer_delta(qfl_device *d)
{
    uint8_t body[5];
    qfl_link_counters c;
    qfl_link_get_counters(d->link, &c);
    qfl_put16(body, d->round.samples);
    body[2] = d->round.loss;
    qfl_put16(body + 3, (uint16_t)qfl_device_counters_digest(&c, 0));
    qfl_device_answer(d, d->asked.kind, d->asked.number, (qfl_status)d->round.status, body, sizeof body,
                      d->round.status == QFL_OK ? (const uint8_t *)d->work : NULL,
                      d->round.status == QFL_OK ? d->round.size : 0);
    d->asked.waiting = 0;
}

static void refuse_train(qfl_device *d, uint8_t kind, uint8_t number, qfl_status status)
{
    qfl_device_say_u32(d, kind, number, status, d->head_hash);
}

QFL_COLD void qfl_device_on_train(qfl_device *d, uint8_t kind, uint8_t number, const uint8_t *p, uint32_t n)
{
    int update = kind == QFL_MSG_TRAIN_UPDATE;
    if (n < TRAIN_BYTES || (!update && n != TRAIN_BYTES)) {
        refuse_train(d, kind, number, QFL_E_FORMAT);
        return;
    }
    uint8_t round = number;
    uint32_t head = qfl_get32(p);
    if (!d->have_package || !d->have_config) {
        refuse_train(d, kind, number, QFL_E_STATE);
        return;
    }
    int same = round == d->round.number && head == d->round.head && head == d->head_hash;
    if (same && (d->round.done || d->state == QFL_DEVICE_TRAINING)) {
        /* Asked again: never trained twice. */
        d->asked.waiting = 1;
        d->asked.kind = kind;
        d->asked.number = number;
        if (d->round.done)
            answer_delta(d);
        return;
    }
    qfl_device_cancel(d);
    qfl_status status = head == d->head_hash ? QFL_OK : QFL_E_STALE;
    if (status != QFL_OK && update)
        status = apply_update(d, head, 0, p + TRAIN_BYTES, n - TRAIN_BYTES);
    if (status == QFL_OK) {
        qfl_head_config c = d->config;
        c.seed ^= (uint32_t)round * 0x9E3779B9u;
        qfl_head_data data = qfl_device_data(d);
        memcpy(d->work, d->global, 4 * d->params);
        status =
            qfl_head_fit_begin(&d->fit, &d->shape, &c, &data, d->work, d->global, d->momentum, d->scratch);
    }
    if (status != QFL_OK) {
        refuse_train(d, kind, number, status);
        return;
    }
    d->round.done = 0;
    d->put.staged = 0;
    d->round.number = round;
    d->round.head = head;
    d->round.step = p[4];
    d->asked.waiting = 1;
    d->asked.kind = kind;
    d->asked.number = number;
    d->state = QFL_DEVICE_TRAINING;
    qfl_device_personal_begin(d);
}

/* What is left of a residual after the rounds this board sat out: (residual_keep / 255) per round missed. */
static float residual_left(const qfl_device *d)
{
    float left = 1.0f;
    if (d->round.residual_decay != 255)
        for (uint8_t missed = (uint8_t)(d->round.number - d->round.residual_round - 1); missed != 0; missed--)
            left *= (float)d->round.residual_decay / 255.0f;
    return left;
}

/*
 * DZ with error feedback (Seide et al. 2014; Karimireddy et al. 2019): what coding left out of earlier deltas is added before coding,
 * and what it leaves out of this one is remembered, in 8 bits of the step. The step is the one TRAIN named, or, where it named none,
 * one taken from the delta itself. A step that was named is answered with how far off the board's own choice would have been.
 */
static qfl_status encode_with_feedback(qfl_device *d)
{
    int32_t own = (int32_t)qfl_codec_dz_step(d->momentum, d->params, d->codec.levels);
    int32_t off = own - (int32_t)d->round.step;
    qfl_codec_dz_form form = {(uint8_t)own, 0, 0};
    if (d->round.step != 0) {
        form.code = d->round.step;
        form.agreed = 1;
        form.offset = (int8_t)(off < QFL_CODEC_DZ_FINER     ? QFL_CODEC_DZ_FINER
                               : off > QFL_CODEC_DZ_COARSER ? QFL_CODEC_DZ_COARSER
                                                            : off);
    }
    uint32_t columns, before = d->params - qfl_head_centred(&d->shape, &columns); /* of other layers */
    float unit = 0.0f;
    if (d->round.residual_step != 0.0f)
        unit = d->round.residual_step * residual_left(d);
    qfl_codec_dz_with_feedback(d->momentum, before, 0, d->round.residual, unit, form.code);
    qfl_codec_dz_with_feedback(d->momentum + before, d->params - before, columns, d->round.residual + before,
                               unit, form.code);
    const int32_t *symbols = (const int32_t *)(const void *)d->momentum;
    qfl_status status = qfl_codec_dz_write(&d->layout, symbols, &form, (uint8_t *)d->work,
                                           4 * d->params + SLACK_BYTES, &d->round.size);
    d->round.residual_step = status == QFL_OK ? qfl_codec_dz_value(form.code) : 0.0f;
    d->round.residual_round = d->round.number;
    return status;
}

/* 0 when the fit ran away: nothing of it is sent or remembered. */
static int finite_delta(const qfl_device *d)
{
    for (uint32_t i = 0; i < d->params; i++)
        if (!(d->momentum[i] - d->momentum[i] == 0.0f))
            return 0;
    return 1;
}

/* Loss in one byte: (16 + low nibble) * 2^(high nibble - 12), rounded down; 0 below 1/256, 255 for NaN and beyond. */
static uint8_t pack_loss(float loss)
{
    uint8_t e = 0;
    if (loss < 16.0f / 4096.0f)
        return 0;
    for (loss *= 4096.0f; loss >= 32.0f && e < 15; e++)
        loss *= 0.5f;
    return loss < 32.0f ? (uint8_t)(e << 4 | ((uint8_t)loss - 16)) : 255;
}

/* The round goes into the log before its delta goes out; where flash has to be erased first, one unit per call. */
static void end_round(qfl_device *d)
{
    uint32_t size = d->round.status == QFL_OK ? d->round.size : 0;
    d->round.unsaved = !qfl_device_persist_ready(d, size + d->params);
    if (d->round.unsaved) {
        (void)qfl_store_work(&d->store);
        return;
    }
    d->round.done = 1;
    d->state = QFL_DEVICE_IDLE; /* qfl_device_answer_waiting sends it */
    qfl_device_persist_round(d);
}

/* The fit is done: the delta goes into momentum, its code into work, where it stays until it is no longer wanted. */
static void finish_fit(qfl_device *d)
{
    for (uint32_t i = 0; i < d->params; i++)
        d->momentum[i] = d->work[i] - d->global[i];
    if (!finite_delta(d))
        d->round.status = QFL_E_NONFINITE;
    else if ((QFL_CODECS >> QFL_CODEC_DZ & 1u) && d->codec.kind == QFL_CODEC_DZ)
        d->round.status = (int8_t)encode_with_feedback(d);
    else
        d->round.status = (int8_t)qfl_codec_encode(&d->codec, &d->layout, d->momentum, (uint8_t *)d->work,
                                                   4 * d->params + SLACK_BYTES, &d->round.size);
    d->round.samples = (uint16_t)(d->fit.train_count > 65535 ? 65535 : d->fit.train_count);
    d->round.loss = pack_loss(d->fit.loss);
    end_round(d);
}

QFL_COLD void qfl_device_answer_waiting(qfl_device *d)
{
    if (d->asked.waiting && (d->asked.kind == QFL_MSG_TRAIN || d->asked.kind == QFL_MSG_TRAIN_UPDATE) &&
        d->round.done)
        answer_delta(d);
}

QFL_COLD void qfl_device_on_eval(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    if (!d->have_package || d->samples == 0 || n != 1) {
        qfl_device_say(d, QFL_MSG_EVAL, number, n != 1 ? QFL_E_FORMAT : QFL_E_STATE);
        return;
    }
    if (d->state != QFL_DEVICE_IDLE) {
        qfl_device_say(d, QFL_MSG_EVAL, number, QFL_E_BUSY);
        return;
    }
    qfl_device_score_begin(d, (p[0] & QFL_EVAL_HELD) != 0 && d->have_config ? d->config.holdout : 0);
    if (QFL_PERSONAL)
        d->personal.evaluated = (p[0] & QFL_EVAL_IN_USE) != 0 && d->personal.in_use;
    d->asked.waiting = 1;
    d->asked.kind = QFL_MSG_EVAL;
    d->asked.number = number;
    d->state = QFL_DEVICE_EVALUATING;
}

QFL_COLD void qfl_device_score_begin(qfl_device *d, uint32_t holdout)
{
    memset(&d->eval.score, 0, sizeof d->eval.score);
    d->eval.at = 0;
    d->eval.holdout = holdout;
}

QFL_COLD int qfl_device_score_slice(qfl_device *d, const float *head)
{
    qfl_head_data data = qfl_device_data(d);
    uint32_t slice = d->nn.recompute ? 1 : EVAL_SLICE;
    if (d->nn.recompute && qfl_head_held_back(d->eval.at, d->eval.holdout) &&
        !qfl_device_features_ready(d, d->eval.at))
        return 0;
    qfl_head_evaluate(&d->shape, head, &data, d->eval.holdout, d->eval.at, slice, &d->eval.score, d->scratch);
    d->eval.at += slice;
    if (d->eval.at < d->samples)
        return 0;
    qfl_head_score_finish(&d->eval.score);
    return 1;
}

static void evaluate_slice(qfl_device *d)
{
    uint8_t body[12];
    if (!qfl_device_score_slice(d, QFL_PERSONAL && d->personal.evaluated ? d->personal.head : d->global))
        return;
    if (QFL_PERSONAL && !d->personal.evaluated && d->eval.holdout != 0)
        qfl_device_personal_compare(d);
    d->state = QFL_DEVICE_IDLE;
    if (!d->asked.waiting)
        return;
    qfl_put32(body, d->eval.score.count);
    qfl_put32(body + 4, d->eval.score.correct);
    qfl_put_float(body + 8, d->eval.score.loss);
    qfl_device_answer(d, QFL_MSG_EVAL, d->asked.number, QFL_OK, body, sizeof body, NULL, 0);
    d->asked.waiting = 0;
}

QFL_COLD void qfl_device_work(qfl_device *d)
{
    if (d->state == QFL_DEVICE_EVALUATING)
        evaluate_slice(d);
    else if (QFL_STATS && d->state == QFL_DEVICE_STATISTICS)
        qfl_device_stats_slice(d);
    else if (d->round.unsaved)
        end_round(d);
    else if (QFL_PERSONAL && d->personal.scored != QFL_SCORED_NONE) {
        if (qfl_device_personal_slice(d))
            finish_fit(d);
    } else if (qfl_device_features_ready(d, qfl_head_fit_next(&d->fit)) && !qfl_head_fit_step(&d->fit)) {
        if (!qfl_device_personal_fitted(d))
            finish_fit(d);
    }
}
