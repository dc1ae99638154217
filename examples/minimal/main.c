/*
 * quantfl in a firmware of your own, without the board's state machine: run the backbone, cache features,
 * train the last layers, make a delta. Link qfl_base, qfl_nn, qfl_head and qfl_codec (docs/PORTING.md). All
 * memory is below; nothing is allocated.
 *
 * `package` is what `quantfl convert` wrote, 16-byte aligned in flash; read_sample() is your sensor.
 */
#include <string.h>

#include "qfl_codec.h"
#include "qfl_head.h"
#include "qfl_nn.h"

enum { ARENA = 4096, PARAMS = 1300, SAMPLES = 60, FEATURES = 128, SCRATCH = 64 };

extern const uint8_t package[];
extern const uint32_t package_size;
extern uint16_t read_sample(int8_t *x, uint32_t n); /* fills x, returns the class */

static _Alignas(16) uint8_t arena[ARENA];
static float global[PARAMS], w[PARAMS], momentum[PARAMS], scratch[SCRATCH];
static int8_t features[SAMPLES * FEATURES];
static uint16_t labels[SAMPLES];
static uint8_t delta[4 * PARAMS];

/* One round. Returns the bytes of the coded delta, or a negative qfl_status. score: before it. */
int32_t one_round(qfl_head_score *score)
{
    qfl_nn nn;
    qfl_status status = qfl_nn_open(&nn, package, package_size);
    if (status != QFL_OK)
        return status;
    qfl_head_shape shape = {nn.head_layers, nn.head_list, nn.file, nn.file_size};
    uint32_t params = qfl_head_param_count(&shape), f = nn.feature_count;
    if (params == 0 || params != nn.head_param_count || nn.arena_size > ARENA || params > PARAMS ||
        f > FEATURES || f != qfl_head_features(&shape) || qfl_head_scratch_size(&shape) > sizeof scratch)
        return QFL_E_NOMEM;
    for (uint32_t i = 0; i < SAMPLES; i++) { /* the backbone runs once per sample */
        labels[i] = read_sample((int8_t *)arena + nn.input_offset, nn.input_size);
        if ((status = qfl_nn_run(&nn, arena, 0, nn.cut_op)) != QFL_OK)
            return status;
        memcpy(features + i * f, arena + nn.feature_offset, f);
    }
    memcpy(global, nn.head_params, 4 * params); /* later: the head that the last update led to */
    memcpy(w, global, 4 * params);
    qfl_head_data data = {features, labels, SAMPLES, nn.feature_scale, nn.feature_zero_point, 0};
    memset(score, 0, sizeof *score);
    qfl_head_evaluate(&shape, global, &data, 0, 0, SAMPLES, score, scratch);
    qfl_head_score_finish(score);
    qfl_head_config config = {.lr = 0.003f, .momentum = 0.9f, .epochs = 5, .batch = 10, .seed = 1};
    qfl_head_fit fit;
    if ((status = qfl_head_fit_begin(&fit, &shape, &config, &data, w, global, momentum, scratch)) != QFL_OK)
        return status;
    while (qfl_head_fit_step(&fit)) /* one sample a call: do other work in between */
        ;
    qfl_codec_layout layout;
    layout.tensors = qfl_head_layout(&shape, layout.size);
    for (uint32_t i = 0; i < params; i++)
        momentum[i] = w[i] - global[i];
    qfl_codec_spec spec = {QFL_CODEC_DZ, 0, 64}; /* steps of 4 times the root mean square */
    uint32_t size;
    status = qfl_codec_encode(&spec, &layout, momentum, delta, sizeof delta, &size);
    return status != QFL_OK ? status : (int32_t)size; /* `delta` is what goes to the host */
}
