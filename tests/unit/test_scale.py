"""What a fleet costs follows the round: boards that are not asked cost nothing, and nothing is done once per
board that can be done once. Calls and bytes are counted; nothing is said of seconds."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from quantfl import device
from quantfl.errors import RunError, ToolError
from quantfl.fleet import api, config
from quantfl.fleet.board_client import BoardClient
from quantfl.fleet.checkpoint import RunFolder
from quantfl.link.clock import run_virtual
from quantfl.package import program
from tests.support import DEMO_MODEL, need_digits


@pytest.fixture(autouse=True)
def _digits():
    need_digits()


def description(boards: int, rounds: int = 3, participation: float = 1.0) -> config.RunConfig:
    return config.parse(
        f'[run]\nname = "t"\nrounds = {rounds}\nseed = 3\nparticipation = {participation}\n'
        f'[model]\npath = "{DEMO_MODEL}"\n[fleet]\nemulate = "inproc"\nboards = {boards}\n'
        '[data]\nname = "digits"\nsamples_per_board = 8\ntest_samples = 50\nsplit = "iid"\n'
        '[start]\nhow = "none"\n'
    )


def run(c: config.RunConfig, folder, **options):
    return run_virtual(api.run(c, base=DEMO_MODEL.parent, folder=folder, **options))


def counted(monkeypatch, owner, name: str) -> list:
    """Calls of a function from now on, by their first argument."""
    calls, real = [], getattr(owner, name)

    def count(first, *args, **kw):
        calls.append(first)
        return real(first, *args, **kw)

    monkeypatch.setattr(owner, name, count)
    return calls


def test_boards_that_are_not_asked_cost_nothing(tmp_path, monkeypatch):
    """Every checkpoint used to take stock of all boards, and to store all links again."""
    booked = counted(monkeypatch, BoardClient, "record_traffic")
    expected = counted(monkeypatch, BoardClient, "expected_traffic")
    outcome = run(description(60, rounds=5, participation=0.05), tmp_path)
    asked = sum(len(r["boards"]) for r in outcome.history[1:])
    assert asked == 5 * 3
    # all boards after set-up and at the end, and those asked in between
    assert len(booked) == len(expected) == 2 * 60 + asked


def test_a_package_is_parsed_once_for_a_fleet(monkeypatch):
    device._needs_of.cache_clear()
    parsed = counted(monkeypatch, program, "_layers")
    run(description(30, rounds=1), None)
    assert 0 < len(parsed) < 10  # not 30


def test_a_checkpoint_does_not_grow_with_the_rounds(tmp_path):
    sizes = []

    class Sizes(api.Silent):
        def round_done(self, record):
            with np.load(tmp_path / "checkpoint.npz") as z:
                meta = json.loads(bytes(z["meta"]))
            sizes.append(len(json.dumps(meta["history"])))
            assert len(meta["history"]["new"]) == 1 and meta["history"]["records"] == record["round"]

    outcome = run(description(10, rounds=12), tmp_path, progress=Sizes())
    assert len(sizes) == 12 and max(sizes) < 1.1 * min(sizes)
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == outcome.history


def changed_meta(folder: RunFolder, change) -> None:
    with np.load(folder.checkpoint) as z:
        arrays = {k: z[k] for k in z.files}
    meta = change(json.loads(bytes(arrays["meta"])))
    np.savez(folder.checkpoint, **(arrays | {"meta": np.frombuffer(json.dumps(meta).encode(), np.uint8)}))


def test_a_run_of_the_format_before_is_read_and_goes_on(tmp_path):
    """Format 6 held the whole history in every checkpoint."""
    history = run(description(4), tmp_path).history
    folder = RunFolder(tmp_path)
    changed_meta(folder, lambda meta: meta | {"format": 6, "history": history})
    state = folder.load()
    assert state.history == history
    folder.save(state)
    assert RunFolder(tmp_path).load().history == history


def test_what_a_host_that_died_has_begun_to_append_does_not_count(tmp_path):
    run(description(4), tmp_path)
    folder, path = RunFolder(tmp_path), tmp_path / "history.jsonl"
    state = folder.load()
    state.history.append({"round": 4})
    folder.save(state)
    path.write_bytes(path.read_bytes()[:-5])  # of the last record, which the checkpoint holds
    folder = RunFolder(tmp_path)
    assert folder.load().history == state.history
    state.history.append({"round": 5})
    folder.save(state)
    assert [json.loads(line) for line in path.read_text().splitlines()] == state.history
    assert RunFolder(tmp_path).load().history == state.history


@pytest.mark.parametrize("damage", ["short", "garbage", "gone"])
def test_a_damaged_history_is_one_line(tmp_path, damage):
    run(description(4), tmp_path)
    path = tmp_path / "history.jsonl"
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:40] if damage == "short" else b"\xff" * path.stat().st_size)
    with pytest.raises(RunError, match=r"history\.jsonl is damaged .*; start the run anew$") as error:
        RunFolder(tmp_path).load()
    assert "\n" not in str(error.value)


def anonymous() -> int:
    """Bytes of memory that are this process's alone."""
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("RssAnon"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_virtual_board_takes_little_memory():
    """It took 1.4 MB: an image of flash of its own, and buffers for what is copied at once."""
    from quantfl.fleet.rounds import Rounds, Silent
    from quantfl.fleet.setup import set_up_run

    async def grown(boards: int) -> int:
        prepared = set_up_run(description(boards), base=DEMO_MODEL.parent, folder=None, progress=Silent())
        before = anonymous()
        rounds = Rounds(prepared.federation)
        await rounds.set_up()
        grown = anonymous() - before
        await prepared.close()
        return grown

    run_virtual(grown(5))  # what is made once
    assert run_virtual(grown(150)) < 150 * 250_000


def test_boards_with_one_package_share_their_flash_and_keep_what_is_their_own():
    from quantfl.core.board import InprocBoard

    boards = [InprocBoard(b"%d" % i) for i in range(3)]
    if not boards[0]._shares:
        pytest.skip("this system has no such thing")
    import quantfl.core.board as module

    def flash(board) -> memoryview:
        return memoryview(module.ffi.buffer(board._flash, board._flash_size))

    for i, board in enumerate(boards):
        flash(board)[200_000:300_000] = b"p" * 100_000
        flash(board)[5000] = i
    held = [bytes(flash(b)) for b in boards]
    shared = [b.share_flash(b"package of this test") for b in boards]
    assert [bytes(flash(b)) for b in boards] == held and min(shared) > 900_000
    flash(boards[1])[250_000] = 7  # copied when it is written
    assert flash(boards[0])[250_000] == flash(boards[2])[250_000] == ord("p")


def test_native_boards_take_a_descriptor_each_and_a_limit_is_said(monkeypatch):
    resource = pytest.importorskip("resource")
    from quantfl.emulation import base

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, 1000))
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: raised.append(limits))
    base.make_room(10, "5 native boards")
    assert raised == []
    base.make_room(300, "150 native boards")
    assert raised == [(300 + base.RESERVE, 1000)]
    with pytest.raises(ToolError, match=r"2000 native boards need 4,128 open files.*1,000.*ulimit -Hn 4128"):
        base.make_room(4000, "2000 native boards")
