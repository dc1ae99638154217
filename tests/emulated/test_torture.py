"""Random schedules of faults: `quantfl torture` in CI. A failure names the command that repeats it."""

from __future__ import annotations

import json

import pytest

from quantfl.cli.main import main
from quantfl_lab.torture.runs import command_of, keyed, run_schedule, run_schedules
from tests.support import DEMO_MODEL, need_board

pytestmark = pytest.mark.emulated

BATCH, BATCHES = 100, 20


def hold(first: int, count: int, kind: str, *, jobs: int = 1, **options) -> None:
    failed = []
    for outcome in run_schedules(first, count, str(DEMO_MODEL), kind=kind, jobs=jobs, **options):
        if outcome.problems:
            failed.append(
                f"{command_of(outcome.seed, kind, **options)}\n    {outcome.spec}\n    "
                + "\n    ".join(outcome.problems)
            )
    assert not failed, f"{len(failed)} of {count} schedules failed; repeat them with\n  " + "\n  ".join(
        failed
    )


@pytest.mark.parametrize("batch", range(BATCHES))
def test_two_thousand_schedules_on_inproc_boards(batch):
    hold(batch * BATCH, BATCH, "inproc", boards=3, rounds=3)


@pytest.mark.parametrize(("kind", "first", "count", "jobs"), [("native", 0, 24, 12), ("qemu_m4", 100, 24, 6)])
def test_dozens_of_schedules_on_boards_of_their_own(kind, first, count, jobs):
    need_board(kind)
    hold(first, count, kind, boards=2, rounds=3, jobs=jobs)


@pytest.mark.parametrize("keys", [False, True])
def test_a_schedule_is_a_function_of_its_seed(keys):
    seed = next(s for s in range(5, 99) if keyed(s) == keys)
    first, again = (run_schedule(seed, str(DEMO_MODEL)) for _ in range(2))
    assert first == again and first.faults


def test_the_checks_can_fail(monkeypatch):
    """A lie that is let through, a byte that is not counted, a head that is off: each is seen."""
    from quantfl.link.ledger import Ledger
    from quantfl.strategy.admission import Admission

    spec = "board-01: lie=huge"
    assert run_schedule(3, str(DEMO_MODEL), spec=spec).problems == []
    with monkeypatch.context() as m:
        m.setattr(
            Admission,
            "_alone",
            lambda self, c: (None, self.read(c.data, c.samples, agreed=c.step, loss=c.loss)),
        )
        m.setattr(Admission, "_outsized", lambda self, verdict: None)
        assert any("aggregated" in p for p in run_schedule(3, str(DEMO_MODEL), spec=spec).problems)
    with monkeypatch.context() as m:
        record = Ledger.record
        m.setattr(Ledger, "record", lambda self, r, b, table: record(self, r, b, table // 2 * 2))
        assert any("ledger" in p for p in run_schedule(3, str(DEMO_MODEL), spec="drop=0.01").problems)
    from quantfl.strategy.composed import ComposedStrategy

    with monkeypatch.context() as m:
        step, calls = ComposedStrategy.step, []

        def wrong(self, round_, contributions):
            calls.append(1)
            return step(self, round_, contributions[:-1] if len(calls) == 2 else contributions)

        m.setattr(ComposedStrategy, "step", wrong)
        assert any(
            "clean run" in p or "deltas give" in p
            for p in run_schedule(3, str(DEMO_MODEL), spec="dup=0.01").problems
        )


def test_the_verb(capsys):
    assert main(["torture", "--count", "3", "--seed", "40", "--json"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert [o["seed"] for o in out] == [40, 41, 42] and all(o["problems"] == [] for o in out)
    assert main(["torture", "-n", "2"]) == 0
    assert "2 of 2 schedules held" in capsys.readouterr().out
