"""Ideal code lengths of quantised deltas under a choice of contexts, to compare ways of coding before one is
built.

A message is told as binary decisions: is the symbol zero, its sign, is its magnitude more than j. Decisions
of one context share an adaptive probability that starts from what the other half of the messages shows, as
strong as WEIGHT observations (the estimator of Krichevsky and Trofimov 1981 with another start); its cost has
a closed form, so no coder runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import betaln

from quantfl_lab.rivals.base import Shapes, parts

WEIGHT = 8.0
_CONTEXTS = 512
_MOST = 24  # magnitudes beyond go in Exp-Golomb's 2 log2 bits


@dataclass(frozen=True)
class Decisions:
    """Of one message. counts: int [3, contexts, 2] of zeros and ones by question (nonzero? negative? more?);
    raw: bits without one."""

    counts: np.ndarray
    raw: float


def _down(a: np.ndarray, by: int) -> np.ndarray:
    """Rows moved down, zeros on top."""
    out = np.zeros_like(a)
    out[by:] = a[: len(a) - by] if by < len(a) else 0
    return out


def _last_sign(s: np.ndarray) -> np.ndarray:
    """For each place of a matrix the sign of the last nonzero symbol above: 0 none, 1 positive, 2
    negative."""
    rows = np.where(s != 0, np.arange(len(s))[:, None], -1)
    last = _down(np.maximum.accumulate(rows, axis=0) + 1, 1) - 1
    found = np.take_along_axis(s, np.maximum(last, 0), axis=0)
    return np.where(last < 0, 0, np.where(found > 0, 1, 2))


def decisions(
    symbols: np.ndarray,
    shapes: Shapes,
    *,
    near: bool = True,
    zero: np.ndarray | None = None,
    sign: np.ndarray | None = None,
) -> Decisions:
    """symbols int [n] of tensors `shapes`. near: the contexts of DZ (docs/CODEC.md: neighbours above and to
    the left, the column's last sign), else none; zero, sign: int [n] < 5, what more is known of each place
    when that question is asked."""
    asked: list[tuple[list, list]] = [([], []), ([], []), ([], [])]
    raw = 0.0
    none = np.zeros(symbols.size, int)
    extra = [parts(none if e is None else np.asarray(e, int), shapes) for e in (zero, sign)]
    for t, part in enumerate(parts(np.asarray(symbols, int), shapes)):
        s = part.reshape(shapes[t] if len(shapes[t]) == 2 else (1, -1))
        nz = (s != 0).astype(int)
        left, left2 = _down(nz.T, 1).T, _down(nz.T, 2).T
        above, above2 = _down(nz, 1), _down(nz, 2)
        around = (above + 2 * above2 + 4 * left + 8 * left2) if near else np.zeros_like(s)
        context = (around + 16 * (t % 2)).reshape(-1)
        asked[0][0].append(context + 32 * extra[0][t])
        asked[0][1].append(nz.reshape(-1))
        there = nz.reshape(-1) > 0
        signs = (_last_sign(s) if near else np.zeros_like(s)).reshape(-1) + 3 * extra[1][t]
        asked[1][0].append(signs[there])
        asked[1][1].append((part < 0).astype(int)[there])
        many = (
            ((above + above2 + left + left2 > 1) if near else np.zeros_like(s)).astype(int).reshape(-1)[there]
        )
        magnitude = np.abs(part[there])
        raw += float(sum(2 * math.log2(m - _MOST + 1) + 1 for m in magnitude[magnitude > _MOST]))
        for j in range(1, min(_MOST, int(magnitude.max(initial=0))) + 1):
            still = magnitude >= j
            asked[2][0].append(2 * min(j, 6) + many[still])
            asked[2][1].append((magnitude[still] > j).astype(int))
    counts = np.zeros((3, _CONTEXTS, 2), int)
    for q, (contexts, bits) in enumerate(asked):
        if contexts:
            c, b = np.concatenate(contexts).astype(int), np.concatenate(bits).astype(int)
            counts[q] = np.bincount(2 * c + b, minlength=2 * _CONTEXTS).reshape(_CONTEXTS, 2)
    return Decisions(counts, raw)


def bits(messages: Sequence[Decisions]) -> np.ndarray:
    """Ideal length of each message in bits, float64 [messages]. At least two messages: each half starts from
    the other's probabilities."""
    if len(messages) < 2:
        raise ValueError("one message has no other half to start from")
    halves = [sum(m.counts for m in messages[i::2]) for i in (0, 1)]
    out = []
    for i, m in enumerate(messages):
        other = halves[1 - i % 2]
        p = (other[..., 1] + 0.5) / (other.sum(-1) + 1)
        a, b = WEIGHT * (1 - p), WEIGHT * p
        gained = betaln(m.counts[..., 0] + a, m.counts[..., 1] + b) - betaln(a, b)
        out.append(m.raw - float(gained.sum()) / math.log(2))
    return np.array(out)
