/*
 * Flash found at the start: a board with a package and a log of records whose check is right but whose content is anything, then
 * patches of the region that make of it what a cut or a stranger might; the device must start, and must still take a package.
 */
#include "fuzz.h"
#include "fuzz_board.h"

#include "qfl_device.h"
#include "qfl_inproc.h"
#include "qfl_store.h"

enum { REGION = 1 << 14, RAM = 1 << 14, UNIT = 1 << 10, LOG = 1 << 12, FRONT = 4 + 32 + 4 };

static qfl_port port;
static const qfl_port *inner;
static uint8_t *package, package_sha[32];
static uint32_t package_n;

/* Erase units of 1 KiB, of which so small a package needs few; two halves of a log of two each. */
static int32_t info(void *ctx, qfl_flash_info *out)
{
    int32_t status = inner->flash_info(ctx, out);
    out->erase_unit = UNIT;
    out->log_size = LOG;
    return status;
}

static int32_t erase(void *ctx, uint32_t at, uint32_t n)
{
    qfl_flash_info f;
    if (inner->flash_info(ctx, &f) < 0 || at % UNIT != 0 || n % UNIT != 0 || at > REGION || n > REGION - at)
        return QFL_E_INVAL;
    memset((uint8_t *)(uintptr_t)f.map + at, f.erased, n);
    return 0;
}

static qfl_status push(qfl_store *s)
{
    uint32_t have;
    qfl_status status;
    while ((status = qfl_store_begin(s, package_n, package_sha, &have)) == QFL_E_BUSY && qfl_store_work(s))
        ;
    if (status == QFL_OK && have < package_n)
        status = qfl_store_write(s, have, package + have, package_n - have);
    if (status == QFL_OK)
        status = qfl_store_verify(s, NULL);
    return status == QFL_OK ? qfl_store_commit(s) : status;
}

static void append(qfl_store *s, uint8_t type, const uint8_t *p, uint32_t n, int bound)
{
    uint8_t front[FRONT] = {(uint8_t)s->sequence};
    memcpy(front + 4, s->sha256, 32);
    const qfl_store_part parts[2] = {{front, bound ? sizeof front : 0}, {p, n}};
    if (qfl_store_log_append(s, type, parts, 2) != QFL_E_NOMEM)
        return;
    qfl_status status;
    while ((status = qfl_store_log_roll(s)) == QFL_E_BUSY && qfl_store_work(s))
        ;
    if (status == QFL_OK)
        (void)qfl_store_log_append(s, type, parts, 2);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t *memory, *clean;
    static qfl_store *store;
    static uint8_t payload[LOG / 2];
    size_t whole = (qfl_inproc_size(REGION, RAM) + 15) / 16 * 16;
    qfl_inproc *board;
    if (memory == NULL) {
        uint8_t uid[4] = {1, 2, 3, 4};
        memory = aligned_alloc(16, whole);
        clean = malloc(whole);
        store = malloc(sizeof *store);
        qfl_sha256 h;
        package = base_file("tiny.qfl.tflite", &package_n);
        qfl_sha256_begin(&h);
        qfl_sha256_add(&h, package, package_n);
        qfl_sha256_end(&h, package_sha);
        EXPECT(qfl_inproc_init((qfl_inproc *)(void *)memory, REGION, RAM, uid, 4) == QFL_OK);
        inner = qfl_inproc_port((qfl_inproc *)(void *)memory);
        port = *inner;
        port.flash_info = info;
        port.flash_erase = erase;
        EXPECT(qfl_store_open(store, &port) == QFL_OK && push(store) == QFL_OK);
        memcpy(clean, memory, whole);
        qfl_device *whole_board;
        uint32_t params;
        EXPECT(qfl_device_create(&whole_board, &port) == QFL_OK &&
               qfl_device_head(whole_board, &params) != NULL);
    }
    board = (qfl_inproc *)(void *)memory;
    memcpy(memory, clean, whole);
    qfl_flash_info f;
    qfl_device *device;
    input in = {data, size};
    (void)board;
    EXPECT(port.flash_info(port.ctx, &f) == 0);
    EXPECT(qfl_store_open(store, &port) == QFL_OK);
    for (uint32_t records = u8(&in) % 6, n, fill; records > 0; records--) {
        uint8_t how = u8(&in);
        const uint8_t *p = bytes(&in, u8(&in), &n);
        fill = how & 64 ? u16(&in) % sizeof payload : n;
        memcpy(payload, p, n);
        if (fill > n)
            memset(payload + n, 0, fill - n);
        append(store, how & 7, payload, fill > n ? fill : n, how & 8);
    }
    for (int i = 0; in.n >= 3 && i < 32; i++) {
        uint32_t at = u16(&in) % REGION;
        ((uint8_t *)(uintptr_t)f.map)[at] = u8(&in);
    }
    EXPECT(qfl_device_create(&device, &port) == QFL_OK);
    for (int i = 0; i < 3; i++)
        (void)qfl_device_poll(device);
    uint32_t count;
    const float *head = qfl_device_head(device, &count);
    for (uint32_t i = 0; head != NULL && i < count; i++)
        EXPECT(head[i] - head[i] == 0.0f);
    EXPECT(qfl_store_open(store, &port) == QFL_OK);
    qfl_status status = push(store);
    EXPECT(status == QFL_OK || push(store) == QFL_OK);
    return 0;
}
