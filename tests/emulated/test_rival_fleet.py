"""The rivals' fleet is the boards' own: with a codec that both have, the same heads, accuracies and bytes;
every rival runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from quantfl.core.codec import Codec, CodecError
from quantfl.errors import RunError
from quantfl.fleet import api
from quantfl.fleet.config import DownlinkTable, FleetTable, StartTable, UplinkTable
from quantfl.messages import loss_of
from quantfl_lab.bench.setting import setting
from quantfl_lab.rivals import fleet
from quantfl_lab.rivals.board import loss_byte
from quantfl_lab.rivals.buckets import Ours
from quantfl_lab.rivals.schemes import RIVALS, Rival
from quantfl_lab.rivals.simple import Float
from tests.support import DEMO_MODEL, demo_config, need_digits

pytestmark = pytest.mark.emulated


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("QUANTFL_CACHE", str(tmp_path))


def config(rounds: int = 4, **codec):
    c = demo_config(run={"rounds": rounds, "participation": 0.5})
    tables = {"uplink": UplinkTable(**codec), "downlink": DownlinkTable(**codec)} if codec else {}
    return c.model_copy(
        update={"fleet": FleetTable(emulate="inproc", boards=8), "start": StartTable(how="none"), **tables}
    )


BU = Ours(Codec("bu", 64))


SHARED = [({"codec": "fp32"}, Rival("fp32", Float(32), Float(32))), ({"codec": "bu"}, Rival("BU", BU, BU))]


@pytest.mark.parametrize(("codec", "rival"), SHARED)
def test_same_run_as_the_boards_own(codec, rival):
    need_digits()
    c = config(**codec)
    boards = asyncio.run(api.history(c, base=DEMO_MODEL.parent))
    ours = fleet.history(setting(c, DEMO_MODEL.parent), rival)
    assert [r["head"] for r in ours] == [r["head"] for r in boards]
    assert [r["accuracy"] for r in ours] == [r["accuracy"] for r in boards]
    for a, b in zip(ours, boards, strict=True):
        for direction in ("up_bytes", "down_bytes"):
            mine, theirs = a[direction] - ours[0][direction], b[direction] - boards[0][direction]
            # COBS adds a byte where a frame's random session number or checksum happens to be free of zeros
            assert mine == pytest.approx(theirs, rel=0.002, abs=4 * a["round"])


def test_every_rival_runs_and_counters_agree():
    need_digits()
    s = setting(config(2), DEMO_MODEL.parent)
    assert len({r.name for r in RIVALS}) == len({r.key for r in RIVALS}) == len(RIVALS)
    moved = {}
    for rival in RIVALS:
        h = fleet.history(s, rival)
        assert len(h) == 3, rival.name
        moved[rival.name] = h[-1]["up_bytes"] - h[0]["up_bytes"]
        assert rival.history(s)[-1]["head"] == h[-1]["head"], f"{rival.name} does not repeat itself"
    assert moved["fp16"] > moved["int8"] > moved["EDEN(4)"] > moved["EDEN(1)"] > moved["STC(1 %)"]


def test_a_loss_packs_as_on_a_board():
    for loss in (0.0, 0.003, 0.5, 1.0, 2.3026, 17.0, 100.0):
        assert loss_of(loss_byte(loss)) <= loss < loss_of(loss_byte(loss)) * 17 / 16 + 0.004
    assert loss_byte(float("nan")) == 255


def test_a_rival_that_diverges_ends_its_run():
    """A failure of one of these boards is no lost link, but a fit that ran away: no figure may come of it."""
    need_digits()
    s = setting(config(3), DEMO_MODEL.parent)
    wild = s.config.train.model_copy(update={"lr": 1e30})
    with pytest.raises((RunError, CodecError)):
        fleet.history(replace(s, config=s.config.model_copy(update={"train": wild})), Rival("x", Float(16)))


def test_watch_sees_every_delta():
    need_digits()
    seen: list[tuple[int, int, int]] = []
    s = setting(config(2), DEMO_MODEL.parent)
    fleet.history(s, Rival("x", Float(32)), lambda r, i, d: seen.append((r, i, np.count_nonzero(d))))
    assert len(seen) == 8 and all(n > 0 for *_, n in seen)
