#!/usr/bin/env python3
"""Writes the known answers of the boards' self-test (firmware/lib/qfl_nn/src/qfl_nn_selftest.c) from this
machine's portable kernels.

Run it after changing the cases, with the extension built (`make firmware`); `--check` only says whether they
are up to date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from quantfl.core import ffi, lib

SOURCE = Path(__file__).resolve().parents[1] / "firmware" / "lib" / "qfl_nn" / "src" / "qfl_nn_selftest.c"
ROW = re.compile(r"^    \{OP_\w+, [\d, ]+?, (0x[0-9A-F]{8}|0)\},$", re.MULTILINE)


def main() -> int:
    memory = ffi.new("uint8_t[]", lib.QFL_NN_SELFTEST_BYTES + 16)
    start = memory + -int(ffi.cast("uintptr_t", memory)) % 16
    hashes = [lib.qfl_nn_selftest_hash(i, start) for i in range(lib.qfl_nn_selftest_count())]
    if 0 in hashes:
        print(f"case {hashes.index(0) + 1} does not fit QFL_NN_SELFTEST_BYTES", file=sys.stderr)
        return 1
    text, left = SOURCE.read_text(), iter(hashes)
    made = ROW.sub(lambda m: m[0][: m.start(1) - m.start()] + f"0x{next(left):08X}" + "},", text)
    if next(left, None) is not None:
        print("the extension was built from other cases: run make firmware first", file=sys.stderr)
        return 1
    if "--check" in sys.argv:
        return 0 if made == text else 1
    SOURCE.write_text(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
