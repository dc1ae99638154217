/*
 * What keys cost on an emulated board: instructions and stack of sealing and opening, of a handshake, of a signature's check.
 * Prints lines `name size instructions stack` on UART0. With `-icount shift=0` an instruction is one nanosecond, 40 a tick.
 */
#include <string.h>

#include "qfl_crypt.h"
#include "qfl_keystore.h"
#include "qfl_link_internal.h"

#define REG(a) (*(volatile uint32_t *)(uintptr_t)(a))

enum {
    TIMER0 = 0x40000000,
    UART0 = 0x40004000,
    INSNS_PER_TICK = 40,
    PAINT = 0x5A5A5A5A,
    FRAME = 256,
    MESSAGE = 4096
};

extern uint32_t __stack_limit[];

static uint8_t key[QFL_CRYPT_KEY], owner[QFL_CRYPT_KEY], nonce[QFL_CRYPT_NONCE], tag[QFL_CRYPT_TAG],
    signature[QFL_CRYPT_SIGNATURE];
static uint8_t text[1024 + 64], wire[2048];
static uint64_t memory[2][2048];
static qfl_link *host, *board;
static uint32_t size, wire_n;

static void put(char c)
{
    while (REG(UART0 + 4) & 1)
        ;
    REG(UART0) = (uint8_t)c;
}

static void say(const char *s)
{
    while (*s)
        put(*s++);
}

static void number(uint32_t v)
{
    char b[12];
    int i = 12;
    do
        b[--i] = (char)('0' + v % 10);
    while (v /= 10);
    put(' ');
    while (i < 12)
        put(b[i++]);
}

static uint32_t ticks(void) { return ~REG(TIMER0 + 4); }

static __attribute__((noinline)) void measure(const char *name, uint32_t n, void (*what)(void))
{
    uint32_t *here = __builtin_frame_address(0), *p = __stack_limit;
    for (; p < here - 16; p++)
        *p = PAINT;
    uint32_t start = ticks();
    what();
    uint32_t spent = (ticks() - start) * INSNS_PER_TICK;
    for (p = __stack_limit; *p == PAINT; p++)
        ;
    say(name);
    number(n);
    number(spent);
    number((uint32_t)((uint8_t *)here - (uint8_t *)p));
    put('\n');
}

static void seal(void) { qfl_crypt_seal(key, nonce, text + size, DATA_HEADER, text, size, tag); }
static void unseal(void) { (void)qfl_crypt_open(key, nonce, text + size, DATA_HEADER, text, size, tag); }
static void sign(void) { (void)qfl_crypt_sign(key, "quantfl package 1", text, 32, signature); }
static void check(void) { (void)qfl_crypt_check(owner, "quantfl package 1", text, 32, signature); }
static void send(void) { wire_n = qfl_link_pull(board, wire, sizeof wire, 0); }
static void receive(void) { (void)qfl_link_feed(board, wire, wire_n, 0); }
static void answer_syn(void)
{
    receive();
    send();
}

static qfl_link *make(unsigned i, int initiator)
{
    qfl_link_config c = {
        .message_max = MESSAGE, .frame_max = FRAME, .window = 4, .initiator = (uint8_t)initiator};
    qfl_link *l = NULL;
    (void)qfl_link_init(&l, &c, memory[i], sizeof memory[i]);
    return l;
}

/* A session, one message each way of `n` bytes in one frame; what the board does of it is measured. */
static void exchange(int keys, uint32_t n)
{
    host = make(0, 1);
    board = make(1, 0);
    qfl_link_set_seed(host, owner);
    qfl_link_set_seed(board, key);
    if (keys) {
        (void)qfl_link_require_keys(host, 1);
        (void)qfl_link_set_uid(board, owner, 8);
        (void)qfl_link_set_key(board, key);
    }
    (void)qfl_link_connect(host, 1, 0);
    wire_n = qfl_link_pull(host, wire, sizeof wire, 0);
    measure(keys ? "syn_keyed" : "syn_plain", wire_n, answer_syn);
    (void)qfl_link_feed(host, wire, wire_n, 0);
    if (keys)
        (void)qfl_link_set_key(host, key);
    for (int i = 0; i < 2; i++) {
        (void)qfl_link_send(host, NULL, 0, text, n);
        wire_n = qfl_link_pull(host, wire, sizeof wire, 0);
        measure(i == 0 ? (keys ? "first_keyed" : "first_plain") : (keys ? "receive_keyed" : "receive_plain"),
                n, receive);
        qfl_link_release(board, 0);
        (void)qfl_link_send(board, NULL, 0, text, n);
        measure(keys ? "send_keyed" : "send_plain", n, send);
        (void)qfl_link_feed(host, wire, wire_n, 0);
        qfl_link_release(host, 0);
    }
}

int main(void)
{
    static const uint32_t sizes[] = {0, 16, 64, 256, 1024};
    REG(TIMER0 + 8) = REG(TIMER0 + 4) = 0xFFFFFFFFu;
    REG(TIMER0) = 1;
    REG(UART0 + 16) = 16;
    REG(UART0 + 8) = 1;
    for (unsigned i = 0; i < sizeof text; i++)
        text[i] = (uint8_t)(7 * i + 1);
    for (unsigned i = 0; i < sizeof key; i++)
        key[i] = (uint8_t)(11 * i + 5);
    qfl_crypt_public(key, owner);
    for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        size = sizes[i];
        measure("seal", size, seal);
        measure("open", size, unseal);
    }
    measure("sign", 32, sign);
    measure("check", 32, check);
    say(qfl_crypt_check(owner, "quantfl package 1", text, 32, signature) == QFL_OK ? "right 0 0 0\n"
                                                                                   : "wrong 0 0 0\n");
    exchange(0, 5);
    exchange(1, 5);
    exchange(0, FRAME);
    exchange(1, FRAME);
    say("ram_link");
    number(sizeof(qfl_link_secure) + 3 * (SLACK - 17));
    say(" 0 0\nram_keep");
    number(sizeof(qfl_keystore));
    say(" 0 0\nend 0 0 0\n");
    register uint32_t r0 __asm("r0") = 0x18; /* SYS_EXIT, ADP_Stopped_ApplicationExit */
    register uint32_t r1 __asm("r1") = 0x20026;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return 0;
}
