"""Twin boards are in-process boards asked many at a time: the same deltas, heads and ledger, to the byte."""

from __future__ import annotations

import contextlib
import itertools
import json
import tomllib
from pathlib import Path

import pytest

from quantfl.emulation.inproc import InprocBoardHandle
from quantfl.fleet import api, config
from quantfl.fleet.checkpoint import RunFolder
from quantfl.fleet.twin import Twin
from quantfl.link.clock import run_virtual
from quantfl.link.session import Session
from tests.support import DEMO_MODEL, need_digits

pytestmark = pytest.mark.emulated

DZ = ""
CASES = {
    "dz": (6, DZ),
    "dz, no dither": (5, "[downlink]\ndither = 0.0\n"),
    "dz, fixed steps": (5, "[uplink]\nstep = 2.0\nresidual_decay = 0.5\n[run]\nparticipation = 0.6\n"),
    "some of the boards": (12, "[run]\nparticipation = 0.3\nrounds = 9\n"),
    "bq": (4, '[uplink]\ncodec = "bq"\nmeans = true\n[downlink]\ncodec = "bq"\nper_tensor = true\n'),
    "bu, coded": (4, '[uplink]\ncodec = "bu"\ncoded = true\n[downlink]\ncodec = "bu"\nlevels = 16\n'),
    "fp32": (3, '[uplink]\ncodec = "fp32"\n[downlink]\ncodec = "fp32"\n'),
    "fp32 down": (3, '[downlink]\ncodec = "fp32"\n'),
    "personal": (5, "[train]\nholdout = 3\npersonal = true\nlr = 0.02\n"),
    "closed form": (4, '[start]\nhow = "closed-form"\n'),
    "inputs kept": (3, "[model]\nrecompute = true\n"),
    "scales": (4, '[model]\ntrain = "scales"\n'),
    "budget": (4, "[budget]\nbytes_per_link = 3000\n"),
    "weights that run away": (3, "[train]\nlr = 1e5\nepochs = 30\n"),
    "a strategy": (4, '[strategy]\nname = "fedadam"\nweighting = "equal"\n'),
    "median": (5, '[strategy]\naggregator = "median"\n'),
}


@pytest.fixture(autouse=True)
def _digits():
    need_digits()


@contextlib.contextmanager
def counted_sessions(monkeypatch):
    """Sessions draw their first number; here it is counted, so that two runs are alike to the byte."""
    numbers, real = itertools.count(), Session.__init__

    def init(self, transport, link=None, *, nonce_seed=None, keys=None):
        seed = next(numbers) if nonce_seed is None else nonce_seed
        real(self, transport, link, nonce_seed=seed, keys=keys)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "__init__", init)
        yield patch


def described(kind: str, boards: int, tables: str) -> config.RunConfig:
    raw = {
        "run": {"name": "t", "rounds": 4, "seed": 3},
        "model": {"path": str(DEMO_MODEL)},
        "fleet": {"emulate": kind, "boards": boards},
        "data": {"name": "digits", "samples_per_board": 12, "test_samples": 60},
        "train": {"lr": 0.003, "epochs": 2},
        "start": {"how": "none"},
    }
    for table, fields in tomllib.loads(tables).items():
        raw[table] = raw.get(table, {}) | fields
    return config.validate(raw)


def outcome(kind: str, boards: int, tables: str, folder: Path, monkeypatch):
    """Everything a run leaves that does not tell the time."""
    with counted_sessions(monkeypatch):
        run = run_virtual(api.run(described(kind, boards, tables), base=folder, folder=folder / kind))
    ledger = RunFolder(folder / kind).load().ledger
    return json.loads(json.dumps(run.history)), ledger.rows, ledger.peers, ledger.notes, run.summary["ledger"]


@pytest.mark.parametrize("case", CASES)
def test_twin_boards_leave_what_in_process_boards_leave(case, tmp_path, monkeypatch):
    boards, tables = CASES[case]
    settled, real = [], Twin.ask

    def ask(self, chosen, *args):
        asked = real(self, chosen, *args)
        settled.append(len(asked.deltas))
        assert len(asked.deltas) + len(asked.rest) == len(chosen)
        return asked

    monkeypatch.setattr(Twin, "ask", ask)
    one = outcome("inproc", boards, tables, tmp_path, monkeypatch)
    assert settled == []
    assert outcome("twin", boards, tables, tmp_path, monkeypatch) == one
    assert sum(settled) > 0 or "run away" in case


def test_what_a_twin_cannot_settle_is_asked_for_in_the_usual_way(tmp_path, monkeypatch):
    """Boards that are reset between rounds have lost samples and configuration."""
    start = InprocBoardHandle.start

    def run(kind):
        boards = []

        def started(self):
            boards.append(self)
            start(self)

        class Resets(api.Silent):
            def round_done(self, record):
                boards[record["round"] % 4].reset()

        with counted_sessions(monkeypatch) as patch:
            patch.setattr(InprocBoardHandle, "start", started)
            c = described(kind, 4, "[run]\nrounds = 6\ndeadline_s = 30.0\n")
            done = run_virtual(api.run(c, base=tmp_path, folder=None, progress=Resets()))
        return [r["head"] for r in done.history], [r.get("contributors") for r in done.history]

    assert run("twin") == run("inproc")


def test_threads_do_not_change_a_byte(tmp_path, monkeypatch):
    found = []
    real = Twin.__init__
    for threads in (1, 5):
        monkeypatch.setattr(Twin, "__init__", lambda self, clients, n=threads: real(self, clients, n))
        found.append(outcome("twin", 9, DZ, tmp_path / str(threads), monkeypatch))
    assert found[0] == found[1]


def test_sealed_links_are_no_obstacle(tmp_path):
    """Keys of a session are random, and so are its bytes; heads are not."""
    heads = {}
    for kind in ("inproc", "twin"):
        (tmp_path / kind).mkdir()
        c = described(kind, 3, f'[keys]\nfile = "{tmp_path / kind}/keys.toml"\n')
        done = run_virtual(api.run(c, base=tmp_path, folder=None))
        heads[kind] = [r["head"] for r in done.history]
    assert heads["inproc"] == heads["twin"]
