/*
 * qfl_crypt: authenticated encryption, a keyed hash and signatures, all of them Monocypher's (firmware/lib/monocypher).
 *
 * Constant-time in everything secret: no branch and no index depends on a key or on plain text. Stack on a Cortex-M4: about
 * 0.5 KiB for frames and hashes, 2 KiB to check a signature. No malloc, no global state.
 */
#ifndef QFL_CRYPT_H
#define QFL_CRYPT_H

#include <stdint.h>

#include "qfl_status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    QFL_CRYPT_KEY = 32,       /* bytes of every key, secret or public */
    QFL_CRYPT_NONCE = 12,
    QFL_CRYPT_TAG = 16,
    QFL_CRYPT_SIGNATURE = 64,
    QFL_CRYPT_HASH_MAX = 64
};

/*
 * AEAD_CHACHA20_POLY1305 (RFC 8439, 2.8): encrypts text[0, n) in place and writes its tag, which also covers ad[0, ad_n).
 * A nonce (12 bytes) must never come twice with one key (32 bytes).
 */
void qfl_crypt_seal(const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_n, uint8_t *text,
                    uint32_t n, uint8_t *tag);

/* Decrypts in place what qfl_crypt_seal made. QFL_E_AUTH: not made with this key, nonce and ad; text is unchanged then. */
qfl_status qfl_crypt_open(const uint8_t *key, const uint8_t *nonce, const uint8_t *ad, uint32_t ad_n,
                          uint8_t *text, uint32_t n, const uint8_t *tag);

/* One piece of what is hashed. */
typedef struct qfl_crypt_part {
    const uint8_t *p;
    uint32_t n;
} qfl_crypt_part;

/*
 * out[0, out_n): keyed BLAKE2b (RFC 7693) of the label, a zero byte, and `count` parts one after the other; a message
 * authentication code and a key derivation. out_n: 1..64. Parts of variable length must not be ambiguous in their place:
 * the caller puts at most one, and last.
 */
void qfl_crypt_mac(const uint8_t *key, const char *label, const qfl_crypt_part *parts, uint32_t count,
                   uint8_t *out, uint32_t out_n);

/* 1 when a and b (16, 32 or 64 bytes) are equal, in constant time. */
int qfl_crypt_equal(const uint8_t *a, const uint8_t *b, uint32_t n);

/* Overwrites a secret; not optimised away. */
void qfl_crypt_wipe(void *p, uint32_t n);

/* Public key (32) of a secret one (32 random bytes). */
void qfl_crypt_public(const uint8_t *secret, uint8_t *public_key);

/* Signature (64) over a label and `n` bytes of message, at most 64. */
qfl_status qfl_crypt_sign(const uint8_t *secret, const char *label, const uint8_t *message, uint32_t n,
                          uint8_t *signature);

/* QFL_OK, or QFL_E_AUTH when the signature is not by the holder of the secret key. */
qfl_status qfl_crypt_check(const uint8_t *public_key, const char *label, const uint8_t *message, uint32_t n,
                           const uint8_t *signature);

#ifdef __cplusplus
}
#endif

#endif
