"""`quantfl bench codec`: what coding a delta costs on a Cortex-M4F: instructions per weight and stack,
counted by QEMU.

Deltas are those of real fits (scikit-learn's digits; features are random projections after a ReLU, so that
heads of all sizes can be made). Counted: error feedback, centring and quantising; writing; and reading, as a
board does with what comes down. The bytes are compared with those that the same code makes here. The coder
keeps its state on the stack and writes into memory that the fit no longer needs, so `stack_bytes` is all the
RAM it takes beside the residual.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from quantfl.core.codec import Form, dz_step, dz_with_feedback, dz_write
from quantfl.core.head import FitConfig, Head
from quantfl.data.dataset import digits_arrays
from quantfl.emulation.base import firmware
from quantfl.errors import ToolError

HEADS = ((64, 10), (128, 10), (256, 10), (64, 100))
STEPS = (1.0, 1.6, 2.0, 4.0, 8.0)  # a run goes from 8 or 16 to 1.6, or 1 where boards share little
_JOB = 0x21300000


def delta(dims: tuple[int, int], seed: int = 1) -> np.ndarray:
    """float32 [params]: two epochs of a fit on 200 digits, from zero."""
    rng = np.random.default_rng(seed)
    x, y = digits_arrays()
    pixels = x[:200].reshape(200, -1) / 255.0
    hidden = np.maximum(0.0, (pixels - pixels.mean(0)) @ rng.normal(size=(pixels.shape[1], dims[0])))
    q = np.clip(np.rint(hidden / hidden.max() * 255) - 128, -128, 127).astype(np.int8)
    head = Head(dims, 0.02, -128)
    trained, _ = head.fit(
        np.zeros(head.params, np.float32),
        q,
        y[:200].astype(np.uint16),
        FitConfig(lr=0.02, epochs=2, seed=seed),
    )
    return trained


def count(x: np.ndarray, columns: int, code: int, *, timeout: float = 120.0) -> dict:
    """Instructions of every step, stack and bytes of coding x float32 [n] on the emulated board."""
    if shutil.which("qemu-system-arm") is None:
        raise ToolError("qemu-system-arm is not installed (package qemu-system-arm)")
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job", Path(folder) / "out"
        job.write_bytes(
            struct.pack("<IIII", 0, x.size, columns, code) + np.ascontiguousarray(x, "<f4").tobytes()
        )
        command = [
            "qemu-system-arm",
            "-M",
            "mps2-an386",
            "-icount",
            "shift=0",
            "-kernel",
            str(firmware("bench_m4", "firmware.elf")),
            "-nodefaults",
            "-display",
            "none",
            "-monitor",
            "none",
            "-semihosting-config",
            "enable=on,target=native",
            "-serial",
            f"file:{out}",
            "-device",
            f"loader,file={job},addr={_JOB:#x},force-raw=on",
        ]
        try:
            subprocess.run(command, capture_output=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ToolError(f"the emulated bench did not end within {timeout:g} s") from None
        fields = dict(line.split(" ", 1) for line in out.read_text().splitlines() if " " in line)
    if "output" not in fields:
        raise ToolError("the emulated bench failed: no output; is the firmware built anew (make firmware)?")
    return {k: int(v) for k, v in fields.items() if k != "output"} | {
        "bytes": bytes.fromhex(fields["output"])
    }


def run(quick: bool = False) -> list[dict]:
    """One row per head and step; instructions per weight."""
    rows = []
    for dims in HEADS[1:3] if quick else HEADS:
        x, head = delta(dims), Head(dims, 0.02, -128)
        for steps in STEPS[1::2] if quick else STEPS:
            code = dz_step(x, steps)
            got = count(x, dims[1], code)
            expected = dz_write(
                dz_with_feedback(x, dims[1], np.zeros(x.size, np.int8), 0.0, code),
                Form(code, True, 0),
                head.tensors,
            )
            per = {k: got[k] / x.size for k in ("quantise", "write", "read")}
            rows.append(
                {
                    "head": "x".join(map(str, dims)),
                    "weights": int(x.size),
                    "step_rms": steps,
                    "bits_per_weight": 8 * len(expected) / x.size,
                    "quantise": per["quantise"],
                    "write": per["write"],
                    "encode_insns_per_weight": per["quantise"] + per["write"],
                    "read_insns_per_weight": per["read"],
                    "stack_bytes": got["stack"],
                    "same_bytes": got["bytes"] == expected,
                }
            )
    return rows
