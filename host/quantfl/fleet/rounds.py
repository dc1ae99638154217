"""Federated rounds over a fleet: selection, deadlines, aggregation, books, checkpoints.

A board that is late, gone or answers nonsense costs its own contribution and is reported; the round goes on with the
others. After every round the state is checkpointed; a resumed run produces the same bytes as an undisturbed one.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from quantfl.core.head import Score
from quantfl.errors import DeviceError, LinkError, QuantflError, RunError
from quantfl.fleet.chaos import Unleashed
from quantfl.fleet.checkpoint import RunFolder, State
from quantfl.fleet.config import RunConfig
from quantfl.fleet.member import Member
from quantfl.link.clock import monotonic
from quantfl.link.energy import radio_of
from quantfl.link.ledger import Ledger, unseen
from quantfl.messages import Delta
from quantfl.strategy.admission import Admission, Candidate
from quantfl.strategy.closed_form import Sums, estimate, rounding_step, solve
from quantfl.strategy.fedavg import FedAvg
from quantfl.strategy.statistics_admission import BoardStatistics, admit

EXPLAIN_S = 3.0  # a board that does not show its books by then is asked again after its next delta
PAYS = 0.6  # a start in closed form is used when it costs at most this part of all rounds


class Progress(Protocol):
    """What a run reports while it goes on; quantfl.report.live shows it."""

    def phase(self, text: str) -> None: ...
    def board(self, name: str, **fields: Any) -> None: ...
    def round_done(self, record: dict) -> None: ...
    def warn(self, text: str) -> None: ...


class Silent:
    """A Progress that shows nothing."""

    def phase(self, text: str) -> None:
        pass

    def board(self, name: str, **fields: Any) -> None:
        pass

    def round_done(self, record: dict) -> None:
        pass

    def warn(self, text: str) -> None:
        pass


@dataclass
class Federation:
    """Everything a run works with. evaluate: scores global parameters float32 [params] on the host's test data."""

    config: RunConfig
    package: bytes
    package_sha256: str
    strategy: FedAvg
    members: list[Member]
    evaluate: Callable[[np.ndarray], Score]
    folder: RunFolder | None
    progress: Progress
    chaos: Unleashed | None = None


def select(seed: int, round_: int, count: int, participation: float) -> list[int]:
    """Indices of the clients of a round, ascending; the same for the same seed and round."""
    take = max(1, round(participation * count))
    return sorted(int(i) for i in np.random.default_rng([seed, round_]).choice(count, take, replace=False))


class Rounds:
    """Runs the rounds of a federation. `stop` asks it to end after what is already complete."""

    def __init__(self, federation: Federation, state: State | None = None):
        self.f = federation
        self.history: list[dict] = state.history if state else []
        self.ledger: Ledger = state.ledger if state else Ledger()
        self.round = state.round if state else 0
        self.ledger.radios = {
            m.name: radio_of(m.device.url, federation.config.budget.radio) for m in federation.members
        }
        self._peers = dict(self.ledger.peers)  # boards' books as the last host left them
        uplink = federation.config.uplink.make().fields[0]
        self.admission = Admission(federation.config.admission.bounds(), uplink, federation.strategy.read)
        self.admission.remember(self.history)
        self._stop = asyncio.Event()
        self.over: str | None = None  # why the run ends before its last round

    def stop(self) -> None:
        self._stop.set()

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    async def set_up(self) -> None:
        """Bring every board up. RunError when fewer than run.min_boards are ready."""
        run = self.f.config.run
        self.f.progress.phase("setting boards up")
        await asyncio.gather(*(self._set_up_one(m, run.setup_s) for m in self.f.members))
        ready = [m for m in self.f.members if m.ready]
        if len(ready) < run.min_boards:
            reasons = "; ".join(f"{m.name}: {m.reason}" for m in self.f.members if not m.ready)
            raise RunError(
                f"{len(ready)} of {len(self.f.members)} boards are ready, {run.min_boards} needed: {reasons}"
            )
        for member in self.f.members:
            self._book(0, member)

    async def _set_up_one(self, member: Member, timeout: float) -> None:
        def progress(state: str) -> None:
            member.state = state
            self.f.progress.board(member.name, state=state, samples=member.samples)

        try:
            async with asyncio.timeout(timeout + 1):
                await _in_turn(member, member.set_up(self.f.package, timeout=timeout, progress=progress))
        except (QuantflError, TimeoutError) as error:
            member.ready, member.state = False, "failed"
            member.reason = str(error) or f"not set up within {timeout:g} s"
            self.f.progress.board(member.name, state="failed", reason=member.reason)
        else:
            self._after_set_up(member)
        if member.fed_bytes:
            self.ledger.samples[member.name] = member.fed_bytes

    def _book(self, round_: int, member: Member) -> tuple[int, int]:
        link = member.device.session.link
        up, down = self.ledger.record(round_, member.name, link.kinds())
        carried = getattr(member.device.session.transport, "carried", None)
        if carried is not None:  # a transport that knows what its own layers add
            self.ledger.record_carried(round_, member.name, carried())
        self.f.progress.board(member.name, up=up.total, down=down.total)
        return up.total, down.total

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
        """All rounds that are left. Ends early, cleanly, after `stop`."""
        rounds = self.f.config.run.rounds
        if self.round > 0:  # resumed: the budget may have been used up before
            self._end_if_spent(self.round)
        while self.round < rounds and not self.stopped and self.over is None:
            record = await (
                self.start_round()
                if self.round == 0 and self.starts_closed()
                else self._one_round(self.round + 1)
            )
            if record is None:
                return
            self.round += 1
            self.history.append(record)
            self.checkpoint()
            self.f.progress.round_done(record)

    def checkpoint(self) -> None:
        """Write the state after the last complete round."""
        f = self.f
        if f.folder is not None:
            arrays, meta = f.strategy.downlink.state()
            for member in f.members:
                if member.device.boot is not None:
                    self.ledger.peers[member.name] = member.device.expected_books(), member.device.boot
            f.folder.save(
                State(
                    self.round,
                    f.strategy.params,
                    f.package_sha256,
                    f.config.model_dump(mode="json"),
                    arrays,
                    meta,
                    f.strategy.rate.state(),
                    self.history,
                    self.ledger,
                )
            )

    def choose(self, round_: int) -> list[Member]:
        """The boards to be asked in a round."""
        run = self.f.config.run
        return [self.f.members[i] for i in select(run.seed, round_, len(self.f.members), run.participation)]

    async def _one_round(self, round_: int) -> dict | None:
        f, run = self.f, self.f.config.run
        started = monotonic()
        if f.chaos is not None:
            f.chaos.begin(round_)
        chosen = self.choose(round_)
        f.progress.phase(f"round {round_} of {run.rounds}: {len(chosen)} boards")
        done, failed = await self._ask_all(chosen, lambda m: self._client(m, round_))
        if self.stopped:
            return None
        answered = [m for m in chosen if m in done]
        verdict = self.admission.judge(
            Candidate(
                m.name,
                d.round,
                round_,
                d.samples,
                d.data,
                m.samples if m.feed else 0,
                d.step,
                d.loss,
                d.head,
                m.head,
            )
            for m, d in ((m, done[m]) for m in answered)
        )
        for member in answered:
            if member.name in verdict.refused:
                failed[member.name] = f"its delta was refused: {verdict.refused[member.name]}"
                member.state = "refused"
                f.progress.board(member.name, state="refused", reason=failed[member.name])
        shares = [(m, done[m]) for m in answered if m.name in verdict.admitted]
        f.strategy.step(round_, [verdict.admitted[m.name] for m, _ in shares])
        await asyncio.gather(*(self._explain(m, round_) for m, d in done.items() if not d.balanced))
        record = await self._record(round_, started, chosen, shares, failed)
        if verdict.refused:
            record["refused"] = verdict.refused
        record["alike"] = f.strategy.rate.alike
        self._spend(round_)
        return record

    @staticmethod
    def _reason(task: asyncio.Task, deadline_s: float) -> str | None:
        if task.cancelled():
            return f"no delta within {deadline_s:g} s"
        error = task.exception()
        if error is None:
            return None
        if isinstance(error, DeviceError | LinkError | TimeoutError):
            return str(error) or f"no delta within {deadline_s:g} s"
        raise error

    def starts_closed(self) -> bool:
        """Whether the first round computes a head in closed form: as the description says, or as the byte estimate does."""
        f, start = self.f, self.f.config.start
        able = f.config.uplink.codec == "dz" and all(m.device.has("stats") for m in f.members)
        if start.how == "none" or (start.how == "auto" and not able):
            return False
        if not f.strategy.head.one_dense or start.dims > f.strategy.head.dims[0]:
            if start.how == "closed-form":
                raise RunError(
                    'start.how = "closed-form" needs a head of one dense layer, and start.dims at most its '
                    f"{f.strategy.head.dims[0]} features; this head has {len(f.strategy.head.dims) - 1} layers"
                )
            return False
        run, boards = f.config.run, min(start.boards, len(f.members))
        clients = max(1, round(run.participation * len(f.members)))
        cost, plan = estimate(
            f.strategy.head, start.spec(run.seed), boards, run.rounds, clients, len(f.members)
        )
        pays = cost <= PAYS * plan and run.rounds > 1
        used = start.how == "closed-form" or pays
        f.progress.phase(
            f"start in closed form: about {cost:,} bytes; all rounds: about {plan:,}; {'used' if used else 'not used'}"
        )
        return used

    async def start_round(self) -> dict | None:
        """Round 1 in closed form: some boards send sums of their features, the host solves for the head."""
        f, start, run = self.f, self.f.config.start, self.f.config.run
        began, spec = monotonic(), start.spec(run.seed)
        count = len(f.members)
        chosen = [f.members[i] for i in select(run.seed, 0, count, min(start.boards, count) / count)]
        f.progress.phase(f"round 1 of {run.rounds}, in closed form: {len(chosen)} boards")

        async def ask(member: Member) -> bytes:
            await self._make_ready(member)
            return await member.device.sums(spec.request(), timeout=run.deadline_s)

        done, failed = await self._ask_all(chosen, ask)
        if self.stopped:
            return None
        features, classes = f.strategy.head.dims
        answers = [BoardStatistics(m.name, m.samples if m.feed else 0, done[m]) for m in chosen if m in done]
        verdict = admit(answers, spec, features, classes, f.config.admission.max_samples)
        dims = spec.dims or features
        folds, answered = [Sums(dims, classes), Sums(dims, classes)], []
        for member in chosen:
            if member.name in verdict.refused:
                failed[member.name] = verdict.refused[member.name]
            if member.name not in verdict.statistics:
                continue
            sums = verdict.statistics[member.name]
            folds[len(answered) % 2] = folds[len(answered) % 2] + sums
            member.stats = {
                "samples": int(np.rint(sums.counts.sum())),
                "sums_bytes": len(done[member]),
                "delta_sha256": _sha(done[member]),
            }
            answered.append(member)
        found = solve(f.strategy.head, spec, (folds[0], folds[1])) if answered else None
        used = found is not None and (found.trusted or start.how == "closed-form")
        if found is not None and used:
            f.strategy.jump(found.params, rounding_step(f.strategy.head, *folds))
        elif found is not None:
            f.progress.phase(
                f"start in closed form dropped: boards differ too much (calibration {found.calibration:.2f})"
            )
        record = await self._record(1, began, chosen, [(m, None) for m in answered], failed)
        self._spend(1)
        known = {} if found is None else {"ridge": found.ridge, "calibration": found.calibration}
        return record | {"closed_form": True, "used": used} | known

    async def _make_ready(self, member: Member) -> None:
        if not member.ready:
            await self._set_up_one(member, min(10.0, self.f.config.run.deadline_s))
            if not member.ready:
                raise LinkError(member.reason or f"{member.name} is not ready")

    async def _ask_all(
        self, chosen: list[Member], ask: Callable[[Member], Awaitable[Any]]
    ) -> tuple[dict, dict[str, str]]:
        """Ask all boards at once, until the deadline or `stop`: what those that answered gave, and why others failed."""
        f, deadline_s = self.f, self.f.config.run.deadline_s
        tasks = {asyncio.create_task(_in_turn(m, ask(m))): m for m in chosen}
        stop = asyncio.create_task(self._stop.wait())
        pending, deadline = set(tasks), monotonic() + deadline_s
        while pending and not self.stopped and monotonic() < deadline:
            _, waiting = await asyncio.wait(
                pending | {stop},
                timeout=max(0.0, deadline - monotonic()),
                return_when=asyncio.FIRST_COMPLETED,
            )
            pending = waiting - {stop}
        stop.cancel()
        for task in pending:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        done, failed = {}, {}
        for task, member in tasks.items():
            reason = self._reason(task, deadline_s)
            if reason is None:
                done[member] = task.result()
                continue
            failed[member.name] = reason
            member.state = "failed"
            f.progress.board(member.name, state="failed", reason=reason)
        return done, failed

    async def _client(self, member: Member, round_: int) -> Delta:
        run, started = self.f.config.run, monotonic()
        await self._make_ready(member)
        member.state = "training"
        self.f.progress.board(member.name, state="training", samples=member.samples)
        try:
            delta = await member.contribute(round_, self.f.strategy, timeout=run.deadline_s)
        except LinkError:
            member.ready = False
            raise
        member.state = "done"
        member.stats = {
            "samples": delta.samples,
            "loss": delta.loss,
            "delta_bytes": len(delta.data),
            "seconds": round(monotonic() - started, 3),
            "delta_sha256": _sha(delta.data),
        }
        self.f.progress.board(
            member.name, state="done", samples=delta.samples, loss=delta.loss, seconds=member.stats["seconds"]
        )
        return delta

    def _after_set_up(self, member: Member) -> None:
        """What its books say of a board that has just been set up: of its reset, or of the time when no host was there."""
        found, peer = member.comparison, self._peers.pop(member.name, None)
        if peer is None:
            if found is not None and not found.balanced:
                self._note(member, self.round + 1, found.text(), found.explained)
            return
        books, boot = peer
        if member.device.boot != boot:
            text = "it was reset while no host was there; what moved then and was not booked is lost"
            self._note(member, self.round + 1, text, True)
            return
        for key, traffic in unseen(member.name, self.round + 1, books, *member.device.compared).items():
            self.ledger.add(key, traffic)

    def _note(self, member: Member, round_: int, text: str, explained: bool) -> None:
        self.f.progress.warn(str(self.ledger.note(round_, member.name, text, explained)))

    async def _explain(self, member: Member, round_: int) -> None:
        """The board's digest of the books differs from ours: fetch its books and say where and why."""
        try:
            async with asyncio.timeout(EXPLAIN_S):
                found = await member.device.compare(EXPLAIN_S)
        except (LinkError, DeviceError, TimeoutError) as error:
            self.f.progress.warn(
                f"round {round_}, {member.name}: its books differ and could not be fetched: {error}"
            )
            return
        if not found.balanced:
            self._note(member, round_, found.text(), found.explained)

    async def _record(
        self,
        round_: int,
        started: float,
        chosen: list[Member],
        shares: list[tuple[Member, Delta | None]],
        failed: dict[str, str],
    ) -> dict:
        f = self.f
        boards: dict[str, dict] = {}
        for member in chosen:
            up, down = self._book(round_, member)
            boards[member.name] = {"up_bytes": up, "down_bytes": down, "state": member.state}
            late = member.device.session.late
            if late > member.late:
                boards[member.name]["late"], member.late = late - member.late, late
        samples = 0
        loss = 0.0
        for member, delta in shares:
            boards[member.name].update(member.stats)
            if delta is not None:
                samples += delta.samples
                loss += delta.samples * delta.loss
        record: dict[str, Any] = {"round": round_}
        if round_ % f.config.run.evaluate_every == 0 or round_ == f.config.run.rounds:
            score = f.evaluate(f.strategy.params)
            record |= {"accuracy": score.accuracy, "loss": score.loss, "test_samples": score.count}
        up, down = self.ledger.total()
        return record | {
            "train_loss": loss / samples if samples else None,
            "train_samples": samples,
            "contributors": [m.name for m, _ in shares],
            "failed": failed,
            "up_bytes": up.total,
            "down_bytes": down.total,
            "head": f.strategy.hash,
            "seconds": round(monotonic() - started, 3),
            "boards": boards,
        }

    def _spend(self, round_: int) -> None:
        """Tell the rate control what a link has cost so far, and in this round: the mean over the fleet's links."""
        self.f.strategy.rate.spend(round_, self._per_link(1), self._per_link(round_))
        self._end_if_spent(round_)

    def _per_link(self, first: int) -> float:
        """Bytes since round `first`: the mean over the fleet's links."""
        return sum(t.total for t in self.ledger.total(first=first)) / len(self.f.members)

    def _end_if_spent(self, round_: int) -> None:
        rate, rounds = self.f.strategy.rate, self.f.config.run.rounds
        if rate.exhausted(self._per_link(1)) and round_ < rounds:
            self.over = (
                f"the budget of {rate.budget:,.0f} bytes per link is used up after round {round_} of {rounds}"
            )
            self.f.progress.warn(self.over)

    async def own_heads(self) -> dict[str, dict]:
        """Per board of a personal run: whether it uses a head of its own, and how many of the samples it holds back are right by the
        global head and by the one in use. Boards out of reach are left out."""

        async def one(member: Member) -> None:
            with contextlib.suppress(DeviceError, LinkError):
                status = await member.device.status()
                rows[member.name] = {
                    "own": status.own,
                    "held": status.held,
                    "global": status.held_global,
                    "in_use": status.held_own,
                }

        rows: dict[str, dict] = {}
        if self.f.config.train.personal:
            await asyncio.gather(*(_in_turn(m, one(m)) for m in self.f.members))
        return dict(sorted(rows.items()))

    async def close_books(self) -> dict[str, str]:
        """Compare the full books of every board that answers; returns board -> what differs and no counted fault explains."""
        found: dict[str, str] = {}

        async def one(member: Member) -> None:
            try:
                compared = await member.device.compare()
            except (LinkError, DeviceError):
                return
            if not compared.balanced:
                self._note(member, self.round, compared.text(), compared.explained)
            if not compared.explained:
                found[member.name] = compared.text()
            state = "balance" if compared.balanced else "explained" if compared.explained else "differ"
            self.f.progress.board(member.name, books=state)

        await asyncio.gather(*(one(m) for m in self.f.members if m.device.session.reachable))
        for member in self.f.members:
            self._book(self.round, member)
        return found


async def _in_turn(member: Member, work: Awaitable[Any]) -> Any:
    """Do something with a board; afterwards its place at a shared adapter may go to another."""
    try:
        return await work
    finally:
        member.device.session.rest()


def _sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def ledger_summary(ledger: Ledger) -> dict:
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
