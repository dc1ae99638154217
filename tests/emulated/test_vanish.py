"""Boards that vanish, and boards that fail in ways nobody thought of: nothing counts that did not happen, and
no board ends a run."""

from __future__ import annotations

import pytest

from quantfl.device import Device
from quantfl.errors import LinkError, RunError, UsageError
from quantfl.fleet import api
from quantfl.fleet.checkpoint import RunFolder
from quantfl.fleet.config import FleetTable, StartTable, validate
from quantfl.link.clock import run_virtual
from tests.support import DEMO_MODEL, demo_config, need_digits

pytestmark = pytest.mark.emulated


@pytest.fixture(autouse=True)
def _digits():
    need_digits()


def config(boards: int = 3, **run):
    c = demo_config(run={"rounds": 6, "deadline_s": 5.0, "wait_s": 30.0} | run)
    return c.model_copy(
        update={"fleet": FleetTable(emulate="inproc", boards=boards), "start": StartTable(how="none")}
    )


def run(c, folder, **options):
    return run_virtual(api.run(c, base=DEMO_MODEL.parent, folder=folder, **options))


def failing(monkeypatch, when, error):
    """Device.train that fails: when(name, round) says for whom."""
    real = Device.train

    async def train(self, round_, head, **kw):
        if when(self.name, round_):
            raise error
        return await real(self, round_, head, **kw)

    monkeypatch.setattr(Device, "train", train)


def test_a_run_whose_boards_all_vanish_stops_and_can_be_resumed(tmp_path, monkeypatch):
    """Rounds without contributors used to count as done: 193 of 200 of them, with exit code 0."""
    c = config()
    whole = run(c, tmp_path / "whole").summary
    with monkeypatch.context() as patch:
        failing(patch, lambda name, round_: round_ > 2, LinkError("the cable is out"))
        with pytest.raises(RunError, match="round 3: 0 boards contributed") as error:
            run(c, tmp_path / "run")
    assert (
        error.value.exit_code == 8
        and "--resume" in str(error.value)
        and "the cable is out" in str(error.value)
    )
    assert RunFolder(tmp_path / "run").load().round == 2
    again = run(c, tmp_path / "run", resume=True).summary
    assert again["rounds"] == 6  # the boards are new ones, without the residuals of the first two rounds
    assert again["contributors"] == whole["contributors"] == {f"board-{i:02d}": 6 for i in range(3)}


def test_a_round_waits_for_boards_that_come_back(tmp_path, monkeypatch):
    c, calls = config(min_boards=2), []

    def gone(name, round_):
        calls.append((name, round_))
        return round_ == 2 and name != "board-00" and len([x for x in calls if x == (name, 2)]) < 3

    clean = run(c, tmp_path / "clean").summary
    failing(monkeypatch, gone, LinkError("out of reach"))
    summary = run(c, tmp_path / "run").summary
    assert summary["head"] == clean["head"] and summary["repeated_rounds"] == {"2": 3}
    history = RunFolder(tmp_path / "run").load().history
    assert all(len(r["contributors"]) == 3 for r in history[1:]) and history[2]["attempts"] == 3


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyError("uid"), OverflowError(), MemoryError(), ZeroDivisionError()]
)
def test_one_boards_failure_of_whatever_kind_is_its_own(error, tmp_path, monkeypatch):
    failing(monkeypatch, lambda name, _: name == "board-01", error)
    c = config()
    summary = run(c, tmp_path / "run").summary
    assert summary["rounds"] == 6 and set(summary["contributors"]) == {"board-00", "board-02"}
    failed = RunFolder(tmp_path / "run").load().history[1]["failed"]
    assert type(error).__name__ in failed["board-01"] and "\n" not in failed["board-01"]


@pytest.mark.parametrize("error", [ValueError("x"), OverflowError("int too large"), RecursionError()])
def test_a_board_that_breaks_the_set_up_is_left_out(error, tmp_path, monkeypatch):
    real = Device.read_info

    async def hello(self, *args, **kw):
        if self.name == "board-02":
            raise error
        return await real(self, *args, **kw)

    monkeypatch.setattr(Device, "read_info", hello)
    assert set(run(config(), tmp_path / "run").summary["contributors"]) == {"board-00", "board-01"}


def test_other_boards_are_asked_where_not_all_take_part(tmp_path, monkeypatch):
    """One of four is asked a round and one is dead for good: its rounds go to others."""
    failing(monkeypatch, lambda name, _: name == "board-01", LinkError("dead"))
    c = config(4, participation=0.25, rounds=12, wait_s=300.0)
    summary = run(c, tmp_path / "run").summary
    assert summary["rounds"] == 12 and "board-01" not in summary["contributors"]
    assert sum(summary["contributors"].values()) == 12 and summary["repeated_rounds"]


def test_a_default_written_out_means_what_its_absence_means(tmp_path):
    from quantfl.fleet.config import DownlinkTable, UplinkTable

    assert UplinkTable(step=None) == UplinkTable() != UplinkTable(step=8.0)
    assert (
        DownlinkTable().schedule(10).limits is not None
        and DownlinkTable(step=10.0).schedule(10).limits is None
    )


def test_a_second_process_at_a_runs_folder_is_told_who_is_there(tmp_path):
    from quantfl.locks import locked

    folder = tmp_path / "run"
    folder.mkdir()
    with (
        locked(folder / "run.lock", "it", RunError),
        pytest.raises(RunError, match="in use by process") as error,
    ):
        run(config(rounds=1), folder)
    assert error.value.exit_code == 8
    assert run(config(rounds=1), folder).summary["rounds"] == 1


def test_a_round_waits_for_so_many_boards_and_no_more(tmp_path, monkeypatch):
    import asyncio

    real = Device.train

    async def train(self, round_, head, **kw):
        if self.name == "board-01":
            await asyncio.sleep(1000)
        return await real(self, round_, head, **kw)

    monkeypatch.setattr(Device, "train", train)
    c = config(wait_for=2, deadline_s=2000.0)
    history = run(c, tmp_path / "run").history
    assert len(history) == 7
    for record in history[1:]:
        assert record["contributors"] == ["board-00", "board-02"]
        assert record["failed"] == {"board-01": "2 others were faster, and the round waited for no more"}
        assert record["seconds"] < 1000
    with pytest.raises(UsageError, match=r"run\.wait_for is 1, but a round counts with 2 boards only"):
        validate(c.model_dump() | {"run": c.run.model_dump() | {"wait_for": 1, "min_boards": 2}})


def test_a_run_goes_on_for_more_rounds(tmp_path):
    first = run(config(rounds=3), tmp_path)
    more = run(config(rounds=5), tmp_path, resume=True)
    assert more.summary["rounds"] == 5
    assert more.history[:4] == first.history
    for other in (config(rounds=4), config(rounds=5, seed=9)):
        with pytest.raises(
            RunError, match=r"was started with another description.*run\.rounds may be raised"
        ):
            run(other, tmp_path, resume=True)
