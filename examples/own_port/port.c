/*
 * A port of your own: what quantfl asks of a board, on a pseudo-terminal, an array as flash and a made-up
 * sensor. With firmware/src/main.c it is a whole firmware. On a real part these functions call its drivers.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "qfl_board.h"     /* what main asks of a board */
#include "qfl_ram_flash.h" /* flash in RAM that behaves like a part's */

enum { FLASH = 1 << 20, ARENA = 1 << 17 };
static _Alignas(16) uint8_t arena[ARENA], map[FLASH];
static int fd; /* of the pseudo-terminal */

static uint64_t now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}
static uint32_t us(void *c) { return (uint32_t)now_us(); }
static uint32_t ms(void *c) { return (uint32_t)(now_us() / 1000u); }
static void poll_nothing(void *c) {}
static uint32_t zero(void *c) { return 0; }

static int32_t up(void *c, uint8_t link) { return link == 0; }
static uint32_t none(void *c, uint8_t link) { return 0; }
static uint32_t mtu(void *c, uint8_t link) { return 256; }
static int32_t moved(ssize_t n) { return n > 0 ? (int32_t)n : 0; }
static int32_t put_bytes(void *c, uint8_t l, const uint8_t *p, uint32_t n) { return moved(write(fd, p, n)); }
static int32_t get_bytes(void *c, uint8_t l, uint8_t *p, uint32_t n) { return moved(read(fd, p, n)); }

static int32_t info(void *c, qfl_flash_info *out) { return qfl_ram_flash_info(map, FLASH, out), 0; }
static int32_t load(void *c, uint32_t at, uint8_t *p, uint32_t n) { return memcpy(p, map + at, n), 0; }
static int32_t program(void *c, uint32_t at, const uint8_t *p, uint32_t n)
{
    return qfl_ram_flash_program(map, FLASH, at, p, n);
}
static int32_t erase(void *c, uint32_t at, uint32_t n) { return qfl_ram_flash_erase(map, FLASH, at, n); }

static int32_t entropy(void *c, uint8_t *p, uint32_t n) { return moved(getrandom(p, n, 0)); }
static int32_t uid(void *c, uint8_t *p, uint32_t n) { return memcpy(p, "my-board", 8), 8; }
static void idle(void *c, uint32_t limit) { poll(&(struct pollfd){fd, POLLIN, 0}, 1, (int)limit); }
static void restart(void *c) { exit(0); }
static uint8_t *memory(void *c, uint32_t *size) { return *size = ARENA, arena; }

static int32_t next_sample(void *c, int8_t *x, uint32_t n, uint16_t *label)
{
    static uint16_t drawn; /* fifty samples, whose class is how bright they are */
    *label = drawn % 10;
    memset(x, -128 + 25 * *label, n);
    return drawn < 50 ? drawn++, 1 : 0;
}

const qfl_port *qfl_board_open(int argc, char **argv)
{
    static const qfl_port port = {NULL,    "my_board",  ARENA, FLASH,     poll_nothing, ms,   us,
                                  up,      none,        mtu,   put_bytes, get_bytes,    none, info,
                                  load,    program,     erase, entropy,   uid,          zero, idle,
                                  restart, next_sample, zero,  memory,    NULL};
    struct termios raw;
    fd = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK);
    if (fd < 0 || grantpt(fd) != 0 || unlockpt(fd) != 0 || tcgetattr(fd, &raw) != 0)
        return NULL;
    cfmakeraw(&raw);
    tcsetattr(fd, TCSANOW, &raw);
    memset(map, 0xFF, FLASH);
    printf("%s\n", ptsname(fd)); /* the port that a host opens */
    fflush(stdout);
    return &port;
}
