/* The board's keys: kept in flash, given by the first host that has a cable, changed by who holds the old one. */
#include <string.h>

#include "qfl_device_internal.h"

static const uint8_t signed_magic[8] = "QFLSIG1";

QFL_COLD uint32_t qfl_device_unsigned_length(const uint8_t *file, uint32_t n)
{
    int is_signed = n > QFL_SIGNED_BYTES &&
                    memcmp(file + n - sizeof signed_magic, signed_magic, sizeof signed_magic) == 0;
    return is_signed ? n - QFL_SIGNED_BYTES : n;
}

#if QFL_KEYS

static const char signed_label[] = "quantfl package 1", owner_label[] = "quantfl owner 1";

/* Body of the record in flash. */
enum { AT_FLAGS = 0, AT_STARTS = 4, AT_KEY = 8, AT_OWNER = 40, ENTROPY = 32 };
_Static_assert(AT_OWNER + QFL_CRYPT_KEY <= QFL_KEYSTORE_BYTES, "keys fit the record");

static uint8_t flags(const qfl_device *d)
{
    if (d->keystore.damaged) /* who its keys were for is not known any more: it talks to nobody */
        return QFL_KEYS_LINK | QFL_KEYS_DAMAGED;
    return qfl_keystore_has(&d->keystore) ? d->keystore.body[AT_FLAGS] : 0;
}

QFL_COLD uint8_t qfl_device_keys(const qfl_device *d) { return flags(d); }

QFL_COLD int qfl_device_may_talk(const qfl_device *d)
{
    return !(flags(d) & QFL_KEYS_LINK) || qfl_link_is_sealed(d->link);
}

/*
 * Seeds the link's challenges and gives it the key. A board with a random number generator needs nothing else; one without counts
 * its starts in the record, so that no challenge ever comes twice, whatever its clock says.
 */
static qfl_status take_keys(qfl_device *d, int starting)
{
    const qfl_port *port = d->port;
    uint8_t random[ENTROPY], uid[QFL_LINK_UID_MAX], seed[QFL_CRYPT_KEY], body[QFL_KEYSTORE_BYTES], clock[4];
    if (!(flags(d) & QFL_KEYS_LINK) || d->keystore.damaged)
        return qfl_link_set_key(d->link, NULL);
    memset(random, 0, sizeof random);
    if (port->entropy(port->ctx, random, sizeof random) < QFL_CRYPT_KEY / 2 && starting) {
        memcpy(body, d->keystore.body, sizeof body);
        /* Where the newest copy was lost, the other one counts one start less than there were. */
        qfl_put32(body + AT_STARTS, qfl_get32(body + AT_STARTS) + 1 + d->keystore.alone);
        qfl_status status = qfl_keystore_write(&d->keystore, body);
        if (status != QFL_OK)
            return status;
    }
    if (starting && d->keystore.alone) /* one copy was lost, or a change was cut off between the two */
        (void)qfl_keystore_write(&d->keystore, d->keystore.body);
    int32_t uid_n = port->uid(port->ctx, uid, sizeof uid);
    qfl_put32(clock, port->us(port->ctx));
    const qfl_crypt_part parts[3] = {
        {d->keystore.body + AT_STARTS, 4}, {clock, sizeof clock}, {random, sizeof random}};
    qfl_crypt_mac(d->keystore.body + AT_KEY, "quantfl seed 1", parts, 3, seed, sizeof seed);
    qfl_link_set_seed(d->link, seed);
    qfl_crypt_wipe(seed, sizeof seed);
    qfl_crypt_wipe(random, sizeof random);
    qfl_status status = qfl_link_set_uid(d->link, uid, uid_n > 0 ? (uint32_t)uid_n : 0);
    return status == QFL_OK ? qfl_link_set_key(d->link, d->keystore.body + AT_KEY) : status;
}

QFL_COLD qfl_status qfl_device_open_keys(qfl_device *d)
{
    if (qfl_keystore_open(&d->keystore, d->port) != QFL_OK)
        return QFL_OK; /* no place for keys: a plain board, and it says so */
    return take_keys(d, 1);
}

QFL_COLD qfl_status qfl_device_sign(const uint8_t *secret, const uint8_t *sha256, uint8_t *out)
{
    memcpy(out + QFL_CRYPT_SIGNATURE, signed_magic, sizeof signed_magic);
    return qfl_crypt_sign(secret, signed_label, sha256, QFL_SHA256_BYTES, out);
}

QFL_COLD QFL_APART static void digest_of(const uint8_t *file, uint32_t length, uint8_t *digest)
{
    qfl_sha256 h;
    qfl_sha256_begin(&h);
    qfl_sha256_add(&h, file, length);
    qfl_sha256_end(&h, digest);
}

QFL_COLD qfl_status qfl_device_check_signed(const uint8_t *owner, const uint8_t *file, uint32_t n)
{
    uint8_t digest[QFL_SHA256_BYTES];
    uint32_t length = qfl_device_unsigned_length(file, n);
    if (length == n)
        return QFL_E_AUTH;
    digest_of(file, length, digest);
    return qfl_crypt_check(owner, signed_label, digest, sizeof digest, file + length);
}

QFL_COLD qfl_status qfl_device_check_package(const qfl_device *d, const uint8_t *file, uint32_t *length)
{
    uint32_t n = *length;
    *length = qfl_device_unsigned_length(file, n);
    return flags(d) & QFL_KEYS_OWNER ? qfl_device_check_signed(d->keystore.body + AT_OWNER, file, n) : QFL_OK;
}

static int same(const uint8_t *a, const uint8_t *b) { return qfl_crypt_equal(a, b, QFL_CRYPT_KEY); }

/* What the owner signs to be replaced or removed: flags and the new owner, under what only this session knows, so that the signature is
 * good for nothing else. */
static void change_of(uint8_t want, const uint8_t *owner, const uint8_t *exported, uint8_t *out)
{
    const qfl_crypt_part parts[2] = {{&want, 1}, {owner, want & QFL_KEYS_OWNER ? QFL_CRYPT_KEY : 0}};
    qfl_crypt_mac(exported, owner_label, parts, 2, out, QFL_CRYPT_KEY);
}

/* 1: this change leaves the board's owner as it is, or the owner has signed it. */
QFL_COLD QFL_APART static int owner_agrees(const qfl_device *d, const uint8_t *p, uint32_t n, uint32_t need)
{
    uint8_t said[QFL_CRYPT_KEY];
    const uint8_t *held = d->keystore.body + AT_OWNER, *owner = p + 1 + QFL_CRYPT_KEY;
    if (!(flags(d) & QFL_KEYS_OWNER) || ((p[0] & QFL_KEYS_OWNER) && same(owner, held)))
        return 1;
    if (n != need + QFL_CRYPT_SIGNATURE || qfl_link_export(d->link, said) != QFL_OK)
        return 0;
    change_of(p[0], owner, said, said);
    return qfl_crypt_check(held, owner_label, said, sizeof said, p + need) == QFL_OK;
}

QFL_COLD qfl_status qfl_device_sign_owner(const uint8_t *secret, uint8_t want, const uint8_t *owner,
                                          const uint8_t *exported, uint8_t *out)
{
    uint8_t said[QFL_CRYPT_KEY];
    change_of(want, owner, exported, said);
    return qfl_crypt_sign(secret, owner_label, said, sizeof said, out);
}

static qfl_status set_keys(qfl_device *d, const uint8_t *p, uint32_t n)
{
    uint8_t body[QFL_KEYSTORE_BYTES] = {0}, have = flags(d), want = n != 0 ? p[0] : 0xFF;
    uint32_t need =
        1u + (want & QFL_KEYS_LINK ? QFL_CRYPT_KEY : 0u) + (want & QFL_KEYS_OWNER ? QFL_CRYPT_KEY : 0u);
    if (n == 0 || (n != need && n != need + QFL_CRYPT_SIGNATURE) || want > (QFL_KEYS_LINK | QFL_KEYS_OWNER) ||
        want == QFL_KEYS_OWNER)
        return QFL_E_FORMAT;
    const uint8_t *key = p + 1, *owner = p + 1 + QFL_CRYPT_KEY;
    int link = want & QFL_KEYS_LINK, with_owner = want & QFL_KEYS_OWNER;
    if (have == want && (!link || same(key, d->keystore.body + AT_KEY)) &&
        (!with_owner || same(owner, d->keystore.body + AT_OWNER)))
        return QFL_OK; /* asked again: the answer was lost */
    if (!qfl_device_may_talk(d) || !owner_agrees(d, p, n, need))
        return QFL_E_AUTH;
    memcpy(body, d->keystore.body, sizeof body); /* the count of starts goes on */
    memset(body + AT_KEY, 0, 2 * QFL_CRYPT_KEY);
    body[AT_FLAGS] = want;
    if (link)
        memcpy(body + AT_KEY, key, QFL_CRYPT_KEY);
    if (with_owner)
        memcpy(body + AT_OWNER, owner, QFL_CRYPT_KEY);
    qfl_status status = qfl_keystore_write(&d->keystore, body);
    if (status == QFL_OK &&
        d->keystore.alone) /* both copies, so that one flipped bit never opens the board */
        (void)qfl_keystore_write(&d->keystore, body);
    qfl_crypt_wipe(body, sizeof body);
    if (status == QFL_OK)
        status = take_keys(d, 0);
    uint32_t length;
    const uint8_t *file = qfl_store_object(&d->store, &length);
    if (status == QFL_OK && d->have_package && qfl_device_check_package(d, file, &length) != QFL_OK)
        qfl_device_unload(d); /* it is not the new owner's */
    return status;
}

QFL_COLD void qfl_device_on_keys(qfl_device *d, uint8_t number, const uint8_t *p, uint32_t n)
{
    qfl_device_say(d, QFL_MSG_KEYS, number, set_keys(d, p, n));
}

#else /* any package is taken, signed or not */

QFL_COLD uint8_t qfl_device_keys(const qfl_device *d)
{
    (void)d;
    return 0;
}
QFL_COLD int qfl_device_may_talk(const qfl_device *d)
{
    (void)d;
    return 1;
}
QFL_COLD qfl_status qfl_device_open_keys(qfl_device *d)
{
    (void)d;
    return QFL_OK;
}

QFL_COLD qfl_status qfl_device_check_package(const qfl_device *d, const uint8_t *file, uint32_t *length)
{
    (void)d;
    *length = qfl_device_unsigned_length(file, *length);
    return QFL_OK;
}

#endif
