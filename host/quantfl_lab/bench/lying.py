"""Boards that lie, for `quantfl bench attacks`: in this process, their deltas changed on the way out.

A liar knows what a board knows: its own samples, the heads it was sent, and the step agreed on. Liars that
collude know each other's deltas as well. No liar knows the honest boards' deltas. The host knows no board's
number of samples, as with boards that have a sensor of their own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from quantfl.core.codec import Form, decode, dz_quantise, dz_read, dz_step, dz_value, dz_write, is_dz
from quantfl.fleet.board_client import BoardClient
from quantfl.messages import Delta
from quantfl.strategy.base import Strategy

SCALE = 9.0  # of the attack of that name
CLAIM = 65_535  # samples, the most that a board can claim
UNDER = 0.95  # of a bound: just under it
LITTLE = 1.5  # standard deviations of "A little is enough", of 10 to 100 clients


@dataclass(frozen=True)
class Attack:
    """name: of the row. labels: the board's labels are turned round before it trains. start: the first head
    is computed from sums, the board's own among them. text: what it does, for people."""

    name: str
    text: str
    labels: bool = False
    start: bool = False


ATTACKS = (
    Attack("labels", "trains on labels turned round (y to K - 1 - y)", labels=True),
    Attack("sign", "sends its delta with the sign flipped"),
    Attack("scaling", f"sends its delta times -{SCALE:g}"),
    Attack("samples", f"claims {CLAIM:,} samples for its delta with the sign flipped"),
    Attack("replay", "sends its first delta in every round, coded anew"),
    Attack("collusion", f"liars send their mean delta, sign flipped, {UNDER:g} of the norm bound long"),
    Attack("little", f"liars send their mean delta less {LITTLE:g} standard deviations (Baruch et al. 2019)"),
    Attack("sums", "sends sums of features under labels turned round, then trains on these", True, True),
)


@dataclass
class Ring:
    """What liars that collude share: each one's own delta of the round, float32 [params]. bound:
    admission.times_median, 0: none."""

    size: int
    bound: float
    deltas: dict[int, dict[int, np.ndarray]] = field(default_factory=dict)
    whole: dict[int, asyncio.Event] = field(default_factory=dict)

    async def share(self, round_: int, index: int, delta: np.ndarray) -> np.ndarray:
        """All liars' deltas of the round [liars, params], once all have theirs."""
        held = self.deltas.setdefault(round_, {})
        held[index] = delta
        event = self.whole.setdefault(round_, asyncio.Event())
        if len(held) == self.size:
            event.set()
        await event.wait()
        return np.stack([held[i] for i in sorted(held)])


class UnknownSamples(BoardClient):
    """A board whose number of samples only the board knows."""

    @classmethod
    def of(cls, board: BoardClient) -> UnknownSamples:
        """The same board."""
        return cls(**{name: getattr(board, name) for name in board.__dataclass_fields__})

    @property
    def known_samples(self) -> int:
        """0: not known."""
        return 0


class LyingClient(UnknownSamples):
    """A board that changes its deltas."""

    attack: Attack
    ring: Ring
    tensors: tuple[int, ...]
    first: np.ndarray | None = None

    @classmethod
    def lying(cls, board: BoardClient, attack: Attack, ring: Ring, tensors: tuple[int, ...]) -> LyingClient:
        """The same board, lying."""
        liar = cls(**{name: getattr(board, name) for name in board.__dataclass_fields__})
        liar.attack, liar.ring, liar.tensors = attack, ring, tensors
        return liar

    async def contribute(self, round_: int, strategy: Strategy, *, timeout: float) -> Delta:
        """An honest round, and then the lie."""
        delta = await super().contribute(round_, strategy, timeout=timeout)
        lie: Any = getattr(self, f"_{self.attack.name}", None)
        return delta if lie is None else await lie(delta)

    def _decoded(self, delta: Delta) -> np.ndarray:
        if not is_dz(delta.data):
            return decode(delta.data, self.tensors)
        symbols, form = dz_read(delta.data, self.tensors, delta.step)
        return (symbols * dz_value(form.code or 1)).astype(np.float32)

    def _coded(self, delta: Delta, x: np.ndarray) -> Delta:
        """The delta with other content, coded as the honest one was: with the step agreed on, or its own."""
        own = dz_read(delta.data, self.tensors, delta.step)[1].code or dz_step(x.astype(np.float32), 8.0)
        code = delta.step or own
        symbols = dz_quantise(x.astype(np.float32), code)
        form = Form(code, bool(delta.step), 0)
        return replace(delta, data=dz_write(symbols, form, self.tensors))

    async def _sign(self, delta: Delta) -> Delta:
        return self._coded(delta, -self._decoded(delta))

    async def _scaling(self, delta: Delta) -> Delta:
        return self._coded(delta, -SCALE * self._decoded(delta))

    async def _samples(self, delta: Delta) -> Delta:
        return replace(await self._sign(delta), samples=CLAIM)

    async def _replay(self, delta: Delta) -> Delta:
        if self.first is None:
            self.first = self._decoded(delta)
        return self._coded(delta, self.first)

    async def _collusion(self, delta: Delta) -> Delta:
        all_ = await self.ring.share(delta.round, self.index, self._decoded(delta))
        towards = all_.mean(axis=0)
        norm = float(np.median(np.linalg.norm(all_, axis=1))) * UNDER * (self.ring.bound or 1.0)
        return self._coded(delta, -towards * (norm / max(1e-30, float(np.linalg.norm(towards)))))

    async def _little(self, delta: Delta) -> Delta:
        all_ = await self.ring.share(delta.round, self.index, self._decoded(delta))
        return self._coded(delta, all_.mean(axis=0) - LITTLE * all_.std(axis=0))


def turned(labels: np.ndarray) -> np.ndarray:
    """Labels turned round: y to K - 1 - y."""
    most = int(labels.max(initial=0))
    return (max(9, most) - labels).astype(labels.dtype)
