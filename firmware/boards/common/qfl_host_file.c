#include "qfl_host_file.h" /* empty for processors that are not emulated */

#if defined(__xtensa__)

enum {
    EXIT = 1,
    READ = 3,
    WRITE = 4,
    OPEN = 5,
    CLOSE = 6,
    SEEK = 19,
    O_WRITE_NEW = 0x641 /* write, create, truncate: in Linux's numbers, which QEMU 7 takes, and in newlib's */
};

static int32_t call(int32_t n, int32_t a, int32_t b, int32_t c)
{
    register int32_t r2 __asm("a2") = n;
    register int32_t r3 __asm("a3") = a;
    register int32_t r4 __asm("a4") = b;
    register int32_t r5 __asm("a5") = c;
    __asm volatile("simcall" : "+r"(r2), "+r"(r3) : "r"(r4), "r"(r5) : "memory");
    return r2;
}

static uint32_t count(int32_t n) { return n > 0 ? (uint32_t)n : 0; }

int32_t qfl_host_open(const char *name, int write)
{
    return call(OPEN, (int32_t)name, write ? O_WRITE_NEW : 0, 0644);
}
uint32_t qfl_host_read(int32_t file, void *p, uint32_t n)
{
    return count(call(READ, file, (int32_t)p, (int32_t)n));
}
uint32_t qfl_host_write(int32_t file, const void *p, uint32_t n)
{
    return count(call(WRITE, file, (int32_t)p, (int32_t)n));
}
void qfl_host_seek(int32_t file, uint32_t at) { (void)call(SEEK, file, (int32_t)at, 0); }
void qfl_host_close(int32_t file) { (void)call(CLOSE, file, 0, 0); }

void qfl_host_exit(int code)
{
    (void)call(EXIT, code, 0, 0);
    for (;;)
        ;
}

#elif defined(__arm__) || defined(__riscv)

enum {
    OPEN = 0x01,
    CLOSE = 0x02,
    WRITE = 0x05,
    READ = 0x06,
    SEEK = 0x0A,
    EXIT_EXTENDED = 0x20,
    MODE_RB = 1,
    MODE_WB = 5
};

static uintptr_t call(uintptr_t operation, const void *arguments)
{
#if defined(__riscv)
    register uintptr_t a0 __asm("a0") = operation;
    register const void *a1 __asm("a1") = arguments;
    __asm volatile(".option push\n .option norvc\n .balign 16\n slli x0, x0, 0x1f\n ebreak\n srai x0, x0, "
                   "7\n .option pop"
                   : "+r"(a0)
                   : "r"(a1)
                   : "memory");
    return a0;
#else
    register uintptr_t r0 __asm("r0") = operation;
    register const void *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}

int32_t qfl_host_open(const char *name, int write)
{
    uintptr_t n = 0;
    while (name[n] != 0)
        n++;
    uintptr_t a[3] = {(uintptr_t)name, write ? MODE_WB : MODE_RB, n};
    return (int32_t)call(OPEN, a);
}

/* Both answer how many bytes were left over. */
static uint32_t transfer(uintptr_t operation, int32_t file, uintptr_t p, uint32_t n)
{
    uintptr_t a[3] = {(uintptr_t)file, p, n};
    uintptr_t left = call(operation, a);
    return left <= n ? n - (uint32_t)left : 0;
}

uint32_t qfl_host_read(int32_t file, void *p, uint32_t n) { return transfer(READ, file, (uintptr_t)p, n); }
uint32_t qfl_host_write(int32_t file, const void *p, uint32_t n)
{
    return transfer(WRITE, file, (uintptr_t)p, n);
}

void qfl_host_seek(int32_t file, uint32_t at)
{
    uintptr_t a[2] = {(uintptr_t)file, at};
    (void)call(SEEK, a);
}

void qfl_host_close(int32_t file)
{
    uintptr_t a[1] = {(uintptr_t)file};
    (void)call(CLOSE, a);
}

void qfl_host_exit(int code)
{
    uintptr_t a[2] = {0x20026u, (uintptr_t)code};
    (void)call(EXIT_EXTENDED, a);
    for (;;)
        ;
}

#endif
