/*
 * Sessions with keys (docs/SECURITY.md): a challenge each way in SYN and SYNACK, keys of the session from both and the board's own key,
 * then ChaCha20-Poly1305 on every frame.
 *
 * A frame's nonce is its direction and a counter of frames sent, retransmissions and acknowledgements included: no two frames are ever
 * sealed with one nonce, whatever is lost and sent again. The counter's low 16 bits go with the frame; the receiver takes each once.
 */
#include <string.h>

#include "qfl_link_internal.h"

#if QFL_KEYS

enum {
    SEC_NONE = 0,
    SEC_PROOF = 1,
    SEC_ASK = 2
}; /* first byte after the terms of a SYN or SYNACK; absent: SEC_NONE */
enum { MISMATCHES = 3 }; /* wrong proofs after which the host gives up: one may be a stray answer */

static const char proof_label[] = "quantfl board proof 1", keys_label[] = "quantfl session keys 1",
                  nonce_label[] = "quantfl nonce 1", seed_label[] = "quantfl next seed 1",
                  export_label[] = "quantfl export 1";

/* A challenge nobody has seen before: the seed is secret and fresh at every start, the count goes on. */
static void draw(qfl_link_secure *s, uint8_t *out)
{
    uint8_t count[4];
    if (++s->drawn == 0) /* the count begins anew: with another seed, so that no challenge ever comes twice */
        qfl_crypt_mac(s->seed, seed_label, NULL, 0, s->seed, sizeof s->seed);
    qfl_put32(count, s->drawn);
    qfl_crypt_part part = {count, sizeof count};
    qfl_crypt_mac(s->seed, nonce_label, &part, 1, out, CHALLENGE_BYTES);
}

QFL_COLD void qfl_link_set_seed(qfl_link *l, const uint8_t *seed)
{
    memcpy(l->secure.seed, seed, sizeof l->secure.seed);
    l->secure.drawn = 0;
    l->secure.seeded = 1;
}

QFL_COLD qfl_status qfl_link_set_uid(qfl_link *l, const uint8_t *uid, uint32_t n)
{
    if (n > QFL_LINK_UID_MAX || qfl_link_initiates(l))
        return QFL_E_INVAL;
    memcpy(l->secure.uid, uid, n);
    l->secure.uid_n = (uint8_t)n;
    return QFL_OK;
}

QFL_COLD qfl_status qfl_link_require_keys(qfl_link *l, int required)
{
    if (!qfl_link_initiates(l) || (required && !l->secure.seeded))
        return QFL_E_STATE;
    l->secure.required = required != 0;
    return QFL_OK;
}

QFL_COLD int qfl_link_is_sealed(const qfl_link *l) { return l->state == QFL_LINK_UP && l->secure.sealed; }
QFL_COLD qfl_link_refusal qfl_link_get_refusal(const qfl_link *l)
{
    return (qfl_link_refusal)l->secure.refusal;
}

QFL_COLD const uint8_t *qfl_link_peer_uid(const qfl_link *l, uint32_t *n)
{
    *n = l->secure.uid_n;
    return l->secure.uid;
}

QFL_COLD void qfl_link_secure_reset(qfl_link *l)
{
    qfl_link_secure *s = &l->secure;
    qfl_crypt_wipe(s->tx_key, sizeof s->tx_key);
    qfl_crypt_wipe(s->rx_key, sizeof s->rx_key);
    s->sealed = 0;
    s->tx_count = s->rx_top = 0;
    s->rx_seen = 0;
}

/* The board's proof that it holds the key, over all that both have said: the SYN and n bytes of the SYNACK. */
static void proof_of(const qfl_link_secure *s, const uint8_t *key, uint32_t n, uint8_t *out)
{
    const qfl_crypt_part parts[2] = {{s->syn, SYN_KEYED_BYTES}, {s->synack, n}};
    qfl_crypt_mac(key, proof_label, parts, 2, out, QFL_CRYPT_TAG);
}

/* keys: host to board (32), board to host (32). */
static void session_keys(const qfl_link_secure *s, const uint8_t *key, uint8_t *keys)
{
    const qfl_crypt_part parts[2] = {{s->syn, SYN_KEYED_BYTES},
                                     {s->synack, s->synack_n - (uint32_t)QFL_CRYPT_TAG}};
    qfl_crypt_mac(key, keys_label, parts, 2, keys, 2 * QFL_CRYPT_KEY);
}

static void start_sealed(qfl_link *l, const uint8_t *keys)
{
    qfl_link_secure *s = &l->secure; /* reset with the session */
    memcpy(qfl_link_initiates(l) ? s->tx_key : s->rx_key, keys, QFL_CRYPT_KEY);
    memcpy(qfl_link_initiates(l) ? s->rx_key : s->tx_key, keys + QFL_CRYPT_KEY, QFL_CRYPT_KEY);
    s->sealed = 1;
}

QFL_COLD qfl_status qfl_link_export(const qfl_link *l, uint8_t *out)
{
    if (!qfl_link_is_sealed(l))
        return QFL_E_STATE;
    const uint8_t *from_host = qfl_link_initiates(l) ? l->secure.tx_key : l->secure.rx_key;
    const uint8_t *from_board = qfl_link_initiates(l) ? l->secure.rx_key : l->secure.tx_key;
    const qfl_crypt_part part = {from_board, QFL_CRYPT_KEY};
    qfl_crypt_mac(from_host, export_label, &part, 1, out, QFL_CRYPT_KEY);
    return QFL_OK;
}

/* --- the host's side of the handshake --- */

QFL_COLD void qfl_link_secure_connect(qfl_link *l)
{
    qfl_link_secure *s = &l->secure;
    s->refusal = QFL_LINK_NOT_REFUSED;
    s->mismatches = 0;
    s->uid_n = 0;
    s->synack_n = 0;
    if (s->required) {
        (void)qfl_link_terms(l, TYPE_SYN, s->syn);
        s->syn[SYN_BYTES] = SEC_PROOF;
        draw(s, s->syn + SYN_BYTES + 1);
    }
}

QFL_COLD uint32_t qfl_link_secure_syn(qfl_link *l, uint8_t *p)
{
    if (!l->secure.required)
        return SYN_BYTES;
    memcpy(p, l->secure.syn, SYN_KEYED_BYTES);
    return SYN_KEYED_BYTES;
}

/* 1: the session may be opened as it is. 0: not, or not yet. */
QFL_COLD int qfl_link_secure_synack(qfl_link *l, const uint8_t *p, uint32_t n)
{
    qfl_link_secure *s = &l->secure;
    uint8_t sec = n > SYN_BYTES ? p[SYN_BYTES] : SEC_NONE;
    uint32_t uid_n = n > SYN_BYTES + 1 ? p[SYN_BYTES + 1] : 0;
    uint32_t before_proof = SYN_BYTES + 2 + uid_n + (sec == SEC_PROOF ? CHALLENGE_BYTES : 0);
    if (sec == SEC_NONE && n == SYN_BYTES) {
        if (!s->required)
            return 1;
        s->refusal = QFL_LINK_PEER_PLAIN;
        l->state = QFL_LINK_DOWN;
        return 0;
    }
    if (uid_n > QFL_LINK_UID_MAX || n != before_proof + (sec == SEC_PROOF ? QFL_CRYPT_TAG : 0))
        return 0;
    memcpy(s->uid, p + SYN_BYTES + 2, uid_n);
    s->uid_n = (uint8_t)uid_n;
    if (sec == SEC_ASK && !s->required) {
        s->refusal = QFL_LINK_PEER_KEYED;
        l->state = QFL_LINK_DOWN;
    } else if (sec == SEC_PROOF && s->required) {
        memcpy(s->synack, p, n);
        s->synack_n = (uint8_t)n;
        l->state = QFL_LINK_NAMED;
    }
    return 0;
}

QFL_COLD qfl_status qfl_link_set_key(qfl_link *l, const uint8_t *key)
{
    qfl_link_secure *s = &l->secure;
    if (!qfl_link_initiates(l)) {
        s->pending = 0;
        s->synack_n = 0;
        s->key = s->seeded ? key : NULL;
        s->keyed = s->key != NULL;
        return key != NULL && !s->seeded ? QFL_E_STATE : QFL_OK;
    }
    if (l->state != QFL_LINK_NAMED)
        return QFL_E_STATE;
    if (key == NULL) {
        s->refusal = QFL_LINK_KEY_UNKNOWN;
        l->state = QFL_LINK_DOWN;
        return QFL_OK;
    }
    uint8_t proof[QFL_CRYPT_TAG], keys[2 * QFL_CRYPT_KEY];
    uint32_t n = s->synack_n - (uint32_t)QFL_CRYPT_TAG;
    proof_of(s, key, n, proof);
    if (!qfl_crypt_equal(proof, s->synack + n, QFL_CRYPT_TAG))
        return QFL_E_AUTH; /* another key may be tried; then qfl_link_reject */
    session_keys(s, key, keys);
    start_sealed(l, keys);
    qfl_crypt_wipe(keys, sizeof keys);
    qfl_link_established(l, s->synack);
    return QFL_OK;
}

QFL_COLD void qfl_link_reject(qfl_link *l)
{
    if (l->state != QFL_LINK_NAMED)
        return;
    l->secure.refusal = QFL_LINK_KEY_WRONG;
    l->state = ++l->secure.mismatches >= MISMATCHES ? QFL_LINK_DOWN : QFL_LINK_CONNECTING;
}

/* --- the board's side --- */

QFL_COLD int qfl_link_secure_on_syn(qfl_link *l, const uint8_t *p, uint32_t n)
{
    qfl_link_secure *s = &l->secure;
    if (!s->keyed)
        return 1; /* a plain board answers plainly; a host with keys refuses that */
    if (n != SYN_KEYED_BYTES || p[1] != QFL_LINK_VERSION || p[SYN_BYTES] != SEC_PROOF) {
        s->ask = 1;
        return 0;
    }
    s->ask = 0;
    if (s->synack_n != 0 && memcmp(s->syn, p, SYN_KEYED_BYTES) == 0)
        return 0; /* repeated: the same answer again, so that both derive the same keys */
    memcpy(s->syn, p, SYN_KEYED_BYTES);
    uint8_t *q = s->synack;
    uint32_t k = qfl_link_terms(l, TYPE_SYNACK, q);
    q[k++] = SEC_PROOF;
    q[k++] = s->uid_n;
    memcpy(q + k, s->uid, s->uid_n);
    k += s->uid_n;
    draw(s, q + k);
    k += CHALLENGE_BYTES;
    proof_of(s, s->key, k, q + k);
    s->synack_n = (uint8_t)(k + QFL_CRYPT_TAG);
    s->pending = 1;
    return 0;
}

QFL_COLD uint32_t qfl_link_secure_answer(qfl_link *l, uint8_t *p, uint32_t n)
{
    qfl_link_secure *s = &l->secure;
    if (!s->keyed)
        return n;
    if (!s->ask) {
        memcpy(p, s->synack, s->synack_n);
        return s->synack_n;
    }
    p[n++] = SEC_ASK;
    p[n++] = s->uid_n;
    memcpy(p + n, s->uid, s->uid_n);
    return n + s->uid_n;
}

/* --- frames --- */

static void nonce_of(uint8_t *nonce, int from_initiator, uint32_t count)
{
    memset(nonce, 0, QFL_CRYPT_NONCE);
    nonce[0] = from_initiator ? 1 : 2;
    for (unsigned i = 0; i < 4; i++)
        nonce[4 + i] = (uint8_t)(count >> (8 * i));
}

QFL_COLD uint32_t qfl_link_seal(qfl_link *l, uint8_t *p, uint32_t n)
{
    qfl_link_secure *s = &l->secure;
    uint8_t nonce[QFL_CRYPT_NONCE];
    uint32_t h = qfl_link_header_bytes(p, n);
    nonce_of(nonce, qfl_link_initiates(l), ++s->tx_count);
    qfl_crypt_seal(s->tx_key, nonce, p, h, p + h, n - h, p + n + COUNTER_BYTES);
    qfl_put16(p + n, (uint16_t)s->tx_count);
    return n + SEAL_BYTES;
}

/* The whole counter nearest to the newest one seen. */
static int64_t whole_count(uint32_t top, uint16_t low)
{
    return (int64_t)top + (int16_t)(uint16_t)(low - (uint16_t)top);
}

static int fresh(const qfl_link_secure *s, int64_t count)
{
    if (count < 1 || count > UINT32_MAX)
        return 0;
    if (count > s->rx_top)
        return 1;
    uint32_t age = s->rx_top - (uint32_t)count;
    return age < 64 && !(s->rx_seen >> age & 1u);
}

static void mark_seen(qfl_link_secure *s, uint32_t count)
{
    if (count > s->rx_top) {
        uint32_t ahead = count - s->rx_top;
        s->rx_seen = ahead < 64 ? s->rx_seen << ahead | 1u : 1u;
        s->rx_top = count;
    } else {
        s->rx_seen |= (uint64_t)1 << (s->rx_top - count);
    }
}

QFL_COLD int32_t qfl_link_unseal(qfl_link *l, uint8_t *p, uint32_t n)
{
    qfl_link_secure *s = &l->secure;
    uint8_t nonce[QFL_CRYPT_NONCE], type = qfl_link_type(p[0]);
    if (n < 1 + SEAL_BYTES || (type != TYPE_DATA && type != TYPE_ACK))
        return -1;
    n -= SEAL_BYTES;
    uint32_t h = qfl_link_header_bytes(p, n);
    const uint8_t *tag = p + n + COUNTER_BYTES;
    uint16_t low = qfl_get16(p + n);
    if (s->sealed && l->state == QFL_LINK_UP && p[0] >> SESSION_SHIFT == l->session_bits) {
        int64_t count = whole_count(s->rx_top, low);
        if (fresh(s, count)) {
            nonce_of(nonce, !qfl_link_initiates(l), (uint32_t)count);
            if (qfl_crypt_open(s->rx_key, nonce, p, h, p + h, n - h, tag) == QFL_OK) {
                mark_seen(s, (uint32_t)count);
                return (int32_t)n;
            }
        }
    }
    /* The host's first frame of a new session proves that it holds the key: only now the old session ends. */
    int64_t count = whole_count(0, low);
    if (!s->pending || p[0] >> SESSION_SHIFT != s->syn[0] >> SESSION_SHIFT || count < 1)
        return -1;
    uint8_t keys[2 * QFL_CRYPT_KEY];
    session_keys(s, s->key, keys);
    nonce_of(nonce, 1, (uint32_t)count);
    int proved = qfl_crypt_open(keys, nonce, p, h, p + h, n - h, tag) == QFL_OK;
    if (proved) {
        qfl_link_reset_session(l);
        start_sealed(l, keys);
        s->pending = 0;
        mark_seen(s, (uint32_t)count);
        qfl_link_established(l, s->syn);
    }
    qfl_crypt_wipe(keys, sizeof keys);
    return proved ? (int32_t)n : -1;
}

#else /* plain sessions only */

QFL_COLD void qfl_link_set_seed(qfl_link *l, const uint8_t *seed)
{
    (void)l;
    (void)seed;
}

QFL_COLD qfl_status qfl_link_set_uid(qfl_link *l, const uint8_t *uid, uint32_t n)
{
    (void)uid;
    return n > QFL_LINK_UID_MAX || qfl_link_initiates(l) ? QFL_E_INVAL : QFL_OK;
}

QFL_COLD qfl_status qfl_link_require_keys(qfl_link *l, int required)
{
    (void)l;
    return required ? QFL_E_UNSUPPORTED : QFL_OK;
}

QFL_COLD qfl_status qfl_link_set_key(qfl_link *l, const uint8_t *key)
{
    (void)l;
    return key != NULL ? QFL_E_UNSUPPORTED : QFL_OK;
}

QFL_COLD void qfl_link_reject(qfl_link *l) { (void)l; }
QFL_COLD int qfl_link_is_sealed(const qfl_link *l) { return qfl_link_sealed(l); }
QFL_COLD qfl_link_refusal qfl_link_get_refusal(const qfl_link *l)
{
    return (qfl_link_refusal)l->secure.refusal;
}

QFL_COLD const uint8_t *qfl_link_peer_uid(const qfl_link *l, uint32_t *n)
{
    *n = 0;
    return l->secure.uid;
}

void qfl_link_secure_reset(qfl_link *l) { (void)l; }
void qfl_link_secure_connect(qfl_link *l) { l->secure.refusal = QFL_LINK_NOT_REFUSED; }

uint32_t qfl_link_secure_syn(qfl_link *l, uint8_t *p)
{
    (void)l;
    (void)p;
    return SYN_BYTES;
}

QFL_COLD int qfl_link_secure_synack(qfl_link *l, const uint8_t *p, uint32_t n)
{
    (void)p;
    if (n == SYN_BYTES)
        return 1;
    l->secure.refusal = QFL_LINK_PEER_KEYED;
    l->state = QFL_LINK_DOWN;
    return 0;
}

int qfl_link_secure_on_syn(qfl_link *l, const uint8_t *p, uint32_t n)
{
    (void)l;
    (void)p;
    (void)n;
    return 1;
}

uint32_t qfl_link_secure_answer(qfl_link *l, uint8_t *p, uint32_t n)
{
    (void)l;
    (void)p;
    return n;
}

#endif
