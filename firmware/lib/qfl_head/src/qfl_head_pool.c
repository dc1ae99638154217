/* Average and maximum pooling over windows that do not overlap, so that errors replace activations one by one. */
#include "qfl_head_layers.h"

static float value(const qfl_head_source *s, uint32_t at)
{
    return s->q != 0 ? (float)(s->q[at] - s->zero_point) * s->scale : s->x[at];
}

/* Part of the window of output (y, x) inside the image: rows [first[0], end[0]), columns [first[1], end[1]). */
static void window_of(const qfl_head_layer *l, uint32_t y, uint32_t x, uint32_t first[2], uint32_t end[2])
{
    int32_t top = (int32_t)(y * l->stride_h) - l->pad_t, left = (int32_t)(x * l->stride_w) - l->pad_l;
    int32_t bottom = top + l->k_h, right = left + l->k_w;
    first[0] = (uint32_t)(top < 0 ? 0 : top);
    first[1] = (uint32_t)(left < 0 ? 0 : left);
    end[0] = (uint32_t)(bottom < l->in_h ? bottom : l->in_h);
    end[1] = (uint32_t)(right < l->in_w ? right : l->in_w);
}

/* Sum, or the maximum and where it is. */
static float gather(const qfl_head_layer *l, const qfl_head_source *s, const uint32_t first[2],
                    const uint32_t end[2], uint32_t c, uint32_t *best)
{
    float sum = 0.0f, most = 0.0f;
    *best = 0xFFFFFFFFu;
    for (uint32_t r = first[0]; r < end[0]; r++)
        for (uint32_t k = first[1]; k < end[1]; k++) {
            uint32_t at = (r * l->in_w + k) * l->in_c + c;
            float v = value(s, at);
            sum += v;
            if (*best == 0xFFFFFFFFu || v > most) {
                *best = at;
                most = v;
            }
        }
    return l->kind == QFL_HEAD_AVERAGE ? sum : most;
}

static float share(const uint32_t first[2], const uint32_t end[2])
{
    return 1.0f / (float)((end[0] - first[0]) * (end[1] - first[1]));
}

void qfl_head_pool_forward(const qfl_head_layer *l, const qfl_head_source *s, float *y)
{
    uint32_t first[2], end[2], best;
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++) {
            window_of(l, oy, ox, first, end);
            float part = l->kind == QFL_HEAD_AVERAGE ? share(first, end) : 1.0f;
            for (uint32_t c = 0; c < l->in_c; c++)
                *y++ = gather(l, s, first, end, c, &best) * part;
        }
}

static int covered(uint32_t at, uint32_t pad, uint32_t stride, uint32_t k, uint32_t out)
{
    at += pad;
    return out == 1 ? at < k : at / stride < out && at % stride < k;
}

void qfl_head_pool_backward(const qfl_head_layer *l, const qfl_head_source *s, const qfl_head_error *e)
{
    uint32_t first[2], end[2], best;
    const float *d = e->d;
    if (e->below < 0)
        return;
    for (uint32_t r = 0; r < l->in_h; r++)
        for (uint32_t k = 0; k < l->in_w; k++)
            if (!covered(r, l->pad_t, l->stride_h, l->k_h, l->out_h) ||
                !covered(k, l->pad_l, l->stride_w, l->k_w, l->out_w))
                for (uint32_t c = 0; c < l->in_c; c++)
                    s->x[(r * l->in_w + k) * l->in_c + c] = 0.0f;
    for (uint32_t oy = 0; oy < l->out_h; oy++)
        for (uint32_t ox = 0; ox < l->out_w; ox++) {
            window_of(l, oy, ox, first, end);
            float part = share(first, end);
            for (uint32_t c = 0; c < l->in_c; c++) {
                float error = *d++;
                (void)gather(l, s, first, end, c, &best);
                for (uint32_t r = first[0]; r < end[0]; r++)
                    for (uint32_t k = first[1]; k < end[1]; k++) {
                        uint32_t at = (r * l->in_w + k) * l->in_c + c;
                        float mine = l->kind == QFL_HEAD_AVERAGE ? error * part : at == best ? error : 0.0f;
                        s->x[at] = qfl_head_passed(s->x[at], mine, e->below);
                    }
            }
        }
}
