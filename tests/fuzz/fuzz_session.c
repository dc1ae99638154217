/*
 * A session with a whole device that holds a package, samples and a configuration: any messages in frames that are right, noise
 * between them, time that passes, resets.
 */
#include "fuzz.h"
#include "fuzz_board.h"

#include "qfl_device.h"
#include "qfl_inproc.h"
#include "qfl_link.h"
#include "qfl_store.h"

enum { REGION = 1 << 15, RAM = 1 << 14, SAMPLES = 12, WIDTH = 8, LINK = 1 << 15 };

/* A configuration that is right, so that training is reached. */
static const uint8_t config[2 + QFL_CONFIG_BYTES] = {5,    1,    2, 1,  0, 0, 0, 7, 0,  0, 0,  0x0A, 0xD7,
                                                     0x23, 0x3C, 0, 0,  0, 0, 0, 0, 0,  0, 0,  0,    0,
                                                     0,    2,    0, 10, 0, 0, 2, 0, 64, 0, 255};

/* All that a session is made of, at fixed addresses, so that a copy of it is the session as it stood. */
static struct state {
    _Alignas(16) uint8_t memory[RAM + REGION + (1 << 16)], link_memory[LINK];
    qfl_device *device;
    qfl_link *link;
    uint32_t now;
} now_, plain, configured;
#define S (&now_)

static qfl_inproc *board_of(void) { return (qfl_inproc *)(void *)S->memory; }

static void exchange(void)
{
    uint8_t out[4096];
    uint32_t n, got;
    while ((n = qfl_link_pull(S->link, out, sizeof out, S->now)) != 0)
        qfl_inproc_host_write(board_of(), out, n);
    qfl_inproc_set_ms(board_of(), S->now);
    for (int k = 0; k < 4 && qfl_device_poll(S->device) == 0; k++)
        ;
    while ((got = qfl_inproc_host_read(board_of(), out, sizeof out)) != 0)
        for (uint32_t at = 0, idle = 0; at < got && idle < 2;) {
            uint32_t took = qfl_link_feed(S->link, out + at, got - at, S->now);
            idle = took == 0 ? idle + 1 : 0;
            at += took;
            qfl_link_release(S->link, 1);
        }
}

/* A board with a package and samples, a session with it, and the same with a configuration. */
static void prepare(void)
{
    static uint8_t uid[4] = {1, 2, 3, 4}, *package;
    static int8_t x[SAMPLES * WIDTH];
    static uint16_t labels[SAMPLES];
    uint32_t n, have;
    uint8_t sha[32];
    qfl_store store;
    qfl_sha256 h;
    qfl_link_config c;
    memset(&c, 0, sizeof c);
    c.message_max = 1 << 13;
    c.frame_max = 256;
    c.window = 16;
    c.initiator = 1;
    EXPECT(qfl_inproc_size(REGION, RAM) <= sizeof S->memory && qfl_link_size(&c) <= sizeof S->link_memory);
    package = base_file("tiny.qfl.tflite", &n);
    EXPECT(qfl_inproc_init(board_of(), REGION, RAM, uid, 4) == QFL_OK);
    EXPECT(qfl_store_open(&store, qfl_inproc_port(board_of())) == QFL_OK);
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
    EXPECT(qfl_device_create(&S->device, qfl_inproc_port(board_of())) == QFL_OK);
    EXPECT(qfl_link_init(&S->link, &c, S->link_memory, sizeof S->link_memory) == QFL_OK);
    qfl_inproc_set_samples(board_of(), x, labels, SAMPLES, WIDTH);
    (void)qfl_link_connect(S->link, 1, S->now);
    for (int i = 0; i < 400 && qfl_device_samples(S->device) < SAMPLES; i++, S->now += 5)
        exchange();
    EXPECT(qfl_link_get_state(S->link) == QFL_LINK_UP && qfl_device_samples(S->device) == SAMPLES);
    plain = *S;
    EXPECT(qfl_link_send(S->link, config, sizeof config, NULL, 0) == QFL_OK);
    for (int i = 0; i < 20; i++, S->now += 5)
        exchange();
    EXPECT(qfl_link_pending(S->link) == 0);
    configured = *S;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t message[600];
    uint32_t n, got;
    input in = {data, size};
    if (plain.device == NULL)
        prepare();
    *S = size != 0 && (data[0] & 1) ? configured : plain;
    for (int turn = 0; turn < 60 && (in.n != 0 || turn < 4); turn++, S->now += 5) {
        uint8_t how = u8(&in);
        n = 0;
        if (turn != 0 || !(how & 1)) {
            const uint8_t *p = bytes(&in, how >> 2, &got);
            memcpy(message, p, got);
            n = got;
        }
        if ((how & 3) == 3 && turn > 3)
            qfl_inproc_host_write(board_of(), message, n);
        else if ((how & 3) == 2 && turn > 3 && n == 0) {
            qfl_inproc_reset(board_of());
            EXPECT(qfl_device_create(&S->device, qfl_inproc_port(board_of())) == QFL_OK);
            (void)qfl_link_connect(S->link, 100u + (uint32_t)turn, S->now);
        } else if (n != 0 && qfl_link_get_state(S->link) == QFL_LINK_UP)
            (void)qfl_link_send(S->link, message, n < 40 ? n : 40, message + (n < 40 ? n : 40),
                                n < 40 ? 0 : n - 40);
        for (int i = 0; i < 3; i++)
            exchange();
        if (qfl_link_get_state(S->link) == QFL_LINK_DOWN)
            (void)qfl_link_connect(S->link, 1000u + (uint32_t)turn, S->now);
    }
    uint32_t count;
    const float *head = qfl_device_head(S->device, &count);
    for (uint32_t i = 0; head != NULL && i < count; i++)
        EXPECT(head[i] - head[i] == 0.0f);
    return 0;
}
