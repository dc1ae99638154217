"""`quantfl bench keys`: what keys cost a board: instructions and stack per frame, handshake and signature;
bytes, code, RAM.

Instructions are counted on an emulated Cortex-M4F with `-icount shift=0` (exact to 40, repeatable; not
cycles). Code is that of the whole firmware, by the source file its symbols come from. Bytes are those of
frames that the link's own C makes. Where the emulated micro:bit is built (`make cores`), also the depth of
its stack in all that it does with keys (stack.py).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from quantfl.core import lib
from quantfl.core.link import NAMED, UP, Link
from quantfl.emulation.base import available, firmware
from quantfl.errors import ToolError
from quantfl_lab.bench import stack

SOURCES = ("monocypher.c", "qfl_crypt.c", "qfl_link_secure.c", "qfl_device_keys.c", "qfl_keystore.c")
WHAT = {
    "seal": "encrypt and tag a frame's payload",
    "open": "check and decrypt it",
    "sign": "sign a package (host)",
    "check": "check a package's signature, its SHA-256 apart",
    "syn": "answer a SYN",
    "first": "take the first frame of a session",
    "receive": "take a frame",
    "send": "make a frame",
}


def measured(*, timeout: float = 120.0) -> list[tuple[str, int, int, int]]:
    """Lines of the emulated bench: name, size, instructions, stack."""
    if shutil.which("qemu-system-arm") is None:
        raise ToolError("qemu-system-arm is not installed (package qemu-system-arm)")
    elf = firmware("bench_keys_m4", "firmware.elf")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        command = [
            "qemu-system-arm",
            "-M",
            "mps2-an386",
            "-icount",
            "shift=0",
            "-kernel",
            str(elf),
            "-nodefaults",
            "-display",
            "none",
            "-monitor",
            "none",
            "-semihosting-config",
            "enable=on,target=native",
            "-serial",
            f"file:{out}",
        ]
        try:
            subprocess.run(command, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ToolError(f"the emulated bench did not end within {timeout:g} s") from None
        lines = [line.split() for line in out.read_text().splitlines()] if out.exists() else []
    rows = [(name, *map(int, rest)) for name, *rest in lines]
    if not rows or rows[-1][0] != "end" or not any(r[0] == "right" for r in rows):
        raise ToolError("the emulated bench of keys failed")
    return rows


def code_by_source() -> dict[str, int]:
    """Bytes of code and constants in the Cortex-M4F firmware that come from each of SOURCES."""
    nm = shutil.which("arm-none-eabi-nm")
    if nm is None:
        raise ToolError("arm-none-eabi-nm is not installed (package binutils-arm-none-eabi)")
    out = subprocess.run(
        [nm, "-S", "-l", str(firmware("qemu_m4", "firmware.elf"))], capture_output=True, text=True, check=True
    )
    found = dict.fromkeys(SOURCES, 0)
    for line in out.stdout.splitlines():
        match = re.match(r"[0-9a-f]+ ([0-9a-f]+) [tTrR] \S+\t(?:.*/)?([^/]+\.c):\d+$", line)
        if match and match[2] in found:
            found[match[2]] += int(match[1], 16)
    return found


def frame_bytes(payload: int, keys: bool) -> tuple[int, int]:
    """Bytes on the wire of a DATA frame with `payload` bytes, and of the ACK frame that answers it."""
    host, board = Link(), Link(initiator=False, message_max=4160, frame_max=256)
    if keys:
        host.secure(bytes(32))
        board.secure(bytes(32), uid=bytes(8), key=bytes(32))
    host.connect(1, 0)
    board.feed(host.pull(0), 0)
    host.feed(board.pull(0), 0)
    if host.state == NAMED:
        host.set_key(bytes(32))
    assert host.state == UP
    host.send(bytes(range(256))[:payload])
    data = host.pull(0)
    board.feed(data, 0)
    board.message()
    return len(data), len(board.pull(0))


def run(quick: bool = False) -> list[dict]:
    """Rows by subject: bytes per frame, instructions and stack, code, RAM. quick changes nothing: it takes
    seconds."""
    del quick
    rows: list[dict] = []
    for payload in (5, 64, 256):
        plain, keyed = frame_bytes(payload, False), frame_bytes(payload, True)
        for kind, a, b in zip(("DATA", "ACK"), plain, keyed, strict=True):
            if kind == "DATA" or payload == 5:
                size = payload if kind == "DATA" else 0
                rows.append(
                    {"frame": kind, "payload": size, "plain_bytes": a, "keyed_bytes": b, "more": b - a}
                )
    seen: set[tuple[str, int]] = set()
    lines = measured()
    for name, size, insns, depth in lines:
        verb, _, how = name.partition("_")
        if verb not in WHAT or (name, size) in seen:
            continue
        seen.add((name, size))
        rows.append(
            {"work": WHAT[verb], "link": how or "–", "bytes": size, "insns": insns, "stack_bytes": depth}
        )
    code = code_by_source()
    rows += [{"source": name, "code_bytes": n} for name, n in code.items()] + [
        {"source": "all", "code_bytes": sum(code.values())}
    ]
    ram = {name: size for name, size, *_ in lines if name.startswith("ram_")}
    rows += [{"ram_of": "a link's keys and larger frames", "bytes": ram["ram_link"]}]
    rows += [{"ram_of": "the record of keys", "bytes": ram["ram_keep"]}]
    rows.append({"security_bytes_per_frame": lib.QFL_LINK_SEAL})
    return rows + (
        [r for s in (True, False) for r in stack.measured(signed=s)] if available("qemu_m0") is None else []
    )
