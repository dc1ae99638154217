"""Models as C arrays (model.h, model_data.cc), as firmware projects keep them: read, and written."""

from __future__ import annotations

import hashlib
import re

from quantfl.errors import PackageError

SUFFIXES = (".h", ".hpp", ".c", ".cc", ".cpp", ".inc")
_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
_LIST = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(r"0[xX][0-9a-fA-F]+|\d+")


def read(text: str, source: str) -> bytes:
    """The bytes of the longest list of numbers in C text. PackageError: there is none, or one beyond a
    byte."""
    lists = [m.group(1) for m in _LIST.finditer(_COMMENT.sub(" ", text))]
    found = max(lists, key=len, default="")
    values = [int(v, 0) if v[:2] in ("0x", "0X") else int(v) for v in _NUMBER.findall(found)]
    if not values:
        raise PackageError(f"{source} holds no array of bytes; give a C array of a .tflite file")
    if max(values) > 255:
        raise PackageError(f"{source}: {max(values)} in its longest array is no byte")
    return bytes(values)


def write(data: bytes, name: str) -> str:
    """C text with an aligned array `name` and its length `name_len`."""
    symbol = re.sub(r"\W", "_", name)
    symbol = f"_{symbol}" if symbol[:1].isdigit() else symbol or "model"
    lines = [", ".join(f"0x{b:02x}" for b in data[i : i + 16]) for i in range(0, len(data), 16)]
    digest = hashlib.sha256(data).hexdigest()
    return (
        f"/* {len(data)} bytes, sha256 {digest}; written by quantfl. */\n"
        f"static const unsigned char {symbol}[] __attribute__((aligned(16))) = {{\n    "
        + ",\n    ".join(lines)
        + f"\n}};\nstatic const unsigned int {symbol}_len = {len(data)};\n"
    )
