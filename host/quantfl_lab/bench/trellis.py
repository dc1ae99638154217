"""Trellis-coded quantisation with entropy coding, for `quantfl bench alternatives` alone.

Two scalar quantisers of step 2·step in turn, one with the even multiples of `step`, one with the odd ones and
zero; the parities of the indices so far say which is next (dependent quantisation with four states: ITU-T
H.266 (2020), 7.3.11.11 and 8.7.3; Schwarz et al., DCC 2019). The encoder finds the indices of the least |x -
decoded|² + lam·bits by the Viterbi algorithm.
"""

from __future__ import annotations

import numpy as np

NEXT = ((0, 2), (2, 0), (1, 3), (3, 1))  # [state][parity of the index]; states 2 and 3 use the odd quantiser


def values(k: np.ndarray, odd: np.ndarray, step: float) -> np.ndarray:
    """What indices stand for. k int, odd bool of the same shape."""
    return (2 * k - np.where(odd, np.sign(k), 0)) * step


def decode(k: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray]:
    """(values float64, which were of the odd quantiser) of indices int [messages, n]."""
    state = np.zeros(len(k), int)
    table, odd = np.array(NEXT), np.zeros(k.shape, bool)
    for i in range(k.shape[1]):
        odd[:, i] = state >= 2
        state = table[state, k[:, i] & 1]
    return values(k, odd, step), odd


def _candidates(x: np.ndarray, odd: bool, step: float) -> np.ndarray:
    """The nearest index, the one below it in magnitude, and zero: int [3, messages]."""
    near = np.floor(np.abs(x) / (2 * step) + (1.0 if odd else 0.5)).astype(int)
    sign = np.where(x < 0, -1, 1)
    return np.stack([sign * near, sign * np.maximum(near - 1, 0), np.zeros_like(near)])


def encode(x: np.ndarray, step: float, lam: float, cost: np.ndarray) -> np.ndarray:
    """Indices int [messages, n] of x float64 [messages, n]. cost: bits of magnitude m under either quantiser,
    float [2, magnitudes], the last for all beyond; lam: what a bit is worth in squared error."""
    count, n = x.shape
    total = np.full((count, 4), np.inf)
    total[:, 0] = 0
    chosen = np.zeros((n, count, 4), np.int32)
    came = np.zeros((n, count, 4), np.int8)
    rows, most = np.arange(count), cost.shape[1] - 1
    for i in range(n):
        best = np.full((count, 4), np.inf)
        for odd in (False, True):
            ks = _candidates(x[:, i], odd, step)
            ds = (x[:, i] - values(ks, np.full(ks.shape, odd), step)) ** 2 + lam * cost[int(odd)][
                np.minimum(np.abs(ks), most)
            ]
            for state in (2, 3) if odd else (0, 1):
                for k, d in zip(ks, ds, strict=True):
                    to, sum_ = np.array(NEXT[state])[k & 1], total[:, state] + d
                    better = sum_ < best[rows, to]
                    r, t = rows[better], to[better]
                    best[r, t], chosen[i, r, t], came[i, r, t] = sum_[better], k[better], state
        total = best
    state, out = total.argmin(1), np.zeros((count, n), int)
    for i in range(n - 1, -1, -1):
        out[:, i] = chosen[i, rows, state]
        state = came[i, rows, state]
    return out
