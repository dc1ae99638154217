"""Pictures of the benches, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quantfl.errors import ToolError


@dataclass(frozen=True)
class Series:
    """Points (x, y) of one scheme; line: joined in order. emphasis: drawn stronger (ours)."""

    name: str
    points: Sequence[tuple[float, float]]
    line: bool = True
    emphasis: bool = False


@dataclass(frozen=True)
class Axis:
    """label with unit; log: logarithmic; limits: shown range."""

    label: str
    log: bool = False
    limits: tuple[float, float] | None = None


def draw(
    path: Path, series: Sequence[Series], x: Axis, y: Axis, *, title: str, bound: Series | None = None
) -> Path:
    """Draw and write `path`. bound: a dotted line no scheme can cross. ToolError when matplotlib is missing
    (extra `plot`)."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 5), dpi=80)
    if bound is not None:
        axes.plot(*zip(*bound.points, strict=True), linestyle=":", color="black", label=bound.name)
    marks = "osv^D<>pPX*h"
    for i, s in enumerate(series):
        points = [
            (a, b)
            for a, b in s.points
            if a is not None and b is not None and (a > 0 or not x.log) and (b > 0 or not y.log)
        ]
        if points:
            style = {"linewidth": 2.2, "zorder": 3} if s.emphasis else {"linewidth": 1, "alpha": 0.8}
            axes.plot(
                *zip(*points, strict=True),
                linestyle="-" if s.line else "none",
                marker=marks[i % len(marks)],
                markersize=5,
                color=f"C{i % 10}",
                label=s.name,
                **style,
            )
    for axis, set_scale, set_label, set_limits in (
        (x, axes.set_xscale, axes.set_xlabel, axes.set_xlim),
        (y, axes.set_yscale, axes.set_ylabel, axes.set_ylim),
    ):
        if axis.log:
            set_scale("log")
        set_label(axis.label)
        if axis.limits is not None:
            set_limits(*axis.limits)
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend(fontsize=7, ncol=1 + (len(series) > 12))
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)
    return path


def pyplot():
    """matplotlib without a display."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise ToolError("matplotlib is missing: pip install 'quantfl[plot]'") from None
    return plt
