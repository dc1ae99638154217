"""`quantfl run --chaos`, the pytest fixture, and faults that a board really has: a full flash, a lying peer
behind a sound link."""

from __future__ import annotations

import asyncio
import json

import pytest

from quantfl.cli.main import main
from quantfl.core.board import InprocBoard
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.emulation.inproc import InprocBoardHandle
from quantfl.errors import DeviceError
from quantfl.fleet import api
from quantfl.fleet.checkpoint import RunFolder
from quantfl.link.chaos import DOWN, UP, parse
from quantfl.link.clock import run_virtual
from quantfl.package.convert import convert
from tests.support import DEMO_MODEL, demo_config, demo_toml, need_board, need_digits

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module")
def package() -> bytes:
    return convert(DEMO_MODEL).package


@pytest.mark.parametrize("kind", ["inproc", "native"])
def test_a_run_with_chaos_ends_and_says_what_it_met(kind, tmp_path, capsys):
    need_digits()
    need_board(kind)
    toml, out = demo_toml(tmp_path / "f.toml", emulate=kind, boards=3, rounds=3), tmp_path / "r"
    toml.write_text(toml.read_text().replace("seed = 3", "seed = 3\ndeadline_s = 8"))
    spec = "flip=2e-5,dup=0.02,noise=0.02,reset@round=2@0.2,seed=7; board-02: lie=huge"
    assert main(["run", str(toml), "--out", str(out), "--json", "--chaos", spec]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["chaos"]["spec"] == spec and sum(map(len, summary["chaos"]["faults"].values())) > 0
    state = RunFolder(out).load()
    assert state.round == 3 and summary["ledger"]["imbalances"] == [] and summary["counters_differ"] == {}
    assert all(
        "too large" in r["refused"]["board-02"] or len(r["contributors"]) < 3
        for r in state.history[1:]
        if "refused" in r
    )
    assert any("noise" in n or "came that" in n for n in summary["ledger"]["notes"])
    assert main(["report", str(out)]) == 0
    text = capsys.readouterr().out
    assert "updates were refused" in text or not any("refused" in r for r in state.history)
    assert main(["ledger", str(out)]) == 0
    assert "counters differ by" in capsys.readouterr().out


def test_lies_reach_the_log_the_history_and_the_report(tmp_path, capsys):
    need_digits()
    toml, out = demo_toml(tmp_path / "f.toml", emulate="inproc", boards=4, rounds=2), tmp_path / "r"
    assert (
        main(["run", str(toml), "--out", str(out), "--chaos", "board-01: lie=nan; board-03: lie=samples"])
        == 0
    )
    log = capsys.readouterr().out.replace("\n", " ")
    assert "not finite" in log and "claims 65535 samples" in log
    for record in RunFolder(out).load().history[1:]:
        assert set(record["refused"]) == {"board-01", "board-03"} == set(record["failed"])
        assert record["contributors"] == ["board-00", "board-02"]
    assert main(["report", str(out)]) == 0
    assert "4 updates were refused" in capsys.readouterr().out


@pytest.mark.parametrize("kind", ["inproc", "native", "qemu_m4"])
def test_the_fixture_puts_a_faulty_line_before_any_board(kind, faulty_device, package):
    need_board(kind)
    boards = boot_fleet(kind, 1)
    try:

        async def go():
            device = faulty_device(
                boards[0], "drop=0.05,flip=1e-5,reset=1@0.05,disconnect=1@0.05,noise=0.05,seed=4"
            )
            async with device:
                await device.push(package, timeout=60)
                first = await device.compare()
                device.session.transport.quiet = True
                await device.read_info()
                return device, first, await device.compare(), await device.compare()

        device, first, second, third = asyncio.run(go())
    finally:
        close_all(boards)
    assert first.explained and second.explained and third.balanced
    struck = {name for line in device.session.transport.lines.values() for name in line.faults}
    assert {"reset", "disconnect", "drop"} <= struck
    for line in device.session.transport.lines.values():
        assert line.taken + line.added == line.given + line.swallowed


def test_a_board_whose_flash_is_full_is_told_apart(package):
    """Real flash that is too small, and the same by chaos: refused with a reason, no other board suffers."""
    board = InprocBoardHandle("small", uid=b"small")
    board.board = InprocBoard(b"small", flash=16 << 10)
    board.start()

    async def go():
        async with Device(board.url, name="small") as device:
            await device.read_info()
            with pytest.raises(DeviceError, match="small refused the package"):
                await device.push(package)
            return await device.status()

    assert run_virtual(go()).has_package is False
    board.stop()


def test_full_by_chaos_costs_that_board_only(tmp_path, capsys):
    need_digits()
    toml, out = demo_toml(tmp_path / "f.toml", emulate="inproc", boards=3, rounds=2), tmp_path / "r"
    assert main(["run", str(toml), "--out", str(out), "--chaos", "board-00: full"]) == 0
    for record in RunFolder(out).load().history[1:]:
        assert record["contributors"] == ["board-01", "board-02"]
        assert "refused the package" in record["failed"]["board-00"]


def test_boards_that_are_slow_or_stuck_cost_no_more_than_the_deadline(faulty_device):
    boards = boot_fleet("inproc", 1)
    try:

        async def go():
            device = faulty_device(boards[0], "slow=700ms")
            async with device:
                await device.read_info(10.0)
                slow = device.session.transport.lines[UP].given
            stuck = faulty_device(boards[0], "stuck")
            began = asyncio.get_running_loop().time()
            with pytest.raises(Exception, match="no board answers"):
                await stuck.open(4.0)
            return slow, asyncio.get_running_loop().time() - began, stuck.session.transport.lines[DOWN]

        slow, took, line = run_virtual(go())
    finally:
        close_all(boards)
    assert slow > 100 and 3.9 < took < 4.1 and line.given == 0 < line.swallowed


def test_late_answers_reach_the_summary_and_the_report(tmp_path, capsys):
    """A board whose answers come after the deadline: they are counted where a person looks, and used
    nowhere."""
    need_digits()
    config = demo_config(run={"rounds": 3, "deadline_s": 5.0}, fleet={"boards": 2}, start={"how": "none"})
    run = api.run(
        config,
        base=DEMO_MODEL.parent,
        folder=tmp_path / "r",
        kind="inproc",
        chaos=parse("board-01: slow=9s@round=1"),
    )
    late = run_virtual(run).summary["late"]
    assert list(late) == ["board-01"] and late["board-01"] > 0
    assert RunFolder(tmp_path / "r").load().history[1]["contributors"] == ["board-00"]
    assert main(["report", str(tmp_path / "r")]) == 0
    assert (
        f"late answers, counted and not used: {late['board-01']} (board-01 {late['board-01']})"
        in capsys.readouterr().out
    )
