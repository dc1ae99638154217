"""The same package, samples and seed give the same delta bytes in-process, as a native process and on
Cortex-M4F."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from quantfl.fleet import api
from quantfl.fleet.checkpoint import RunFolder
from tests.support import DEMO_MODEL, demo_config, need_board, need_digits

pytestmark = pytest.mark.emulated


def trained(kind: str, folder, **tables) -> tuple[list, bytes, dict]:
    """Deltas' hashes of every round and board, final parameters, rows of the ledger without set-up."""
    tables = {"run": {"rounds": 3}, "fleet": {"boards": 3}} | tables
    config = demo_config(**tables)
    asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=folder, kind=kind))
    state = RunFolder(folder).load()
    deltas = [[b["delta_sha256"] for b in r["boards"].values()] for r in state.history[1:]]
    rows = {k: v for k, v in state.ledger.rows.items() if 1 <= k[0] <= 3}
    return deltas, state.params.tobytes(), rows


def assert_same_ledger(rows: dict, others: dict) -> None:
    """Equal, row by row, but for what hangs on time. A frame of 254 bytes is longer by one when none of them
    is zero (COBS), and its number depends on how often the board was asked before the first round. And where
    the machine stood still for longer than a time-out, so that a board's link sent something again, payloads
    alone are compared, without counters that were asked for twice.
    """
    again = {k.board for r in (rows, others) for k, t in r.items() if t.retransmission}

    def of(r: dict) -> dict:
        calm = {k: replace(t, framing=0) for k, t in r.items() if k.board not in again}
        return calm | {k: t.payload for k, t in r.items() if k.board in again and k.kind != "COUNTERS"}

    assert of(rows) == of(others)
    long = 254 - 7  # payload of such a frame: the rest is header and checksum
    pairs = [(k, t, others[k]) for k, t in rows.items() if k.board not in again]
    assert [p for p in pairs if abs(p[1].framing - p[2].framing) > p[1].payload // long] == []


@pytest.fixture(scope="module")
def in_process(tmp_path_factory):
    need_digits()
    return trained("inproc", tmp_path_factory.mktemp("inproc") / "run")


@pytest.mark.parametrize("kind", ["native", "qemu_m4"])
def test_three_rounds_are_identical_everywhere(kind, in_process, tmp_path):
    need_board(kind)
    deltas, params, _rows = trained(kind, tmp_path / "run")
    assert deltas == in_process[0]
    assert params == in_process[1]
    assert len(params) == 4 * 1290 and np.isfinite(np.frombuffer(params, np.float32)).all()


def test_bytes_on_the_wire_are_the_same_too(in_process, tmp_path):
    """An in-process fleet is no estimate: its ledger equals that of QEMU boards, category by category."""
    need_board("qemu_m4")
    _, _, rows = trained("qemu_m4", tmp_path / "run")
    assert_same_ledger(rows, in_process[2])


@pytest.mark.parametrize(
    "uplink",
    [
        {"codec": "fp32"},
        {"codec": "bu", "levels": 8, "means": True},
        {"codec": "bu", "levels": 256, "per_tensor": True},
        {"codec": "bq", "levels": 16, "coded": True},
        {"codec": "bu", "levels": 64, "coded": True, "per_tensor": True},
    ],
    ids=str,
)
def test_other_codecs_are_identical_too(uplink, tmp_path):
    need_digits()
    need_board("qemu_m4")
    small = {"run": {"rounds": 2}, "fleet": {"boards": 2}, "uplink": uplink, "downlink": uplink}
    a, b = (trained(kind, tmp_path / kind, **small) for kind in ("inproc", "qemu_m4"))
    assert a[:2] == b[:2]
