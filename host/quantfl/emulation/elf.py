"""Addresses of a firmware's symbols: the symbol table of a 32-bit little-endian ELF file (System V ABI,
chapter 4)."""

from __future__ import annotations

import struct
from pathlib import Path

from quantfl.errors import ToolError

_SYMTAB = 2


def symbols(path: str | Path) -> dict[str, int]:
    """Name -> value. ToolError when the file is no such ELF file or has no symbols."""
    data = Path(path).read_bytes()
    if data[:6] != b"\x7fELF\x01\x01":
        raise ToolError(f"{path}: not a 32-bit little-endian ELF file")
    at, size, count = struct.unpack_from("<I", data, 32)[0], *struct.unpack_from("<HH", data, 46)
    sections = [struct.unpack_from("<10I", data, at + i * size) for i in range(count)]
    table = next((s for s in sections if s[1] == _SYMTAB), None)
    if table is None:
        raise ToolError(f"{path}: no symbols")
    names = sections[table[6]][4]  # the section that its link names: file offset of the strings
    found = {}
    for i in range(table[4], table[4] + table[5], table[9]):
        name, value = struct.unpack_from("<II", data, i)
        found[data[names + name : data.index(b"\0", names + name)].decode()] = value
    return found
