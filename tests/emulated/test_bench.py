"""The benches print what docs and README paste."""

from __future__ import annotations

import shutil

import pytest

from quantfl.bench import bytes as bench_bytes
from quantfl.bench import engine as bench_engine
from quantfl.emulate.base import ROOT, firmware
from quantfl.errors import ToolError
from tests.support import need_digits

pytestmark = pytest.mark.emulated


def test_engine():
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-size") is None:
        pytest.skip("qemu-system-arm or the Arm toolchain is not installed")
    try:
        firmware("bench_m4", "firmware.elf")
    except ToolError as error:
        pytest.skip(str(error))
    rows = {r["model"]: r for r in bench_engine.run(quick=True)}
    keys = {"model", "macs", "insns", "insns_per_mac", "arena_bytes", "stack_bytes", "code_bytes", "bit_exact", "inputs_checked"}
    for row in rows.values():
        assert keys <= set(row) and row["bit_exact"] is not False
        assert row["stack_bytes"] <= 1024 and row["code_bytes"] < 48 * 1024 and row["insns_per_mac"] < 3
    assert rows["digits_cnn"]["macs"] == 105_216


def test_bytes(monkeypatch):
    need_digits()
    task = bench_bytes._task("digits", ROOT / "models" / "digits" / "demo.toml", {"run": {"rounds": 8}})
    monkeypatch.setattr(bench_bytes, "tasks", lambda quick: [task])
    rows = {r["scheme"]: r for r in bench_bytes.run(quick=True)}
    keys = {"task", "scheme", "seeds", "accuracy", "rounds", "up_bytes", "down_bytes", "total_bytes", "bytes_to_target",
            "ratio_to_fp32", "split", "participation", "accuracy_sd"}  # fmt: skip
    assert all(keys <= set(r) for r in rows.values())
    plain = rows["fp32"]
    assert plain["ratio_to_fp32"] == 1.0 and plain["up_bytes"] > 8 * 4 * 1290
    assert plain["up_bytes"] > 4.5 * rows["BU(64)"]["up_bytes"] > 4.5 * 3 * rows["DZ(3)"]["up_bytes"]
