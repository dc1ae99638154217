"""Whole runs under random faults, each held against a clean one: the property behind `quantfl torture`.

For a seed a schedule of faults is drawn and a small fleet trained under it. Then must hold:

* every round ends by its deadline, and the run ends;
* the global head after every round is, bit for bit, that of a clean run in which exactly the boards that
  delivered were asked (where a replay came before its original, and for dz where a delta got lost or a board
  was reset: the head that the same deltas give when they are aggregated anew, since a board whose delta got
  lost has a residual that a clean run knows nothing of);
* no lie was aggregated;
* the ledger balances: on each line bytes taken + added = given + swallowed + held, the host has counted every
  byte it sent and got, so has a board that was not reset, both ends' counters differ by counted faults
  only, and not at all once the faults have ended.

In-process boards run on virtual time: a schedule takes tens of milliseconds, and the same seed does the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import random
import struct
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from quantfl.core import crypt
from quantfl.core.head import Score
from quantfl.emulation import Board, boot_fleet, close_all
from quantfl.errors import DeviceError, LinkError, QuantflError
from quantfl.fleet.board_client import BoardClient
from quantfl.fleet.chaos import FaultInjector
from quantfl.fleet.client import Client
from quantfl.fleet.config import RunConfig
from quantfl.fleet.observers import EXPLAIN_S
from quantfl.fleet.rounds import Federation, Rounds, Silent
from quantfl.fleet.setup import load_package, make_client, make_strategy
from quantfl.link.chaos import DOWN, LIES, UP, Chaos, parse
from quantfl.link.clock import monotonic, run_virtual
from quantfl.link.keys import BoardKey, KeyRing
from quantfl.package.program import Package
from quantfl.strategy.admission import SHORT, Candidate, Verdict
from quantfl_lab.torture.air import Air, air_schedule, on_air

SAMPLES = 12  # per board
SETUP_S, DEADLINE_S = 30.0, 12.0


@dataclass
class Outcome:
    """What a schedule did. problems: empty when the property held."""

    seed: int
    spec: str
    problems: list[str] = field(default_factory=list)
    delivered: int = 0
    asked: int = 0
    refused: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    notes: int = 0


def command_of(seed: int, kind: str, boards: int = 4, rounds: int = 4, ble: bool = False) -> str:
    """The command that repeats a schedule."""
    return (
        f"quantfl torture --seed {seed} --count 1 --board {kind} --boards {boards} --rounds "
        f"{rounds}{' --ble' * ble}"
    )


def schedule(seed: int, boards: int, rounds: int, *, real: bool) -> str:
    """A random specification. real: on boards in real time, where long stalls would only cost time."""
    rng = random.Random(f"schedule {seed}")
    parts: list[str] = []

    def rate(name: str, rates: list[float], odds: float) -> None:
        if rng.random() < odds:
            direction = rng.choice(["", "", "up.", "down."])
            parts.append(f"{direction}{name}={rng.choice(rates):g}")

    rate("flip", [1e-6, 1e-5, 1e-4, 3e-4], 0.5)
    rate("drop", [0.003, 0.01, 0.05], 0.4)
    rate("dup", [0.003, 0.01, 0.05], 0.4)
    rate("reorder", [0.01, 0.05], 0.3)
    rate("cut", [0.003, 0.02], 0.3)
    rate("noise", [0.01, 0.1], 0.3)
    rate("boot", [0.005], 0.15)
    if rng.random() < 0.3:
        times = ["30ms", "200ms"] if real else ["50ms", "700ms", "3s"]
        parts.append(f"stall={rng.choice(times)}@{rng.choice([0.003, 0.02])}")
    if rng.random() < 0.35:
        parts.append(f"disconnect={rng.randint(1, 3)}")
    if rng.random() < 0.3:
        parts.append(f"reset={rng.randint(1, 2)}@0.02")
    parts.append(f"seed={seed}")
    clauses = [",".join(parts)]
    if rng.random() < 0.4:
        board = f"board-{rng.randrange(boards):02d}"
        when = rng.choice(["", f"@round={rng.randint(1, rounds)}"])
        faults = [f"lie={rng.choice(LIES)}{when}"] * 4 + [f"stuck{when or '@round=2'}", "full", "slow=600ms"]
        clauses.append(f"{board}: {rng.choice(faults)}")
    return "; ".join(clauses)


@lru_cache(1)
def _package(path: str) -> Package:
    return load_package(Path(path))


def _description(seed: int, model: str, boards: int, rounds: int, *, real: bool) -> RunConfig:
    rng = random.Random(f"description {seed}")
    codec = rng.choice(["bu", "bu", "fp32", "bq", "dz"])
    participation = rng.choice([1.0, 1.0, 0.75])
    return RunConfig.model_validate(
        {
            "model": {"path": model},
            "fleet": {"emulate": "inproc", "boards": boards},
            "start": {"how": "none"},
            "run": {
                "name": "torture",
                "seed": seed % 2**32,
                "rounds": rounds,
                "participation": participation,
                "setup_s": SETUP_S,
                "deadline_s": 6.0 if real else DEADLINE_S,
            },
            "train": {"lr": 0.003, "batch": 4},
            "admission": {"max_norm": 1e4},
            "uplink": {"codec": codec},
            "downlink": {"codec": codec, "dither": 0.0},
        }
    )


class _Ring(KeyRing):
    """Keys without a file, the same for the same seed."""

    def __init__(self, seed: int, uids: list[bytes]):
        made = {u.hex(): BoardKey(u.hex(), hashlib.sha256(b"%d/" % seed + u).digest()) for u in uids}
        secret = hashlib.sha256(b"%d" % seed).digest()
        super().__init__(Path("torture"), made, crypt.public(secret), secret)

    def save(self) -> None:
        pass

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        yield  # there is no file


def keyed(seed: int) -> bool:
    """Whether the links of a schedule have keys."""
    return random.Random(f"keys {seed}").random() < 0.3


class _Watched(Rounds):
    """Rounds that remember each round's deltas and head, and ask the boards of `script` where one is
    given."""

    script: list[list[str]] | None = None
    set_up_took = 0.0

    def __init__(self, federation: Federation):
        super().__init__(federation)
        self._judged: dict[int, tuple[list[Candidate], Verdict]] = {}  # by round: the attempt that counted
        judge = self.admission.judge

        def watch(candidates) -> Verdict:
            candidates = list(candidates)
            verdict = judge(candidates)
            self._judged[self.round + 1] = candidates, verdict
            return verdict

        self.admission.judge = watch  # type: ignore[method-assign]

    @property
    def judged(self) -> list[tuple[list[Candidate], Verdict]]:
        """What admission saw and said, of every round that counted."""
        return [self._judged[r] for r in range(1, self.round + 1)]

    def choose(self, round_: int, attempt: int = 0) -> list[Client]:
        if self.script is None:
            return super().choose(round_, attempt)
        return [m for m in self.clients if m.name in self.script[round_ - 1]]


def _federation(
    config: RunConfig, package: Package, boards: list[Board], chaos: Chaos | None, keys: KeyRing | None = None
) -> Federation:
    rng = np.random.default_rng(config.run.seed)
    head = package.head
    injector = None if chaos is None else FaultInjector(chaos, head.tensors, config.uplink.make())
    clients = []
    for i, board in enumerate(boards):
        x = rng.integers(-128, 128, (SAMPLES, package.input_size), np.int8)
        labels = rng.integers(0, package.dims[-1], SAMPLES).astype(np.uint16)
        clients.append(make_client(i, config, board, (x, labels), package, injector, keys))
        if keys is not None:  # no secret here: a schedule shall repeat byte by byte
            clients[-1].device.session.link.secure(hashlib.sha256(b"%d/%d" % (config.run.seed, i)).digest())
    strategy = make_strategy(config, head, package.params)
    to_push = package.data if keys is None else keys.sign(package.data)
    return Federation(
        config,
        to_push,
        package.sha256,
        strategy,
        clients,
        lambda _: Score(1, 0, 0.0),
        None,
        Silent(),
        injector,
    )


async def _settle(rounds: _Watched, air: Air | None = None) -> None:
    """After the last round: faults end, lines that are up run dry, both ends' counters are compared twice."""
    f = rounds.f
    f.chaos.quiet()
    if air is not None:
        await air.hush()
    await asyncio.sleep(5.0 if f.clients[0].emulated.kind == "inproc" else 1.0)

    async def one(client: BoardClient) -> str | None:
        device = client.device
        try:
            if not device.session.up:
                await client.connect(8.0)
            for _attempt in range(
                4
            ):  # until both ends' counters were of one moment: only then do the next ones begin there
                first = await device.compare(10.0)
                if first.steady:
                    break
            second = await device.compare(10.0)
        except (LinkError, DeviceError) as error:
            return f"{client.name} is not reached once the faults have ended: {error}"
        if not first.steady:
            return f"{client.name}: counters were never of one moment on a clean line"
        if not first.explained:
            return f"{client.name}: not explained: {first.text()}"
        if not second.balanced:
            return f"{client.name}: counters differ on a clean line: {second.text()}"
        return None

    rounds.found = [p for p in await asyncio.gather(*(one(m) for m in f.clients)) if p]
    await asyncio.sleep(0.2)
    for m in f.clients:
        rounds.traffic.record(rounds.round, m)


async def _under_chaos(
    config: RunConfig,
    package: Package,
    boards: list[Board],
    chaos: Chaos,
    keys: KeyRing | None,
    air: Air | None = None,
) -> _Watched | str:
    rounds = _Watched(_federation(config, package, boards, chaos, keys))
    try:
        began = monotonic()
        try:
            await rounds.set_up()
        except QuantflError as error:
            if "boards are ready" not in str(error):
                raise
            return str(error)  # nobody came up: a clear statement is all that is asked for
        finally:
            rounds.set_up_took = monotonic() - began
        rounds.score_start()
        await rounds.run()
        await _settle(rounds, air)
        return rounds
    finally:
        await asyncio.gather(*(m.device.close() for m in rounds.f.clients), return_exceptions=True)


async def _clean(
    config: RunConfig, package: Package, boards: list[Board], script: list[list[str]]
) -> _Watched:
    rounds = _Watched(_federation(config, package, boards, None))
    rounds.script = script
    try:
        await rounds.set_up()
        rounds.score_start()
        await rounds.run()
        return rounds
    finally:
        await asyncio.gather(*(m.device.close() for m in rounds.f.clients), return_exceptions=True)


def _check_bytes(rounds: _Watched, boards: list[Board]) -> list[str]:
    found = []
    totals = rounds.ledger.grouped(lambda k: (k.board, k.direction))
    for client, board in zip(rounds.f.clients, boards, strict=True):
        line, link = rounds.f.chaos.lines[client.name], client.device.session.link
        for direction in (DOWN, UP):
            w = line.lines[direction]
            if w.taken + w.added != w.given + w.swallowed + line.held(direction):
                found.append(f"{client.name} {direction}: the line itself does not add up: {w}")
        c = link.counters()
        counted = {
            direction: totals[client.name, direction].total if (client.name, direction) in totals else 0
            for direction in (DOWN, UP)
        }
        if counted[DOWN] != c.tx_bytes or counted[UP] != c.rx_bytes:
            found.append(f"{client.name}: ledger {counted}, counters {c.tx_bytes} down {c.rx_bytes} up")
        if c.tx_bytes != line.lines[DOWN].taken:
            found.append(
                f"{client.name}: {c.tx_bytes} bytes counted as sent, {line.lines[DOWN].taken} written"
            )
        if c.rx_bytes + link.uncounted != line.lines[UP].given:
            found.append(
                f"{client.name}: {c.rx_bytes} + {link.uncounted} bytes counted as received, "
                f"{line.lines[UP].given} came"
            )
        if board.kind == "inproc" and not any(w.faults["reset"] for w in line.lines.values()):
            b = board.board.counters()
            if b.tx_bytes != line.lines[UP].taken:
                found.append(
                    f"{client.name}: the board counted {b.tx_bytes} bytes as sent, {line.lines[UP].taken} "
                    "came out of it"
                )
            if not 0 <= line.lines[DOWN].given - b.rx_bytes <= 1100:  # all but a piece whose end has not come
                found.append(
                    f"{client.name}: the board counted {b.rx_bytes} bytes as received, "
                    f"{line.lines[DOWN].given} went in"
                )
    found += [f"not explained: {n}" for n in rounds.ledger.imbalances]
    return found


def _check_heads(rounds: _Watched, again: _Watched | None) -> list[str]:
    found = []
    heads = [r["head"] for r in rounds.history]
    told = rounds.f.chaos.told
    replay = any(f.value == "replay" for m in rounds.f.clients for f in rounds.f.chaos.chaos.faults(m.name))
    seen: set[str] = set()
    for record in rounds.history[1:]:
        shares = {n: record["boards"][n] for n in record["contributors"]}
        lied = (
            [n for n in shares if record["round"] in told.get(n, ())] if not replay else []
        )  # a replay may be the first to arrive
        again_sent = [n for n, b in shares.items() if b["delta_bytes"] >= SHORT and b["delta_sha256"] in seen]
        seen |= {b["delta_sha256"] for b in shares.values()}
        if lied or again_sent:
            found.append(f"round {record['round']}: lies of {', '.join(lied + again_sent)} were aggregated")
    if again is not None:
        clean = [r["head"] for r in again.history]
        if clean != heads:
            at = next(i for i, (a, b) in enumerate(zip(heads, clean, strict=False)) if a != b)
            sums = [
                {n: b.get("delta_sha256", "")[:8] for n, b in r.history[at]["boards"].items()}
                for r in (rounds, again)
            ]
            found.append(
                f"round {at}: head {heads[at]:08x}, a clean run gives {clean[at]:08x}; deltas {sums[0]} "
                f"and {sums[1]}"
            )
        if rounds.f.strategy.params.tobytes() != again.f.strategy.params.tobytes():
            found.append("the last head's bytes are not those of a clean run")
        return found
    package = _package(rounds.f.config.model.path)
    strategy = make_strategy(rounds.f.config, rounds.f.strategy.head, package.params)
    for record, (candidates, verdict) in zip(rounds.history[1:], rounds.judged, strict=True):
        kept = [
            strategy.read(c.data, c.samples, agreed=c.step, loss=c.loss)
            for c in candidates
            if c.name in verdict.admitted
        ]
        strategy.step(record["round"], kept)
        if strategy.hash != record["head"]:
            found.append(
                f"round {record['round']}: head {record['head']:08x}, its deltas give {strategy.hash:08x}"
            )
    return found


def _nothing_lost(rounds: _Watched) -> bool:
    """Whether every board that was asked delivered, and none was reset: then residuals, too, are those of a
    clean run."""
    resets = any(
        line.lines[direction].faults["reset"]
        for line in rounds.f.chaos.lines.values()
        for direction in (DOWN, UP)
    )
    return (
        not resets
        and not any(r["failed"] for r in rounds.history[1:])
        and all(m.ready for m in rounds.f.clients)
    )


def _replay_came_first(rounds: _Watched) -> bool:
    """Whether a replayed delta was aggregated because the host had never seen it before: its own round's
    answer had come too late. Nothing tells it from an honest one then, and a clean run knows nothing of
    it."""
    if not any(f.value == "replay" for m in rounds.f.clients for f in rounds.f.chaos.chaos.faults(m.name)):
        return False
    told = rounds.f.chaos.told
    return any(
        record["round"] in told.get(n, ()) for record in rounds.history[1:] for n in record["contributors"]
    )


def run_schedule(
    seed: int,
    model: str,
    *,
    kind: str = "inproc",
    boards: int = 4,
    rounds: int = 4,
    spec: str | None = None,
    ble: bool = False,
) -> Outcome:
    """Run one schedule and check it. model: path of a package. spec: instead of the one drawn from the seed.
    ble: native boards are reached over a virtual BLE adapter, whose air has faults besides; one such schedule
    at a time in a process."""
    real = kind != "inproc"
    run = asyncio.run if real else run_virtual
    package, config = _package(model), _description(seed, model, boards, rounds, real=real)
    outcome = Outcome(seed, schedule(seed, boards, rounds, real=real) if spec is None else spec)
    fleet: list[Board] = []
    stack = ExitStack()
    try:
        fleet = boot_fleet(kind, boards, seed=seed, ble=ble)
        air = stack.enter_context(on_air(fleet, air_schedule(seed))) if ble else None
        keys = (
            _Ring(seed, [struct.pack(">II", seed & 0xFFFFFFFF, i + 1) for i in range(boards)])
            if keyed(seed)
            else None
        )
        result = run(_under_chaos(config, package, fleet, parse(outcome.spec), keys, air))
        if isinstance(result, str):
            return outcome
        outcome.problems += (
            result.found + _check_bytes(result, fleet) + (air.problems if air is not None else [])
        )
        outcome.faults |= air.faults if air is not None else {}
        again = None
        if (config.uplink.codec != "dz" or _nothing_lost(result)) and not _replay_came_first(result):
            close_all(fleet)
            fleet = boot_fleet("inproc", boards, seed=seed)
            script = [r["contributors"] for r in result.history[1:]]
            again = run_virtual(_clean(config, package, fleet, script))
            delivered = [r["contributors"] for r in again.history[1:]]
            if delivered != script:
                outcome.problems.append(f"the clean run got other deltas: {delivered} for {script}")
        outcome.problems += _check_heads(result, again)
        limit = config.run.deadline_s + EXPLAIN_S + (2.0 if real else 0.1)
        late = [r for r in result.history[1:] if r["seconds"] > limit]
        outcome.problems += [
            f"round {r['round']} took {r['seconds']:.1f} s, {limit:g} are allowed" for r in late
        ]
        if result.set_up_took > SETUP_S + (3.0 if real else 1.1):
            outcome.problems.append(f"setting up took {result.set_up_took:.1f} s, {SETUP_S:g} are allowed")
        if result.round != rounds:
            outcome.problems.append(f"the run ended after round {result.round}")
        for r in result.history[1:]:
            outcome.delivered += len(r["contributors"])
            outcome.asked += len(r["boards"])
            outcome.refused += len(r.get("refused", {}))
        outcome.notes = len(result.ledger.notes)
        for faults in result.f.chaos.faults().values():
            for name, n in faults.items():
                outcome.faults[name] = outcome.faults.get(name, 0) + n
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        outcome.problems.append(
            f"{type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
        )
    finally:
        stack.close()
        close_all(fleet)
    return outcome


def run_schedules(
    first: int, count: int, model: str, *, jobs: int = 1, kind: str = "inproc", **options
) -> Iterator[Outcome]:
    """Schedules first .. first + count - 1, in turn; `jobs` at once. Boards of other kinds than inproc mostly
    wait: threads do."""
    work = partial(run_schedule, model=model, kind=kind, **options)
    if jobs == 1:
        yield from map(work, range(first, first + count))
        return
    pool = ProcessPoolExecutor if kind == "inproc" else ThreadPoolExecutor
    with pool(jobs) as workers:
        yield from workers.map(work, range(first, first + count))
