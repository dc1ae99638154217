/* Sufficient statistics of cached features: class sums, class counts and within-class scatter, in integers. */
#include <stddef.h>
#include <string.h>

#include "qfl_head_stats.h"

enum { MAX_SAMPLES = 30000 };

int qfl_head_stats_sign(uint32_t feature, uint32_t seed)
{
    uint32_t h = (feature + 1u) * 0x9E3779B1u ^ seed * 0x85EBCA77u; /* the avalanche is MurmurHash3's */
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    h ^= h >> 16;
    return h >> 31 ? -1 : 1;
}

/* Sketched value j of one sample, or plain feature j. */
static int32_t value_of(const qfl_head_stats *s, const int8_t *q, uint32_t j)
{
    int32_t zero = s->data->zero_point, sum = 0;
    if (s->dims == s->features)
        return q[j] - zero;
    for (uint32_t f = j; f < s->features; f += s->dims)
        sum += qfl_head_stats_sign(f, s->seed) * (q[f] - zero);
    return sum / (1 << s->shift);
}

qfl_status qfl_head_stats_begin(qfl_head_stats *s, const qfl_head_data *data, uint32_t features,
                                uint32_t classes, uint32_t dims, uint32_t seed, int32_t *sums)
{
    if (dims > features || features == 0 || classes == 0)
        return QFL_E_INVAL;
    if (data->count == 0)
        return QFL_E_STATE;
    if (data->count > MAX_SAMPLES)
        return QFL_E_RANGE;
    *s = (qfl_head_stats){data, features, classes, dims == 0 ? features : dims, seed, 0, sums};
    if (s->dims != features)
        while ((s->dims << s->shift) < features)
            s->shift++;
    memset(sums, 0, (size_t)(s->dims + 1) * classes * sizeof *sums);
    for (uint32_t n = 0; n < data->count; n++) {
        const int8_t *q = data->q + (size_t)n * features;
        uint32_t k = data->labels[n];
        sums[(size_t)s->dims * classes + k]++;
        for (uint32_t j = 0; j < s->dims; j++)
            sums[(size_t)j * classes + k] += value_of(s, q, j);
    }
    return QFL_OK;
}

/* sum over classes of sum[i][k] sum[j][k] / count[k] */
static int32_t between(const qfl_head_stats *s, uint32_t i, uint32_t j)
{
    const int32_t *a = s->sums + (size_t)i * s->classes, *b = s->sums + (size_t)j * s->classes;
    const int32_t *count = s->sums + (size_t)s->dims * s->classes;
    int64_t sum = 0;
    for (uint32_t k = 0; k < s->classes; k++)
        if (a[k] != 0 && b[k] != 0)
            sum += (int64_t)a[k] * b[k] / count[k];
    return (int32_t)sum;
}

void qfl_head_stats_row(const qfl_head_stats *s, uint32_t i, int32_t *row)
{
    uint32_t left = s->dims - i;
    memset(row, 0, left * sizeof *row);
    for (uint32_t n = 0; n < s->data->count; n++) {
        const int8_t *q = s->data->q + (size_t)n * s->features;
        int32_t a = value_of(s, q, i), zero = s->data->zero_point;
        if (a == 0)
            continue;
        if (s->dims == s->features) {
            for (uint32_t j = 0; j < left; j++)
                row[j] += a * (q[i + j] - zero);
        } else {
            for (uint32_t j = 0; j < left; j++)
                row[j] += a * value_of(s, q, i + j);
        }
    }
    for (uint32_t j = 0; j < left; j++)
        row[j] -= between(s, i, i + j);
}

float qfl_head_stats_diagonal(const qfl_head_stats *s)
{
    int64_t sum = 0;
    for (uint32_t i = 0; i < s->dims; i++) {
        for (uint32_t n = 0; n < s->data->count; n++) {
            int32_t a = value_of(s, s->data->q + (size_t)n * s->features, i);
            sum += a * a;
        }
        sum -= between(s, i, i);
    }
    return (float)(sum / (int64_t)s->dims);
}
