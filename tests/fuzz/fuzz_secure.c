/*
 * Sessions with keys. An end of a link, a board with a key or a host that requires one, and a peer that it must not trust: handshake
 * messages and frames of the peer's making, as an enemy without the key sends them, or one who has it and keeps to the rules of
 * sealing but to no others. First byte: which end, what the peer holds, frame size, and whether the two have already agreed; then actions.
 */
#include "fuzz.h"

#include "qfl_crypt.h"
#include "qfl_link.h"
#include "qfl_link_internal.h"

enum { FRAME = 64, WIRE = 2 * (FRAME + 64), MEMORY = 1 << 14 };

static _Alignas(16) uint8_t ours[MEMORY], theirs[MEMORY];
static uint32_t used; /* of each, at most */
static const uint8_t key[32] = {1, 2, 3}, other[32] = {9, 9, 9}, uid[3] = {7, 7, 7};

static qfl_link *end_of(uint8_t *memory, int initiator, uint8_t frame, const uint8_t *held, uint8_t seed)
{
    qfl_link *l;
    qfl_link_config c;
    uint8_t secret[32] = {seed};
    memset(&c, 0, sizeof c);
    c.message_max = 512;
    c.frame_max = frame;
    c.window = 16;
    c.initiator = (uint8_t)initiator;
    uint32_t size = (uint32_t)qfl_link_size(&c);
    used = size > used ? size : used;
    EXPECT(size <= MEMORY && qfl_link_init(&l, &c, memory, MEMORY) == QFL_OK);
    qfl_link_set_seed(l, secret);
    if (initiator)
        EXPECT(qfl_link_require_keys(l, held != NULL) == QFL_OK);
    else
        EXPECT(qfl_link_set_uid(l, uid, sizeof uid) == QFL_OK && qfl_link_set_key(l, held) == QFL_OK);
    return l;
}

/* n bytes as a frame on the line: with a checksum, or sealed by the peer's own code and keys. */
static uint32_t framed(qfl_link *peer, int sealed, const uint8_t *p, uint32_t n, uint8_t *out)
{
    uint8_t plain[FRAME + 64];
    memcpy(plain, p, n);
    if (sealed) {
        n = qfl_link_seal(peer, plain, n);
    } else {
        uint32_t crc = qfl_link_crc32(0, plain, n);
        for (unsigned i = 0; i < 4; i++)
            plain[n++] = (uint8_t)(crc >> (8 * i));
    }
    uint32_t w = qfl_link_cobs_encode(plain, n, out);
    out[w++] = 0;
    return w;
}

static uint32_t taken; /* messages that came out whole */

static void feed(qfl_link *l, const uint8_t *p, uint32_t n, uint32_t now, const uint8_t *held)
{
    for (uint32_t at = 0; at < n;) {
        uint32_t took = qfl_link_feed(l, p + at, n - at, now), length = 0;
        EXPECT(took <= n - at);
        const uint8_t *m = qfl_link_message(l, &length);
        if (m != NULL) {
            EXPECT(length <= 512);
            taken++;
            qfl_link_release(l, 1);
        } else if (took == 0) {
            return;
        }
        at += took;
        if (qfl_link_get_state(l) == QFL_LINK_NAMED) { /* a host looks for the key of who has named itself */
            (void)qfl_link_peer_uid(l, &length);
            EXPECT(length <= QFL_LINK_UID_MAX);
            if (qfl_link_set_key(l, held) == QFL_E_AUTH)
                qfl_link_reject(l);
        }
    }
}

/* Both ends as they stand when a session with keys has come up: of each kind of first byte the first time, then copies of that. */
static void agreed(int host, uint8_t frame, qfl_link **l, qfl_link **peer)
{
    static struct pair {
        uint8_t ours[MEMORY], theirs[MEMORY];
        qfl_link *l, *peer;
        uint32_t n;
    } stood[4];
    struct pair *p = &stood[(host ? 1 : 0) + (frame == FRAME ? 2 : 0)];
    if (p->n == 0) {
        uint8_t wire[WIRE];
        uint32_t n, m;
        p->l = end_of(ours, host, frame, key, 5);
        p->peer = end_of(theirs, !host, FRAME, key, 6);
        (void)qfl_link_connect(host ? p->l : p->peer, 1, 0);
        do {
            if ((n = qfl_link_pull(p->peer, wire, sizeof wire, 0)) != 0)
                feed(p->l, wire, n, 0, key);
            if ((m = qfl_link_pull(p->l, wire, sizeof wire, 0)) != 0)
                feed(p->peer, wire, m, 0, key);
        } while (n != 0 || m != 0);
        EXPECT(qfl_link_get_state(host ? p->l : p->peer) ==
               QFL_LINK_UP); /* the board is with the first frame it can open */
        p->n = used;
        memcpy(p->ours, ours, used);
        memcpy(p->theirs, theirs, used);
    }
    memcpy(ours, p->ours, p->n);
    memcpy(theirs, p->theirs, p->n);
    *l = p->l;
    *peer = p->peer;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    input in = {data, size};
    uint8_t how = u8(&in), wire[WIRE], body[100] = {3}, last[WIRE];
    int host = how & 1, knows = (how & 2) != 0;
    const uint8_t *theirs_key = knows ? key : how & 4 ? other : NULL;
    uint8_t frame = how & 8 ? 16 : FRAME;
    qfl_link *l, *peer;
    uint32_t now = 0, n, last_n = 0;
    if (knows && (how & 16)) {
        agreed(host, frame, &l, &peer);
    } else {
        l = end_of(ours, host, frame, key, 5);
        peer = end_of(theirs, !host, FRAME, theirs_key, 6);
        (void)qfl_link_connect(host ? l : peer, 1, now);
    }
    taken = 0;
    for (int action = 0; in.n != 0 && action < 28; action++) {
        const uint8_t *p;
        uint8_t what = u8(&in);
        switch (what & 7) {
        case 0: /* the two talk as they should, or what one says is bent on its way */
        case 1:
            for (int i = 0; i < 4 && (n = qfl_link_pull(peer, wire, sizeof wire, now)) != 0; i++) {
                if (what & 8)
                    wire[u8(&in) % n] ^= (uint8_t)(1u << (u8(&in) & 7));
                memcpy(last, wire, last_n = n);
                feed(l, wire, n, now, key);
            }
            break;
        case 2: /* noise, or frames from nowhere */
            p = bytes(&in, u8(&in) % (FRAME + 32), &n);
            memcpy(wire, p, n);
            feed(l, wire, n, now, key);
            break;
        case 3: /* a handshake or a frame of the peer's making, unsealed */
            p = bytes(&in, 1u + u8(&in) % (FRAME + 20), &n);
            if (n != 0)
                feed(l, wire, framed(peer, 0, p, n, wire), now, key);
            break;
        case 4: /* one sealed by whatever keys the peer has: none are all zero */
            p = bytes(&in, 1u + u8(&in) % (FRAME + 3), &n);
            if (n != 0)
                feed(l, wire, framed(peer, 1, p, n, wire), now, key);
            break;
        case 5: feed(l, last, last_n, now, key); break; /* again */
        case 6:
            (void)qfl_link_send(what & 8 ? peer : l, body, 10, body, what >> 4 & 1 ? 0 : sizeof body);
            break;
        default:
            now += (uint32_t)u8(&in) * 20u;
            if (what & 8)
                (void)qfl_link_connect(host ? l : peer, 2u + (uint32_t)action, now);
            break;
        }
        for (int i = 0; i < 40 && (n = qfl_link_pull(l, wire, sizeof wire, now)) != 0; i++) {
            EXPECT(n <= sizeof wire);
            feed(peer, wire, n, now, theirs_key);
        }
        (void)qfl_link_wait(l, now);
        EXPECT(qfl_link_get_state(l) != QFL_LINK_UP || qfl_link_is_sealed(l)); /* never plain */
        EXPECT(knows || (qfl_link_get_state(l) != QFL_LINK_UP && taken == 0)); /* nothing without the key */
    }
    return 0;
}
