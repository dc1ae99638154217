/* Programming with read-back, hashing and looking, through the port. */
#include "qfl_store_internal.h"

static int erased(const qfl_store *s, const uint8_t *p, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (p[i] != s->flash.erased)
            return 0;
    return 1;
}

QFL_COLD qfl_status qfl_store_program(const qfl_store *s, uint32_t at, const uint8_t *p, uint32_t n)
{
    uint8_t back[64];
    const qfl_port *port = s->port;
    if (erased(s, p, n))
        return QFL_OK;
    if (port->flash_program(port->ctx, at, p, n) < 0)
        return QFL_E_IO;
    for (uint32_t i = 0; i < n; i += sizeof back) {
        uint32_t k = n - i < sizeof back ? n - i : (uint32_t)sizeof back;
        if (port->flash_read(port->ctx, at + i, back, k) < 0 || memcmp(back, p + i, k) != 0)
            return QFL_E_IO;
    }
    return QFL_OK;
}

QFL_COLD qfl_status qfl_store_hash(const qfl_store *s, uint32_t at, uint32_t n, qfl_sha256 *h)
{
    uint8_t b[64];
    while (n != 0) {
        uint32_t k = n < sizeof b ? n : (uint32_t)sizeof b;
        if (s->port->flash_read(s->port->ctx, at, b, k) < 0)
            return QFL_E_IO;
        qfl_sha256_add(h, b, k);
        at += k;
        n -= k;
    }
    return QFL_OK;
}

QFL_COLD int qfl_store_blank(const qfl_store *s, uint32_t at, uint32_t n)
{
    uint8_t b[64];
    while (n != 0) {
        uint32_t k = n < sizeof b ? n : (uint32_t)sizeof b;
        if (s->port->flash_read(s->port->ctx, at, b, k) < 0 || !erased(s, b, k))
            return 0;
        at += k;
        n -= k;
    }
    return 1;
}
