"""`quantfl bench flash`: bytes of flash that firmwares take, by part, from what the linker wrote.

A firmware's bytes are those of its loaded segments: code, constants, vectors and initial data; no model, no
package.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from quantfl.emulation.base import firmware
from quantfl.emulation.flash import built
from quantfl.errors import ToolError

#: What the project promises of standard_m4.
STANDARD_MOST = 48 * 1024
_PARTS = {
    "qfl_nn": "engine",
    "qfl_head": "training",
    "qfl_codec": "codecs",
    "qfl_link": "link",
    "qfl_store": "store",
    "qfl_device": "device",
    "qfl_crypt": "keys",
    "monocypher": "keys",
}
#: Of other libraries, but there for keys only.
_KEYS = ("qfl_link_secure.", "qfl_device_keys.", "qfl_keystore.")
_SECTION = re.compile(r"^ (\.\S+)\s+0x[0-9a-f]+\s+0x([0-9a-f]+)\s+(\S+)$", re.MULTILINE)
_LOADED = (".text", ".rodata", ".srodata", ".data", ".sdata", ".vectors", ".init")


def parts(linker_map: Path) -> Counter:
    """Bytes by part: a library, `keys` of whatever library, `port` with start-up code, `compiler` for libc
    and libgcc."""
    text = linker_map.read_text()
    found: Counter = Counter()
    for section, size, where in _SECTION.findall(text[text.index("Linker script and memory map") :]):
        if not section.startswith(_LOADED):
            continue
        library = re.search(r"/lib(\w+)\.a\((\S+)\)$|lib(\w+)\.a$", where)
        name = library[1] if library else None
        part = _PARTS.get(name or "", "compiler" if name in ("c", "gcc", "m") else "port")
        found["keys" if library and library[2] and library[2].startswith(_KEYS) else part] += int(size, 16)
    return found


def run(quick: bool = False) -> list[dict]:
    """One row per firmware that is built; ToolError when none is."""
    rows = []
    for build, total in built().items():
        by = parts(firmware(build, "firmware.map"))
        rows.append(
            {"firmware": build, "bytes": total}
            | {
                p: by[p]
                for p in (
                    "engine",
                    "training",
                    "codecs",
                    "link",
                    "store",
                    "device",
                    "keys",
                    "port",
                    "compiler",
                )
            }
            | {"padding": total - sum(by.values())}
        )
    if not rows:
        raise ToolError("no firmware is built; run `make firmware cores`")
    return rows
