/* The package: opened from flash, memory laid out; samples: run through the backbone and cached. */
#include <string.h>

#include "qfl_device_internal.h"

static uint32_t aligned(uint32_t n) { return (n + 15u) & ~15u; }

QFL_COLD uint32_t qfl_device_head_hash(const float *params, uint32_t count)
{
    uint8_t digest[QFL_SHA256_BYTES];
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, (const uint8_t *)params, 4 * count);
    qfl_sha256_end(&h, digest);
    return qfl_get32(digest);
}

QFL_COLD void qfl_device_unload(qfl_device *d)
{
    qfl_device_cancel(d);
    d->have_package = d->have_config = d->round.done = 0;
    d->put.staged = d->put.object = 0;
    d->samples = d->capacity = d->params = d->nn_op = 0;
    if (QFL_PERSONAL)
        memset(&d->personal, 0, sizeof d->personal);
    d->state = QFL_DEVICE_EMPTY;
}

static uint8_t *take(qfl_device *d, uint32_t *at, uint32_t n)
{
    uint8_t *p = d->arena + *at;
    *at += aligned(n);
    return p;
}

QFL_COLD qfl_status qfl_device_load(qfl_device *d)
{
    uint32_t length;
    qfl_device_need need;
    const uint8_t *file = qfl_store_object(&d->store, &length);
    qfl_device_unload(d);
    if (file == NULL)
        return QFL_E_STATE;
    qfl_status status =
        qfl_device_check_package(d, file, &length); /* flash may have been written from outside */
    if (status == QFL_OK)
        status = qfl_nn_open(&d->nn, file, length);
    if (status == QFL_OK)
        status = qfl_device_plan(&d->nn, d->arena_size, &need);
    if (status != QFL_OK)
        return status;
    d->shape = qfl_device_shape(&d->nn);
    d->layout.tensors = qfl_head_layout(&d->shape, d->layout.size);
    uint32_t at = d->model_at, params = d->nn.head_param_count;
    d->params = params;
    d->global = (float *)take(d, &at, 4 * params);
    d->work = (float *)take(d, &at, 4 * params + SLACK_BYTES);
    d->momentum = (float *)take(d, &at, 4 * params + SLACK_BYTES);
    d->round.residual = (int8_t *)take(d, &at, params);
    d->round.residual_step = 0.0f;
    d->scratch = (float *)take(d, &at, qfl_head_scratch_size(&d->shape));
    d->nn_arena = take(d, &at, d->nn.arena_size);
    d->labels = (uint16_t *)(d->arena + at);
    d->capacity = need.capacity;
    d->features = (int8_t *)(d->labels + d->capacity);
    d->row = need.per_sample - 2;
    memcpy(d->global, d->nn.head_params, 4 * params);
    d->head_hash = qfl_device_head_hash(d->global, params);
    d->have_package = 1;
    d->rejected = d->log.restored = 0;
    d->state = QFL_DEVICE_IDLE;
    qfl_device_restore(d);
    return QFL_OK;
}

/* The samples as qfl_head sees them: all cached features, or those computed for the visit at hand. */
QFL_COLD qfl_head_data qfl_device_data(const qfl_device *d)
{
    qfl_head_data data = {
        d->features, d->labels, d->samples, d->nn.feature_scale, d->nn.feature_zero_point, d->nn.recompute};
    if (d->nn.recompute)
        data.q = (const int8_t *)d->nn_arena + d->nn.feature_offset;
    return data;
}

/* With recompute: one operator towards the features of sample i. 1: they are there. */
QFL_COLD int qfl_device_features_ready(qfl_device *d, uint32_t i)
{
    if (!d->nn.recompute)
        return 1;
    if (d->nn_op == 0 || d->nn_sample != i) {
        memcpy(d->nn_arena + d->nn.input_offset, d->features + (size_t)i * d->row, d->row);
        d->nn_sample = i;
        d->nn_op = 0;
    }
    if (d->nn_op < d->nn.cut_op) {
        (void)qfl_nn_run(&d->nn, d->nn_arena, d->nn_op, d->nn_op + 1);
        d->nn_op++;
    }
    if (d->nn_op < d->nn.cut_op)
        return 0;
    d->nn_op = 0; /* the next visit begins anew */
    return 1;
}

QFL_COLD int qfl_device_take_sample(qfl_device *d)
{
    const qfl_port *port = d->port;
    if (!d->have_package || d->samples >= d->capacity)
        return 0;
    if (d->nn_op == 0) {
        int8_t *x = (int8_t *)d->nn_arena + d->nn.input_offset;
        if (port->next_sample(port->ctx, x, d->nn.input_size, &d->label) != 1)
            return 0;
        if (d->label >= qfl_head_classes(&d->shape)) {
            d->rejected++;
            return 1;
        }
    }
    if (d->nn.recompute) { /* the inputs themselves are kept */
        memcpy(d->features + (size_t)d->samples * d->row, d->nn_arena + d->nn.input_offset, d->row);
        d->labels[d->samples++] = d->label;
        return 1;
    }
    if (d->nn_op < d->nn.cut_op) {
        (void)qfl_nn_run(&d->nn, d->nn_arena, d->nn_op, d->nn_op + 1);
        d->nn_op++;
    }
    if (d->nn_op >= d->nn.cut_op) {
        uint32_t f = d->nn.feature_count;
        memcpy(d->features + (size_t)d->samples * f, d->nn_arena + d->nn.feature_offset, f);
        d->labels[d->samples++] = d->label;
        d->nn_op = 0;
    }
    return 1;
}
