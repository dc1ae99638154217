#include "qfl_twin.h"

#include <stdlib.h>
#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define THREADS_MAX 64
#else
#define THREADS_MAX 1
#endif

/* As quantfl.emulation.inproc moves them: bytes handed to a board at once, room for what a link has to say, slices of a poll. */
enum { PIECE = 8192, PULL = 16384, WAITING = 4 * PULL, SLICES = 64, TRAIN_BYTES = 7 };
enum { DELTA_AT = 7, DIGEST_AT = 5 };

typedef struct worker {
    const qfl_twin_board *boards;
    const qfl_twin_step *step;
    int32_t *symbols;
    qfl_twin_row *rows;
    uint32_t *next; /* row that nobody has begun; of all workers */
    uint8_t *request; /* [request_room] */
    uint32_t request_room;
    uint32_t from, to; /* of `out`: on the way to the board */
    uint8_t out[WAITING], in[PULL];
} worker;

static void pull(worker *w, qfl_link *link)
{
    if (w->from == w->to)
        w->from = w->to = 0;
    while (w->to + (uint32_t)PULL <= (uint32_t)WAITING) {
        uint32_t n = qfl_link_pull(link, w->out + w->to, PULL, w->step->now_ms);
        if (n == 0)
            return;
        w->to += n;
    }
}

/* Keeps a message that answers the request, in full or its front; 1: it does. */
static int take(worker *w, const qfl_twin_board *b, uint32_t i, const uint8_t *m, uint32_t n)
{
    qfl_twin_row *row = w->rows + i;
    uint8_t *answer = w->step->answers + (size_t)i * w->step->answer_room;
    if (n < 2 || (m[0] & ~QFL_MSG_FAILED) != (w->request[0] | QFL_MSG_ANSWER) || m[1] != w->request[1])
        return 0;
    row->answer_n = n;
    memcpy(answer, m, n < w->step->answer_room ? n : w->step->answer_room);
    if (n >= DELTA_AT && (m[0] & QFL_MSG_FAILED) == 0) {
        qfl_link_counters before;
        qfl_link_get_counters_before(b->link, &before);
        uint16_t digest = (uint16_t)qfl_device_counters_digest(&before, 1);
        row->balanced = m[DIGEST_AT] == (digest & 0xFF) && m[DIGEST_AT + 1] == digest >> 8;
    }
    return 1;
}

/* Hands bytes over, both ways, until neither end has anything to do. 1: the request was answered. */
static int exchange(worker *w, const qfl_twin_board *b, uint32_t i)
{
    int answered = 0;
    uint32_t now = w->step->now_ms;
    pull(w, b->link);
    for (;;) {
        uint32_t left = w->to - w->from, wait = 0;
        w->from += qfl_inproc_host_write(b->board, w->out + w->from, left < PIECE ? left : PIECE);
        qfl_inproc_set_ms(b->board, now);
        for (int slice = 0; slice < SLICES && wait == 0; slice++)
            wait = qfl_device_poll(b->device);
        uint32_t n = qfl_inproc_host_read(b->board, w->in, PULL);
        for (uint32_t at = 0; at < n;) {
            uint32_t length;
            at += qfl_link_feed(b->link, w->in + at, n - at, now);
            const uint8_t *m = qfl_link_message(b->link, &length);
            if (m != NULL) {
                answered |= take(w, b, i, m, length);
                qfl_link_release(b->link, 1);
            }
        }
        if (n != 0)
            pull(w, b->link);
        else if (wait != 0 && w->from == w->to)
            return answered;
    }
}

/* Writes the request to train; 0: its update is not worth sending. */
static uint32_t request(worker *w, uint32_t i)
{
    qfl_twin_row *row = w->rows + i;
    const qfl_twin_step *s = w->step;
    uint8_t *p = w->request;
    p[0] = row->update_how == QFL_TWIN_NO_UPDATE ? QFL_MSG_TRAIN : QFL_MSG_TRAIN_UPDATE;
    p[1] = s->round;
    for (int k = 0; k < 4; k++)
        p[2 + k] = (uint8_t)(row->head >> 8 * k);
    p[6] = s->agreed;
    if (row->update_how == QFL_TWIN_NO_UPDATE)
        return TRAIN_BYTES;
    if (row->update_how == QFL_TWIN_SYMBOLS) {
        qfl_codec_dz_form form = {row->update_code, 0, 0};
        if (qfl_codec_dz_write(s->layout, w->symbols + (size_t)i * s->params, &form, p + TRAIN_BYTES,
                               w->request_room - TRAIN_BYTES, &row->update_n) != QFL_OK)
            return 0;
    }
    if (row->update_n >= s->worth || row->update_n > w->request_room - TRAIN_BYTES)
        return 0;
    if (row->update_how == QFL_TWIN_CODED)
        memcpy(p + TRAIN_BYTES, s->updates + row->update_at, row->update_n);
    return TRAIN_BYTES + row->update_n;
}

static void read_delta(worker *w, uint32_t i)
{
    const qfl_twin_step *s = w->step;
    qfl_twin_row *row = w->rows + i;
    const uint8_t *a = s->answers + (size_t)i * s->answer_room;
    qfl_codec_dz_form form = {0, 0, 0};
    if (row->answer_n <= DELTA_AT || row->answer_n > s->answer_room || (a[0] & QFL_MSG_FAILED) != 0 ||
        ((a[DELTA_AT] & 15) != QFL_CODEC_DZ && (a[DELTA_AT] & 15) != QFL_CODEC_DZ_AGREED))
        return;
    row->read = qfl_codec_dz_read(s->layout, a + DELTA_AT, row->answer_n - DELTA_AT, s->agreed,
                                  w->symbols + (size_t)i * s->params, &form);
    row->code = form.code;
    row->agreed = form.agreed;
    row->offset = form.offset;
}

static void one(worker *w, uint32_t i)
{
    qfl_twin_row *row = w->rows + i;
    const qfl_twin_board *b = w->boards + row->board;
    row->answer_n = 0;
    row->balanced = 0;
    row->read = 1;
    uint32_t n = request(w, i);
    if (n == 0)
        row->status = QFL_E_NOMEM;
    else if (n > qfl_link_peer_message_max(b->link))
        row->status = QFL_E_NOMEM;
    else if (qfl_link_get_state(b->link) != QFL_LINK_UP || qfl_link_pending(b->link) != 0 ||
             qfl_link_send(b->link, NULL, 0, w->request, n) != QFL_OK)
        row->status = QFL_E_STATE;
    else
        row->status = exchange(w, b, i) && qfl_link_pending(b->link) == 0 ? QFL_OK : QFL_E_BUSY;
    if (row->status == QFL_OK)
        read_delta(w, i);
}

static void *work(void *arg)
{
    worker *w = arg;
    for (;;) {
        uint32_t i = __atomic_fetch_add(w->next, 1, __ATOMIC_RELAXED);
        if (i >= w->step->count)
            return NULL;
        one(w, i);
    }
}

qfl_status qfl_twin_round(const qfl_twin_board *boards, const qfl_twin_step *step, uint32_t threads,
                          int32_t *symbols, qfl_twin_row *rows)
{
    uint32_t room = TRAIN_BYTES + 8 * step->params + 64, next = 0;
    threads = threads < THREADS_MAX ? threads : THREADS_MAX;
    threads = threads < step->count ? threads : step->count;
    threads = threads != 0 ? threads : 1;
    uint8_t *memory = malloc(threads * (sizeof(worker) + room));
    if (memory == NULL)
        return QFL_E_NOMEM;
    worker *workers = (worker *)(void *)memory;
    for (uint32_t k = 0; k < threads; k++) {
        worker *w = workers + k;
        w->boards = boards;
        w->step = step;
        w->symbols = symbols;
        w->rows = rows;
        w->next = &next;
        w->request = memory + threads * sizeof(worker) + k * room;
        w->request_room = room;
        w->from = w->to = 0;
    }
#if THREADS_MAX > 1
    pthread_t other[THREADS_MAX];
    uint32_t started = 0;
    while (started + 1 < threads && pthread_create(&other[started], NULL, work, workers + 1 + started) == 0)
        started++;
#endif
    (void)work(workers);
#if THREADS_MAX > 1
    for (uint32_t k = 0; k < started; k++)
        (void)pthread_join(other[k], NULL);
#endif
    free(memory);
    return QFL_OK;
}
