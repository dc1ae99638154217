"""Reports as one HTML file: charts, tables, configuration and environment are inside, nothing is loaded."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from quantfl import __version__
from quantfl.core.nn import Engine
from quantfl.errors import QuantflError
from quantfl.link.ledger import SENT_CATEGORIES
from quantfl.package.flatfile import read_file
from quantfl.package.program import open_package
from quantfl.report.runs import FinishedRun
from quantfl.report.svg import Curve, lines, matrix

STYLE = Path(__file__).with_name("report.css")


def document(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    style = STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n"
        f"<body>\n<main><h1>{escape(title)}</h1>\n" + "\n".join(body) + "\n</main></body></html>\n"
    )


def facts(pairs: Iterable[tuple[str, object]]) -> str:
    """Named values side by side."""
    rows = (f"<div><dt>{escape(k)}</dt><dd>{escape(str(v))}</dd></div>" for k, v in pairs)
    return f'<dl class="facts">{"".join(rows)}</dl>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table; numbers get commas."""

    def text(cell: object) -> str:
        if isinstance(cell, float):
            return f"{cell:,.4f}"
        return escape(f"{cell:,}" if isinstance(cell, int) else "" if cell is None else str(cell))

    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{text(cell)}</td>" for cell in others)
        body += f'<tr><th scope="row">{text(first)}</th>{cells}</tr>'
    inner = f"<thead><tr>{names}</tr></thead><tbody>{body}</tbody>"
    return f'<div class="scroll"><table>{inner}</table></div>'


def of_run(run: FinishedRun) -> str:
    """The report of one run."""
    summary, ledger = run.summary, run.summary["ledger"]
    total = ledger["up_total"] + ledger["down_total"]
    body = [
        facts(
            [
                ("accuracy before", f"{summary['accuracy_before']:.4f}"),
                ("accuracy", f"{summary['accuracy']:.4f}"),
                ("test samples", f"{summary['test_samples']:,}"),
                ("rounds", f"{summary['rounds']} of {run.state.config['run']['rounds']}"),
                ("fleet", summary["boards_used"]),
                ("exchange", run.scheme),
                ("bytes on all links", f"{total:,}"),
                ("of these set-up", f"{total - ledger['rounds_up_total'] - ledger['rounds_down_total']:,}"),
            ]
        ),
        "<h2>Learning</h2>",
        *_learning(run),
        "<h2>Classes</h2>",
        *_classes(run),
        "<h2>Boards</h2>",
        *_boards(run),
        "<h2>Bytes on the wire</h2>",
        _bytes(ledger),
        "<h2>What went wrong</h2>",
        *_faults(run),
        "<h2>How it was made</h2>",
        *_origin(run),
    ]
    return document(f"{run.name}: report of a run", body)


TESTED, LINKED = "on the host's test data", "bytes per link, both directions, set-up left out"


def _by_round(curves: Sequence[Curve], what: str, y: str) -> str:
    return lines(curves, title=f"{what} by round", x="round", y=y, percent=what == "Accuracy")


def _by_bytes(curves: Sequence[Curve]) -> str:
    return lines(curves, title="Accuracy by bytes", x=LINKED, y=TESTED, log_x=True, percent=True)


def _learning(run: FinishedRun) -> list[str]:
    plain = run.summary.get("fp32") or {}
    curves = [Curve(run.scheme, run.curve("accuracy", by_bytes=True))]
    if plain.get("curve"):
        curves.append(Curve("float32 both ways", [(b / run.links, a) for b, a in plain["curve"]]))
    losses = [
        Curve("the host's test data", run.curve("loss")),
        Curve("the boards' own samples", run.curve("train_loss")),
    ]
    return [
        _by_round([Curve(run.scheme, run.curve("accuracy"))], "Accuracy", TESTED),
        _by_bytes(curves),
        _by_round(losses, "Loss", "mean cross-entropy"),
    ]


def _classes(run: FinishedRun) -> list[str]:
    """Confusion matrices before and after, and each class's accuracy; or why there are none."""
    from quantfl.data import load
    from quantfl.data.dataset import located_in_run
    from quantfl.data.quantise import to_int8

    kept = run.state.config["data"]
    try:
        package = open_package(read_file(run.folder.package), str(run.folder.package))
        data = load(*located_in_run(kept["name"], kept["path"], run.folder.base, run.folder.path))
    except QuantflError as error:
        return [f'<p class="hint">Not shown: {escape(str(error))}</p>']
    y = data.y_test[: kept["test_samples"]]
    x = to_int8(data.x_test[: len(y)], package.input_scale, package.input_zero_point, package.input_size)
    features = Engine(package.data).run_batch(x)
    classes = list(data.classes)
    found = []
    for params in (package.params, run.state.params):
        taken = package.head.logits(params, features).argmax(1)
        counts = np.zeros((package.dims[-1], package.dims[-1]), int)
        np.add.at(counts, (y, taken), 1)
        found.append(counts)
    names = [*classes, *(str(i) for i in range(len(classes), package.dims[-1]))]
    before, after = ([c[i, i] / max(1, c[i].sum()) for i in range(len(classes))] for c in found)
    rows = [(n, int(found[0][i].sum()), before[i], after[i]) for i, n in enumerate(classes)]
    return [
        table(("class", "test samples", "accuracy before", "accuracy after"), rows),
        *(
            matrix(
                c.tolist(), names, title=f"{when}: rows are what a sample is, columns what it was taken for"
            )
            for when, c in zip(("Before", "After"), found, strict=True)
            if len(names) <= 24
        ),
    ]


def _boards(run: FinishedRun) -> list[str]:
    rows: dict[str, list[Any]] = {}
    for record in run.state.history:
        for name, told in record.get("boards", {}).items():
            row = rows.setdefault(name, [name, 0, 0, None, None, 0, 0])
            row[1 if name in record["contributors"] else 2] += 1
            row[3], row[4] = told.get("samples", row[3]), told.get("loss", row[4])
            row[5] += told["up_bytes"]
            row[6] += told["down_bytes"]
    last = [r[4] for r in rows.values() if r[4] is not None]
    spread = (
        f"<p>Last loss on the boards' own samples: lowest {min(last):.4f}, median {np.median(last):.4f}, "
        f"highest {max(last):.4f}.</p>"
        if last
        else ""
    )
    head = ("board", "rounds", "missed", "samples", "last loss", "bytes up", "bytes down")
    return [spread, table(head, rows.values())]


def _bytes(ledger: dict[str, Any]) -> str:
    used = [c for c in SENT_CATEGORIES if any(ledger[w][c] for w in ("up", "down"))]
    rows: list[list[object]] = []
    for name, ways in (*ledger["boards"].items(), ("all", ledger)):
        for way in ("up", "down"):
            rows.append([name, way, *(ways[way][c] for c in used), ways[f"{way}_total"]])
    return table(("link", "direction", *used, "total"), rows)


def _faults(run: FinishedRun) -> list[str]:
    rows = [
        (record["round"], name, why)
        for record in run.state.history
        for name, why in record.get("failed", {}).items()
    ]
    notes = [f"<p>{escape(note)}</p>" for note in run.summary["ledger"]["notes"][:50]]
    if not rows and not notes:
        return [
            "<p>Nothing: every board that was asked contributed, and both ends counted the same bytes.</p>"
        ]
    return [*notes, table(("round", "board", "reason"), rows[:500])]


def _origin(run: FinishedRun) -> list[str]:
    try:
        text = run.folder.description.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        text = ""
    return [
        facts(
            [
                ("quantfl", __version__),
                ("Python", sys.version.split()[0]),
                ("machine that wrote this", f"{platform.system()} {platform.machine()}"),
                ("package, SHA-256", run.state.package_sha256),
                ("seed", run.state.config["run"]["seed"]),
            ]
        ),
        "<h3>FLEET.toml</h3>",
        f"<pre>{escape(text)}</pre>",
    ]


def of_runs(
    runs: Sequence[FinishedRun], names: Sequence[str], head: Sequence[str], rows: Iterable[Sequence[object]]
) -> str:
    """A comparison: the table, and the curves of all runs in one chart each."""
    pairs = list(zip(names, runs, strict=True))
    charts = [
        _by_round([Curve(n, r.curve("accuracy")) for n, r in pairs], "Accuracy", TESTED),
        _by_bytes([Curve(n, r.curve("accuracy", by_bytes=True)) for n, r in pairs]),
        _by_round([Curve(n, r.curve("loss")) for n, r in pairs], "Loss", TESTED),
    ]
    return document("Comparison of runs", [table(head, rows), *charts])
