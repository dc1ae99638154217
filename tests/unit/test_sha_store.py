"""SHA-256 against hashlib; the store through a board that is reset in the middle of things."""

from __future__ import annotations

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from quantfl.core import ffi, lib


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_sha256_equals_hashlib(parts):
    s, out = ffi.new("qfl_sha256 *"), ffi.new("uint8_t[32]")
    lib.qfl_sha256_begin(s)
    for p in parts:
        lib.qfl_sha256_add(s, ffi.from_buffer("uint8_t[]", p), len(p))
    lib.qfl_sha256_end(s, out)
    assert bytes(out) == hashlib.sha256(b"".join(parts)).digest()
