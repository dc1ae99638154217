/*
 * Damaged input for every parser of the firmware, built with address and undefined-behaviour sanitizers by
 * tests/unit/test_sanitizers.py. Usage: fuzz PACKAGE OUR_PART COUNT SEED. Prints how many damaged packages still ran.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qfl_codec.h"
#include "qfl_device.h"
#include "qfl_inproc.h"
#include "qfl_link.h"
#include "qfl_nn.h"

static uint64_t state;
static uint32_t rnd(uint32_t n)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(state >> 33) % n;
}

static uint8_t *exact(const uint8_t *p, size_t n) /* so that one byte beyond is seen */
{
    uint8_t *q = aligned_alloc(16, (n + 15) / 16 * 16);
    uint8_t *r = q + ((n + 15) / 16 * 16 - n) / 16 * 16;
    memcpy(r, p, n);
    return r;
}

static int fuzz_package(const uint8_t *package, uint32_t n, uint32_t ours)
{
    uint8_t *p = exact(package, n);
    uint32_t size = n;
    for (uint32_t i = 1 + rnd(4); i > 0; i--)
        p[rnd(rnd(10) ? ours : n)] = (uint8_t)(rnd(2) ? 1u << rnd(8) : rnd(256));
    if (rnd(8) == 0)
        size = rnd(n);
    qfl_nn nn;
    int ran = 0;
    if (qfl_nn_open(&nn, p, size) == QFL_OK && nn.arena_size < 1 << 24) {
        uint8_t *arena = aligned_alloc(16, (nn.arena_size + 15) / 16 * 16 + 16);
        memset(arena, 7, nn.arena_size);
        ran = qfl_nn_run(&nn, arena, 0, nn.op_count) == QFL_OK;
        free(arena);
    }
    free(p);
    return ran;
}

static void fuzz_codec(void)
{
    qfl_codec_layout layout = {2, {120, 10}};
    qfl_codec_spec specs[6] = {{QFL_CODEC_BQ, QFL_CODEC_CODED | QFL_CODEC_MEANS, 8},
                               {QFL_CODEC_BU, QFL_CODEC_CODED | QFL_CODEC_PER_TENSOR, 64},
                               {QFL_CODEC_BU, 0, 16}, {QFL_CODEC_BU, QFL_CODEC_MEANS | QFL_CODEC_PER_TENSOR, 4},
                               {QFL_CODEC_DZ, 0, 32}, {QFL_CODEC_FP32, 0, 0}};
    float x[130];
    uint8_t buf[2048];
    uint32_t size = 0;
    for (int i = 0; i < 130; i++)
        x[i] = (float)((int)rnd(2001) - 1000) * (rnd(4) ? 0.0f : 0.001f);
    if (qfl_codec_encode(&specs[rnd(6)], &layout, x, buf, sizeof buf, &size) != QFL_OK)
        return;
    for (uint32_t i = rnd(4); i > 0; i--)
        buf[rnd(size)] = (uint8_t)rnd(256);
    if (rnd(3) == 0)
        size = rnd(size + 1);
    uint8_t *p = malloc(size ? size : 1);
    memcpy(p, buf, size);
    (void)qfl_codec_decode(&layout, p, size, rnd(256), x);
    free(p);
}

/* A whole device: frames with valid checksums and arbitrary messages, and plain noise. */
static void fuzz_device(const uint8_t *package, uint32_t n, uint32_t messages)
{
    uint32_t flash = 1 << 17, ram = 1 << 16;
    qfl_inproc *board = aligned_alloc(16, (qfl_inproc_size(flash, ram) + 15) / 16 * 16);
    qfl_device *device;
    uint8_t uid[4] = {1, 2, 3, 4}, out[4096], message[600];
    qfl_link_config c = {1 << 16, 256, 16, 1, 0, 0, 0};
    qfl_link *link;
    size_t link_n = qfl_link_size(&c);
    void *mem = aligned_alloc(16, (link_n + 15) / 16 * 16);
    if (qfl_inproc_init(board, flash, ram, uid, 4) != QFL_OK || qfl_device_create(&device, qfl_inproc_port(board)) != QFL_OK ||
        qfl_link_init(&link, &c, mem, link_n) != QFL_OK)
        abort();
    qfl_link_connect(link, rnd(1000), 0);
    for (uint32_t now = 0, sent = 0; sent < messages; now += 5) {
        uint32_t k, got;
        while ((k = qfl_link_pull(link, out, sizeof out, now)) != 0)
            qfl_inproc_host_write(board, out, k);
        if (rnd(20) == 0) {
            for (k = 0; k < 40; k++)
                out[k] = (uint8_t)rnd(256);
            qfl_inproc_host_write(board, out, k);
        }
        qfl_inproc_set_ms(board, now);
        for (int i = 0; i < 4; i++)
            qfl_device_poll(device);
        while ((got = qfl_inproc_host_read(board, out, sizeof out)) != 0)
            for (uint32_t at = 0; at < got;) {
                at += qfl_link_feed(link, out + at, got - at, now);
                qfl_link_release(link, 1);
            }
        if (qfl_link_get_state(link) == QFL_LINK_DOWN)
            qfl_link_connect(link, rnd(100000), now);
        if (qfl_link_get_state(link) != QFL_LINK_UP || qfl_link_pending(link) != 0)
            continue;
        uint32_t len = rnd(60);
        message[0] = (uint8_t)(rnd(9) ? 1 + rnd(10) : rnd(256));
        message[1] = (uint8_t)rnd(4);
        for (uint32_t i = 2; i < 2 + len; i++)
            message[i] = (uint8_t)(rnd(3) ? rnd(8) : rnd(256));
        if (message[0] == QFL_MSG_PUT_DATA && rnd(2)) {
            len = 4 + rnd(500);
            memcpy(message + 6, package + rnd(n - 600), len - 4);
        }
        if (qfl_link_send(link, message, 2, message + 2, len) == QFL_OK)
            sent++;
    }
    free(mem);
    free(board);
}

int main(int argc, char **argv)
{
    if (argc != 5)
        return 2;
    FILE *f = fopen(argv[1], "rb");
    static uint8_t package[1 << 20];
    uint32_t n = (uint32_t)fread(package, 1, sizeof package, f), ours = (uint32_t)atoi(argv[2]), ran = 0;
    fclose(f);
    state = (uint64_t)atoi(argv[4]);
    for (int i = atoi(argv[3]); i > 0; i--) {
        ran += (uint32_t)fuzz_package(package, n, ours);
        fuzz_codec();
        if (i % 100 == 0)
            fuzz_device(package, n, 60);
    }
    printf("%u\n", ran);
    return 0;
}
