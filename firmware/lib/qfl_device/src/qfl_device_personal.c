/*
 * The personalised head: with QFL_CONFIG_PERSONAL a board scores, on the samples it holds back, the head it uses and every new
 * global head before a round, and the fitted one after it, and keeps the best for its own use. Nothing of this leaves the board but
 * the counts in its status; deltas and the global head are what they are without.
 */
#include <string.h>

#include "qfl_device_internal.h"

/* Room for it is taken from the end of the sample cache, and given back when it is no longer asked for. */
QFL_COLD qfl_status qfl_device_personal_reserve(qfl_device *d, int personal, uint32_t holdout)
{
    uint32_t whole = d->capacity + d->personal.rows, rows = 0;
    if (!QFL_PERSONAL)
        return personal ? QFL_E_UNSUPPORTED : QFL_OK;
    if (personal) {
        if (holdout < 2)
            return QFL_E_RANGE;
        rows = (4 * d->params + 15u + d->row - 1) / d->row;
        if (rows >= whole || d->samples > whole - rows)
            return QFL_E_NOMEM;
    }
    d->personal.on = personal != 0;
    d->personal.rows = rows;
    d->capacity = whole - rows;
    d->personal.in_use = 0;
    d->personal.held = d->personal.global_hits = d->personal.hits = 0;
    d->personal.head = NULL;
    if (personal)
        d->personal.head = (float *)(void *)(((uintptr_t)d->features + (size_t)d->capacity * d->row + 15u) &
                                             ~(uintptr_t)15u);
    return QFL_OK;
}

static uint16_t short_of(uint32_t n) { return (uint16_t)(n > 65535 ? 65535 : n); }

/* Whether the score just taken beats another: more right, or as many at a lower loss. */
static int better(const qfl_head_score *s, uint32_t correct, float loss)
{
    return s->correct > correct || (s->correct == correct && s->loss < loss);
}

/* Begins to score a head. */
static void begin_scoring(qfl_device *d, qfl_scored what)
{
    d->personal.scored = (uint8_t)what;
    qfl_device_score_begin(d, d->config.holdout);
}

QFL_COLD void qfl_device_personal_begin(qfl_device *d)
{
    if (QFL_PERSONAL && d->personal.on && d->samples >= d->config.holdout)
        begin_scoring(d, QFL_SCORED_GLOBAL);
}

QFL_COLD int qfl_device_personal_fitted(qfl_device *d)
{
    if (!QFL_PERSONAL || !d->personal.on || d->personal.held == 0)
        return 0;
    begin_scoring(d, QFL_SCORED_FITTED);
    return 1;
}

/* The global head has been scored: if it is at least as good as the board's own, that is given up. */
QFL_COLD void qfl_device_personal_compare(qfl_device *d)
{
    d->personal.held = short_of(d->eval.score.count);
    d->personal.global_hits = short_of(d->eval.score.correct);
    d->personal.global_loss = d->eval.score.loss;
    if (d->personal.in_use &&
        !better(&(qfl_head_score){d->eval.score.count, d->personal.hits, d->personal.loss},
                d->eval.score.correct, d->eval.score.loss))
        d->personal.in_use = 0;
    if (!d->personal.in_use) {
        d->personal.hits = d->personal.global_hits;
        d->personal.loss = d->personal.global_loss;
    }
}

QFL_COLD int qfl_device_personal_slice(qfl_device *d)
{
    const float *head = d->personal.scored == QFL_SCORED_GLOBAL     ? d->global
                        : d->personal.scored == QFL_SCORED_PERSONAL ? d->personal.head
                                                                    : d->work;
    if (!qfl_device_score_slice(d, head))
        return 0;
    uint8_t done = d->personal.scored;
    d->personal.scored = QFL_SCORED_NONE;
    if (done == QFL_SCORED_GLOBAL) {
        d->personal.held = short_of(d->eval.score.count);
        d->personal.global_hits = short_of(d->eval.score.correct);
        d->personal.global_loss = d->eval.score.loss;
        if (d->personal.in_use) {
            begin_scoring(d, QFL_SCORED_PERSONAL); /* anew: there may be more samples */
            return 0;
        }
        d->personal.hits = d->personal.global_hits;
        d->personal.loss = d->personal.global_loss;
    } else if (done == QFL_SCORED_PERSONAL) {
        d->personal.hits = short_of(d->eval.score.correct);
        d->personal.loss = d->eval.score.loss;
        d->personal.in_use =
            (uint8_t)better(&d->eval.score, d->personal.global_hits, d->personal.global_loss);
        if (!d->personal.in_use) {
            d->personal.hits = d->personal.global_hits;
            d->personal.loss = d->personal.global_loss;
        }
    } else {
        if (better(&d->eval.score, d->personal.hits, d->personal.loss)) {
            memcpy(d->personal.head, d->work, 4 * d->params);
            d->personal.in_use = 1;
            d->personal.hits = short_of(d->eval.score.correct);
            d->personal.loss = d->eval.score.loss;
        }
        return 1;
    }
    return 0;
}

QFL_COLD const float *qfl_device_head_in_use(const qfl_device *d, uint32_t *count)
{
    *count = d->params;
    return !d->have_package ? NULL : d->personal.in_use ? d->personal.head : d->global;
}
