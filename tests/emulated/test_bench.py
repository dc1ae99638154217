"""The benches print what docs and README paste."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

from quantfl.emulation.base import firmware
from quantfl.errors import ToolError
from quantfl.fleet import api, initialise
from quantfl.fleet.config import DownlinkTable, StartTable, UplinkTable
from quantfl.strategy import closed_form
from quantfl_lab.bench import bytes as bench_bytes
from quantfl_lab.bench import engine as bench_engine
from quantfl_lab.bench import setting as bench_setting
from quantfl_lab.bench import tasks as bench_tasks
from tests.support import need_board, need_digits, shared_data

pytestmark = pytest.mark.emulated


def test_engine():
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-size") is None:
        pytest.skip("qemu-system-arm or the Arm toolchain is not installed")
    try:
        firmware("bench_m4", "firmware.elf")
        firmware("bench_m4_portable", "firmware.elf")
    except ToolError as error:
        pytest.skip(str(error))
    rows = {r["model"]: r for r in bench_engine.run(quick=True)}
    keys = {
        "model",
        "macs",
        "insns",
        "insns_per_mac",
        "arena_bytes",
        "stack_bytes",
        "code_bytes",
        "bit_exact",
        "inputs_checked",
    }
    for row in rows.values():
        assert keys <= set(row) and row["bit_exact"] is not False
        assert row["stack_bytes"] <= 1024 and row["code_bytes"] < 48 * 1024 and row["insns_per_mac"] < 4
        assert row["open_share"] < 0.05
        # The bars of docs/BENCH.md, where there is a yardstick.
        assert row["portable_ratio"] is None or row["portable_ratio"] <= 0.5
        assert row["insns_ratio"] is None or row["insns_ratio"] <= (
            0.6 if row["model"] == "mnist_cnn" else 0.8
        )
        assert row["train_insns_per_weight"] is None or row["train_insns_per_weight"] <= 12
        # Helium, where `make cores` has built it.
        assert row["m55_insns"] is None or row["m55_insns"] <= 0.5 * row["m55_dsp_insns"]
    assert rows["digits_cnn"]["macs"] == 105_216


def test_codec():
    need_digits()
    need_board("qemu_m4")
    from quantfl_lab.bench import codec

    rows = codec.run(quick=True)
    for r in rows:
        assert r["same_bytes"], "the emulated M4 makes other bytes than the host"
        assert r["stack_bytes"] < 1024
        assert r["encode_insns_per_weight"] <= 120  # at the step that runs end with, too
    assert {r["weights"] for r in rows} == {1290, 2570}


def test_bytes(monkeypatch, tmp_path):
    need_digits()
    monkeypatch.setenv("QUANTFL_CACHE", str(tmp_path))
    task = bench_tasks.task(bench_tasks.DIGITS, "dirichlet:0.3", 1.0, central=True, rounds=8)
    monkeypatch.setattr(bench_bytes, "tasks", lambda quick: [task])
    first = bench_bytes.run(quick=True)
    rows = {r["scheme"]: r for r in first}
    keys = {
        "task",
        "scheme",
        "seeds",
        "accuracy",
        "rounds",
        "up_bytes",
        "down_bytes",
        "total_bytes",
        "bytes_to_target",
        "seeds_at_target",
        "ratio_to_fp32",
        "split",
        "participation",
        "accuracy_sd",
        "joules",
        "links",
    }
    assert all(keys <= set(r) for r in rows.values())
    plain = rows["fp32"]
    assert plain["ratio_to_fp32"] == 1.0 and plain["up_bytes"] > 8 * 4 * 1290
    assert plain["up_bytes"] > 4.5 * rows["BU(64)"]["up_bytes"] > 4.5 * 3 * rows["DZ"]["up_bytes"]
    assert plain["joules"]["ble"] == pytest.approx(8 * 18e-9 * plain["total_bytes"], rel=1e-3)
    kept = {p: p.read_text() for p in (tmp_path / "bench" / "runs").glob("*.json")}
    assert len(kept) == len(rows)
    for path in list(kept)[:2]:
        path.unlink()  # as when the bench was broken off: only these are made again, and similarity
    assert bench_bytes.run(quick=True) == first
    assert {p: p.read_text() for p in kept} == kept
    wrong = next(iter(kept))
    raw = json.loads(kept[wrong])
    raw["down"][-1] += 8000
    wrong.write_text(json.dumps(raw))
    told: list[str] = []
    assert bench_bytes.run(quick=True, progress=lambda done, total, text: told.append(text)) != first
    assert told[0].startswith(f"{len(rows)} of {len(rows)} runs are kept")
    assert bench_bytes.run(quick=True, fresh=True) == first
    assert {p: p.read_text() for p in kept} == kept


@pytest.mark.parametrize(
    "uplink", [{"codec": "dz"}, {"codec": "bu", "levels": 16, "coded": True}, {"codec": "fp32"}]
)
def test_the_simulation_counts_what_qemu_boards_count(uplink, tmp_path, monkeypatch):
    """Head-only packages, cached features and no time: still the same heads, accuracies and bytes as a fleet
    of QEMU boards.

    QEMU runs in real time. A board that the machine stopped for longer than a time-out sends a frame again:
    its bytes of that round are then held against the payload alone.
    """
    need_digits()
    need_board("qemu_m4")
    monkeypatch.setenv("QUANTFL_CACHE", str(tmp_path))
    task = bench_tasks.task(bench_tasks.DIGITS, "dirichlet:0.3", 1.0, central=True, rounds=3)
    how = "closed-form" if uplink["codec"] == "dz" else "none"
    tables = {
        "uplink": UplinkTable(**uplink),
        "downlink": DownlinkTable(**uplink),
        "start": StartTable(how=how),
    }
    fleet = task.config.fleet.model_copy(update={"boards": 3})
    config = task.config.model_copy(update=tables | {"fleet": fleet})
    base = task.source.file.parent
    mine = bench_setting.history(bench_setting.setting(config, base))
    boards = config.model_copy(update={"fleet": fleet.model_copy(update={"emulate": "qemu_m4"})})
    real = asyncio.run(api.quiet_run(boards, base))
    theirs, again = (
        real.history,
        {(k.round, k.board) for k, t in real.ledger.rows.items() if t.retransmission},
    )
    keys = ("accuracy", "loss", "head", "train_loss", "train_samples", "contributors")
    for a, b in zip(mine[1:], theirs[1:], strict=True):
        assert [a[k] for k in keys] == [b[k] for k in keys]
        for name, board in a["boards"].items():
            other = b["boards"][name]
            assert board["delta_sha256"] == other["delta_sha256"]
            for key in ("up_bytes", "down_bytes"):
                if (b["round"], name) in again:
                    assert board[key] <= other[key]
                else:  # COBS: a frame of 254 bytes or more is longer by one when none of them is zero
                    assert abs(board[key] - other[key]) <= board[key] // 254


@pytest.mark.parametrize(("how", "used"), [("auto", False), ("closed-form", True)])
def test_a_start_that_boards_do_not_bear_out_is_dropped(how, used, tmp_path, monkeypatch):
    """With start.how = auto, its sums having cost their bytes; where it was asked for it is used."""
    need_digits()
    monkeypatch.setenv("QUANTFL_CACHE", str(tmp_path))
    monkeypatch.setattr(closed_form, "TRUSTED", 1.1)  # which no head reaches
    monkeypatch.setattr(initialise, "PAYS", 100.0)
    config = bench_tasks.task(bench_tasks.DIGITS, "dirichlet:0.3", 1.0, central=True, rounds=2).config
    config = config.model_copy(
        update={"start": StartTable(how=how), "fleet": config.fleet.model_copy(update={"boards": 3})}
    )
    start, first, _ = bench_setting.history(bench_setting.setting(config, bench_tasks.DIGITS.file.parent))
    assert first["closed_form"] and first["used"] is used and 0 <= first["calibration"] <= 1
    assert (first["head"] != start["head"]) is used
    assert first["up_bytes"] > start["up_bytes"] + 3 * 500  # sums


def test_quantisers(monkeypatch, tmp_path):
    need_digits()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra plot)")
    from quantfl_lab.bench import quantisers

    monkeypatch.setenv("QUANTFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(
        quantisers, "FAMILIES", tuple(f for f in quantisers.FAMILIES if "zlib" not in f.name)
    )  # the slow one
    rows = quantisers.run(quick=True)
    on = {(r["data"], r["quantiser"]): r for r in rows}
    assert {d for d, _ in on} == {"normal", "Laplace", "digits, round 1", "digits, round 5"}
    for q, loss, bits in (
        ("EDEN(1)", 0.57, 1),
        ("EDEN(2)", 0.133, 2),
        ("EDEN(4)", 0.0096, 4),
        ("sign", 0.3634, 1),
    ):
        row = on["normal", q]
        assert row["nmse"] == pytest.approx(loss, rel=0.05) and row["bits_per_weight"] == pytest.approx(
            bits, abs=0.02
        )
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
    from quantfl_lab.bench import ablations, starts

    monkeypatch.setenv("QUANTFL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(ablations, "LEVELS", (4, 64))
    monkeypatch.setattr(ablations, "STEPS", (2, 8))
    monkeypatch.setattr(ablations, "QUICK_ROUNDS", 6)
    monkeypatch.setattr(starts, "RATES", (0.05,))
    rows = ablations.run(quick=True)
    kinds = {
        kind: [r for r in rows if r["ablation"] == kind]
        for kind in ("levels", "initialisation", "feedback", "feedback limit")
    }
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


def test_keys():
    from quantfl_lab.bench import keys

    need_board("qemu_m4")
    rows = keys.run(quick=True)
    frames = [r for r in rows if "frame" in r]
    assert frames and all(
        r["more"] in (13, 14, 15) for r in frames
    )  # COBS differs by a byte with the content
    work = {(r["work"], r["link"], r["bytes"]): r["insns"] for r in rows if "work" in r}
    assert (
        work["make a frame", "plain", 256]
        < work["make a frame", "keyed", 256]
        < 10 * work["make a frame", "plain", 256]
    )
    (whole,) = (r for r in rows if r.get("source") == "all")
    assert (
        sum(r["code_bytes"] for r in rows if "source" in r and r["source"] != "all")
        == whole["code_bytes"]
        < 24_000
    )
    assert {"security_bytes_per_frame": 14} in rows and all(r["bytes"] < 600 for r in rows if "ram_of" in r)


def test_bench_scale_measures_fleets_in_processes_of_their_own(monkeypatch):
    """What it measures is not judged here: times are this machine's."""
    from quantfl_lab.bench import scale

    shared_data("mnist")
    monkeypatch.setattr(scale, "QUICK", (("twin", 6, 1.0, 3), ("inproc", 10, 0.5, 3)))
    monkeypatch.setattr(scale, "flower_python", lambda: None)
    twin, inside = scale.run(quick=True)
    assert (twin["fleet"], twin["boards"], twin["contributed"]) == ("twin", 6, 6)
    assert (inside["fleet"], inside["boards"], inside["contributed"]) == ("inproc", 10, 5)
    assert all(row["round_cpu_s"] > 0 and row["start_s"] > 0 for row in (twin, inside))
    assert scale.parts([twin, inside | {"times_flower": 2.0}])[0][1][0]["times_flower"] == ""
