"""Observers of the round loop: what it reports, the ledger, the budget, and the checkpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np

from quantfl.core.link import Counters
from quantfl.errors import DeviceError, LinkError
from quantfl.fleet.checkpoint import RunFolder, State
from quantfl.fleet.client import Client
from quantfl.fleet.config import RunConfig
from quantfl.link.ledger import Ledger, unseen
from quantfl.strategy.base import Snapshot, Strategy

EXPLAIN_S = 3.0  # a board that does not show its counters by then is asked again after its next delta


class Progress(Protocol):
    """What a run reports while it goes on; quantfl.report.live shows it."""

    def phase(self, text: str) -> None: ...
    def board(self, name: str, **fields: Any) -> None: ...
    def round_done(self, record: dict[str, Any]) -> None: ...
    def warn(self, text: str) -> None: ...


class Silent:
    """A Progress that shows nothing."""

    def phase(self, text: str) -> None:
        pass

    def board(self, name: str, **fields: Any) -> None:
        pass

    def round_done(self, record: dict[str, Any]) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


class Several:
    """A Progress that tells several others."""

    def __init__(self, *told: Progress):
        self.told = told

    def phase(self, text: str) -> None:
        for one in self.told:
            one.phase(text)

    def board(self, name: str, **fields: Any) -> None:
        for one in self.told:
            one.board(name, **fields)

    def round_done(self, record: dict[str, Any]) -> None:
        for one in self.told:
            one.round_done(record)

    def warn(self, text: str) -> None:
        for one in self.told:
            one.warn(text)


class TrafficObserver:
    """Keeps the ledger: enters every client's traffic, and explains where a board's counters differ from
    ours."""

    def __init__(self, ledger: Ledger, progress: Progress):
        self.ledger, self.progress = ledger, progress
        self._peers: dict[str, tuple[Counters, int]] = dict(ledger.peers)  # as the last host left them
        self._counted: dict[str, Client] = {}  # whose traffic was entered since the last `remember_peers`

    def record(self, round_: int, client: Client) -> tuple[int, int]:
        """Enter what a client's links have moved; returns (up, down) since the run began, in bytes."""
        up, down = client.record_traffic(self.ledger, round_)
        self._counted[client.name] = client
        self.progress.board(client.name, up=up, down=down)
        return up, down

    def record_many(self, round_: int, clients: Sequence[Client]) -> dict[str, tuple[int, int]]:
        """As `record`, for several clients: by their names."""
        tables = [(c, table) for c in clients if (table := c.plain_traffic()) is not None]
        found: dict[str, tuple[int, int]] = {}
        if tables:
            running = np.stack([table for _, table in tables])
            rows = self.ledger.record_many(round_, [c.name for c, _ in tables], running)
            for (client, _), (up, down) in zip(tables, rows, strict=True):
                found[client.name] = total = up.total, down.total
                self._counted[client.name] = client
                self.progress.board(client.name, up=total[0], down=total[1])
        for client in clients:
            if client.name not in found:
                found[client.name] = self.record(round_, client)
        return found

    def after_set_up(self, round_: int, client: Client) -> None:
        """What the counters say of a board that has just been set up: of a reset, or of the time when no host
        was there."""
        found, peer = client.set_up_comparison, self._peers.pop(client.name, None)
        if peer is None:
            if found is not None and not found.balanced:
                self.note(round_, client, found.text(), found.explained)
            return
        counters, boot = peer
        if client.boot != boot:
            text = "it was reset while no host was there; what moved then and was not counted is lost"
            self.note(round_, client, text, True)
            return
        for key, traffic in unseen(client.name, round_, counters, *client.compared_traffic()).items():
            self.ledger.add(key, traffic)

    def note(self, round_: int, client: Client, text: str, explained: bool) -> None:
        """Write a difference into the ledger and say it."""
        self.progress.warn(str(self.ledger.note(round_, client.name, text, explained)))

    async def explain(self, round_: int, client: Client) -> None:
        """A board's digest of its counters differs from ours: fetch them and say where and why."""
        try:
            async with asyncio.timeout(EXPLAIN_S):
                found = await client.compare_traffic(EXPLAIN_S)
        except (LinkError, DeviceError, TimeoutError) as error:
            text = (
                f"round {round_}, {client.name}: its traffic counters differ and could not be fetched: "
                f"{error}"
            )
            self.progress.warn(text)
            return
        if not found.balanced:
            self.note(round_, client, found.text(), found.explained)

    async def close(self, round_: int, clients: list[Client]) -> dict[str, str]:
        """Compare the counters of every board that answers; returns board -> what differs and no counted
        fault explains."""
        differing: dict[str, str] = {}

        async def one(client: Client) -> None:
            try:
                compared = await client.compare_traffic(5.0)
            except (LinkError, DeviceError):
                return
            if not compared.balanced:
                self.note(round_, client, compared.text(), compared.explained)
            if not compared.explained:
                differing[client.name] = compared.text()
            state = "balance" if compared.balanced else "explained" if compared.explained else "differ"
            self.progress.board(client.name, counters=state)

        await asyncio.gather(*(one(c) for c in clients if c.reachable))
        for client in clients:
            self.record(round_, client)
        return differing

    def remember_peers(self) -> None:
        """Keep how the counters of every board that was asked must stand, for the host that resumes the
        run."""
        for client in self._counted.values():
            if client.boot is not None:
                self.ledger.peers[client.name] = client.expected_traffic(), client.boot
        self._counted.clear()


class BudgetObserver:
    """Holds every link to the budget: tells the rate control what links have cost, leaves out a board whose
    link has used up its own, and ends the run when too few are left.

    A link costs its own budget only, and noise does not count at all: a board, or whoever disturbs its line,
    would otherwise end the run of all.

    used_up: boards that are left out for their links' budget, with the round after which they were.
    """

    def __init__(self, strategy: Strategy, ledger: Ledger, config: RunConfig, names: Sequence[str]):
        self.strategy, self.ledger, self.names = strategy, ledger, tuple(names)
        self.rounds, self.needed = config.run.rounds, config.run.min_boards
        self.used_up: dict[str, int] = {}
        self.over: str | None = None  # why the run ends before its last round
        self._before = self._spent() if strategy.rate.budget is not None else {}
        self._all_before = ledger.all_links_bytes

    def _spent(self) -> dict[str, int]:
        return {name: self.ledger.link_bytes(name) for name in self.names}

    def after_round(self, round_: int, progress: Progress) -> None:
        """Book a round with the rate control, which sees the mean of the links that had budget left; each
        counts at most its budget."""
        rate, links = self.strategy.rate, len(self.names)
        if rate.budget is None:  # no link is looked at by itself
            now, before = self.ledger.all_links_bytes, self._all_before
            rate.spend(round_, now / links, (now - before) / links)
            self._all_before = now
            return
        spent, most = self._spent(), rate.budget
        counted = [name for name in self.names if name not in self.used_up]
        if counted:
            total = sum(min(spent[name], most) for name in counted)
            last = total - sum(min(self._before[name], most) for name in counted)
            rate.spend(round_, total / len(counted), last / len(counted))
        self._before = spent
        self.check(round_, progress)

    def check(self, round_: int, progress: Progress) -> None:
        """Leave out the boards whose links have nothing left to spend; end the run where too few remain."""
        rate = self.strategy.rate
        if round_ >= self.rounds or rate.budget is None:
            return
        new = [n for n in self.names if n not in self.used_up and rate.exhausted(self.ledger.link_bytes(n))]
        self.used_up |= dict.fromkeys(new, round_)
        left = len(self.names) - len(self.used_up)
        budget = f"the budget of {rate.budget or 0.0:,.0f} bytes per link is used up"
        if new and left < max(1, min(self.needed, len(self.names))):
            self.over = f"{budget} after round {round_} of {self.rounds}"
            if left:
                self.over += f": {left} boards have some left, {self.needed} needed"
            progress.warn(self.over)
        elif new:
            progress.warn(
                f"{budget} after round {round_} of {self.rounds} by {_listed(new)}; the run goes on with the "
                f"other {left}"
            )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


class CheckpointObserver:
    """Writes the state after every complete round; a run killed at any moment resumes from there."""

    def __init__(self, folder: RunFolder | None, config: RunConfig, package_sha256: str, strategy: Strategy):
        self.folder, self.config = folder, config
        self.package_sha256, self.strategy = package_sha256, strategy

    def save(self, round_: int, history: list[dict[str, Any]], ledger: Ledger, admission: Snapshot) -> None:
        """Write the state after round `round_`. RunError: it cannot be written."""
        if self.folder is not None:
            snapshot, config = self.strategy.state(), self.config.model_dump(mode="json")
            self.folder.save(State(round_, self.package_sha256, config, snapshot, history, ledger, admission))


def ledger_summary(ledger: Ledger) -> dict[str, Any]:
    """Bytes per board and in all, as they go into summary.json."""
    up, down = ledger.total()
    up_rounds, down_rounds = ledger.total(first=1)
    return {
        "up": asdict(up),
        "down": asdict(down),
        "up_total": up.total,
        "down_total": down.total,
        "rounds_up": asdict(up_rounds),
        "rounds_down": asdict(down_rounds),
        "rounds_up_total": up_rounds.total,
        "rounds_down_total": down_rounds.total,
        "boards": {
            b: {"up": asdict(u), "down": asdict(d), "up_total": u.total, "down_total": d.total}
            for b, (u, d) in ledger.per_board().items()
        },
        "samples_fed": ledger.samples,
        "notes": [str(n) for n in ledger.notes],
        "imbalances": ledger.imbalances,
    }
