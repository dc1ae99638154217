/* Creation, the poll loop, and dispatch of messages. */
#include <string.h>

#include "qfl_device_internal.h"

enum { SLICE_US = 4000, IDLE_MS = 20 };
enum { QUIET_MS = 60000 }; /* hosts that are there ask after 10 s of silence */
enum { FLUSH_US = 50000, BUSY_WORTH_MS = 200 }; /* shorter erases are not worth a word */

static uint32_t aligned(uint32_t n) { return (n + 15u) & ~15u; }

/* Larger boards get larger frames and messages: fewer headers and acknowledgements for a package. */
QFL_COLD void qfl_device_link_config(uint32_t arena, qfl_link_config *c)
{
    memset(c, 0, sizeof *c);
    c->quiet_ms = QUIET_MS;
    c->rto_calm_ms = QFL_LINK_CALM_MS;
    c->window = QFL_LINK_WINDOW_MAX;
    c->frame_max = arena >= 24 * 1024 ? 256 : 128;
    c->message_max = arena >= 96 * 1024   ? 4096 + 64
                     : arena >= 48 * 1024 ? 2048 + 64
                     : arena >= 24 * 1024 ? 1024 + 64
                                          : 256 + 64;
}

static uint32_t fixed_size(uint32_t arena)
{
    qfl_link_config c;
    qfl_device_link_config(arena, &c);
    return aligned(sizeof(qfl_device)) + aligned((uint32_t)qfl_link_size(&c)) +
           aligned(qfl_link_pull_size(&c)) + ANSWER_BYTES;
}

QFL_COLD qfl_head_shape qfl_device_shape(const qfl_nn *nn)
{
    qfl_head_shape s = {nn->head_layers, (const qfl_head_layer *)nn->head_list, nn->file, nn->file_size};
    return s;
}

static qfl_status plan(const qfl_nn *nn, uint32_t arena, uint32_t fixed, qfl_device_need *need)
{
    qfl_head_shape shape = qfl_device_shape(nn);
    memset(need, 0, sizeof *need);
    if (shape.layers == 0)
        return QFL_E_UNSUPPORTED;
    qfl_status status = qfl_head_check(&shape);
    uint32_t params = status == QFL_OK ? qfl_head_param_count(&shape) : 0;
    if (status != QFL_OK || params != nn->head_param_count || qfl_head_features(&shape) != nn->feature_count)
        return status != QFL_OK ? status : QFL_E_FORMAT;
    need->fixed = fixed;
    need->params = aligned(4 * params) + 2 * aligned(4 * params + SLACK_BYTES) + aligned(params);
    need->activations = aligned(qfl_head_scratch_size(&shape)) + aligned(nn->arena_size);
    need->per_sample = (nn->recompute ? nn->input_size : nn->feature_count) + 2;
    uint64_t used = (uint64_t)need->fixed + need->params + need->activations + 16;
    uint32_t capacity = used < arena ? (uint32_t)(arena - used) / need->per_sample : 0;
    need->capacity = capacity < 65535 ? capacity : 65535;
    return capacity != 0 ? QFL_OK : QFL_E_NOMEM;
}

QFL_COLD qfl_status qfl_device_plan(const qfl_nn *nn, uint32_t arena, qfl_device_need *need)
{
    return plan(nn, arena, fixed_size(arena), need);
}

#ifdef QFL_HOST
qfl_status qfl_device_plan_32(const qfl_nn *nn, uint32_t arena, qfl_device_need *need)
{
    qfl_link_config c;
    qfl_device_link_config(arena, &c);
    uint32_t fixed = aligned(DEVICE_BYTES_32) + aligned((uint32_t)qfl_link_size_32(&c)) +
                     aligned(qfl_link_pull_size(&c)) + ANSWER_BYTES;
    return plan(nn, arena, fixed, need);
}
#endif

QFL_COLD qfl_status qfl_device_create(qfl_device **out, const qfl_port *port)
{
    uint32_t size = 0;
    uint8_t *arena = port->arena(port->ctx, &size);
    if (arena == NULL || ((uintptr_t)arena & 15u) != 0)
        return QFL_E_INVAL;
    if (size < fixed_size(size))
        return QFL_E_NOMEM;
    qfl_device *d = (qfl_device *)arena;
    memset(d, 0, sizeof *d);
    d->port = port;
    d->arena = arena;
    d->arena_size = size;
    (void)port->entropy(port->ctx, (uint8_t *)&d->boot, sizeof d->boot);
    qfl_link_config c;
    qfl_device_link_config(size, &c);
    uint32_t at = aligned(sizeof *d);
    qfl_status status = qfl_link_init(&d->link, &c, arena + at, qfl_link_size(&c));
    if (status != QFL_OK)
        return status;
    at += aligned((uint32_t)qfl_link_size(&c));
    d->out.bytes = arena + at;
    d->out.cap = qfl_link_pull_size(&c);
    at += aligned(d->out.cap);
    d->answer = arena + at;
    d->model_at = at + ANSWER_BYTES;
    if (size - d->model_at < QFL_NN_SELFTEST_BYTES)
        return QFL_E_NOMEM;
    qfl_device_selftest(d, arena + d->model_at);
    status = qfl_device_open_keys(d);
    if (status != QFL_OK)
        return status; /* a board that cannot keep its keys' promise does not start */
    if (qfl_store_open(&d->store, port) == QFL_OK)
        (void)qfl_device_load(d); /* a package that no longer fits leaves the board empty, which it reports */
    *out = d;
    return QFL_OK;
}

QFL_COLD qfl_device_state qfl_device_get_state(const qfl_device *d) { return (qfl_device_state)d->state; }
QFL_COLD uint32_t qfl_device_samples(const qfl_device *d) { return d->samples; }

QFL_COLD const float *qfl_device_head(const qfl_device *d, uint32_t *count)
{
    *count = d->params;
    return d->have_package ? d->global : NULL;
}

QFL_COLD void qfl_device_answer(qfl_device *d, uint8_t kind, uint8_t number, qfl_status status,
                                const uint8_t *p, uint32_t n, const uint8_t *body, uint32_t body_n)
{
    uint8_t head[QFL_LINK_HEAD_MAX];
    uint32_t at = 2;
    head[0] = (uint8_t)(kind | QFL_MSG_ANSWER | (status != QFL_OK ? QFL_MSG_FAILED : 0));
    head[1] = number;
    if (status != QFL_OK)
        head[at++] = (uint8_t)status;
    if (n != 0)
        memcpy(head + at, p, n);
    /* A full queue or a lost session drops the answer: requests are repeatable and the host asks again. */
    (void)qfl_link_send(d->link, head, at + n, body, body_n);
}

QFL_COLD void qfl_device_say(qfl_device *d, uint8_t kind, uint8_t number, qfl_status status)
{
    qfl_device_answer(d, kind, number, status, NULL, 0, NULL, 0);
}

QFL_COLD void qfl_device_say_u32(qfl_device *d, uint8_t kind, uint8_t number, qfl_status status, uint32_t v)
{
    uint8_t b[4];
    qfl_put32(b, v);
    qfl_device_answer(d, kind, number, status, b, sizeof b, NULL, 0);
}

static void dispatch(qfl_device *d, const uint8_t *m, uint32_t n)
{
    if (n < 2)
        return;
    uint8_t kind = m[0], number = m[1];
    const uint8_t *p = m + 2;
    n -= 2;
    if (QFL_KEYS && !qfl_device_may_talk(d) && kind != QFL_MSG_KEYS &&
        !(kind == QFL_MSG_INFO &&
          qfl_device_keys(d) & QFL_KEYS_DAMAGED)) { /* the plain session in which the key came */
        qfl_device_say(d, kind, number, QFL_E_AUTH);
        return;
    }
    switch (kind) {
    case QFL_MSG_INFO: qfl_device_on_info(d, number); break;
    case QFL_MSG_PUT_BEGIN:
    case QFL_MSG_PUT_DATA:
    case QFL_MSG_PUT_END: qfl_device_on_put(d, kind, number, p, n); break;
    case QFL_MSG_CONFIG: qfl_device_on_config(d, number, p, n); break;
    case QFL_MSG_TRAIN:
    case QFL_MSG_TRAIN_UPDATE: qfl_device_on_train(d, kind, number, p, n); break;
    case QFL_MSG_UPDATE: qfl_device_on_update(d, number, p, n); break;
    case QFL_MSG_EVAL: qfl_device_on_eval(d, number, p, n); break;
#if QFL_STATS
    case QFL_MSG_STATS: qfl_device_on_stats(d, number, p, n); break;
#endif
    case QFL_MSG_RESUME: qfl_device_on_resume(d, number, p, n); break;
    case QFL_MSG_STATUS: qfl_device_on_status(d, number); break;
    case QFL_MSG_SELFTEST: qfl_device_on_selftest(d, number); break;
    case QFL_MSG_COUNTERS: qfl_device_on_counters(d, number); break;
#if QFL_KEYS
    case QFL_MSG_KEYS: qfl_device_on_keys(d, number, p, n); break;
#endif
    default: qfl_device_say(d, kind, number, QFL_E_UNSUPPORTED); break;
    }
}

static void handle_message(qfl_device *d)
{
    uint32_t n, before = qfl_link_pending(d->link);
    const uint8_t *m = qfl_link_message(d->link, &n);
    dispatch(d, m, n);
    /* No answer yet: acknowledged by itself; the end of an object with the answer to PUT_END, which follows at once. */
    int whole = m[0] == QFL_MSG_PUT_DATA && d->put.have == d->put.length;
    qfl_link_release(d->link, !whole && qfl_link_pending(d->link) == before);
}

static void receive(qfl_device *d)
{
    uint8_t buf[64];
    const qfl_port *port = d->port;
    for (int i = 0; i < 32; i++) { /* at most 2 KiB, so that training is not starved */
        int32_t got = port->link_read(port->ctx, 0, buf, sizeof buf);
        if (got <= 0)
            return;
        for (uint32_t at = 0; at < (uint32_t)got;) {
            at += qfl_link_feed(d->link, buf + at, (uint32_t)got - at, port->ms(port->ctx));
            if (qfl_link_session(d->link) != d->session) {
                d->session = qfl_link_session(d->link);
                d->asked.waiting = 0; /* who asked is gone; the work goes on and is kept */
            }
            if (qfl_link_message(d->link, NULL) != NULL)
                handle_message(d);
        }
    }
}

static void transmit(qfl_device *d)
{
    const qfl_port *port = d->port;
    for (;;) {
        if (d->out.at == d->out.n) {
            d->out.at = 0;
            d->out.n = qfl_link_pull(d->link, d->out.bytes, d->out.cap, port->ms(port->ctx));
            if (d->out.n == 0)
                return;
        }
        uint32_t left = d->out.n - d->out.at, mtu = port->link_mtu(port->ctx, 0);
        int32_t took = port->link_write(port->ctx, 0, d->out.bytes + d->out.at, left < mtu ? left : mtu);
        if (took <= 0)
            return;
        d->out.at += (uint32_t)took;
    }
}

/* Tells the host, before an erase of flash that may take long, for how long the board may be deaf. */
static void announce_erase(qfl_device *d)
{
    uint32_t ms = d->store.flash.worst_erase_ms, start = d->port->us(d->port->ctx);
    if (ms < BUSY_WORTH_MS)
        return;
    qfl_link_busy(d->link, ms);
    do {
        transmit(d);
    } while (d->out.at != d->out.n && d->port->us(d->port->ctx) - start < FLUSH_US);
}

QFL_COLD uint32_t qfl_device_poll(qfl_device *d)
{
    const qfl_port *port = d->port;
    port->poll(port->ctx);
    uint32_t connections = port->link_connections(port->ctx, 0);
    if (connections != d->connections) { /* reconnected: the rest of a frame half sent would be noise */
        d->connections = connections;
        d->out.at = d->out.n = 0;
    }
    receive(d);
    uint32_t start = port->us(port->ctx);
    while (d->state >= QFL_DEVICE_TRAINING) {
        qfl_device_work(d);
        if (port->us(port->ctx) - start >= SLICE_US)
            break;
    }
    int busy = d->state >= QFL_DEVICE_TRAINING;
    while (!busy && qfl_device_take_sample(d))
        if (port->us(port->ctx) - start >= SLICE_US) {
            busy = 1;
            break;
        }
    transmit(d);
    if (d->out.at == d->out.n) { /* acknowledgements are out, so the counters in front of a delta have them */
        qfl_device_answer_waiting(d);
        transmit(d);
    }
    if (busy)
        return 0;
    if (d->out.at != d->out.n)
        return 1;
    if (qfl_link_pending(d->link) == 0 &&
        qfl_store_busy_ms(&d->store) != 0) { /* one erase, once all that was said is out */
        announce_erase(d);
        if (qfl_store_work(&d->store))
            return 0;
    }
    uint32_t wait = qfl_link_wait(d->link, port->ms(port->ctx));
    return wait < IDLE_MS ? wait : IDLE_MS;
}
