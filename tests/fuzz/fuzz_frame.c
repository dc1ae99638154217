/*
 * Frames: bytes from the wire into one end of a link, raw or as frames whose checksum is right, mixed with messages of its own
 * and time that passes. First byte: which end, frame size and window; then actions.
 */
#include "fuzz.h"

#include "qfl_link.h"

enum { FRAME_MAX = 256 };

/* A payload as the other end would put it on the line. */
static uint32_t framed(const uint8_t *p, uint32_t n, uint8_t *out)
{
    uint8_t plain[FRAME_MAX + 32];
    memcpy(plain, p, n);
    uint32_t crc = qfl_link_crc32(0, p, n);
    for (unsigned i = 0; i < 4; i++)
        plain[n + i] = (uint8_t)(crc >> (8 * i));
    uint32_t k = qfl_link_cobs_encode(plain, n + 4, out);
    out[k++] = 0;
    return k;
}

static void feed(qfl_link *l, const uint8_t *p, uint32_t n, uint32_t now)
{
    uint8_t *q = copy_of(p, n);
    for (uint32_t at = 0, idle = 0; at < n && idle < 2;) {
        uint32_t took = qfl_link_feed(l, q + at, n - at, now), length = 0;
        EXPECT(took <= n - at);
        idle = took == 0 ? idle + 1 : 0;
        at += took;
        const uint8_t *m = qfl_link_message(l, &length);
        if (m != NULL) {
            volatile uint8_t sum = 0;
            for (uint32_t i = 0; i < length; i++)
                sum = (uint8_t)(sum + m[i]);
            qfl_link_release(l, (int)(length & 1));
        }
    }
    free(q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    uint8_t how = u8(&in), wire[2 * FRAME_MAX], body[300];
    qfl_link_config c;
    memset(&c, 0, sizeof c);
    c.message_max = how & 2 ? 512 : 4096;
    c.frame_max = how & 4 ? 16 : FRAME_MAX;
    c.window = how & 8 ? 1 : 16;
    c.queue = how >> 4 & 7;
    c.initiator = how & 1;
    size_t need = qfl_link_size(&c);
    qfl_link *l;
    void *mem = aligned_alloc(16, (need + 15) / 16 * 16);
    EXPECT(qfl_link_init(&l, &c, mem, need) == QFL_OK);
    if (c.initiator)
        (void)qfl_link_connect(l, 7, 0);
    memset(body, 5, sizeof body);
    for (uint32_t now = 0; in.n != 0;) {
        uint32_t n;
        const uint8_t *p;
        switch (u8(&in) % 5) {
        case 0:
            p = bytes(&in, u8(&in), &n);
            feed(l, p, n, now);
            break;
        case 1:
        case 2:
            p = bytes(&in, u8(&in), &n);
            n = framed(p, n, wire);
            feed(l, wire, n, now);
            break;
        case 3: now += u16(&in); break;
        default:
            n = u16(&in) % sizeof body;
            (void)qfl_link_send(l, body, n < 40 ? n : 40, body, n);
            break;
        }
        for (int i = 0; i < 40 && (n = qfl_link_pull(l, wire, sizeof wire, now)) != 0; i++)
            EXPECT(n <= sizeof wire);
        (void)qfl_link_wait(l, now);
    }
    free(mem);
    return 0;
}
