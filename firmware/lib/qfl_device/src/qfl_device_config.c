/* The body of CONFIG: the one place that knows its layout, for boards and hosts. docs/PROTOCOL.md lists it. */
#include <string.h>

#include "qfl_device_internal.h"

enum {
    RUN = 1,
    SEED = 5,
    LR = 9,
    MOMENTUM = 13,
    WEIGHT_DECAY = 17,
    PROX = 21,
    EPOCHS = 25,
    BATCH = 27,
    HOLDOUT = 29,
    CODEC = 30,
    FLAGS = 31,
    LEVELS = 32,
    DECAY = 34
};
_Static_assert(DECAY + 1 == QFL_CONFIG_BYTES, "the last field");

qfl_status qfl_device_pack_config(const qfl_device_config *c, uint8_t *p)
{
    if (c->fit.epochs > 65535 || c->fit.batch > 65535 || c->fit.holdout > 255)
        return QFL_E_RANGE;
    p[0] = QFL_CONFIG_FORMAT;
    qfl_put32(p + RUN, c->run_id);
    qfl_put32(p + SEED, c->fit.seed);
    qfl_put_float(p + LR, c->fit.lr);
    qfl_put_float(p + MOMENTUM, c->fit.momentum);
    qfl_put_float(p + WEIGHT_DECAY, c->fit.weight_decay);
    qfl_put_float(p + PROX, c->fit.prox);
    qfl_put16(p + EPOCHS, (uint16_t)c->fit.epochs);
    qfl_put16(p + BATCH, (uint16_t)c->fit.batch);
    p[HOLDOUT] = (uint8_t)c->fit.holdout;
    p[CODEC] = c->codec.kind;
    p[FLAGS] = (uint8_t)(c->codec.flags | (c->personal ? QFL_CONFIG_PERSONAL : 0));
    qfl_put16(p + LEVELS, c->codec.levels);
    p[DECAY] = c->residual_decay;
    return QFL_OK;
}

QFL_COLD qfl_status qfl_device_unpack_config(const uint8_t *p, qfl_device_config *c)
{
    if (p[0] != QFL_CONFIG_FORMAT)
        return QFL_E_VERSION;
    c->run_id = qfl_get32(p + RUN);
    c->fit.seed = qfl_get32(p + SEED);
    c->fit.lr = qfl_get_float(p + LR);
    c->fit.momentum = qfl_get_float(p + MOMENTUM);
    c->fit.weight_decay = qfl_get_float(p + WEIGHT_DECAY);
    c->fit.prox = qfl_get_float(p + PROX);
    c->fit.epochs = qfl_get16(p + EPOCHS);
    c->fit.batch = qfl_get16(p + BATCH);
    c->fit.holdout = p[HOLDOUT];
    c->codec.kind = p[CODEC];
    c->codec.flags = p[FLAGS] & (uint8_t)~QFL_CONFIG_PERSONAL;
    c->codec.levels = qfl_get16(p + LEVELS);
    c->personal = p[FLAGS] & QFL_CONFIG_PERSONAL;
    c->residual_decay = p[DECAY];
    return QFL_OK;
}
