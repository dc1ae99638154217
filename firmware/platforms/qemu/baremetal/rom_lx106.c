/*
 * What ESP8266's mask ROM provides and Debian's toolchain for lx106 therefore lacks: integer division, multiplication, and the
 * four string functions (there is no libc for it). Also the first C code after reset.
 */
#include <stddef.h>
#include <stdint.h>

extern uint32_t __bss_start[], __bss_end[];
int main(int argc, char **argv);

void qfl_start(void)
{
    for (volatile uint32_t *d = __bss_start; d < __bss_end;)
        *d++ = 0;
    __asm volatile("wsr %0, ps\n rsync" ::"r"(0x20u));
    main(0, NULL);
    for (;;)
        ;
}

static uint32_t divide(uint32_t n, uint32_t d, uint32_t *rest)
{
    uint32_t q = 0, x = 0;
    for (int i = 31; i >= 0; i--) {
        x = x << 1 | (n >> i & 1u);
        if (x >= d) {
            x -= d;
            q |= 1u << i;
        }
    }
    *rest = x;
    return q;
}

uint32_t __udivsi3(uint32_t a, uint32_t b)
{
    uint32_t r;
    return divide(a, b, &r);
}

uint32_t __umodsi3(uint32_t a, uint32_t b)
{
    uint32_t r;
    divide(a, b, &r);
    return r;
}

static uint32_t magnitude(int32_t v) { return v < 0 ? 0u - (uint32_t)v : (uint32_t)v; }

int32_t __divsi3(int32_t a, int32_t b)
{
    uint32_t r, q = divide(magnitude(a), magnitude(b), &r);
    return (int32_t)((a < 0) != (b < 0) ? 0u - q : q);
}

int32_t __modsi3(int32_t a, int32_t b)
{
    uint32_t r;
    divide(magnitude(a), magnitude(b), &r);
    return (int32_t)(a < 0 ? 0u - r : r);
}

/* 16 x 16 multiplications are the core's own. */
uint64_t __umulsidi3(uint32_t a, uint32_t b)
{
    uint32_t al = a & 0xFFFF, ah = a >> 16, bl = b & 0xFFFF, bh = b >> 16;
    uint32_t low = al * bl, mid1 = ah * bl, mid2 = al * bh, high = ah * bh;
    uint32_t mid = mid1 + mid2, carry = mid < mid1;
    uint32_t sum = low + (mid << 16);
    high += (mid >> 16) + (carry << 16) + (sum < low);
    return (uint64_t)high << 32 | sum;
}

uint64_t __muldi3(uint64_t a, uint64_t b)
{
    uint64_t p = __umulsidi3((uint32_t)a, (uint32_t)b);
    uint32_t high = (uint32_t)(a >> 32) * (uint32_t)b + (uint32_t)a * (uint32_t)(b >> 32);
    return p + ((uint64_t)high << 32);
}

/* Volatile, or the compiler would turn these loops into calls of themselves. */
void *memcpy(void *to, const void *from, size_t n)
{
    volatile uint8_t *d = to;
    for (const uint8_t *s = from; n != 0; n--)
        *d++ = *s++;
    return to;
}

void *memmove(void *to, const void *from, size_t n)
{
    volatile uint8_t *d = to;
    const uint8_t *s = from;
    if ((uintptr_t)to <= (uintptr_t)from)
        return memcpy(to, from, n);
    while (n-- != 0)
        d[n] = s[n];
    return to;
}

void *memset(void *to, int value, size_t n)
{
    volatile uint8_t *d = to;
    while (n-- != 0)
        *d++ = (uint8_t)value;
    return to;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const volatile uint8_t *p = a, *q = b;
    for (; n != 0; n--, p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}
