"""FedAvg (McMahan et al. 2017, algorithm 1) on coded deltas, with the remainder of a coded downlink kept at the host.

The boards' global head is only ever changed by a coded delta that every board applies with the same code, so host and
boards hold the same bytes. What the coding of the downlink loses stays in `residual` and goes out with a later round
(error feedback at the server, as in DoubleSqueeze, Tang et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from quantfl.core.codec import Codec, CodecError, decode, dz_encode, dz_step, dz_value
from quantfl.core.head import Head, head_hash
from quantfl.errors import RunError

KEPT = 64  # versions of the head from which a board can be led to the present one by a combined update


@dataclass(frozen=True)
class Contribution:
    """A client's share of a round: samples it trained on and its decoded delta float32 [params]."""

    samples: int
    delta: np.ndarray


@dataclass(frozen=True)
class Update:
    """A step of the global head: the coded delta that leads from head `base` to head `result` (hashes)."""

    base: int
    result: int
    data: bytes


@dataclass
class FedAvg:
    """Global head float32 [params] as the boards hold it, and the host's residual [params].

    server_lr scales the averaged delta. downlink codes the step that boards apply. unit: of the grid on which the initial
    head lies (quantfl.package.program.snap); steps of DZ are multiples of it. updates: the last steps, oldest first.

    shared: every board holds the same head, and all are led from version to version. Otherwise each board holds a head of
    its own near the global one, which the host keeps unrounded: `approach` codes what a board lacks, coarsely, and what that
    leaves out is part of what it lacks next time (as in Artemis, Philippenko and Dieuleveut 2020).
    """

    head: Head
    params: np.ndarray
    downlink: Codec
    server_lr: float = 1.0
    unit: float = 0.0
    residual: np.ndarray = field(default=None)  # type: ignore[assignment]
    updates: list[Update] = field(default_factory=list)
    shared: bool = True
    step_code: int | None = None  # of the last DZ update

    def __post_init__(self) -> None:
        self.params = np.ascontiguousarray(self.params, np.float32).copy()
        if self.residual is None:
            self.residual = np.zeros_like(self.params)
        self._versions: dict[int, np.ndarray] = {self.hash: self.params.copy()}
        self._first = self.hash, self.params.copy()
        self._combined: dict[tuple[int, int], Update | None] = {}

    @property
    def hash(self) -> int:
        return head_hash(self.params)

    def restore(self, params: np.ndarray, residual: np.ndarray, updates: list[Update]) -> None:
        """Go on from a checkpoint. Earlier versions of the head are computed back where that is exact."""
        self.params, self.residual, self.updates = params.copy(), residual.copy(), list(updates)
        self._versions, at = {self.hash: self.params.copy()}, self.params
        self.step_code = next((u.data[1] for u in reversed(updates) if u.data[0] == 2 and len(u.data) > 1), None)
        for update in reversed(self.updates):
            earlier = (at - decode(update.data, self.head.tensors)).astype(np.float32)
            if head_hash(earlier) != update.base:
                break
            self._versions[update.base] = at = earlier

    def read(self, data: bytes, samples: int) -> Contribution:
        """A client's coded delta, checked. CodecError when it is malformed or of another shape."""
        delta = decode(data, self.head.tensors)
        if samples < 1:
            raise CodecError("a delta trained on no samples", 0)
        return Contribution(samples, delta)

    def step(self, contributions: Iterable[Contribution]) -> Update | None:
        """Average the contributions, weighted by samples, in the order given; None when there are none.

        Sums run in float64 over the clients in their order, so the result does not depend on who answered first.
        """
        total, weight = np.zeros(self.params.size, np.float64), 0
        for c in contributions:
            total += float(c.samples) * c.delta
            weight += c.samples
        if weight == 0:
            return None
        wanted = (self.residual + self.server_lr * (total / weight)).astype(np.float32)
        if not np.isfinite(wanted).all():
            raise RunError("the aggregated head is not finite; lower train.lr or strategy.server_lr")
        base, before = self.hash, self.params
        if not self.shared:
            self.params = (before + wanted).astype(np.float32)
            return Update(base, self.hash, b"")
        data = self._encode(wanted, (self.server_lr * (total / weight)).astype(np.float32))
        self.params = before + decode(data, self.head.tensors)
        # What the boards did not get, measured on the very floats they now hold.
        self.residual = (wanted.astype(np.float64) - (self.params.astype(np.float64) - before)).astype(np.float32)
        update = Update(base, self.hash, data)
        self.updates = [*self.updates[-(KEPT - 1) :], update]
        self._versions[update.result] = self.params.copy()
        for old in list(self._versions)[: -KEPT - 1]:
            del self._versions[old]
        self._combined.clear()
        return update

    def _encode(self, wanted: np.ndarray, fresh: np.ndarray) -> bytes:
        if self.downlink.kind != "dz":
            return self.downlink.encode(wanted, self.head.tensors)
        code = dz_step(fresh, self.downlink.step)
        # A step is kept while it fits: updates with one step combine into one of the same alphabet.
        if self.step_code is not None and abs(code - self.step_code) <= 2:
            code = self.step_code
        while code < 255 and dz_value(code) / (4 + code % 4) < self.unit:
            code += 4
        self.step_code = code
        return dz_encode(wanted, code, self.head.tensors)

    def version(self, held: int) -> np.ndarray | None:
        """The parameters of a head by its hash, where the host still knows them: the first one and the last few."""
        return self._first[1] if held == self._first[0] else self._versions.get(held)

    def approach(self, held: np.ndarray, seen: np.ndarray) -> tuple[bytes, np.ndarray]:
        """A coded delta that leads a board with head `held` near the global one, and the head it then holds.

        seen: the global head when the board was last led. The step is taken from how far that has moved since; taken from all
        the board lacks, it would grow with what earlier steps left out, and that would never be sent. Where the head has hardly
        moved, half the root mean square of what is lacking is fine enough.
        """
        lacking = self.params - held
        code = max(dz_step(self.params - seen, self.downlink.step), dz_step(lacking, 0.5))
        data = dz_encode(lacking, code, self.head.tensors)
        return data, held + decode(data, self.head.tensors)

    def lead(self, held: int) -> list[Update] | None:
        """The cheapest way from head `held` to the present one: coded updates to apply in turn, [] when it is the same.

        None when there is none: the whole head has to be sent.
        """
        if held == self.hash:
            return []
        chain, wanted = [], self.hash
        for update in reversed(self.updates):
            if update.result != wanted:
                break
            chain.insert(0, update)
            wanted = update.base
            if wanted == held:
                break
        if wanted != held:
            return None
        combined = self._combine(held) if len(chain) > 1 else None
        if combined is not None and len(combined.data) < sum(len(u.data) + 30 for u in chain):
            return [combined]
        return chain

    def _combine(self, held: int) -> Update | None:
        """One update over several rounds; None where it would not be exact."""
        key = held, self.hash
        if key not in self._combined:
            self._combined[key] = self._combine_now(held)
        return self._combined[key]

    def _combine_now(self, held: int) -> Update | None:
        earlier = self._versions.get(held)
        if earlier is None or self.downlink.kind != "dz":
            return None
        moved = self.params.astype(np.float64) - earlier
        codes = sorted({u.data[1] for u in self.updates if len(u.data) > 1}, reverse=True)
        units = [(c, dz_value(c)) for c in codes] + [(c - c % 4, dz_value(c - c % 4) / 4) for c in codes[-1:]]
        for code, step in units:
            if code < 8 or (np.rint(moved / step) * step != moved).any():
                continue
            if step != dz_value(code):
                code -= 8  # m * 2^e with m = 4 is 2^(e + 2): the unit of all steps with this e
            data = dz_encode(moved.astype(np.float32), code, self.head.tensors)
            if head_hash(earlier + decode(data, self.head.tensors)) == self.hash:
                return Update(held, self.hash, data)
        return None
