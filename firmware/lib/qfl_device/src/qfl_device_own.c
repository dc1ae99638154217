/*
 * A head of the board's own: with QFL_CONFIG_PERSONAL a board scores, on the samples it holds back, the head it uses and every new
 * global head before a round, and the fitted one after it, and keeps the best for its own use. Nothing of this leaves the board but
 * the counts in its status; deltas and the global head are what they are without.
 */
#include <string.h>

#include "qfl_device_internal.h"

/* Room for it is taken from the end of the sample cache, and given back when it is no longer asked for. */
QFL_COLD qfl_status qfl_device_own_reserve(qfl_device *d, int personal, uint32_t holdout)
{
    uint32_t whole = d->capacity + d->own_rows, rows = 0;
    if (!QFL_PERSONAL)
        return personal ? QFL_E_UNSUPPORTED : QFL_OK;
    if (personal) {
        if (holdout < 2)
            return QFL_E_RANGE;
        rows = (4 * d->params + 15u + d->row - 1) / d->row;
        if (rows >= whole || d->samples > whole - rows)
            return QFL_E_NOMEM;
    }
    d->personal = personal != 0;
    d->own_rows = rows;
    d->capacity = whole - rows;
    d->own_in_use = 0;
    d->held = d->held_global = d->held_own = 0;
    d->own = NULL;
    if (personal)
        d->own = (float *)(void *)(((uintptr_t)d->features + (size_t)d->capacity * d->row + 15u) &
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
static void judge(qfl_device *d, qfl_judge what)
{
    d->judged = (uint8_t)what;
    qfl_device_score_begin(d, d->config.holdout);
}

QFL_COLD void qfl_device_own_begin(qfl_device *d)
{
    if (QFL_PERSONAL && d->personal && d->samples >= d->config.holdout)
        judge(d, QFL_JUDGE_GLOBAL);
}

QFL_COLD int qfl_device_own_fitted(qfl_device *d)
{
    if (!QFL_PERSONAL || !d->personal || d->held == 0)
        return 0;
    judge(d, QFL_JUDGE_FITTED);
    return 1;
}

/* The global head has been scored: if it is at least as good as the board's own, that is given up. */
QFL_COLD void qfl_device_own_compare(qfl_device *d)
{
    d->held = short_of(d->score.count);
    d->held_global = short_of(d->score.correct);
    d->global_loss = d->score.loss;
    if (d->own_in_use &&
        !better(&(qfl_head_score){d->score.count, d->held_own, d->own_loss}, d->score.correct, d->score.loss))
        d->own_in_use = 0;
    if (!d->own_in_use) {
        d->held_own = d->held_global;
        d->own_loss = d->global_loss;
    }
}

QFL_COLD int qfl_device_own_slice(qfl_device *d)
{
    const float *head = d->judged == QFL_JUDGE_GLOBAL ? d->global
                        : d->judged == QFL_JUDGE_OWN  ? d->own
                                                      : d->work;
    if (!qfl_device_score_slice(d, head))
        return 0;
    uint8_t done = d->judged;
    d->judged = QFL_JUDGE_NONE;
    if (done == QFL_JUDGE_GLOBAL) {
        d->held = short_of(d->score.count);
        d->held_global = short_of(d->score.correct);
        d->global_loss = d->score.loss;
        if (d->own_in_use) {
            judge(d, QFL_JUDGE_OWN); /* anew: there may be more samples */
            return 0;
        }
        d->held_own = d->held_global;
        d->own_loss = d->global_loss;
    } else if (done == QFL_JUDGE_OWN) {
        d->held_own = short_of(d->score.correct);
        d->own_loss = d->score.loss;
        d->own_in_use = (uint8_t)better(&d->score, d->held_global, d->global_loss);
        if (!d->own_in_use) {
            d->held_own = d->held_global;
            d->own_loss = d->global_loss;
        }
    } else {
        if (better(&d->score, d->held_own, d->own_loss)) {
            memcpy(d->own, d->work, 4 * d->params);
            d->own_in_use = 1;
            d->held_own = short_of(d->score.correct);
            d->own_loss = d->score.loss;
        }
        return 1;
    }
    return 0;
}

QFL_COLD const float *qfl_device_head_in_use(const qfl_device *d, uint32_t *count)
{
    *count = d->params;
    return !d->have_package ? NULL : d->own_in_use ? d->own : d->global;
}
