/* qfl_ble_link by itself: pieces, rings, connections; with an argument: a producer thread against a consumer, byte for byte. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qfl_ble_link.h"

#define CHECK(x)                                                                                             \
    do {                                                                                                     \
        if (!(x)) {                                                                                          \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #x);                                          \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

enum { RX = 256, TX = 300, TOTAL = 4 << 20 };

typedef struct air {
    uint8_t sent[4096];
    uint32_t n, values, longest;
    int credit; /* notifications the stack's queue still takes */
} air;

static int32_t send_one(void *ctx, const uint8_t *p, uint32_t n)
{
    air *a = ctx;
    if (a->credit == 0)
        return 0;
    a->credit--;
    CHECK(n <= QFL_BLE_VALUE_MAX);
    memcpy(a->sent + a->n, p, n);
    a->n += n;
    a->values++;
    a->longest = n > a->longest ? n : a->longest;
    return (int32_t)n;
}

static uint8_t rx[RX], tx[TX], data[4096], got[4096];

static void sizes(void)
{
    qfl_ble_link l;
    CHECK(qfl_ble_link_init(&l, send_one, NULL, rx, 255, tx, TX) == -1);
    CHECK(qfl_ble_link_init(&l, send_one, NULL, rx, 128, tx, TX) == -1);
    CHECK(qfl_ble_link_init(&l, send_one, NULL, rx, RX, tx, 243) == -1);
    CHECK(qfl_ble_link_init(&l, NULL, NULL, rx, RX, tx, TX) == -1);
}

static void output(void)
{
    qfl_ble_link l;
    air a = {.credit = 1000};
    CHECK(qfl_ble_link_init(&l, send_one, &a, rx, RX, tx, TX) == 0);
    CHECK(!qfl_ble_link_up(&l) && qfl_ble_link_mtu(&l) == 20 && qfl_ble_link_connections(&l) == 0);
    CHECK(qfl_ble_link_write(&l, data, 100) == 100 && qfl_ble_link_flush(&l) == 0 &&
          a.n == 0); /* into the air */
    qfl_ble_link_on_connect(&l, 23);
    CHECK(qfl_ble_link_up(&l) && qfl_ble_link_mtu(&l) == 20 && qfl_ble_link_connections(&l) == 1);
    CHECK(qfl_ble_link_write(&l, data, 50) == 50);
    CHECK(a.values == 2 && a.n == 40 && a.longest == 20); /* full values only */
    CHECK(qfl_ble_link_write(&l, data + 50, 5) == 5 && a.n == 40);
    CHECK(qfl_ble_link_flush(&l) == 0 && a.values == 3 && a.n == 55); /* two writes share the last */
    qfl_ble_link_on_mtu(&l, 247);
    CHECK(qfl_ble_link_mtu(&l) == 244);
    CHECK(qfl_ble_link_write(&l, data + 55, 245) == 245 && qfl_ble_link_flush(&l) == 0);
    CHECK(a.values == 5 && a.longest == 244 && memcmp(a.sent, data, 300) == 0);
    qfl_ble_link_on_mtu(&l, 512);
    CHECK(qfl_ble_link_mtu(&l) == 244); /* longer values would not fit one link-layer packet */
    qfl_ble_link_on_mtu(&l, 0);
    CHECK(qfl_ble_link_mtu(&l) == 20); /* a stack that does not say */

    /* A full queue in the stack: what fits is kept, in order, and nothing is sent twice. */
    qfl_ble_link_on_mtu(&l, 103);
    a.n = 0;
    a.credit = 1;
    uint32_t took = (uint32_t)qfl_ble_link_write(&l, data, 1000);
    CHECK(took == 400 && a.n == 100 && qfl_ble_link_flush(&l) == 300);
    CHECK(qfl_ble_link_write(&l, data + took, 10) == 0);
    a.credit = 2;
    CHECK(qfl_ble_link_flush(&l) == 100);
    took += (uint32_t)qfl_ble_link_write(&l, data + took, 150);
    a.credit = 100;
    CHECK(took == 550 && qfl_ble_link_flush(&l) == 0);
    CHECK(a.n == took && memcmp(a.sent, data, took) == 0);

    /* What waits when the connection ends is not sent in the next one. */
    a.credit = a.n = 0;
    CHECK(qfl_ble_link_write(&l, data, 90) == 90);
    qfl_ble_link_on_disconnect(&l);
    a.credit = 100;
    CHECK(qfl_ble_link_flush(&l) == 0 && a.n == 0);
    qfl_ble_link_on_connect(&l, 103);
    a.credit = 0;
    CHECK(qfl_ble_link_write(&l, data, 90) == 90);
    qfl_ble_link_on_disconnect(&l);
    qfl_ble_link_on_connect(&l, 103);
    a.credit = 100;
    CHECK(qfl_ble_link_write(&l, data, 7) == 7 && qfl_ble_link_flush(&l) == 0 && a.n == 7);
}

static void input(void)
{
    qfl_ble_link l;
    air a = {.credit = 0};
    CHECK(qfl_ble_link_init(&l, send_one, &a, rx, RX, tx, TX) == 0);
    qfl_ble_link_on_connect(&l, 247);
    for (int i = 0; i < 50; i++) { /* around the ring several times */
        qfl_ble_link_on_receive(&l, data + i, 100);
        qfl_ble_link_on_receive(&l, data + i + 100, 57);
        CHECK(qfl_ble_link_read(&l, got, 30) == 30 && qfl_ble_link_read(&l, got + 30, 500) == 127);
        CHECK(memcmp(got, data + i, 157) == 0 && qfl_ble_link_read(&l, got, 10) == 0);
    }
    CHECK(qfl_ble_link_lost(&l) == 0);
    qfl_ble_link_on_receive(&l, data, 200);
    qfl_ble_link_on_receive(&l, data + 200, 57); /* does not fit: dropped whole */
    qfl_ble_link_on_receive(&l, data + 300, 56);
    CHECK(qfl_ble_link_lost(&l) == 57 && qfl_ble_link_read(&l, got, 500) == 256);
    CHECK(memcmp(got, data, 200) == 0 && memcmp(got + 200, data + 300, 56) == 0);
    qfl_ble_link_on_receive(&l, data, 40);
    qfl_ble_link_on_disconnect(&l);
    CHECK(qfl_ble_link_read(&l, got, 10) == 10); /* what came before the end may still be read */
    qfl_ble_link_on_connect(&l, 23);
    qfl_ble_link_on_receive(&l, data + 500, 20);
    CHECK(qfl_ble_link_read(&l, got, 500) == 20 && memcmp(got, data + 500, 20) == 0);
    CHECK(qfl_ble_link_connections(&l) == 2);
}

static void *produce(void *ctx)
{
    qfl_ble_link *l = ctx;
    uint8_t value[244];
    for (uint32_t at = 0; at < TOTAL;) {
        uint32_t n = 1 + at % 244, before = qfl_ble_link_lost(l);
        if (n > TOTAL - at)
            n = TOTAL - at;
        for (uint32_t i = 0; i < n; i++)
            value[i] = (uint8_t)((at + i) * 2654435761u >> 24);
        qfl_ble_link_on_receive(l, value, n);
        if (qfl_ble_link_lost(l) == before)
            at += n;
    }
    return NULL;
}

static void threads(void)
{
    static uint8_t ring[1024];
    qfl_ble_link l;
    air a = {.credit = 0};
    pthread_t t;
    uint32_t at = 0;
    CHECK(qfl_ble_link_init(&l, send_one, &a, ring, sizeof ring, tx, TX) == 0);
    qfl_ble_link_on_connect(&l, 247);
    CHECK(pthread_create(&t, NULL, produce, &l) == 0);
    while (at < TOTAL) {
        int32_t n = qfl_ble_link_read(&l, got, 64);
        for (int32_t i = 0; i < n; i++, at++)
            CHECK(got[i] == (uint8_t)(at * 2654435761u >> 24));
    }
    pthread_join(t, NULL);
}

int main(int argc, char **argv)
{
    (void)argv;
    for (uint32_t i = 0; i < sizeof data; i++)
        data[i] = (uint8_t)(i * 2654435761u >> 24);
    if (argc > 1) {
        threads();
        return 0;
    }
    sizes();
    output();
    input();
    return 0;
}
