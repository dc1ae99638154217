/* Objects from the host: packages to flash, heads and long updates to RAM. */
#include <string.h>

#include "qfl_device_internal.h"

static uint8_t *staging(const qfl_device *d, uint8_t object)
{
    return (uint8_t *)(object == QFL_OBJECT_HEAD ? d->work : d->momentum);
}

enum { QUICK_MS = 200 };

/* Short erases are waited for; while long ones go on, one unit per poll, BUSY says for how long at most. */
static qfl_status begin_package(qfl_device *d, uint32_t length, const uint8_t *sha256, uint32_t *have)
{
    qfl_status status;
    while ((status = qfl_store_begin(&d->store, length, sha256, have)) == QFL_E_BUSY)
        if (qfl_store_busy_ms(&d->store) > QUICK_MS) {
            *have = qfl_store_busy_ms(&d->store);
            return status;
        } else if (!qfl_store_work(&d->store)) {
            return QFL_E_IO;
        }
    return status;
}

static void on_begin(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    uint32_t have = 0;
    qfl_status status = QFL_OK;
    if (n != 5 + QFL_SHA256_BYTES) {
        qfl_device_say(d, QFL_MSG_PUT_BEGIN, number, QFL_E_FORMAT);
        return;
    }
    uint8_t object = p[0];
    uint32_t length = qfl_get32(p + 1);
    const uint8_t *sha256 = p + 5;
    int resumed = object == d->put.object && length == d->put.length &&
                  memcmp(sha256, d->put.sha256, QFL_SHA256_BYTES) == 0;
    d->put.failed = 0;
    if (object == QFL_OBJECT_PACKAGE) {
        uint32_t held;
        const uint8_t *current = qfl_store_object(&d->store, &held);
        if (d->store.flash.map == NULL)
            status = QFL_E_UNSUPPORTED;
        else if (d->have_package && current != NULL && held == length &&
                 memcmp(d->store.sha256, sha256, QFL_SHA256_BYTES) == 0)
            have = length; /* already the current one */
        else
            status = begin_package(d, length, sha256, &have);
    } else if (object == QFL_OBJECT_HEAD || object == QFL_OBJECT_UPDATE) {
        uint32_t cap = object == QFL_OBJECT_HEAD ? 4 * d->params : 4 * d->params + SLACK_BYTES;
        if (!d->have_package)
            status = QFL_E_STATE;
        else if (length == 0 || length > cap || (object == QFL_OBJECT_HEAD && length != cap))
            status = QFL_E_RANGE;
        else {
            qfl_device_cancel(d);
            d->round.done = 0;
            d->put.staged = 0;
            have = resumed ? d->put.have : 0;
        }
    } else {
        status = QFL_E_UNSUPPORTED;
    }
    if (status == QFL_OK) {
        d->put.object = object;
        d->put.length = length;
        d->put.have = have;
        memcpy(d->put.sha256, sha256, QFL_SHA256_BYTES);
    }
    qfl_device_say_u32(d, QFL_MSG_PUT_BEGIN, number, status, have);
}

static void on_data(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    qfl_status status = QFL_OK;
    uint32_t at = n >= 4 ? qfl_get32(p) : 0;
    p += 4;
    if (d->put.failed)
        return;
    if (n < 4 || d->put.object == 0 || at != d->put.have || n - 4 > d->put.length - d->put.have)
        status = n < 4 ? QFL_E_FORMAT : QFL_E_STATE;
    else if (d->put.object == QFL_OBJECT_PACKAGE)
        status = qfl_store_write(&d->store, at, p, n - 4);
    else
        memcpy(staging(d, d->put.object) + at, p, n - 4);
    if (status == QFL_OK) {
        d->put.have += n - 4;
        return;
    }
    d->put.failed = 1;
    qfl_device_say_u32(d, QFL_MSG_PUT_DATA, number, status, d->put.have);
}

static qfl_status end_package(qfl_device *d)
{
    uint32_t length;
    const uint8_t *current = qfl_store_object(&d->store, &length), *object = NULL;
    qfl_nn nn;
    qfl_device_need need;
    if (d->have_package && current != NULL && length == d->put.length &&
        memcmp(d->store.sha256, d->put.sha256, QFL_SHA256_BYTES) == 0)
        return QFL_OK;
    qfl_status status = qfl_store_verify(&d->store, &object);
    length = d->put.length;
    if (status == QFL_OK)
        status = qfl_device_check_package(d, object, &length);
    if (status == QFL_OK)
        status = qfl_nn_open(&nn, object, length); /* checked before it becomes current */
    if (status == QFL_OK)
        status = qfl_device_plan(&nn, d->arena_size, &need);
    if (status != QFL_OK) {
        qfl_store_abort(&d->store);
        return status;
    }
    status = qfl_store_commit(&d->store);
    return status == QFL_OK ? qfl_device_load(d) : status;
}

static qfl_status end_ram(qfl_device *d)
{
    uint8_t digest[QFL_SHA256_BYTES], *p = staging(d, d->put.object);
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, p, d->put.length);
    qfl_sha256_end(&h, digest);
    if (memcmp(digest, d->put.sha256, sizeof digest) != 0)
        return QFL_E_HASH;
    if (d->put.object == QFL_OBJECT_UPDATE) {
        d->put.staged = d->put.length;
        return QFL_OK;
    }
    for (uint32_t i = 0; i < d->params; i++)
        if ((qfl_get32(p + 4 * i) & 0x7F800000u) == 0x7F800000u)
            return QFL_E_NONFINITE;
    if (!qfl_device_persist_ready(d, d->put.length))
        return QFL_E_BUSY;
    memcpy(d->global, p, d->put.length);
    d->head_hash = qfl_get32(digest);
    qfl_device_persist_head(d);
    return QFL_OK;
}

static void on_end(qfl_device *d, uint8_t number)
{
    qfl_status status;
    if (d->put.object == 0 || d->put.have != d->put.length)
        status = QFL_E_STATE;
    else
        status = d->put.object == QFL_OBJECT_PACKAGE ? end_package(d) : end_ram(d);
    if (status == QFL_E_BUSY) { /* all is kept for the next PUT_END */
        qfl_device_say_u32(d, QFL_MSG_PUT_END, number, status, qfl_store_busy_ms(&d->store));
        return;
    }
    /* A host whose answer got lost repeats PUT_BEGIN; nothing is left half done. */
    d->put.object = 0;
    d->put.length = 0;
    qfl_device_say_u32(d, QFL_MSG_PUT_END, number, status, d->head_hash);
}

QFL_COLD void qfl_device_on_put(qfl_device *d, uint8_t kind, uint8_t number, const uint8_t *p, uint32_t n)
{
    if (kind == QFL_MSG_PUT_BEGIN)
        on_begin(d, number, p, n);
    else if (kind == QFL_MSG_PUT_DATA)
        on_data(d, number, p, n);
    else
        on_end(d, number);
}
