"""After the last round: counters compared, model exported and scored, plot and summary written."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from quantfl.errors import ToolError
from quantfl.fleet.checkpoint import write_atomic
from quantfl.fleet.rounds import Rounds, ledger_summary
from quantfl.fleet.setup import RunSetup
from quantfl.package.export import export
from quantfl.package.stock import quiet, stock
from quantfl.report.plot import accuracy_plot, curve_of
from quantfl.report.summary import late_answers
from quantfl.report.words import scheme_in_words


def stock_accuracy(model: bytes, x: np.ndarray, y: np.ndarray) -> tuple[float, str]:
    """Accuracy of a full int8 .tflite on inputs int8 [n, size], and the interpreter used.

    tflite-micro or LiteRT where one is installed, else quantfl's own engine, which equals
    tflite-micro's bytes.
    """
    interpreter = stock(model)
    with quiet():
        correct = sum(int(interpreter.decide(row) == label) for row, label in zip(x, y, strict=True))
    return correct / len(y), interpreter.name


def finalise(
    prepared: RunSetup,
    rounds: Rounds,
    differ: dict[str, str],
    *,
    plain: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write model.tflite, accuracy.png and summary.json into the run's folder; returns the summary.

    plain: the same run over plain float32, as `plain_summary` returns it. own: the boards' personalised
    heads (Rounds.personalised_heads).
    """
    f, folder = prepared.federation, prepared.federation.folder
    history = rounds.history
    scored = [r for r in history if "accuracy" in r]
    model = export(prepared.package, f.strategy.params, prepared.test[0][:500])
    accuracy, interpreter = stock_accuracy(model, prepared.test_inputs, prepared.test[1])
    summary = {
        "name": f.config.run.name,
        "boards_used": f"{len(f.clients)} boards at ports"
        if prepared.kind == "ports"
        else f"{len(f.clients)} {prepared.kind} boards",
        "rounds": rounds.round,
        "rounds_asked": f.config.run.rounds,
        "contributors": dict(sorted(Counter(n for r in history for n in r.get("contributors", ())).items())),
        "repeated_rounds": {str(r["round"]): r["attempts"] for r in history if "attempts" in r},
        "accuracy_before": scored[0]["accuracy"],
        "accuracy": scored[-1]["accuracy"],
        "loss": scored[-1]["loss"],
        "test_samples": scored[-1]["test_samples"],
        "exported_accuracy": accuracy,
        "interpreter": interpreter,
        "head": f"{f.strategy.hash:08x}",
        "package_sha256": f.package_sha256,
        "ledger": ledger_summary(rounds.ledger),
        "counters_differ": differ,
        "chaos": None if f.chaos is None else {"spec": f.chaos.chaos.text, "faults": f.chaos.faults()},
        "fp32": plain,
        "personalised_heads": own or {},
        "late": late_answers(history),
        "files": {},
    }
    if folder is None:
        return summary
    write_atomic(folder.model, model)
    files = {
        "model": folder.model,
        "history": folder.history,
        "package": folder.package,
        "summary": folder.summary,
    }
    curves = {scheme_in_words(f.config.model_dump(mode="json")): curve_of(history)}
    if plain is not None:
        curves["float32 both ways"] = [tuple(p) for p in plain["curve"]]
    try:
        accuracy_plot(folder.plot, curves, title=f"{f.config.run.name}: accuracy against bytes moved")
        files["plot"] = folder.plot
    except ToolError as error:
        f.progress.warn(f"no plot was drawn: {error}")
    summary["files"] = {k: str(_shown(v)) for k, v in files.items()}
    write_atomic(folder.summary, json.dumps(summary, indent=2).encode())
    return summary


def _shown(path: Path) -> Path:
    with contextlib.suppress(ValueError):
        return path.resolve().relative_to(Path.cwd())
    return path


def plain_summary(rounds: Rounds) -> dict[str, Any]:
    """What a run over plain float32 leaves for the comparison: bytes of its rounds, accuracy, curve."""
    up, down = rounds.ledger.total(first=1)
    scored = [r for r in rounds.history if "accuracy" in r]
    return {
        "rounds_up_total": up.total,
        "rounds_down_total": down.total,
        "accuracy": scored[-1]["accuracy"],
        "curve": curve_of(rounds.history),
    }
