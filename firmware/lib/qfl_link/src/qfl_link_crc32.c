/* CRC-32 as in ISO-HDLC, zlib and PNG: reflected 0x04C11DB7, by nibbles: 64 bytes of table instead of 1 KiB. */
#include "qfl_bytes.h"
#include "qfl_link.h"

static const uint32_t table[16] = {
    0x00000000u, 0x1DB71064u, 0x3B6E20C8u, 0x26D930ACu, 0x76DC4190u, 0x6B6B51F4u, 0x4DB26158u, 0x5005713Cu,
    0xEDB88320u, 0xF00F9344u, 0xD6D6A3E8u, 0xCB61B38Cu, 0x9B64C2B0u, 0x86D3D2D4u, 0xA00AE278u, 0xBDBDF21Cu,
};

#if defined(QFL_HOST) && defined(__GNUC__)
/* A host has memory: eight bytes at a time (slicing-by-8, Kounavis and Berry 2005) with tables made when this is loaded. */
static uint32_t slices[8][256];

__attribute__((constructor)) static void make_slices(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = (i >> 4) ^ table[i & 15];
        slices[0][i] = (c >> 4) ^ table[c & 15];
    }
    for (uint32_t k = 1; k < 8; k++)
        for (uint32_t i = 0; i < 256; i++)
            slices[k][i] = (slices[k - 1][i] >> 8) ^ slices[0][slices[k - 1][i] & 255];
}

static uint32_t by_eight(uint32_t crc, const uint8_t **at, uint32_t *n)
{
    const uint8_t *p = *at;
    for (; *n >= 8; *n -= 8, p += 8) {
        uint32_t a = crc ^ qfl_get32(p), b = qfl_get32(p + 4);
        crc = slices[7][a & 255] ^ slices[6][a >> 8 & 255] ^ slices[5][a >> 16 & 255] ^ slices[4][a >> 24] ^
              slices[3][b & 255] ^ slices[2][b >> 8 & 255] ^ slices[1][b >> 16 & 255] ^ slices[0][b >> 24];
    }
    *at = p;
    return crc;
}
#else
#define by_eight(crc, at, n) (crc)
#endif

uint32_t qfl_link_crc32(uint32_t crc, const uint8_t *p, uint32_t n)
{
    crc = by_eight(~crc, &p, &n);
    while (n--) {
        crc ^= *p++;
        crc = (crc >> 4) ^ table[crc & 15];
        crc = (crc >> 4) ^ table[crc & 15];
    }
    return ~crc;
}
