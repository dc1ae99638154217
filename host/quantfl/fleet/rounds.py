"""The round loop: selection, deadlines, admission, aggregation; ledger, budget, progress and checkpoint
observe it.

A client that is late, gone or answers nonsense costs its own contribution and is reported; the round goes on
with the others. A round with too few contributors does not count: the loop waits for clients, and gives up
with a checkpoint that can be resumed. After every round the state is checkpointed; a resumed run produces the
same bytes as an undisturbed one.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from quantfl.core.head import Score
from quantfl.errors import DeviceError, LinkError, QuantflError, RunError
from quantfl.fleet.chaos import FaultInjector
from quantfl.fleet.checkpoint import RunFolder, State
from quantfl.fleet.client import Client, ask_all, in_turn, pause, reason_of, select
from quantfl.fleet.config import RunConfig
from quantfl.fleet.initialise import ClosedFormInitialiser
from quantfl.fleet.observers import (
    BudgetObserver,
    CheckpointObserver,
    Progress,
    Silent,
    TrafficObserver,
    ledger_summary,
)
from quantfl.fleet.steering import Steering
from quantfl.fleet.twin import Twin
from quantfl.link.clock import monotonic, virtual
from quantfl.link.energy import radio_of
from quantfl.link.ledger import Ledger
from quantfl.messages import Delta
from quantfl.strategy.admission import Admission, Candidate
from quantfl.strategy.base import Strategy

__all__ = ["Federation", "Progress", "Rounds", "Silent", "ledger_summary", "select"]

#: Boards that are set up at once, where time is real: a board's time-outs count from its own turn. On virtual
#: time there is no machine to overload.
SETUPS = 64
RETRY_S = 1.0  # between two attempts at a round that had too few contributors


@dataclass
class Federation:
    """Everything a run works with.

    evaluate: scores global parameters float32 [params] on the host's test data. any_codec: clients code their
    deltas in a way that the strategy alone knows. twin: asks in-process boards many at a time.
    """

    config: RunConfig
    package: bytes
    package_sha256: str
    strategy: Strategy
    clients: Sequence[Client]
    evaluate: Callable[[np.ndarray], Score]
    folder: RunFolder | None
    progress: Progress
    chaos: FaultInjector | None = None
    any_codec: bool = False
    twin: Twin | None = None
    steering: Steering = field(default_factory=Steering)


@dataclass
class _Round:
    """One attempt at a round: who was asked, who contributed, why others failed, what the history shall say
    of it."""

    number: int
    began: float
    chosen: list[Client]
    contributors: list[Client] = field(default_factory=list)
    deltas: list[Delta] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)


class Rounds:
    """Runs the rounds of a federation. `stop` asks it to end after what is already complete."""

    def __init__(self, federation: Federation, state: State | None = None):
        self.f = f = federation
        self.clients: list[Client] = list(f.clients)
        self.history: list[dict[str, Any]] = state.history if state else []
        self.round = state.round if state else 0
        self.traffic = TrafficObserver(state.ledger if state else Ledger(), f.progress)
        for c in f.clients:
            self.ledger.radios[c.name] = radio_of(c.url, f.config.budget.radio)
        self.budget = BudgetObserver(f.strategy, self.ledger, f.config, [c.name for c in f.clients])
        self.checkpoints = CheckpointObserver(f.folder, f.config, f.package_sha256, f.strategy)
        self.initialiser = ClosedFormInitialiser(f.config, f.strategy, self.clients, f.progress)
        uplink = None if f.any_codec else f.config.uplink.make().fields[0]
        bounds = f.config.admission.bounds()
        self.admission = Admission(bounds, uplink, f.strategy.read, f.strategy.head, len(f.clients))
        self.admission.remember(self.history)
        if state is not None:
            self._take_up(state)
        self._noticed: set[tuple[str, str]] = set()  # notices of boards that were said
        self._stop = asyncio.Event()

    @property
    def ledger(self) -> Ledger:
        """The bytes of every link."""
        return self.traffic.ledger

    @property
    def over(self) -> str | None:
        """Why the run ends before its last round."""
        return self.budget.over

    def stop(self) -> None:
        """End after what is already complete."""
        self._stop.set()

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    async def set_up(self) -> None:
        """Bring every client up. RunError when fewer than run.min_boards are ready."""
        run = self.f.config.run
        self.f.progress.phase("setting boards up")
        turns = asyncio.Semaphore(len(self.clients) if virtual() else SETUPS)

        async def one(client: Client) -> None:
            async with turns:
                await self._set_up_one(client, run.setup_s)

        await asyncio.gather(*(one(c) for c in self.clients))
        ready = [c for c in self.clients if c.ready]
        if len(ready) < run.min_boards:
            reasons = "; ".join(f"{c.name}: {c.reason}" for c in self.clients if not c.ready)
            raise RunError(
                f"{len(ready)} of {len(self.clients)} boards are ready, {run.min_boards} needed: {reasons}"
            )
        for client in self.clients:
            self.traffic.record(0, client)
        gc.freeze()  # a fleet is there to stay: no use in going through it again and again

    async def _set_up_one(self, client: Client, timeout: float) -> None:
        def progress(state: str) -> None:
            client.state = state
            self.f.progress.board(client.name, state=state, samples=client.samples)

        try:
            async with asyncio.timeout(timeout + 1):
                await in_turn(client, client.set_up(self.f.package, timeout=timeout, progress=progress))
        except Exception as error:  # whatever a board sent or did is that board's failure
            client.ready, client.state = False, "failed"
            late = isinstance(error, TimeoutError) and not str(error)
            client.reason = f"not set up within {timeout:g} s" if late else reason_of(error, timeout)
            self.f.progress.board(client.name, state="failed", reason=client.reason)
        else:
            self.traffic.after_set_up(self.round + 1, client)
            if client.notice is not None and (client.name, client.notice) not in self._noticed:
                self._noticed.add((client.name, client.notice))
                self.f.progress.warn(f"{client.name}: {client.notice}")
        if client.fed_bytes:
            self.ledger.samples[client.name] = client.fed_bytes

    def score_start(self) -> Score:
        """Accuracy before the first round, kept as round 0 of the history."""
        score = self.f.evaluate(self.f.strategy.params)
        if not self.history:
            up, down = self.ledger.total()
            self.history.append(
                {
                    "round": 0,
                    "accuracy": score.accuracy,
                    "loss": score.loss,
                    "test_samples": score.count,
                    "up_bytes": up.total,
                    "down_bytes": down.total,
                    "head": self.f.strategy.hash,
                }
            )
        return score

    async def run(self) -> None:
        """All rounds that are left. Ends early, cleanly, after `stop`.

        RunError: too few clients contributed for run.wait_s; the checkpoint of the last complete round is
        written.
        """
        rounds = self.f.config.run.rounds
        if self.round > 0:  # resumed: the budget may have been used up before
            self.budget.check(self.round, self.f.progress)
        closed = self.round == 0 and self.initialiser.wanted()
        while self.round < rounds and not self.stopped and self.over is None:
            await self.f.steering.while_paused(self._stop.is_set)
            if self.stopped:
                return
            record = await self._whole_round(self.round + 1, closed)
            if record is None:
                return
            closed = False
            if self.f.twin is not None:
                gc.freeze()  # what a round leaves stays; boards in C leave no cycles
            self.round += 1
            self.history.append(record)
            self.checkpoint()
            self.f.progress.round_done(record)

    def checkpoint(self) -> None:
        """Write the state after the last complete round."""
        if self.f.folder is not None:
            self.traffic.remember_peers()
        self.checkpoints.save(self.round, self.history, self.ledger, self.admission.state())

    def choose(self, round_: int, attempt: int = 0) -> list[Client]:
        """The clients to be asked in a round; others at every attempt, where not all take part."""
        gone = {*self.budget.used_up, *self.admission.reputation.left_out, *self.f.steering.excluded}
        run, able = self.f.config.run, [c for c in self.clients if c.name not in gone]
        if not able:
            return []
        return [able[i] for i in select(run.seed, round_, len(able), run.participation, attempt)]

    async def _whole_round(self, round_: int, closed: bool) -> dict[str, Any] | None:
        """Attempts at a round until enough clients have contributed. None: stopped."""
        run, attempt, waited_since = self.f.config.run, 0, monotonic()
        while True:
            tried = await (self._closed_form(round_, attempt) if closed else self._attempt(round_, attempt))
            if tried is None:
                return None
            needed = min(run.min_boards, max(1, len(tried.chosen)))
            if len(tried.contributors) >= needed:
                if attempt:
                    tried.extra["attempts"] = attempt + 1
                record = self._record(tried)
                self.budget.after_round(round_, self.f.progress)
                return record
            for client in tried.chosen:
                self.traffic.record(round_, client)
            waited = monotonic() - waited_since
            if waited >= run.wait_s:
                self._give_up(tried, needed, waited)
            self.f.progress.phase(
                f"round {round_}: {len(tried.contributors)} of {needed} boards needed contributed; "
                "waiting for boards"
            )
            attempt += 1
            await pause(RETRY_S, self._stop)
            if self.stopped:
                return None

    def _give_up(self, tried: _Round, needed: int, waited: float) -> None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in list(tried.failed.items())[:3])
        more = f" and {len(tried.failed) - 3} more" if len(tried.failed) > 3 else ""
        raise RunError(
            f"round {tried.number}: {len(tried.contributors)} boards contributed in {waited:.0f} s, "
            f"{needed} needed "
            f"({reasons}{more}); {self.round} rounds are complete: bring the boards back and go on with "
            "--resume"
        )

    async def _attempt(self, round_: int, attempt: int) -> _Round | None:
        """Ask, judge and aggregate. None: stopped."""
        f, run = self.f, self.f.config.run
        if f.chaos is not None:
            f.chaos.begin(round_)
        tried = _Round(round_, monotonic(), self.choose(round_, attempt) if attempt else self.choose(round_))
        f.progress.phase(f"round {round_} of {run.rounds}: {len(tried.chosen)} boards")
        deltas, tried.failed = await self._contributions(tried.chosen, round_)
        if self.stopped:
            return None
        answered = [c for c in tried.chosen if c.name in deltas]
        verdict = self.admission.judge(self._candidate(c, deltas[c.name], round_) for c in answered)
        for client in answered:
            if client.name in verdict.refused:
                tried.failed[client.name] = f"its delta was refused: {verdict.refused[client.name]}"
                client.state = "refused"
                f.progress.board(client.name, state="refused", reason=tried.failed[client.name])
        tried.contributors = [c for c in answered if c.name in verdict.admitted]
        tried.deltas = [deltas[c.name] for c in tried.contributors]
        if len(tried.contributors) >= min(run.min_boards, len(tried.chosen)):
            f.strategy.step(round_, [verdict.admitted[c.name] for c in tried.contributors])
        await asyncio.gather(
            *(self.traffic.explain(round_, c) for c in answered if not deltas[c.name].balanced)
        )
        if verdict.refused:
            tried.extra["refused"] = verdict.refused
        self._leave_out(tried, verdict.left_out)
        if self.budget.used_up:
            tried.extra["budget_used_up"] = sorted(self.budget.used_up)
        tried.extra["similarity"] = f.strategy.rate.similarity
        return tried

    @staticmethod
    def _candidate(client: Client, delta: Delta, round_: int) -> Candidate:
        return Candidate(
            client.name,
            delta.round,
            round_,
            delta.samples,
            delta.data,
            client.known_samples,
            delta.step,
            delta.loss,
            delta.head,
            client.head,
            client.index,
        )

    async def _closed_form(self, round_: int, attempt: int) -> _Round | None:
        """Round 1 in closed form: some clients send sufficient statistics, the host solves for the head."""
        f, run = self.f, self.f.config.run
        tried = _Round(round_, monotonic(), self.initialiser.choose(attempt))
        f.progress.phase(f"round 1 of {run.rounds}, in closed form: {len(tried.chosen)} boards")
        request = self.initialiser.request

        async def ask(client: Client) -> bytes:
            await self._make_ready(client)
            return await client.statistics(request, timeout=run.deadline_s)

        answers, tried.failed = await self._ask(tried.chosen, ask)
        if self.stopped:
            return None
        found = self.initialiser.apply(tried.chosen, answers)
        tried.failed |= found.refused
        tried.contributors, tried.extra = found.contributors, dict(found.record)
        reputation, times = self.admission.reputation, self.f.config.admission.refusals
        self._leave_out(
            tried, {n: why for n, why in found.refused.items() if reputation.refused(n, why, times)}
        )
        return tried

    def _leave_out(self, tried: _Round, boards: dict[str, str]) -> None:
        """Say and keep which boards have no part in the rest of the run."""
        for name, reason in boards.items():
            self.f.progress.warn(f"{name} is left out of the rest of the run: {reason}")
        if boards:
            tried.extra["left_out"] = boards

    def _take_up(self, state: State) -> None:
        try:
            if state.admission.values:
                self.admission.restore(state.admission)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise RunError(f"the checkpoint is damaged: its admission is none ({error!r})") from None

    async def _make_ready(self, client: Client) -> None:
        if not client.ready:
            await self._set_up_one(client, min(10.0, self.f.config.run.deadline_s))
            if not client.ready:
                raise LinkError(client.reason or f"{client.name} is not ready")

    async def _ask(
        self, chosen: list[Client], ask: Callable[[Client], Any], wait_for: int | None = None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        answers, failed = await ask_all(chosen, ask, self.f.config.run.deadline_s, self._stop, wait_for)
        for client in chosen:
            if client.name in failed:
                client.state = "failed"
                self.f.progress.board(client.name, state="failed", reason=failed[client.name])
        return answers, failed

    async def _contributions(
        self, chosen: list[Client], round_: int
    ) -> tuple[dict[str, Delta], dict[str, str]]:
        """The deltas of a round by client, and why others sent none."""
        rest, early = chosen, {}
        if self.f.twin is not None:
            asked = self.f.twin.ask(chosen, round_, self.f.strategy)
            rest, early = asked.rest, asked.deltas
            if hasattr(self.f.strategy, "decoded"):
                self.f.strategy.decoded = asked.decoded
            names = {c.name: c for c in chosen} if early else {}
            for name, delta in early.items():
                self._answered(names[name], delta, 0.0)
        if not rest:
            return early, {}
        wait_for = self.f.config.run.wait_for
        if wait_for is not None:
            wait_for = max(1, wait_for - len(early))
        deltas, failed = await self._ask(rest, lambda c: self._contribution(c, round_), wait_for)
        return early | deltas, failed

    async def _contribution(self, client: Client, round_: int) -> Delta:
        run, started = self.f.config.run, monotonic()
        await self._make_ready(client)
        client.state = "training"
        self.f.progress.board(client.name, state="training", samples=client.samples)
        try:
            delta = await client.contribute(round_, self.f.strategy, timeout=run.deadline_s)
        except QuantflError as error:
            client.ready = client.ready and not isinstance(error, LinkError)
            raise
        self._answered(client, delta, monotonic() - started)
        return delta

    def _answered(self, client: Client, delta: Delta, seconds: float) -> None:
        """A client has sent its delta."""
        client.state = "done"
        client.stats = {
            "samples": delta.samples,
            "loss": delta.loss,
            "delta_bytes": len(delta.data),
            "seconds": round(seconds, 3),
            "delta_sha256": hashlib.sha256(delta.data).hexdigest(),
        }
        shown = {"samples": delta.samples, "loss": delta.loss, "seconds": client.stats["seconds"]}
        self.f.progress.board(client.name, state="done", **shown)

    def _record(self, tried: _Round) -> dict[str, Any]:
        """The round as the history keeps it."""
        f, round_ = self.f, tried.number
        boards: dict[str, dict[str, Any]] = {}
        moved = self.traffic.record_many(round_, tried.chosen)
        for client in tried.chosen:
            up, down = moved[client.name]
            boards[client.name] = {"up_bytes": up, "down_bytes": down, "state": client.state}
            late = client.late_answers()
            if late:
                boards[client.name]["late"] = late
        for client in tried.contributors:
            boards[client.name].update(client.stats)
        samples = sum(d.samples for d in tried.deltas)
        loss = sum(d.samples * d.loss for d in tried.deltas)
        record: dict[str, Any] = {"round": round_}
        if left_out := sorted(self.f.steering.excluded):
            record["excluded"] = left_out
        if round_ % f.config.run.evaluate_every == 0 or round_ == f.config.run.rounds:
            score = f.evaluate(f.strategy.params)
            record |= {"accuracy": score.accuracy, "loss": score.loss, "test_samples": score.count}
        up_total, down_total = self.ledger.total()
        return (
            record
            | {
                "train_loss": loss / samples if samples else None,
                "train_samples": samples,
                "contributors": [c.name for c in tried.contributors],
                "failed": tried.failed,
                "up_bytes": up_total.total,
                "down_bytes": down_total.total,
                "head": f.strategy.hash,
                "seconds": round(monotonic() - tried.began, 3),
                "boards": boards,
            }
            | tried.extra
        )

    async def personalised_heads(self) -> dict[str, dict[str, Any]]:
        """Per client of a personal run: whether it uses a personalised head, and how many validation samples
        either head gets right.

        Clients out of reach are left out.
        """
        rows: dict[str, dict[str, Any]] = {}

        async def one(client: Client) -> None:
            with contextlib.suppress(DeviceError, LinkError):
                row = await client.personalised_head()
                if row is not None:
                    rows[client.name] = row

        if self.f.config.train.personal:
            await asyncio.gather(*(in_turn(c, one(c)) for c in self.clients))
        return dict(sorted(rows.items()))

    async def compare_all(self) -> dict[str, str]:
        """Compare all traffic counters a last time; returns board -> what differs and no counted fault
        explains."""
        return await self.traffic.close(self.round, self.clients)
