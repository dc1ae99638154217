"""Build `quantfl.core._qfl`: every library of firmware/lib, bound with cffi.

Declarations are taken from the libraries' own public headers (through the C preprocessor), so there is no
second list of prototypes to drift away. Public headers therefore hold declarations only: no inline functions,
no function-like macros that a caller needs, enums for constants. qfl_bytes.h, which is nothing but inline
functions, is left out.

Run as a script to (re)build the extension beside this file: `python host/quantfl/core/_build.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from cffi import FFI

ROOT = Path(__file__).resolve().parents[3]
LIB = ROOT / "firmware" / "lib"
INPROC = ROOT / "firmware" / "boards" / "inproc"
#: Same flags as the firmware: one order of operations, no contraction, no reassociation. Without debug
#: information, so that the same sources make the same bytes, by which benches know whether finished runs are
#: of the present code.
CFLAGS = ["-std=c11", "-O2", "-g0", "-ffp-contract=off", "-fno-fast-math", "-Wall", "-Wextra", "-DQFL_HOST=1"]


def _headers() -> list[Path]:
    found = [*sorted(LIB.glob("*/include/*.h")), *sorted(INPROC.glob("*.h"))]
    return [h for h in found if h.name != "qfl_bytes.h"]


def _includes() -> list[str]:
    return sorted({str(h.parent) for h in _headers()})


def _cdef() -> str:
    """The declarations of all public headers, system headers left out."""
    text = "".join(f'#include "{h.name}"\n' for h in _headers())
    cmd = [os.environ.get("CC", "cc"), "-E", "-x", "c", "-std=c11", *[f"-I{d}" for d in _includes()], "-"]
    out = subprocess.run(cmd, input=text, capture_output=True, text=True, check=True).stdout
    ours, keep = [], False
    for line in out.splitlines():
        mark = re.match(r'# \d+ "([^"]+)"', line)
        if mark:
            keep = mark[1].startswith((str(LIB), str(INPROC)))
        elif keep and line.strip() and not line.startswith("_Static_assert"):
            ours.append(line)
    return "\n".join(ours)


def make(base: Path | None = ROOT) -> FFI:
    """base: sources are named relative to it (setuptools wants that), None: absolute."""

    def name(path: Path) -> str:
        return str(path.relative_to(base) if base else path)

    ffi = FFI()
    ffi.cdef(_cdef())
    sources = [name(p) for p in sorted(LIB.glob("*/src/**/*.c"))]
    sources += [name(p) for p in (*sorted(INPROC.glob("*.c")), INPROC.parent / "common" / "qfl_ram_flash.c")]
    private = sorted({str(p.parent) for p in LIB.glob("*/src/**/*.h")})
    ffi.set_source(
        "quantfl.core._qfl",
        "".join(f'#include "{h.name}"\n' for h in _headers()),
        sources=sources,
        include_dirs=[*_includes(), *private],
        extra_compile_args=CFLAGS,
        extra_link_args=["-pthread"] if os.name == "posix" else [],
        depends=[name(p) for p in sorted(LIB.glob("*/**/*.h"))],
    )
    return ffi


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        built = make(None).compile(tmpdir=folder, verbose=False)
        # Where `pip install -e .` puts it, so that there is never a second one.
        target = Path(__file__).with_name("_qfl.abi3.so")
        shutil.copyfile(built, target.with_suffix(".new"))
        target.with_suffix(".new").replace(target)
else:
    ffibuilder = make()
