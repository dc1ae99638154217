"""Runs packages on an emulated core through the firmware of firmware/cases."""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from quantfl.core.nn import Engine
from quantfl.emulation.base import firmware
from quantfl.emulation.qemu import MACHINES, Machine
from quantfl.errors import ToolError

CORES = {
    kind.removeprefix("qemu_"): machine for kind, machine in MACHINES.items() if kind.startswith("qemu_")
} | {"lx106": Machine("xtensa", ("-M", "sim", "-cpu", "lx106"), "Xtensa LX106")}
STATUS = {0: "ran", 1: "too large", 2: "refused", 3: "wrote outside its arena", 4: "differs on a second run"}


@dataclass(frozen=True)
class Case:
    """A package whose last operator's output is wanted, and inputs int8 [n, size]."""

    name: str
    package: bytes
    inputs: np.ndarray

    def expected(self) -> np.ndarray:
        """What the portable C gives on this machine, which equals tflite-micro
        (tests/unit/test_nn_ops.py)."""
        return Engine(self.package).classify(self.inputs)


def need_core(core: str) -> None:
    machine = CORES[core]
    if shutil.which(machine.command) is None:
        pytest.skip(f"{machine.command} is not installed (package {machine.debian})")
    try:
        firmware(f"cases_{core}", "firmware.elf")
    except ToolError as error:
        pytest.skip(str(error))


def run_cases(
    core: str, cases: list[Case], folder: Path, timeout: float = 240.0
) -> dict[str, np.ndarray | str]:
    """Outputs int8 [n, K] by name, or the status in words where a case did not run."""
    machine = CORES[core]
    with open(folder / "cases", "wb") as f:
        for case in cases:
            x = np.ascontiguousarray(case.inputs, np.int8).tobytes()
            f.write(struct.pack("<3I", len(case.package), len(case.inputs), len(x)))
            f.write(case.package.ljust(-(-len(case.package) // 16) * 16, b"\0") + x)
    semihosting = (
        ["-semihosting"] if machine.system == "xtensa" else ["-semihosting-config", "enable=on,target=native"]
    )
    command = [
        machine.command,
        *machine.args,
        *semihosting,
        "-kernel",
        str(firmware(f"cases_{core}", "firmware.elf")),
        "-nodefaults",
        "-display",
        "none",
        "-monitor",
        "none",
        "-serial",
        "null",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, f"{core}: emulator ended with {done.returncode}: {done.stderr[-500:]}"
    data, at, found = (folder / "results").read_bytes(), 0, {}
    for case in cases:
        (status,) = struct.unpack_from("<I", data, at)
        at += 4
        if status:
            found[case.name] = STATUS[status]
            continue
        shape = case.expected().shape
        size = int(np.prod(shape))
        found[case.name] = np.frombuffer(data, np.int8, size, at).reshape(shape)
        at += size
    assert at == len(data)
    return found
