"""qfl_crypt and the Monocypher below it: RFC vectors, other implementations, damaged input."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core import crypt, ffi, lib

aead = pytest.importorskip(
    "cryptography.hazmat.primitives.ciphers.aead", reason="needs the Python package cryptography"
)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "rfc8439.json").read_text())
ROOT = Path(__file__).parents[2]
keys, nonces = st.binary(min_size=32, max_size=32), st.binary(min_size=12, max_size=12)


def _ids(rows):
    return [r["source"] for r in rows]


def _hex(row, *names):
    return [bytes.fromhex(row[n]) for n in names]


def test_vendored_files_are_the_published_ones():
    folder = ROOT / "firmware" / "lib" / "monocypher"
    sums = dict(re.findall(r"\| `(\S+)` \| `([0-9a-f]{64})` \|", (folder / "README.md").read_text()))
    assert len(sums) == 2
    for name, sha in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha


@pytest.mark.parametrize("row", VECTORS["chacha20"], ids=_ids(VECTORS["chacha20"]))
def test_chacha20(row):
    key, nonce, text, out = _hex(row, "key", "nonce", "text", "out")
    buf = ffi.new("uint8_t[]", len(text))
    lib.crypto_chacha20_ietf(buf, text, len(text), key, nonce, row["counter"])
    assert bytes(ffi.buffer(buf)) == out


@pytest.mark.parametrize("row", VECTORS["poly1305"], ids=_ids(VECTORS["poly1305"]))
def test_poly1305(row):
    key, text, tag = _hex(row, "key", "text", "tag")
    out = ffi.new("uint8_t[]", 16)
    lib.crypto_poly1305(out, text, len(text), key)
    assert bytes(ffi.buffer(out)) == tag


@pytest.mark.parametrize("row", VECTORS["aead"], ids=_ids(VECTORS["aead"]))
def test_aead(row):
    key, nonce, ad, text, out, tag = _hex(row, "key", "nonce", "ad", "text", "out", "tag")
    assert crypt.unseal(key, nonce, ad, out, tag) == (text if row["ok"] else None)
    if row["ok"]:
        assert crypt.seal(key, nonce, ad, text) == (out, tag)


@settings(max_examples=300, deadline=None)
@given(keys, nonces, st.binary(max_size=80), st.binary(max_size=1100))
def test_aead_equals_openssl(key, nonce, ad, text):
    out, tag = crypt.seal(key, nonce, ad, text)
    assert out + tag == aead.ChaCha20Poly1305(key).encrypt(nonce, text, ad)
    assert crypt.unseal(key, nonce, ad, out, tag) == text


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 129, 255, 256, 257])
def test_aead_at_block_borders(size):
    key, nonce, text = bytes(range(32)), bytes(range(12)), bytes(i & 0xFF for i in range(size))
    for ad_size in (0, 1, 15, 16, 17):
        ad = bytes(ad_size)
        assert b"".join(crypt.seal(key, nonce, ad, text)) == aead.ChaCha20Poly1305(key).encrypt(
            nonce, text, ad
        )


def test_every_flipped_bit_is_seen():
    key, nonce, ad, text = bytes(range(32)), bytes(range(12)), b"abc", b"twenty bytes of text"
    whole = {"key": key, "nonce": nonce, "ad": ad, "text": crypt.seal(key, nonce, ad, text)[0]}
    whole["tag"] = crypt.seal(key, nonce, ad, text)[1]
    assert crypt.unseal(**whole) == text
    for name, data in whole.items():
        for bit in range(8 * len(data)):
            bad = bytearray(data)
            bad[bit // 8] ^= 1 << bit % 8
            assert crypt.unseal(**(whole | {name: bytes(bad)})) is None, (name, bit)


def test_a_refused_text_is_left_alone():
    key, nonce, text = bytes(32), bytes(12), bytearray(b"cipher text that nobody sealed")
    buf = ffi.from_buffer("uint8_t[]", text)
    assert lib.qfl_crypt_open(key, nonce, b"", 0, buf, len(text), bytes(16)) == lib.QFL_E_AUTH
    assert text == b"cipher text that nobody sealed"


@settings(max_examples=200, deadline=None)
@given(
    keys,
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.lists(st.binary(max_size=300), max_size=4),
    st.integers(1, 64),
)
def test_mac_is_keyed_blake2b(key, label, parts, size):
    expected = hashlib.blake2b(label.encode() + b"\0" + b"".join(parts), key=key, digest_size=size).digest()
    assert crypt.mac(key, label, *parts, size=size) == expected


def test_blake2b_vector_of_rfc_7693():
    out = ffi.new("uint8_t[]", 64)
    lib.crypto_blake2b(out, 64, b"abc", 3)
    assert bytes(ffi.buffer(out)).hex() == (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )


# EdDSA as RFC 8032 writes it down (section 5.1 and its Python), the hash as a parameter: SHA-512 gives
# Ed25519, BLAKE2b ours.
P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def _add(a, b):
    e, f = (a[1] - a[0]) * (b[1] - b[0]) % P, (a[1] + a[0]) * (b[1] + b[0]) % P
    c, d = 2 * a[3] * b[3] * D % P, 2 * a[2] * b[2] % P
    e, f, g, h = f - e, d - c, d + c, f + e
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(s, point):
    out = (0, 1, 1, 0)
    while s:
        if s & 1:
            out = _add(out, point)
        point = _add(point, point)
        s >>= 1
    return out


def _base():
    y = 4 * pow(5, P - 2, P) % P
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    x = P - x if x & 1 else x
    return x, y, 1, x * y % P


def _pack(point):
    inverse = pow(point[2], P - 2, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _eddsa(secret, message, hash_):
    def number(data):
        return int.from_bytes(data, "little")

    h = hash_(secret).digest()
    a = (number(h[:32]) & ((1 << 254) - 8)) | 1 << 254
    public = _pack(_times(a, _base()))
    r = number(hash_(h[32:] + message).digest()) % L
    point = _pack(_times(r, _base()))
    s = (r + number(hash_(point + public + message).digest()) * a) % L
    return public, point + s.to_bytes(32, "little")


@pytest.mark.parametrize("seed", range(4))
def test_signature_is_eddsa_over_blake2b(seed):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    secret, message = hashlib.sha256(bytes((seed,))).digest(), bytes(range(seed, 48 + seed))
    reference = Ed25519PrivateKey.from_private_bytes(secret)
    raw = reference.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert _eddsa(secret, message, hashlib.sha512) == (raw, reference.sign(message))  # the reference is right
    public, signature = _eddsa(secret, b"label\0" + message, hashlib.blake2b)
    assert crypt.public(secret) == public
    assert crypt.sign(secret, "label", message) == signature
    assert crypt.check(public, "label", message, signature)


def test_forged_signatures_are_refused():
    secret, message = bytes(range(32)), b"sixteen bytes..."
    public, signature = crypt.public(secret), crypt.sign(secret, "label", message)
    assert not crypt.check(public, "other", message, signature)
    assert not crypt.check(public, "label", message[:-1], signature)
    assert not crypt.check(crypt.public(bytes(32)), "label", message, signature)
    s = (
        int.from_bytes(signature[32:], "little") + L
    )  # the same number mod L: malleable where it is not checked
    assert not crypt.check(public, "label", message, signature[:32] + s.to_bytes(32, "little"))
    for bit in range(0, 512, 7):
        bad = bytearray(signature)
        bad[bit // 8] ^= 1 << bit % 8
        assert not crypt.check(public, "label", message, bytes(bad))
    for bad_key in (bytes(32), b"\1" + bytes(31), b"\xff" * 32):  # points of small order, and no point
        assert not crypt.check(bad_key, "label", message, signature)


def test_sizes_are_checked():
    for call in (
        lambda: crypt.seal(bytes(31), bytes(12), b"", b""),
        lambda: crypt.seal(bytes(32), bytes(8), b"", b""),
        lambda: crypt.unseal(bytes(32), bytes(12), b"", b"", bytes(15)),
        lambda: crypt.mac(bytes(32), "x", size=65),
        lambda: crypt.sign(bytes(32), "x", bytes(65)),
        lambda: crypt.sign(bytes(32), "x" * 40, b""),
        lambda: crypt.check(bytes(32), "x", b"", bytes(63)),
    ):
        with pytest.raises(ValueError):
            call()
    assert lib.qfl_crypt_equal(bytes(20), bytes(20), 20) == 0  # a length nobody uses is never equal
