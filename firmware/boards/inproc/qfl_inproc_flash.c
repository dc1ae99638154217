#define _DEFAULT_SOURCE
#include "qfl_inproc_flash.h"

#include <stddef.h>
#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>

uint8_t *qfl_inproc_flash_map(int fd, uint32_t n)
{
    void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    return p == MAP_FAILED ? NULL : p;
}

void qfl_inproc_flash_unmap(uint8_t *flash, uint32_t n) { (void)munmap(flash, n); }

uint32_t qfl_inproc_flash_share(uint8_t *flash, int fd, const uint8_t *image, uint32_t n)
{
    uint32_t page = (uint32_t)sysconf(_SC_PAGESIZE), shared = 0, at = 0;
    while (at + page <= n) {
        uint32_t end = at;
        while (end + page <= n && memcmp(flash + end, image + end, page) == 0)
            end += page;
        if (end == at)
            at += page;
        else if (mmap(flash + at, end - at, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, fd, (off_t)at) ==
                 MAP_FAILED)
            return shared; /* too many mappings: the pages are still there */
        else {
            shared += end - at;
            at = end;
        }
    }
    return shared;
}

#else

uint8_t *qfl_inproc_flash_map(int fd, uint32_t n)
{
    (void)fd;
    (void)n;
    return NULL;
}

void qfl_inproc_flash_unmap(uint8_t *flash, uint32_t n)
{
    (void)flash;
    (void)n;
}

uint32_t qfl_inproc_flash_share(uint8_t *flash, int fd, const uint8_t *image, uint32_t n)
{
    (void)flash;
    (void)fd;
    (void)image;
    (void)n;
    return 0;
}

#endif
