"""Charts as SVG text, without a library: lines with bands, and a matrix. What a report needs to be one file.

Colours come from CSS variables of the page, so that a chart follows light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM, RIGHT, TOP = 640, 300, 64, 44, 16, 14
COLOURS = 6  # --c0 to --c5


@dataclass(frozen=True)
class Curve:
    """points: (x, y), ascending in x. band: (x, lowest, highest), of several seeds; empty: none."""

    name: str
    points: Sequence[tuple[float, float]]
    band: Sequence[tuple[float, float, float]] = ()


def round_steps(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers between two others, steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def powers(low: float, high: float) -> list[float]:
    """Powers of ten between two positive numbers; round numbers where there are fewer than two."""
    found = [10.0**k for k in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
    return found if len(found) > 1 else round_steps(low, high)


def plain(value: float) -> str:
    """A tick's text: 1,000; 0.25."""
    if not math.isfinite(value):
        return "none"
    return f"{value:,.0f}" if abs(value) >= 10 or value == int(value) else f"{value:.3g}"


def lines(
    curves: Sequence[Curve], *, title: str, x: str, y: str, log_x: bool = False, percent: bool = False
) -> str:
    """A chart of curves, with their names below it; x, y: what the axes show, with the unit."""
    curves = [c for c in curves if c.points]
    spread = [
        *(p for c in curves for p in c.points),
        *((a, v) for c in curves for a, *vs in c.band for v in vs),
    ]
    shown = [(a, b) for a, b in spread if math.isfinite(a) and math.isfinite(b) and (a > 0 or not log_x)]
    if not shown:
        return f'<p class="hint">{escape(title)}: nothing to draw yet</p>'
    x0, x1 = min(a for a, _ in shown), max(a for a, _ in shown)
    y0, y1 = min(b for _, b in shown), max(b for _, b in shown)

    def px(a: float) -> float:
        if log_x:
            a, low, high = math.log(a), math.log(x0), math.log(x1)
        else:
            low, high = x0, x1
        return LEFT + (WIDTH - LEFT - RIGHT) * ((a - low) / (high - low) if high > low else 0.5)

    def py(b: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * ((b - y0) / (y1 - y0) if y1 > y0 else 0.5)

    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(_spoken(curves, title))}">',
        f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>',
    ]
    for b in round_steps(y0, y1):
        text = f"{100 * b:.3g} %" if percent else plain(b)
        parts.append(f'<path class="grid" d="M{LEFT} {py(b):.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{py(b) + 4:.1f}" text-anchor="end">{text}</text>')
    for a in powers(x0, x1) if log_x else round_steps(x0, x1):
        parts.append(
            f'<text x="{px(a):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{plain(a)}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH) / 2:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>'
    )
    for i, curve in enumerate(curves):
        drawn = [(a, b) for a, b in curve.points if math.isfinite(b) and (a > 0 or not log_x)]
        if curve.band:
            edge = [f"{px(a):.1f} {py(h):.1f}" for a, _, h in curve.band if a > 0 or not log_x]
            edge += [f"{px(a):.1f} {py(low):.1f}" for a, low, _ in reversed(curve.band) if a > 0 or not log_x]
            parts.append(f'<path class="band b{i % COLOURS}" d="M{"L".join(edge)}Z"/>')
        path = "L".join(f"{px(a):.1f} {py(b):.1f}" for a, b in drawn)
        parts.append(f'<path class="curve l{i % COLOURS}" d="M{path}"/>' if drawn else "")
    legend = "".join(f'<li class="k{i % COLOURS}">{escape(c.name)}</li>' for i, c in enumerate(curves))
    caption = f"<figcaption>{escape(title)}: {escape(y)}</figcaption>"
    return f'<figure>{caption}{"".join(parts)}</svg><ul class="legend">{legend}</ul></figure>'


def _spoken(curves: Sequence[Curve], title: str) -> str:
    ends = (f"{c.name} from {plain(c.points[0][1])} to {plain(c.points[-1][1])}" for c in curves)
    return f"{title}: {'; '.join(ends)}"


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str], *, title: str) -> str:
    """A confusion matrix as a table: rows are what a sample is, columns what it was taken for."""
    head = "".join(f'<th scope="col">{escape(n)}</th>' for n in names)
    rows = []
    for name, row in zip(names, counts, strict=True):
        most = max(1, sum(row))
        cells = "".join(f'<td class="heat" style="--heat:{100 * n / most:.0f}%">{n or ""}</td>' for n in row)
        rows.append(f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>')
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<figure><figcaption>{escape(title)}</figcaption><div class="scroll">{table}</div></figure>'
