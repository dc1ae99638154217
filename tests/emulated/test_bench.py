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


def test_quantisers(monkeypatch, tmp_path):
    need_digits()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    from quantfl.bench import quantisers

    monkeypatch.setattr(quantisers, "FAMILIES", tuple(f for f in quantisers.FAMILIES if "zlib" not in f.name))  # the slow one
    rows = quantisers.run(quick=True)
    on = {(r["data"], r["quantiser"]): r for r in rows}
    assert {d for d, _ in on} == {"normal", "Laplace", "digits, round 1", "digits, round 5"}
    for q, loss, bits in (("EDEN(1)", 0.57, 1), ("EDEN(2)", 0.133, 2), ("EDEN(4)", 0.0096, 4), ("sign", 0.3634, 1)):
        row = on["normal", q]
        assert row["nmse"] == pytest.approx(loss, rel=0.05) and row["bits_per_weight"] == pytest.approx(bits, abs=0.02)
    for row in rows:
        assert row["bits_per_weight"] > 0 and row["nmse"] >= 0
        if row["excess_bits"] is not None:
            assert row["excess_bits"] > 0, "below the rate-distortion bound"
    # coding BU's indices loses nothing and pays; buckets by quantiles do not
    for levels in (4, 8, 16, 32, 64):
        plain, coded = (on["digits, round 1", f"BU({levels}{o})"] for o in ("", ", coded"))
        assert plain["nmse"] == coded["nmse"] and coded["bits_per_weight"] < 0.85 * plain["bits_per_weight"]
        assert on["normal", f"BQ({levels})"]["nmse"] > on["normal", f"BU({levels})"]["nmse"]
    files = quantisers.plots(rows, tmp_path)
    assert len(files) == 4 and all(f.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n" for f in files)


def test_ablations(monkeypatch, tmp_path):
    need_digits()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    from quantfl.bench import ablations, starts

    monkeypatch.setattr(ablations, "LEVELS", (4, 64))
    monkeypatch.setattr(ablations, "STEPS", (2, 8))
    monkeypatch.setattr(ablations, "QUICK_ROUNDS", 6)
    monkeypatch.setattr(starts, "RATES", (0.05,))
    rows = ablations.run(quick=True)
    kinds = {kind: [r for r in rows if r["ablation"] == kind] for kind in ("levels", "initialisation", "feedback", "feedback limit")}
    assert all(kinds.values()) and sum(map(len, kinds.values())) == len(rows)
    bu64 = next(r for r in kinds["levels"] if (r["codec"], r["levels"], r["coded"]) == ("BU", 64, False))
    assert bu64["uplink_saved"] > 0.78 and 0.35 < bu64["total_saved"] < 0.45  # the paper's setting
    coded = next(r for r in kinds["levels"] if (r["codec"], r["levels"], r["coded"]) == ("BU", 64, True))
    assert coded["accuracy"] == bu64["accuracy"] and coded["bits_per_weight"] < bu64["bits_per_weight"] - 1
    for r in kinds["initialisation"]:
        assert r["kurtosis"] > 0 and 0 < r["entropy_bu64"] < 6 and r["weights"] == 64 * 32 + 32 + 320 + 10
    coarse = {r["feedback"]: r["accuracy"] for r in kinds["feedback"] if r["setting"] == "step 8 rms"}
    fine = {r["feedback"]: r["accuracy"] for r in kinds["feedback"] if r["setting"] == "L = 64"}
    assert coarse[False] < fine[False] - 0.05 and abs(fine[True] - fine[False]) < 0.05
    assert {r["codec"] for r in kinds["feedback limit"]} == {"BU, coded", "DZ"}
    assert len(ablations.plots(rows, tmp_path)) == 3 and len(list(tmp_path.glob("*.png"))) == 3
