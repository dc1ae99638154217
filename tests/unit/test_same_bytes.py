"""Bytes that are promised: packages of the shipped models, and what in-process boards answer in three rounds.

The hashes were taken before the code was regrouped; they change only where a fault is mended, and CHANGELOG
says so. `tests/emulated/test_same_bytes.py` holds that emulated boards give the same."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest

from quantfl.fleet import api
from quantfl.fleet.checkpoint import RunFolder
from quantfl.package.convert import convert
from tests.support import DEMO_MODEL, ROOT, demo_config, need_digits

#: model, its cut, what is trained, whether boards cache inputs
PACKAGES = {
    ("digits", None, "all", False): "c6ea06d8655758dd",
    ("digits", None, "scales", False): "b273d421ec703f0b",
    ("digits", "1", "scales+head", False): "0aff6fe724636f6e",
    ("digits", "0", "all", True): "af975f118a3f9310",
    ("activity", None, "all", False): "49ed687285e7022f",
    ("mnist_cnn", "2", "scales+head", False): "48b5011a17885f6d",
    ("micro", None, "all", False): "0f9b734b614cd30a",
    ("spoken_digits", None, "all", True): "12dd424e856b75d6",
    ("femnist_pooled", None, "scales", False): "b8d43728bc20b3bb",
}
ROUNDS = {
    "dz": ("1447984259e8c5cc", "63d3081058584588", 2216),
    "fp32": ("41b78cdeac53b60b", "fe9346a46b53512d", 47645),
    "bu(8)": ("a865473210fc6c2a", "0d7afa46b4db0971", 5672),
    "bq(16)": ("274b6db64f691e7e", "6fef2c89b6374e96", 7374),
}


def short(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def package_of(name: str, cut: str | None, train: str, recompute: bool) -> str:
    path = ROOT / "models" / name / f"{name}_int8.tflite"
    return short(convert(path, cut=cut, train=train, recompute=recompute).package)


@pytest.mark.parametrize("made", PACKAGES, ids=str)
def test_packages(made):
    assert package_of(*made) == PACKAGES[made]


def rounds_of(codec: str, folder: Path) -> tuple[str, str, int]:
    """Hashes of all deltas and of the final head; payload of the rounds, bytes."""
    uplink = {"codec": codec.partition("(")[0]}
    uplink |= {"levels": int(codec[3:-1])} if "(" in codec else {}
    config = demo_config(run={"rounds": 3}, fleet={"boards": 3}, uplink=uplink)
    asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=folder, kind="inproc"))
    state = RunFolder(folder).load()
    deltas = [b["delta_sha256"] for r in state.history[1:] for b in r["boards"].values()]
    assert len(deltas) == 9
    payload = sum(t.payload for k, t in state.ledger.rows.items() if 1 <= k.round <= 3)
    return short(*map(str.encode, deltas)), short(state.params.tobytes()), payload


@pytest.mark.parametrize("codec", ROUNDS)
def test_rounds(codec, tmp_path):
    need_digits()
    assert rounds_of(codec, tmp_path / "run") == ROUNDS[codec]
