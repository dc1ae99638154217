"""Keys and tags (qfl_crypt): what boards compute, computed by the same C."""

from __future__ import annotations

from typing import Any

from quantfl.core import ffi, lib

KEY, NONCE, TAG, SIGNATURE = (
    lib.QFL_CRYPT_KEY,
    lib.QFL_CRYPT_NONCE,
    lib.QFL_CRYPT_TAG,
    lib.QFL_CRYPT_SIGNATURE,
)


def _sized(data: bytes, size: int, what: str) -> Any:
    if len(data) != size:
        raise ValueError(f"{what} has {len(data)} bytes, not {size}")
    return ffi.from_buffer("uint8_t[]", data)


def _buffer(data: bytes) -> Any:
    """A writable copy; never of length 0, so that its address is valid."""
    out = ffi.new("uint8_t[]", len(data) or 1)
    ffi.buffer(out)[: len(data)] = data
    return out


def seal(key: bytes, nonce: bytes, ad: bytes, text: bytes) -> tuple[bytes, bytes]:
    """AEAD_CHACHA20_POLY1305 (RFC 8439): cipher text and its 16-byte tag."""
    buf, tag = _buffer(text), ffi.new("uint8_t[]", TAG)
    lib.qfl_crypt_seal(
        _sized(key, KEY, "the key"),
        _sized(nonce, NONCE, "the nonce"),
        _buffer(ad),
        len(ad),
        buf,
        len(text),
        tag,
    )
    return bytes(ffi.buffer(buf, len(text))), bytes(ffi.buffer(tag))


def unseal(key: bytes, nonce: bytes, ad: bytes, text: bytes, tag: bytes) -> bytes | None:
    """The plain text, or None when tag, cipher text or ad are not what was sealed."""
    buf = _buffer(text)
    status = lib.qfl_crypt_open(
        _sized(key, KEY, "the key"),
        _sized(nonce, NONCE, "the nonce"),
        _buffer(ad),
        len(ad),
        buf,
        len(text),
        _sized(tag, TAG, "the tag"),
    )
    return None if status < 0 else bytes(ffi.buffer(buf, len(text)))


def mac(key: bytes, label: str, *parts: bytes, size: int = 32) -> bytes:
    """Keyed BLAKE2b (RFC 7693) of label, zero byte and parts; also how keys are derived."""
    if not 1 <= size <= lib.QFL_CRYPT_HASH_MAX:
        raise ValueError(f"a hash of {size} bytes; possible are 1 to {lib.QFL_CRYPT_HASH_MAX}")
    held = [_buffer(p) for p in parts]
    array = ffi.new("qfl_crypt_part[]", max(1, len(parts)))
    for slot, buf, part in zip(array, held, parts, strict=False):
        slot.p, slot.n = buf, len(part)
    out = ffi.new("uint8_t[]", size)
    lib.qfl_crypt_mac(_sized(key, KEY, "the key"), label.encode(), array, len(parts), out, size)
    return bytes(ffi.buffer(out))


def public(secret: bytes) -> bytes:
    """The public key of a secret signing key; both 32 bytes."""
    out = ffi.new("uint8_t[]", KEY)
    lib.qfl_crypt_public(_sized(secret, KEY, "the signing key"), out)
    return bytes(ffi.buffer(out))


def sign(secret: bytes, label: str, message: bytes) -> bytes:
    """EdDSA (edwards25519, BLAKE2b) over label, zero byte and message (at most 64 bytes)."""
    out = ffi.new("uint8_t[]", SIGNATURE)
    status = lib.qfl_crypt_sign(
        _sized(secret, KEY, "the signing key"), label.encode(), _buffer(message), len(message), out
    )
    if status < 0:
        raise ValueError("label or message are too long to be signed")
    return bytes(ffi.buffer(out))


def check(public_key: bytes, label: str, message: bytes, signature: bytes) -> bool:
    """Whether the holder of the secret key signed this."""
    status = lib.qfl_crypt_check(
        _sized(public_key, KEY, "the public key"),
        label.encode(),
        _buffer(message),
        len(message),
        _sized(signature, SIGNATURE, "the signature"),
    )
    return bool(status == 0)
