/* Monocypher under names, sizes and labels of our own. */
#include "qfl_crypt.h"

#include <string.h>

#include "monocypher.h"
#include "qfl_options.h"

enum { LABEL_MAX = 32, SIGNED_MAX = 64 };

QFL_COLD void qfl_crypt_seal(const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_n,
                             uint8_t *text, uint32_t n, uint8_t *tag)
{
    crypto_aead_ctx c;
    crypto_aead_init_ietf(&c, key, nonce);
    crypto_aead_write(&c, text, tag, ad, ad_n, text, n); /* the first message of a stream is RFC 8439's */
    crypto_wipe(&c, sizeof c);
}

QFL_COLD qfl_status qfl_crypt_open(const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_n,
                                   uint8_t *text, uint32_t n, const uint8_t *tag)
{
    crypto_aead_ctx c;
    crypto_aead_init_ietf(&c, key, nonce);
    int bad = crypto_aead_read(&c, text, tag, ad, ad_n, text, n);
    crypto_wipe(&c, sizeof c);
    return bad ? QFL_E_AUTH : QFL_OK;
}

QFL_COLD void qfl_crypt_mac(const uint8_t *key, const char *label, const qfl_crypt_part *parts,
                            uint32_t count, uint8_t *out, uint32_t out_n)
{
    crypto_blake2b_ctx c;
    crypto_blake2b_keyed_init(&c, out_n, key, QFL_CRYPT_KEY);
    crypto_blake2b_update(&c, (const uint8_t *)label, strlen(label) + 1);
    for (uint32_t i = 0; i < count; i++)
        crypto_blake2b_update(&c, parts[i].p, parts[i].n);
    crypto_blake2b_final(&c, out); /* wipes c */
}

QFL_COLD int qfl_crypt_equal(const uint8_t *a, const uint8_t *b, uint32_t n)
{
    return n == 16   ? !crypto_verify16(a, b)
           : n == 32 ? !crypto_verify32(a, b)
           : n == 64 ? !crypto_verify64(a, b)
                     : 0;
}

QFL_COLD void qfl_crypt_wipe(void *p, uint32_t n) { crypto_wipe(p, n); }

/* label, zero byte, message: what is really signed. Returns its length, 0 when it is too long. */
static uint32_t labelled(uint8_t *out, const char *label, const uint8_t *message, uint32_t n)
{
    uint32_t k = (uint32_t)strlen(label) + 1;
    if (k > LABEL_MAX || n > SIGNED_MAX)
        return 0;
    memcpy(out, label, k);
    memcpy(out + k, message, n);
    return k + n;
}

QFL_COLD void qfl_crypt_public(const uint8_t *secret, uint8_t *public_key)
{
    uint8_t seed[QFL_CRYPT_KEY], pair[64];
    memcpy(seed, secret, sizeof seed);
    crypto_eddsa_key_pair(pair, public_key, seed); /* wipes seed */
    crypto_wipe(pair, sizeof pair);
}

QFL_COLD qfl_status qfl_crypt_sign(const uint8_t *secret, const char *label, const uint8_t *message,
                                   uint32_t n, uint8_t *signature)
{
    uint8_t text[LABEL_MAX + SIGNED_MAX], seed[QFL_CRYPT_KEY], pair[64], public_key[QFL_CRYPT_KEY];
    uint32_t k = labelled(text, label, message, n);
    if (k == 0)
        return QFL_E_RANGE;
    memcpy(seed, secret, sizeof seed);
    crypto_eddsa_key_pair(pair, public_key, seed);
    crypto_eddsa_sign(signature, pair, text, k);
    crypto_wipe(pair, sizeof pair);
    return QFL_OK;
}

/* What crypto_eddsa_check does before its equation, H(R, A, text) modulo L, without a copy of the text and off the equation's stack. */
QFL_COLD QFL_APART static int challenge(uint8_t *h, const uint8_t *signature, const uint8_t *public_key,
                                        const char *label, const uint8_t *message, uint32_t n)
{
    crypto_blake2b_ctx ctx;
    uint8_t hash[64];
    size_t k = strlen(label) + 1;
    if (k > LABEL_MAX || n > SIGNED_MAX)
        return 0;
    crypto_blake2b_init(&ctx, sizeof hash);
    crypto_blake2b_update(&ctx, signature, 32);
    crypto_blake2b_update(&ctx, public_key, QFL_CRYPT_KEY);
    crypto_blake2b_update(&ctx, (const uint8_t *)label, k);
    crypto_blake2b_update(&ctx, message, n);
    crypto_blake2b_final(&ctx, hash);
    crypto_eddsa_reduce(h, hash);
    return 1;
}

QFL_COLD qfl_status qfl_crypt_check(const uint8_t *public_key, const char *label, const uint8_t *message,
                                    uint32_t n, const uint8_t *signature)
{
    uint8_t h[32];
    return challenge(h, signature, public_key, label, message, n) &&
                   crypto_eddsa_check_equation(signature, public_key, h) == 0
               ? QFL_OK
               : QFL_E_AUTH;
}
