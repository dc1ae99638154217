"""Accuracy against cumulative bytes, as PNG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from quantfl.errors import ToolError


def accuracy_plot(path: Path, curves: dict[str, list[tuple[int, float]]], *, title: str) -> None:
    """Draw curves name -> [(cumulative bytes on the wire, accuracy)] on a logarithmic byte axis and write
    `path`.

    ToolError when matplotlib is missing (extra `plot`).
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise ToolError("matplotlib is missing: pip install 'quantfl[plot]'") from None
    figure, axes = plt.subplots(figsize=(7, 4.2), dpi=120)
    for name, points in curves.items():
        moved = [(b, a) for b, a in points if b > 0]
        if moved:
            axes.plot([b / 1024 for b, _ in moved], [100 * a for _, a in moved], marker=".", label=name)
    before = next((p[0][1] for p in curves.values() if p), None)
    if before is not None:
        axes.axhline(100 * before, linestyle=":", color="gray", label="before")
    axes.set_xscale("log")
    axes.set_xlabel("cumulative bytes on the wire, all links, up and down (KiB)")
    axes.set_ylabel("test accuracy (%)")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.25)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def curve_of(history: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Points of one run: bytes of the rounds only (set-up left out), from the first round on."""
    if not history:
        return []
    base = history[0]["up_bytes"] + history[0]["down_bytes"]
    return [(r["up_bytes"] + r["down_bytes"] - base, r["accuracy"]) for r in history if "accuracy" in r]
