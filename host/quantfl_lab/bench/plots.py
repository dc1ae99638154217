"""Pictures of `quantfl bench bytes`: accuracy against the bytes a link has moved, one file per task."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from quantfl.errors import ToolError

_COLOURS = ("#444444", "#c44e52", "#dd8452", "#937860", "#8172b3", "#da8bc3", "#64b5cd", "#4c72b0", "#55a868")


def name_of(label: str) -> str:
    return "bytes_" + re.sub(r"[^a-z0-9.]+", "-", label.lower()).strip("-") + ".png"


def draw(curves: dict[str, list], title: str, target: float, path: Path) -> None:
    """curves: scheme -> its runs (quantfl_lab.bench.bytes.Curve); the mean over seeds is drawn. target:
    accuracy aimed at."""
    try:
        import matplotlib
    except ImportError:
        raise ToolError("matplotlib is missing: pip install 'quantfl[plot]'") from None
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.6))
    for i, (scheme, runs) in enumerate(curves.items()):
        accuracy = np.mean([r.accuracy for r in runs], axis=0)
        moved = np.mean([np.add(r.up, r.down) / r.links for r in runs], axis=0)
        axes.plot(
            moved[1:] / 1024,
            accuracy[1:],
            label=scheme,
            color=_COLOURS[i % len(_COLOURS)],
            linewidth=1.2,
            linestyle="-" if i < len(_COLOURS) else "--",
        )
    axes.axhline(target, color="#888888", linewidth=0.8, linestyle=":")
    axes.set_xscale("log")
    axes.set_xlabel("KiB per link, up and down, everything counted")
    axes.set_ylabel("accuracy")
    axes.set_title(title)
    axes.legend(fontsize=7, ncol=2)
    axes.grid(alpha=0.25)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)
