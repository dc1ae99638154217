"""`quantfl bench engine`: executed instructions, RAM and code of an inference, and equality with
tflite-micro.

Instructions are counted on an emulated MPS2 AN386 with `-icount shift=0` (exact, repeatable, 40 at a time;
not cycles). code_bytes is the whole bench firmware: start-up, engine with all operators, and the bench
itself; firmware_bytes the whole firmware of a board: port, link with keys, codec, training, store, engine
with all operators.

Yardsticks: tflite-micro with CMSIS-NN and with its reference kernels, int8-only registration, -O2, counted
the same way on the same emulated core in November 2026; given as ratios.

m55_insns: on an emulated Cortex-M55 (MPS3 AN547) with Helium; m55_dsp_insns: there without Helium's kernels.
None where these are not built (`make cores`).
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantfl.data.dataset import find
from quantfl.emulation.base import ROOT, firmware
from quantfl.errors import DataError, ToolError, UnsupportedError
from quantfl.package.convert import convert_bytes
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import compile_program, open_package

MLPERF = {
    "resnet8": "pretrainedResnet_quant.tflite",
    "kws_dscnn": "kws_ref_model.tflite",
    "vww_mobilenet": "vww_96_int8.tflite",
    "ad_autoencoder": "ad01_int8.tflite",
}
#: Model: instructions with CMSIS-NN, with reference kernels, arena in bytes.
YARDSTICKS = {
    "mnist_cnn": (1_188_360, 4_822_640, 8_276),
    "resnet8": (29_863_000, 107_401_760, 54_996),
    "kws_dscnn": (7_696_320, 43_039_600, 22_820),
    "vww_mobilenet": (24_101_520, 100_254_080, 100_708),
    "ad_autoencoder": (582_880, 1_952_240, 2_580),
}
#: Core of a bench firmware: QEMU's machine, where its memory begins.
_M4, _M55 = (("-M", "mps2-an386"), 0x21000000), (("-M", "mps3-an547", "-m", "2G"), 0x60000000)
_MACHINES = {"bench_m4": _M4, "bench_m4_portable": _M4, "bench_m55": _M55, "bench_m55_dsp": _M55}
_JOB, _PACKAGE = 0x300000, 0x400000


@dataclass(frozen=True)
class Counted:
    """One model on the emulated board: per inference instructions and stack, for all inputs the outputs [n,
    K]."""

    insns: int
    open_insns: int
    arena: int
    stack: int
    outputs: np.ndarray
    train_insns: int | None = None  # of one epoch over the inputs, where the package has a head
    train_ram: int | None = None  # scratch, state and stack of the fit, bytes
    train_sum: int | None = None  # checksum of the trained parameters' bits


def macs(model: ModelFile) -> int:
    """Multiply-accumulates of one inference: convolutions and dense layers."""
    total = 0
    for op in model.ops:
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            w, y = model.tensors[op.inputs[1]], model.tensors[op.outputs[0]]
            per_output = {"CONV_2D": w.size // w.shape[0], "FULLY_CONNECTED": w.shape[-1]}.get(op.name)
            total += y.size * (w.shape[1] * w.shape[2] if per_output is None else per_output)
    return total


def count(package: bytes, inputs: np.ndarray, *, timeout: float = 300.0, env: str = "bench_m4") -> Counted:
    """Run a package on the emulated board. inputs: int8 [n, input_size]. env: bench_m4, bench_m55, or without
    their DSP or Helium kernels bench_m4_portable, bench_m55_dsp."""
    if shutil.which("qemu-system-arm") is None:
        raise ToolError("qemu-system-arm is not installed (package qemu-system-arm)")
    elf, (machine, base) = firmware(env, "firmware.elf"), _MACHINES[env]
    with tempfile.TemporaryDirectory() as folder:
        job, pack, out = (Path(folder) / n for n in ("job", "package", "out"))
        pack.write_bytes(package)
        job.write_bytes(
            struct.pack("<II", len(package), len(inputs)) + np.ascontiguousarray(inputs, np.int8).tobytes()
        )
        command = [
            "qemu-system-arm",
            *machine,
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
            "-device",
            f"loader,file={job},addr={base + _JOB:#x},force-raw=on",
            "-device",
            f"loader,file={pack},addr={base + _PACKAGE:#x},force-raw=on",
        ]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired:
            raise ToolError(f"the emulated bench did not end within {timeout:g} s") from None
        lines = [line.split(" ", 1) for line in out.read_text().splitlines()] if out.exists() else []
    fields = dict(lines)
    if fields.get("status") != "0" or "output" not in fields:
        raise ToolError(
            f"the emulated bench failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
        )
    return Counted(
        max(int(v) for k, v in lines if k == "insns"),
        int(fields["open"]),
        int(fields["arena"]),
        max(int(v) for k, v in lines if k == "stack"),
        np.stack([np.frombuffer(bytes.fromhex(v), np.int8) for k, v in lines if k == "output"]),
        int(fields["train"]) if "train" in fields else None,
        sum(int(fields[f"train_{k}"]) for k in ("scratch", "state", "stack")) if "train" in fields else None,
        int(fields["train_sum"]) if "train" in fields else None,
    )


def train_cost(data: bytes, inputs: np.ndarray, name: str) -> float | None:
    """Instructions per weight and sample of a fit of the default head; None for a model without one.

    Features are those of random inputs: how many are zero, and so skipped, is the model's own.
    """
    try:
        package = convert_bytes(data, source=name).package
    except UnsupportedError:
        return None
    counted = count(package, inputs)
    weights = open_package(package).params.size
    return None if counted.train_insns is None else counted.train_insns / (weights * len(inputs))


def code_bytes(env: str = "bench_m4") -> int:
    """.text (with constants) and .data of a firmware."""
    size = shutil.which("arm-none-eabi-size")
    if size is None:
        raise ToolError("arm-none-eabi-size is not installed (package binutils-arm-none-eabi)")
    out = subprocess.run(
        [size, "-A", str(firmware(env, "firmware.elf"))], capture_output=True, text=True, check=True
    )
    rows = [line.split() for line in out.stdout.splitlines()]
    return sum(
        int(r[1]) for r in rows if len(r) == 3 and r[0] in (".text", ".data", ".vectors", ".ARM.exidx")
    )


def models() -> dict[str, bytes]:
    """The demo's model, and MLPerf Tiny's four where the shared data is."""
    found = {
        name: (ROOT / "models" / folder / f"{folder}_int8.tflite").read_bytes()
        for name, folder in (("digits_cnn", "digits"), ("mnist_cnn", "mnist_cnn"))
    }
    try:
        folder = find("models/mlperf_tiny", None)
    except DataError:
        return found
    return found | {
        name: (folder / file).read_bytes() for name, file in MLPERF.items() if (folder / file).exists()
    }


def on_m55(package: bytes, inputs: np.ndarray, expected: np.ndarray, name: str) -> tuple[int, int] | None:
    """Instructions on Cortex-M55 with Helium and without; None where its firmware is not built. ToolError for
    other outputs."""
    counts = []
    for env in ("bench_m55", "bench_m55_dsp"):
        try:
            firmware(env, "firmware.elf")
        except ToolError:
            return None
        counted = count(package, inputs, env=env)
        if (counted.outputs != expected).any():
            raise ToolError(f"{name}: {env} gives other outputs than bench_m4")
        counts.append(counted.insns)
    return counts[0], counts[1]


def run(quick: bool = False) -> list[dict]:
    """One row per model. bit_exact: None when tflite-micro is not installed."""
    rows, code, whole = [], code_bytes(), code_bytes("qemu_m4")
    for name, data in models().items():
        model = ModelFile(data, name)
        size = model.tensors[model.inputs[0]].size
        inputs = np.random.default_rng(1).integers(-128, 128, (2 if quick else 10, size), np.int8)
        counted, total = count(compile_program(data, name=name), inputs), macs(model)
        expected = oracle(data, model, inputs)
        portable = count(compile_program(data, name=name), inputs[:1], env="bench_m4_portable")
        if (portable.outputs != counted.outputs[:1]).any():
            raise ToolError(f"{name}: portable and DSP kernels differ")
        helium = on_m55(compile_program(data, name=name), inputs[:2], counted.outputs[:2], name)
        fast, reference, arena = YARDSTICKS.get(name, (None, None, None))
        rows.append(
            {
                "model": name,
                "macs": total,
                "insns": counted.insns,
                "insns_per_mac": counted.insns / total,
                "insns_ratio": None if fast is None else counted.insns / fast,
                "portable_insns": portable.insns,
                "portable_ratio": None if reference is None else portable.insns / reference,
                "m55_insns": helium and helium[0],
                "m55_dsp_insns": helium and helium[1],
                "open_share": counted.open_insns / counted.insns,
                "arena_ratio": None if arena is None else counted.arena / arena,
                "firmware_bytes": whole,
                "arena_bytes": counted.arena,
                "stack_bytes": counted.stack,
                "code_bytes": code,
                "bit_exact": None if expected is None else bool((expected == counted.outputs).all()),
                "inputs_checked": 0 if expected is None else len(inputs),
                "train_insns_per_weight": train_cost(data, np.resize(inputs, (10, size)), name),
            }
        )
    return rows


def oracle(data: bytes, model: ModelFile, inputs: np.ndarray) -> np.ndarray | None:
    """tflite-micro's outputs [n, K], None when it is not installed."""
    try:
        import tflite_micro
    except ImportError:
        return None
    interpreter = tflite_micro.runtime.Interpreter.from_bytes(data, arena_size=4 << 20)
    shape, rows = model.tensors[model.inputs[0]].shape, []
    for x in inputs:
        interpreter.set_input(x.reshape(shape), 0)
        interpreter.invoke()
        rows.append(np.array(interpreter.get_output(0)).reshape(-1).copy())
    return np.stack(rows)
