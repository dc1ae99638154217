/*
 * A session with a whole device that holds a package, samples and a configuration: any messages in frames that are right, noise
 * between them, time that passes, resets.
 */
#include "fuzz.h"

#include "qfl_device.h"
#include "qfl_inproc.h"
#include "qfl_link.h"
#include "qfl_store.h"

enum { REGION = 1 << 16, RAM = 1 << 15, SAMPLES = 12, WIDTH = 8 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static uint8_t *memory, *clean, uid[4] = {1, 2, 3, 4};
    static int8_t x[SAMPLES * WIDTH];
    static uint16_t labels[SAMPLES];
    static void *link_memory;
    size_t whole = (qfl_inproc_size(REGION, RAM) + 15) / 16 * 16;
    qfl_link_config c;
    memset(&c, 0, sizeof c);
    c.message_max = 1 << 14;
    c.frame_max = 256;
    c.window = 16;
    c.initiator = 1;
    size_t link_n = qfl_link_size(&c);
    if (memory == NULL) {
        uint32_t n, have;
        static uint8_t *package;
        uint8_t sha[32];
        qfl_store store;
        qfl_sha256 h;
        package = base_file("tiny.qfl.tflite", &n);
        memory = aligned_alloc(16, whole);
        clean = malloc(whole);
        link_memory = aligned_alloc(16, (link_n + 15) / 16 * 16);
        EXPECT(qfl_inproc_init((qfl_inproc *)(void *)memory, REGION, RAM, uid, 4) == QFL_OK);
        EXPECT(qfl_store_open(&store, qfl_inproc_port((qfl_inproc *)(void *)memory)) == QFL_OK);
        qfl_sha256_begin(&h);
        qfl_sha256_add(&h, package, n);
        qfl_sha256_end(&h, sha);
        while (qfl_store_begin(&store, n, sha, &have) == QFL_E_BUSY)
            EXPECT(qfl_store_work(&store) == 1);
        EXPECT(qfl_store_write(&store, 0, package, n) == QFL_OK && qfl_store_verify(&store, NULL) == QFL_OK);
        EXPECT(qfl_store_commit(&store) == QFL_OK);
        for (int i = 0; i < SAMPLES * WIDTH; i++)
            x[i] = (int8_t)(i * 37);
        for (int i = 0; i < SAMPLES; i++)
            labels[i] = (uint16_t)(i % 3);
        memcpy(clean, memory, whole);
    }
    memcpy(memory, clean, whole);
    qfl_inproc *board = (qfl_inproc *)(void *)memory;
    qfl_device *device;
    qfl_link *link;
    uint8_t out[4096], message[600];
    uint32_t now = 0, n, got;
    input in = {data, size};
    EXPECT(qfl_device_create(&device, qfl_inproc_port(board)) == QFL_OK);
    EXPECT(qfl_link_init(&link, &c, link_memory, link_n) == QFL_OK);
    qfl_inproc_set_samples(board, x, labels, SAMPLES, WIDTH);
    (void)qfl_link_connect(link, 1, now);
    for (int turn = 0; turn < 60 && (in.n != 0 || turn < 4); turn++, now += 5) {
        uint8_t how = u8(&in);
        if (turn == 0 && how & 1) { /* a configuration that is right, so that training is reached */
            static const uint8_t config[2 + QFL_CONFIG_BYTES] = {5, 1, 2, 1, 0, 0, 0, 7, 0, 0, 0, 0x0A, 0xD7, 0x23, 0x3C, 0, 0, 0, 0, 0, 0, 0, 0,
                                                                 0, 0, 0, 0, 2, 0, 10, 0, 0, 2, 0, 64, 0, 255};
            memcpy(message, config, sizeof config);
            n = sizeof config;
        } else {
            const uint8_t *p = bytes(&in, how >> 2, &got);
            memcpy(message, p, got);
            n = got;
        }
        if ((how & 3) == 3 && turn > 3)
            qfl_inproc_host_write(board, message, n);
        else if ((how & 3) == 2 && turn > 3 && n == 0) {
            qfl_inproc_reset(board);
            EXPECT(qfl_device_create(&device, qfl_inproc_port(board)) == QFL_OK);
            (void)qfl_link_connect(link, 100u + (uint32_t)turn, now);
        } else if (n != 0 && qfl_link_get_state(link) == QFL_LINK_UP)
            (void)qfl_link_send(link, message, n < 40 ? n : 40, message + (n < 40 ? n : 40), n < 40 ? 0 : n - 40);
        for (int i = 0; i < 3; i++) {
            while ((n = qfl_link_pull(link, out, sizeof out, now)) != 0)
                qfl_inproc_host_write(board, out, n);
            qfl_inproc_set_ms(board, now);
            for (int k = 0; k < 4; k++)
                (void)qfl_device_poll(device);
            while ((got = qfl_inproc_host_read(board, out, sizeof out)) != 0)
                for (uint32_t at = 0, idle = 0; at < got && idle < 2;) {
                    uint32_t took = qfl_link_feed(link, out + at, got - at, now);
                    idle = took == 0 ? idle + 1 : 0;
                    at += took;
                    qfl_link_release(link, 1);
                }
        }
        if (qfl_link_get_state(link) == QFL_LINK_DOWN)
            (void)qfl_link_connect(link, 1000u + (uint32_t)turn, now);
    }
    uint32_t count;
    const float *head = qfl_device_head(device, &count);
    for (uint32_t i = 0; head != NULL && i < count; i++)
        EXPECT(head[i] - head[i] == 0.0f);
    return 0;
}
