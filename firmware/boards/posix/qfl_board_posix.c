/*
 * A board as a process: link and samples are TCP servers on the loopback interface, flash is a file or memory.
 * Options: --port N --samples N (0: any), --flash FILE, --uid HEX, --ram KIB, --battery PERCENT, --die-with-parent, --ble (the link's
 * port is a BLE radio's, qfl_ble_records.h).
 * Prints one line of JSON with the ports chosen.
 */
#define _DEFAULT_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "../common/qfl_ble_records.h"
#include "../common/qfl_board.h"
#include "../common/qfl_ram_flash.h"
#include "../common/qfl_sample_record.h"

enum { FLASH = 1 << 20, BLE_RX = 8192, BLE_TX = 2 * QFL_BLE_VALUE_MAX };

typedef struct channel {
    int listener, client;
    uint32_t connections;
} channel;

typedef struct posix_board {
    qfl_port port;
    channel link, samples;
    qfl_sample_reader reader;
    uint8_t uid[16];
    uint32_t uid_n, arena_n;
    uint8_t *arena, *flash;
    int watch_parent, battery;
    char **argv;
    int ble_on;
    qfl_ble_link ble;
    qfl_ble_records radio;
    uint32_t radio_connections;
    uint8_t ble_rx[BLE_RX], ble_tx[BLE_TX];
} posix_board;

static int listen_on(int port)
{
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a;
    memset(&a, 0, sizeof a);
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    a.sin_port = htons((uint16_t)port);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(fd, (struct sockaddr *)&a, sizeof a) != 0 || listen(fd, 4) != 0) {
        fprintf(stderr, "cannot listen on port %d: %s\n", port, strerror(errno));
        exit(2);
    }
    fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static int port_of(int fd)
{
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    getsockname(fd, (struct sockaddr *)&a, &n);
    return ntohs(a.sin_port);
}

/* A new client replaces the old one: a host that died without closing must not keep its successor out. */
static void accept_client(channel *c)
{
    int one = 1, fd = accept(c->listener, NULL, NULL);
    if (fd < 0)
        return;
    if (c->client >= 0)
        close(c->client);
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->client = fd;
    c->connections++;
}

static void drop(channel *c)
{
    close(c->client);
    c->client = -1;
}

static int32_t channel_read(channel *c, uint8_t *p, uint32_t n)
{
    if (c->client < 0)
        return 0;
    ssize_t got = recv(c->client, p, n, 0);
    if (got > 0)
        return (int32_t)got;
    if (got == 0 || (errno != EAGAIN && errno != EINTR))
        drop(c);
    return 0;
}

static posix_board *self(void *ctx) { return ctx; }

static uint32_t radio_read(void *ctx, uint8_t *p, uint32_t n)
{
    return (uint32_t)channel_read(&self(ctx)->link, p, n);
}

static int32_t channel_write(channel *c, const uint8_t *p, uint32_t n)
{
    ssize_t put = c->client < 0 ? 0 : send(c->client, p, n, MSG_NOSIGNAL);
    if (put < 0 && errno != EAGAIN && errno != EINTR)
        drop(c);
    return put < 0 ? 0 : (int32_t)put;
}

static uint32_t radio_write(void *ctx, const uint8_t *p, uint32_t n)
{
    return (uint32_t)channel_write(&self(ctx)->link, p, n);
}

static void poll_radio(posix_board *b)
{
    if (b->link.client < 0)
        qfl_ble_link_on_disconnect(&b->ble);
    if (b->radio_connections != b->link.connections) {
        b->radio_connections = b->link.connections;
        qfl_ble_records_reset(&b->radio);
    }
    qfl_ble_records_poll(&b->radio, &b->ble);
    qfl_ble_link_flush(&b->ble);
}

static void port_poll(void *ctx)
{
    accept_client(&self(ctx)->link);
    accept_client(&self(ctx)->samples);
    if (self(ctx)->ble_on)
        poll_radio(self(ctx));
}

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static uint32_t port_ms(void *ctx)
{
    (void)ctx;
    return (uint32_t)(now_us() / 1000);
}
static uint32_t port_us(void *ctx)
{
    (void)ctx;
    return (uint32_t)now_us();
}
static int32_t port_link_up(void *ctx, uint8_t link)
{
    posix_board *b = self(ctx);
    return link == 0 && (b->ble_on ? qfl_ble_link_up(&b->ble) : b->link.client >= 0);
}
static uint32_t port_link_connections(void *ctx, uint8_t link)
{
    (void)link;
    return self(ctx)->ble_on ? qfl_ble_link_connections(&self(ctx)->ble) : self(ctx)->link.connections;
}
static uint32_t port_link_mtu(void *ctx, uint8_t link)
{
    (void)link;
    return self(ctx)->ble_on ? qfl_ble_link_mtu(&self(ctx)->ble) : 4096;
}

static int32_t port_link_write(void *ctx, uint8_t link, const uint8_t *p, uint32_t n)
{
    posix_board *b = self(ctx);
    if (link != 0)
        return QFL_E_UNSUPPORTED;
    if (b->ble_on)
        return qfl_ble_link_write(&b->ble, p, n);
    if (b->link.client < 0)
        return (int32_t)n; /* nobody listens: a UART would send into the air */
    return channel_write(&b->link, p, n);
}

static int32_t port_link_read(void *ctx, uint8_t link, uint8_t *p, uint32_t n)
{
    posix_board *b = self(ctx);
    if (link != 0)
        return QFL_E_UNSUPPORTED;
    return b->ble_on ? qfl_ble_link_read(&b->ble, p, n) : channel_read(&b->link, p, n);
}

static uint32_t port_link_lost(void *ctx, uint8_t link)
{
    (void)link;
    return qfl_ble_link_lost(&self(ctx)->ble);
}

static int32_t port_flash_info(void *ctx, qfl_flash_info *out)
{
    qfl_ram_flash_info(self(ctx)->flash, FLASH, out);
    return 0;
}
static int32_t port_flash_read(void *ctx, uint32_t at, uint8_t *p, uint32_t n)
{
    if (at > FLASH || n > FLASH - at)
        return QFL_E_INVAL;
    memcpy(p, self(ctx)->flash + at, n);
    return 0;
}
static int32_t port_flash_program(void *ctx, uint32_t at, const uint8_t *p, uint32_t n)
{
    return qfl_ram_flash_program(self(ctx)->flash, FLASH, at, p, n);
}
static int32_t port_flash_erase(void *ctx, uint32_t at, uint32_t n)
{
    return qfl_ram_flash_erase(self(ctx)->flash, FLASH, at, n);
}

static int32_t port_entropy(void *ctx, uint8_t *p, uint32_t n)
{
    (void)ctx;
    return (int32_t)getrandom(p, n, 0);
}

static int32_t port_uid(void *ctx, uint8_t *p, uint32_t n)
{
    uint32_t k = self(ctx)->uid_n < n ? self(ctx)->uid_n : n;
    memcpy(p, self(ctx)->uid, k);
    return (int32_t)k;
}

static uint32_t port_reset_cause(void *ctx)
{
    (void)ctx;
    return getenv("QFL_REBOOTED") != NULL ? 2 : 0;
}

static void port_sleep(void *ctx, uint32_t ms)
{
    posix_board *b = self(ctx);
    struct pollfd p[5] = {
        {b->link.listener, POLLIN, 0},
        {b->samples.listener, POLLIN, 0},
        {b->link.client, POLLIN, 0},
        /* Samples wait for the board, not the board for samples: looked at every few ms, or a full board would spin. */
        {-1, POLLIN, 0},
        {b->watch_parent ? 0 : -1, POLLIN, 0},
    };
    if (b->ble_on && qfl_ble_link_flush(&b->ble) != 0 && ms > 1)
        ms = 1; /* the radio's queue is full */
    if (ms == 0)
        return;
    poll(p, 5, (int)ms);
    if (p[4].revents != 0) {
        char c;
        if (read(0, &c, 1) <= 0)
            exit(0);
    }
}

static void port_reboot(void *ctx)
{
    setenv("QFL_REBOOTED", "1", 1);
    execv("/proc/self/exe", self(ctx)->argv);
    exit(3);
}

static uint32_t sample_bytes(void *ctx, uint8_t *p, uint32_t n)
{
    return (uint32_t)channel_read(&self(ctx)->samples, p, n);
}
static int32_t port_next_sample(void *ctx, int8_t *x, uint32_t n, uint16_t *label)
{
    return qfl_sample_next(&self(ctx)->reader, sample_bytes, ctx, x, n, label);
}
static uint32_t port_sample_lost(void *ctx) { return self(ctx)->reader.lost; }

static uint8_t *port_arena(void *ctx, uint32_t *size)
{
    *size = self(ctx)->arena_n;
    return self(ctx)->arena;
}

static int32_t port_battery(void *ctx) { return self(ctx)->battery; }

static uint8_t *map_flash(const char *path)
{
    int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    if (path != NULL) {
        fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
        if (fd < 0 || lseek(fd, 0, SEEK_END) < 0) {
            fprintf(stderr, "cannot open %s: %s\n", path, strerror(errno));
            exit(2);
        }
        flags = MAP_SHARED;
    }
    int fresh = fd < 0 || lseek(fd, 0, SEEK_END) != FLASH;
    if (fd >= 0 && fresh && ftruncate(fd, FLASH) != 0)
        exit(2);
    uint8_t *p = mmap(NULL, FLASH, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (p == MAP_FAILED)
        exit(2);
    if (fresh)
        memset(p, 0xFF, FLASH);
    return p;
}

static uint32_t parse_uid(const char *hex, uint8_t *uid)
{
    uint32_t n = 0;
    unsigned v;
    for (; n < 16 && sscanf(hex, "%2x", &v) == 1 && strlen(hex) >= 2; hex += 2)
        uid[n++] = (uint8_t)v;
    return n;
}

/* What the command line asks for beside what the board itself holds. */
typedef struct options {
    int link, samples; /* TCP ports, 0: any */
    const char *flash; /* file, NULL: memory */
    uint32_t ram;      /* KiB */
} options;

/* 0: an option that does not exist, which has been said. */
static int read_options(posix_board *b, options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--die-with-parent") == 0) {
            b->watch_parent = 1;
            continue;
        }
        if (strcmp(argv[i], "--ble") == 0) {
            b->ble_on = 1;
            continue;
        }
        if (strcmp(argv[i], "--port") == 0)
            o->link = atoi(value);
        else if (strcmp(argv[i], "--samples") == 0)
            o->samples = atoi(value);
        else if (strcmp(argv[i], "--flash") == 0)
            o->flash = value;
        else if (strcmp(argv[i], "--uid") == 0)
            b->uid_n = parse_uid(value, b->uid);
        else if (strcmp(argv[i], "--ram") == 0)
            o->ram = (uint32_t)atoi(value);
        else if (strcmp(argv[i], "--battery") == 0)
            b->battery = atoi(value);
        else {
            fprintf(stderr, "unknown option %s\n", argv[i]);
            return 0;
        }
        i++;
    }
    if (o->ram < 8 || o->ram > 65536) {
        fprintf(stderr, "--ram %u: 8 to 65536 KiB are possible\n", o->ram);
        return 0;
    }
    return 1;
}

static void fill_port(posix_board *b)
{
    qfl_port p = {
        b,
        "native",
        b->arena_n,
        FLASH,
        port_poll,
        port_ms,
        port_us,
        port_link_up,
        port_link_connections,
        port_link_mtu,
        port_link_write,
        port_link_read,
        port_link_lost,
        port_flash_info,
        port_flash_read,
        port_flash_program,
        port_flash_erase,
        port_entropy,
        port_uid,
        port_reset_cause,
        port_sleep,
        port_reboot,
        port_next_sample,
        port_sample_lost,
        port_arena,
        port_battery,
    };
    b->port = p;
}

const qfl_port *qfl_board_open(int argc, char **argv)
{
    static posix_board board; /* one process, one board */
    posix_board *b = &board;
    options o = {0, 0, NULL, 256};
    b->uid_n = parse_uid("00000001", b->uid);
    b->battery = -1;
    if (!read_options(b, &o, argc, argv))
        return NULL;
    b->argv = argv;
    b->flash = map_flash(o.flash);
    b->arena_n = o.ram * 1024;
    b->arena = aligned_alloc(16, b->arena_n);
    memset(b->arena, 0, b->arena_n);
    b->link.client = b->samples.client = -1;
    b->radio.read = radio_read;
    b->radio.write = radio_write;
    b->radio.ctx = b;
    if (qfl_ble_link_init(&b->ble, qfl_ble_records_send, &b->radio, b->ble_rx, BLE_RX, b->ble_tx, BLE_TX) !=
        0)
        return NULL;
    b->link.listener = listen_on(o.link);
    b->samples.listener = listen_on(o.samples);
    printf("{\"port\": %d, \"samples\": %d}\n", port_of(b->link.listener), port_of(b->samples.listener));
    fflush(stdout);
    fill_port(b);
    return &b->port;
}
