"""Budgets are of links: a link that costs too much loses its own board, and ends no run."""

from __future__ import annotations

import asyncio

from quantfl.fleet.observers import BudgetObserver
from quantfl.fleet.rounds import Rounds, Silent
from quantfl.fleet.setup import set_up_run
from quantfl.link.ledger import Key, Ledger, Traffic
from tests.support import DEMO_MODEL, demo_config


class Rate:
    """A rate control that remembers what it was told."""

    def __init__(self, budget: float | None):
        self.budget, self.told = budget, []

    def spend(self, round_, spent, last):
        self.told.append((round_, spent, last))

    def exhausted(self, spent):
        return self.budget is not None and spent >= self.budget


class Told(Silent):
    def __init__(self):
        self.said: list[str] = []

    def warn(self, text):
        self.said.append(text)


def observer(budget, names, rounds=10, min_boards=1):
    config = demo_config(run={"rounds": rounds, "min_boards": min_boards}, fleet={"boards": len(names)})
    ledger, strategy = Ledger(), type("S", (), {"rate": Rate(budget)})()
    return BudgetObserver(strategy, ledger, config, names), ledger, strategy.rate, Told()


def book(ledger, round_, cost):
    for name, n in cost.items():
        ledger.add(Key(round_, name, "up", "OTHER"), Traffic(payload=n // 2, retransmission=n - n // 2))


def test_a_link_that_costs_too_much_loses_its_own_board_only():
    budget, ledger, rate, told = observer(1000, ["a", "b", "c"])
    book(ledger, 0, {"a": 5000, "b": 5000, "c": 5000})  # what comes before the rounds is no part of it
    book(ledger, 1, {"a": 100, "b": 100, "c": 90_000})
    ledger.add(Key(1, "a", "up", "LINK"), Traffic(noise=10**9))
    budget.after_round(1, told)
    assert budget.used_up == {"c": 1} and budget.over is None
    assert rate.told == [(1, 400.0, 400.0)]  # c counts its budget, not what it cost
    text = "the budget of 1,000 bytes per link is used up after round 1 of 10 by c; the run goes on with the"
    assert told.said == [f"{text} other 2"]
    book(ledger, 2, {"a": 100, "b": 300})
    budget.after_round(2, told)
    assert rate.told[-1] == (2, 300.0, 200.0)  # of the links that had budget left
    book(ledger, 3, {"a": 2000, "b": 2000})
    budget.after_round(3, told)
    assert budget.over == "the budget of 1,000 bytes per link is used up after round 3 of 10" == told.said[-1]


def test_a_run_ends_when_fewer_links_than_it_needs_have_budget_left():
    budget, ledger, _rate, told = observer(1000, ["a", "b", "c"], min_boards=3)
    book(ledger, 1, {"a": 100, "b": 100, "c": 1000})
    budget.after_round(1, told)
    assert budget.over is not None and budget.over.endswith(": 2 boards have some left, 3 needed")


def test_without_a_budget_nothing_is_used_up():
    budget, ledger, rate, told = observer(None, ["a"])
    book(ledger, 1, {"a": 10**9})
    budget.after_round(1, told)
    assert not budget.used_up and budget.over is None and rate.told == [(1, 1e9, 1e9)]


def test_a_board_on_a_bad_line_is_left_out_and_the_others_train_on():
    config = demo_config(
        run={"rounds": 5}, fleet={"boards": 3}, budget={"bytes_per_link": 50_000}, start={"how": "none"}
    )
    told = Told()

    async def go() -> Rounds:
        prepared = set_up_run(config, base=DEMO_MODEL.parent, folder=None, progress=told, kind="inproc")
        rounds = Rounds(prepared.federation)
        bad = rounds.clients[1].name
        told.round_done = lambda record: (
            record["round"] == 1
            and rounds.ledger.add(Key(2, bad, "up", "OTHER"), Traffic(retransmission=60_000))
        )
        try:
            await rounds.set_up()
            await rounds.run()
        finally:
            await prepared.close()
        return rounds

    rounds = asyncio.run(go())
    bad = rounds.clients[1].name
    asked = [sorted(record["boards"]) for record in rounds.history]
    everyone = sorted(c.name for c in rounds.clients)
    assert asked == [everyone] * 2 + [[n for n in everyone if n != bad]] * 3
    assert rounds.history[-1]["budget_used_up"] == [bad] and rounds.over is None and len(told.said) == 1
