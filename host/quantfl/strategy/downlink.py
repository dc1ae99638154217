"""How boards are led to the global head: by coded updates that every board applies with the same code.

`Chain` (fp32, bu, bq): all boards share one head; what coding loses stays at the host and goes out with a later round (error
feedback at the server, as in DoubleSqueeze, Tang et al. 2019). A board that sat k rounds out gets the k updates, or the head.

`Lattice` (dz): the host keeps the global head unrounded. A board's head lies on a lattice of step S around the first head, near
the global one: origin + S * floor((global - origin) / S + 1/2 + dither). The dither is fixed per board and weight, so the
boards' rounding errors differ and cancel in their mean (non-subtractive dither: Schuchman 1964). A board's head is a function of
its index and of the version it was last led to, so a board that sat k rounds out gets one coarse update, and the host's memory is
that of the versions, however many boards there are. Without dither all boards at a version hold the same head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantfl.core.codec import Codec, Form, decode, dz_step, dz_value, dz_write
from quantfl.core.head import Head, head_hash

KEPT = 64  # versions of the head from which a board can be led to the present one by an update
FRAME = 30  # bytes that one more update costs beside its data


@dataclass(frozen=True)
class Update:
    """The coded delta that leads a board from head `base` to head `result` (hashes)."""

    base: int
    result: int
    data: bytes


@dataclass(frozen=True)
class Lead:
    """The cheapest way to a board's next head: its hash and parameters float32 [params], and the updates to apply in turn; None:
    there is no way but the whole head."""

    result: int
    params: np.ndarray
    updates: tuple[Update, ...] | None


def _way(result: int, params: np.ndarray, updates: list[Update] | None) -> Lead:
    whole = params.nbytes + 64 * (1 + params.nbytes // 4096)
    if updates is not None and sum(len(u.data) + FRAME for u in updates) >= whole:
        updates = None
    return Lead(result, params, None if updates is None else tuple(updates))


class Chain:
    """One head for all boards, led from version to version by one coded update per round."""

    def __init__(self, head: Head, codec: Codec, origin: np.ndarray):
        self.head, self.codec = head, codec
        self.shared = np.ascontiguousarray(origin, np.float32).copy()
        self.updates: list[Update] = []

    def advance(self, params: np.ndarray, steps: float) -> None:
        """The global head is now `params` [params]; codes what the boards lack. steps: not used."""
        base, before = head_hash(self.shared), self.shared
        data = self.codec.encode(params.astype(np.float64) - before, self.head.tensors)
        self.shared = (before + decode(data, self.head.tensors)).astype(np.float32)
        self.updates = [*self.updates[-(KEPT - 1) :], Update(base, head_hash(self.shared), data)]

    def jump(self, params: np.ndarray, step: float) -> None:
        """As advance."""
        self.advance(params, 0.0)

    def lead(self, index: int, held: int | None) -> Lead:
        """The way from head `held` (its hash) to the present one."""
        wanted = result = head_hash(self.shared)
        chain: list[Update] = []
        for update in reversed(self.updates):
            if wanted == held or update.result != wanted:
                break
            chain.insert(0, update)
            wanted = update.base
        return _way(result, self.shared, chain if wanted == held else None)

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and plain data of a checkpoint."""
        meta = {"updates": [[u.base, u.result, len(u.data)] for u in self.updates]}
        return {
            "shared": self.shared,
            "updates": np.frombuffer(b"".join(u.data for u in self.updates), np.uint8),
        }, meta

    def restore(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        self.shared, blob, at = arrays["shared"].copy(), bytes(arrays["updates"]), 0
        self.updates = []
        for base, result, n in meta["updates"]:
            self.updates.append(Update(base, result, blob[at : at + n]))
            at += n


@dataclass(frozen=True)
class _Version:
    """The global head float32 [params] and the code of the lattice's step at some round; code 0: the first head."""

    params: np.ndarray
    code: int


class Lattice:
    """Heads near the global one, on a lattice of their own per board.

    origin: the first head, on a grid of `unit`. absence: rounds between two of a board's turns, in the mean. dither: 0..1, the
    spread of the boards' roundings in steps. seed: of the dither.
    """

    def __init__(
        self, head: Head, origin: np.ndarray, *, unit: float, absence: float, dither: float, seed: int
    ):
        self.head, self.origin = head, np.ascontiguousarray(origin, np.float32).copy()
        self.unit, self.absence, self.dither, self.seed = unit, max(1, round(absence)), dither, seed
        self.versions = [_Version(self.origin, 0)]
        self._known: dict[int, dict[int, int]] = {}  # board -> hash -> number of a version
        self._first = 0  # number of versions[0]
        self._base = 0  # position from which movement is measured
        self._early = self.absence  # advances after which the step only ever gets finer

    def advance(self, params: np.ndarray, steps: float) -> None:
        """The global head is now `params` [params]. steps: of the lattice, in units of the root mean square of how far it moves
        while a board is away. While no board has been away for long the first movements tell too little of that: till then the
        step may become coarser as well."""
        last = self.versions[-1]
        rounds = min(len(self.versions) - self._base, self.absence)
        then = self.versions[len(self.versions) - rounds]
        moved = (params.astype(np.float64) - then.params) * (self.absence / rounds) ** 0.5
        code = dz_step(moved, steps) if moved.any() else last.code
        if last.code and not (self._early > 0 and code - code % 4 > last.code):
            code = last.code if code > last.code - 4 else last.code - 4  # an octave at a time
        self._early -= 1
        self._append(params, code)

    def jump(self, params: np.ndarray, step: float) -> None:
        """The global head is now `params` [params], which has nothing to do with earlier ones; step: of the lattice from now on."""
        self._append(params, dz_step(np.full(1, step), 1.0))
        self._base, self._early = len(self.versions) - 1, 0

    def _append(self, params: np.ndarray, code: int) -> None:
        if code:  # powers of two, so that a finer lattice contains the coarser one; 0: nothing has moved yet, which says nothing
            code = max(code - code % 4, self._finest())
        self.versions.append(_Version(np.ascontiguousarray(params, np.float32).copy(), code))
        if len(self.versions) > KEPT:
            del self.versions[1]  # the first one stays: a board that was reset holds it
            self._first += 1
            self._base = max(0, self._base - 1)

    def _finest(self) -> int:
        """Code of the finest step: the grid of the first head, so that sums stay exact in float32."""
        code = 4
        while self.unit and dz_value(code) < self.unit:
            code += 4
        return code

    def _shift(self, index: int, version: _Version) -> np.ndarray:
        """Lattice coordinates [params] of a board's head at a version, in its own step."""
        if version.code == 0:
            return np.zeros(self.origin.size, np.int64)
        away = (version.params.astype(np.float64) - self.origin) / dz_value(version.code)
        if self.dither:
            away += np.random.default_rng([self.seed, index]).uniform(-0.5, 0.5, away.size) * self.dither
        return np.floor(away + 0.5).astype(np.int64)

    def board_head(self, index: int, version: int = -1) -> np.ndarray:
        """The head float32 [params] of board `index` once it has been led to a version (as list index)."""
        v = self.versions[version]
        return (self.origin + self._shift(index, v) * (dz_value(v.code) if v.code else 0.0)).astype(
            np.float32
        )

    def _number(self, position: int) -> int:
        return position if position == 0 else position + self._first

    def _find(self, index: int, held: int) -> int | None:
        """Position of the version at which board `index` holds the head `held`."""
        known = self._known.get(index, {}).get(held)
        for position in range(len(self.versions)):
            if known is not None and self._number(position) == known:
                return position
        if known is not None:
            return None
        for position in reversed(range(len(self.versions))):
            if head_hash(self.board_head(index, position)) == held:
                return position
        return None

    def lead(self, index: int, held: int | None) -> Lead:
        """The way for board `index` from head `held` (its hash) to its present one."""
        now = self.versions[-1]
        shift = self._shift(index, now)
        params = (self.origin + shift * (dz_value(now.code) if now.code else 0.0)).astype(np.float32)
        result = head_hash(params)
        position = self._find(index, held) if held is not None else None
        known = self._known.get(index, {})
        self._known[index] = {h: v for h, v in known.items() if h == held} | {
            result: self._number(len(self.versions) - 1)
        }
        if position is None:
            return _way(result, params, None)
        if held == result:
            return _way(result, params, [])
        if np.abs(params).max() >= 2**23 * self.unit:
            return _way(result, params, None)  # beyond what float32 adds up exactly
        then = self.versions[position]
        code = now.code if then.code == 0 else min(now.code, then.code)
        scale = [0 if v.code == 0 else 2 ** ((v.code - code) // 4) for v in (now, then)]
        symbols = shift * scale[0] - self._shift(index, then) * scale[1]
        data = dz_write(symbols.astype(np.int32), Form(code), self.head.tensors)
        return _way(result, params, [Update(held, result, data)])

    def state(self) -> tuple[dict[str, np.ndarray], dict]:
        """Arrays and plain data of a checkpoint."""
        arrays = {"versions": np.stack([v.params for v in self.versions])}
        return arrays, {"codes": [v.code for v in self.versions], "base": self._base, "early": self._early}

    def restore(self, arrays: dict[str, np.ndarray], meta: dict) -> None:
        self.versions = [
            _Version(p.copy(), c) for p, c in zip(arrays["versions"], meta["codes"], strict=True)
        ]
        self._known, self._first, self._base, self._early = {}, 0, meta["base"], meta["early"]
