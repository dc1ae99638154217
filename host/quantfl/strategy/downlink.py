"""Downlinks: how clients are led to the global head, by coded updates that every board applies with the same
code.

`SharedDownlink` (fp32, bu, bq): all clients share one head. What coding loses stays at the host and goes out
with a later round (error feedback at the server, as in DoubleSqueeze, Tang et al. 2019). A client that sat k
rounds out gets the k updates, or the whole head.

`DitheredDownlink` (dz): the host keeps the global head unrounded. A client's head lies on a grid of step S
around the first head, near the global one: origin + S * floor((global - origin) / S + 1/2 + dither). The
dither is fixed per client and weight, so that the clients' rounding errors differ and cancel in their mean
(non-subtractive dither: Schuchman 1964). A client's head is a function of its index and of the version it was
last led to. So a client that sat k rounds out gets one coarse update, and the host remembers versions only,
however many clients there are. Without dither all clients at a version hold the same head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quantfl.core.codec import Codec, Form, decode, dz_step, dz_value, dz_write
from quantfl.core.head import Head, head_hash
from quantfl.core.twin import NO_UPDATE, SYMBOLS
from quantfl.strategy.base import Snapshot, SyncPlan, Update

DRAWN_BYTES = 256 << 20  # of dithers that are kept, so that they are not drawn anew in every round
KEPT = 64  # versions of the head from which a board can be led to the present one by an update
FRAME = 30  # bytes that one more update costs beside its data


def _cheapest(result: int, params: np.ndarray, updates: list[Update] | None) -> SyncPlan:
    whole = params.nbytes + 64 * (1 + params.nbytes // 4096)
    if updates is not None and sum(len(u.data) + FRAME for u in updates) >= whole:
        updates = None
    return SyncPlan(result, params, None if updates is None else tuple(updates))


class SharedDownlink:
    """One head for all boards, led from version to version by one coded update per round."""

    def __init__(self, head: Head, codec: Codec, origin: np.ndarray):
        self.head, self.codec = head, codec
        self.shared = np.ascontiguousarray(origin, np.float32).copy()
        self.updates: list[Update] = []

    def publish(self, params: np.ndarray, steps: float) -> None:
        """The global head is now `params` [params]; codes what the boards lack. steps: not used."""
        base, before = head_hash(self.shared), self.shared
        data = self.codec.encode(params.astype(np.float64) - before, self.head.tensors)
        self.shared = (before + decode(data, self.head.tensors)).astype(np.float32)
        self.updates = [*self.updates[-(KEPT - 1) :], Update(base, head_hash(self.shared), data)]

    def reset(self, params: np.ndarray, step: float) -> None:
        """As advance."""
        self.publish(params, 0.0)

    def plan(self, index: int, held: int | None) -> SyncPlan:
        """The way from head `held` (its hash) to the present one."""
        wanted = result = head_hash(self.shared)
        chain: list[Update] = []
        for update in reversed(self.updates):
            if wanted == held or update.result != wanted:
                break
            chain.insert(0, update)
            wanted = update.base
        return _cheapest(result, self.shared, chain if wanted == held else None)

    def state(self) -> Snapshot:
        """The shared head and the updates that lead to it."""
        blob = np.frombuffer(b"".join(u.data for u in self.updates), np.uint8)
        updates = [[u.base, u.result, len(u.data)] for u in self.updates]
        return Snapshot({"shared": self.shared, "updates": blob}, {"updates": updates})

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned."""
        self.shared, blob, at = snapshot.arrays["shared"].copy(), bytes(snapshot.arrays["updates"]), 0
        self.updates = []
        for base, result, n in snapshot.values["updates"]:
            self.updates.append(Update(base, result, blob[at : at + n]))
            at += n


@dataclass(frozen=True)
class BatchPlan:
    """How many clients get to their next heads, a row each.

    result: hashes of these heads. how: quantfl.core.twin's NO_UPDATE or SYMBOLS, ALONE: ask `plan`. symbols:
    int32 [n, params] of the updates, in steps of codes uint8 [n].
    """

    result: list[int]
    how: np.ndarray
    symbols: np.ndarray
    code: np.ndarray


ALONE = 255


@dataclass(frozen=True)
class _Version:
    """The global head float32 [params] and the code of the lattice's step at some round; code 0: the first
    head."""

    params: np.ndarray
    code: int


class DitheredDownlink:
    """Heads near the global one, on a lattice of their own per board.

    origin: the first head, on a grid of `unit`. rounds_away: rounds between two contacts with a client, in
    the mean. dither: 0..1, the spread of the boards' roundings in steps. seed: of the dither.
    """

    def __init__(
        self, head: Head, origin: np.ndarray, *, unit: float, rounds_away: float, dither: float, seed: int
    ):
        self.head, self.origin = head, np.ascontiguousarray(origin, np.float32).copy()
        self.unit, self.rounds_away, self.dither, self.seed = unit, max(1, round(rounds_away)), dither, seed
        self.versions = [_Version(self.origin, 0)]
        self._known: dict[int, dict[int, int]] = {}  # board -> hash -> number of a version
        self._drawn: dict[int, np.ndarray] = {}  # board -> its dither, float64 [params]
        self._last: tuple[list[int], int, np.ndarray] | None = None  # shifts of the last batch
        self._first = 0  # number of versions[0]
        self._base = 0  # position from which movement is measured
        self._early = self.rounds_away  # advances after which the step only ever gets finer

    def publish(self, params: np.ndarray, steps: float) -> None:
        """The global head is now `params` [params]. steps: of the lattice, in units of the root mean square
        of how far it moves while a board is away. While no board has been away for long the first movements
        tell too little of that: till then the step may become coarser as well."""
        last = self.versions[-1]
        rounds = min(len(self.versions) - self._base, self.rounds_away)
        then = self.versions[len(self.versions) - rounds]
        moved = (params.astype(np.float64) - then.params) * (self.rounds_away / rounds) ** 0.5
        code = dz_step(moved, steps) if moved.any() else last.code
        if last.code and not (self._early > 0 and code - code % 4 > last.code):
            code = last.code if code > last.code - 4 else last.code - 4  # an octave at a time
        self._early -= 1
        self._append(params, code)

    def reset(self, params: np.ndarray, step: float) -> None:
        """The global head is now `params` [params], which has nothing to do with earlier ones; step: of the
        lattice from now on."""
        self._append(params, dz_step(np.full(1, step), 1.0))
        self._base, self._early = len(self.versions) - 1, 0

    def _append(self, params: np.ndarray, code: int) -> None:
        # powers of two, so that a finer lattice contains the coarser one; 0: nothing has moved yet, which
        # says nothing
        if code:
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
        """DitheredDownlink coordinates [params] of a board's head at a version, in its own step."""
        if version.code == 0:
            return np.zeros(self.origin.size, np.int64)
        away = (version.params.astype(np.float64) - self.origin) / dz_value(version.code)
        if self.dither:
            away += self._dither(index)
        return np.floor(away + 0.5).astype(np.int64)

    def _dither(self, index: int) -> np.ndarray:
        """What is added to a board's coordinates before they are rounded, float64 [params]; kept while there
        is room."""
        found = self._drawn.get(index)
        if found is None:
            size = self.origin.size
            found = np.random.default_rng([self.seed, index]).uniform(-0.5, 0.5, size) * self.dither
            if 8 * size * (len(self._drawn) + 1) <= DRAWN_BYTES:
                self._drawn[index] = found
        return found

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

    def plan(self, index: int, held: int | None) -> SyncPlan:
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
        if position is None or held is None:
            return _cheapest(result, params, None)
        if held == result:
            return _cheapest(result, params, [])
        if np.abs(params).max() >= 2**23 * self.unit:
            return _cheapest(result, params, None)  # beyond what float32 adds up exactly
        then = self.versions[position]
        code = now.code if then.code == 0 else min(now.code, then.code)
        scale = [0 if v.code == 0 else 2 ** ((v.code - code) // 4) for v in (now, then)]
        symbols = shift * scale[0] - self._shift(index, then) * scale[1]
        data = dz_write(symbols.astype(np.int32), Form(code), self.head.tensors)
        return _cheapest(result, params, [Update(held, result, data)])

    def _shifts(self, indices: Sequence[int], version: _Version, dither: np.ndarray | None) -> np.ndarray:
        """`_shift` of several boards, a row each: float64 [n, params], whole numbers."""
        if version.code == 0:
            return np.zeros((len(indices), self.origin.size), np.float64)
        away = (version.params.astype(np.float64) - self.origin) / dz_value(version.code)
        if dither is None:
            return np.tile(np.floor(away + 0.5), (len(indices), 1))
        rows = dither + away
        rows += 0.5
        return np.floor(rows, out=rows)

    def _position(self, index: int, held: int | None) -> int:
        """Position of the version at which a board holds `held`, where that is known at once; else -1."""
        if len(self.versions) == 1:
            return 0 if held is not None and held == head_hash(self.origin) else -1
        number = self._known.get(index, {}).get(held, -1) if held is not None else -1
        position = number if number <= 0 else number - self._first
        valid = 0 <= position < len(self.versions) and self._number(position) == number
        return position if valid else -1

    def plan_many(self, indices: Sequence[int], held: Sequence[int | None]) -> BatchPlan:
        """As `plan`, for several clients at once; the same bytes. What it cannot plan is marked ALONE."""
        now, number = self.versions[-1], self._number(len(self.versions) - 1)
        dither = np.stack([self._dither(i) for i in indices]) if self.dither else None
        shifts = self._shifts(indices, now, dither)
        heads = shifts * (dz_value(now.code) if now.code else 0.0)
        heads += self.origin
        params = heads.astype(np.float32)
        result = [head_hash(row) for row in params]
        positions = np.array([self._position(i, h) for i, h in zip(indices, held, strict=True)])
        limit = 2**23 * self.unit
        beyond: np.ndarray | bool = False
        if max(params.max(), -params.min()) >= limit:
            beyond = np.abs(params).max(axis=1) >= limit
        how = np.where((positions < 0) | beyond, ALONE, SYMBOLS).astype(np.uint8)
        code = np.zeros(len(indices), np.uint8)
        symbols = np.empty(shifts.shape, np.int32)
        for position in np.unique(positions[positions >= 0]):
            at, then = np.flatnonzero(positions == position), self.versions[position]
            code[at] = step = now.code if then.code == 0 else min(now.code, then.code)
            scale = [0 if v.code == 0 else 2 ** ((v.code - step) // 4) for v in (now, then)]
            mine = None if dither is None else dither[at]
            before = self._before([indices[int(i)] for i in at], int(position), mine)
            if len(at) == len(indices):
                np.subtract(shifts * scale[0], before * scale[1], out=symbols, casting="unsafe")
            else:
                symbols[at] = shifts[at] * scale[0] - before * scale[1]
        for k, (index, h) in enumerate(zip(indices, held, strict=True)):
            if h == result[k] and positions[k] >= 0:
                how[k] = NO_UPDATE
            known = self._known.get(index, {})
            self._known[index] = {x: v for x, v in known.items() if x == h} | {result[k]: number}
        self._last = (list(indices), number, shifts)
        return BatchPlan(result, how, symbols, code)

    def _before(self, indices: list[int], position: int, dither: np.ndarray | None) -> np.ndarray:
        last = self._last
        if last is not None and last[0] == indices and last[1] == self._number(position):
            return last[2]
        return self._shifts(indices, self.versions[position], dither)

    def state(self) -> Snapshot:
        """The versions and their steps."""
        arrays = {"versions": np.stack([v.params for v in self.versions])}
        return Snapshot(
            arrays, {"codes": [v.code for v in self.versions], "base": self._base, "early": self._early}
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Take up what `state` returned."""
        values = snapshot.values
        rows = zip(snapshot.arrays["versions"], values["codes"], strict=True)
        self.versions = [_Version(p.copy(), c) for p, c in rows]
        self._last = None
        self._known, self._first, self._base, self._early = {}, 0, values["base"], values["early"]
