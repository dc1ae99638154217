"""`quantfl convert`: a model becomes a package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from quantfl.package.cost import Cost
    from quantfl.package.explain import Line


def command(
    model: Path = typer.Argument(
        ...,
        help=".keras, .h5 or SavedModel (extra [convert]), a .tflite (float: extra [quantize]) or a C array.",
    ),
    out: Path = typer.Option(
        None, "-o", "--out", help="The package to write; a C array where it ends in .h, .c or .cc."
    ),
    calibrate: Path = typer.Option(
        None,
        "--calibrate",
        help=".npz (x, and y to score) or .npy with real inputs, to quantise float models.",
    ),
    cut: str = typer.Option(None, "--cut", help="Layer (name or operator number) at whose input to cut."),
    cuts: bool = typer.Option(
        False, "--cuts", help="Only print what every possible cut costs; nothing is written."
    ),
    explain: bool = typer.Option(
        False, "--explain", help="Only print every operator and what becomes of it; nothing is written."
    ),
    train: str = typer.Option(
        "all", "--train", help="all, scales (a scale and a bias per channel) or scales+head."
    ),
    recompute: bool = typer.Option(
        False, "--recompute", help="Boards cache inputs and compute features anew at every visit."
    ),
    output: str = typer.Option(
        None, "--output", help="Of several outputs the one to train and to score: its name or number."
    ),
    name: str = typer.Option(None, "--name", help="Name kept in the package; default: the file's."),
    labels: str = typer.Option(
        None, "--labels", help="Class names kept in the package, separated by commas."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print what was made as JSON."),
) -> int:
    """Cut MODEL at the input of its last layers (dense ones by default) and write one ordinary .tflite with
    our metadata.

    Prints what each known board needs and whether it fits. An unsupported operator is named with its layer
    and a remedy.
    """
    from quantfl.cli.output import console, print_json
    from quantfl.emulation.flash import built
    from quantfl.errors import UsageError
    from quantfl.fleet.checkpoint import write_atomic
    from quantfl.package.build import build_flags
    from quantfl.package.convert import convert, cut_costs, explained
    from quantfl.package.source import quality_text

    if explain:
        return _explained(explained(model, calibrate=calibrate, cut=cut, output=output), as_json)
    if cuts:
        return _costs(
            cut_costs(model, calibrate=calibrate, train=train, recompute=recompute, output=output),
            train,
            as_json,
        )
    if out is None:
        raise UsageError("give -o FILE for the package, --cuts to see what is possible, or --explain")
    done = convert(
        model,
        calibrate=calibrate,
        cut=cut,
        name=name,
        labels=tuple(labels.split(",")) if labels else (),
        train=train,
        recompute=recompute,
        output=output,
    )
    _write(out, done.package, write_atomic)
    firmwares = built()  # as the linker has made them, where they are built here
    if as_json:
        made = done.to_json()
        for row in made["boards"]:
            row["firmware"] = firmwares.get(row["board"])
        print_json(made | {"path": str(out), "build_flags": build_flags(done.opened.needs)})
        return 0
    from rich.text import Text

    from quantfl.report.tables import Column, FittedTable, number

    c = console()
    c.print(f"{out}: {len(done.package):,} bytes, sha256 {done.sha256[:16]}…", highlight=False, markup=False)
    if done.quality is not None:
        c.print(quality_text(done.quality), highlight=False, soft_wrap=True)
    c.print(
        f"cut at layer {done.cut.layer}: head {done.cut.text}, {done.cut.params:,} parameters; "
        f"activations {done.arena_size:,} bytes",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    c.print(
        f"firmware with its operators and layers only: {build_flags(done.opened.needs)}",
        highlight=False,
        soft_wrap=True,
    )
    if len(done.cuts) > 1:
        listed = FittedTable(
            [number("operator"), Column("layer", name=True, drop=1), Column("head"), number("parameters")],
            title="possible cuts (--cuts says what each costs)",
        )
        for cut_, label in zip(done.cuts, layer_labels([c.layer for c in done.cuts]), strict=True):
            listed.add(str(cut_.number), label, cut_.text, f"{cut_.params:,}")
        c.print(listed)
    table = FittedTable(
        [
            Column("board", name=True),
            Column("core", drop=3),
            number("RAM needed"),
            number("RAM"),
            number("package", drop=2),
            number("flash slot", drop=1),
            number("samples at most"),
            Column("fits"),
            number("firmware", drop=4),
        ],
        title="boards, with 100 samples cached (bytes)",
    )
    for row in done.fits:
        table.add(
            row.board,
            row.core,
            f"{row.ram_needed:,}",
            f"{row.ram:,}",
            f"{row.flash_needed:,}",
            f"{row.flash:,}",
            f"{row.max_samples:,}",
            Text("yes", style="green") if row.fits else Text("no", style="red"),
            f"{firmwares[row.board]:,}" if row.board in firmwares else "",
        )
    c.print(table)
    for row in done.fits:
        if row.lacks:
            c.print(f"{row.board} {row.lacks}", highlight=False, soft_wrap=True)
    c.print(
        "RAM and flash slot of boards that are not emulated are design values (docs/BOARDS.md)",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def layer_labels(names: Sequence[str]) -> list[str]:
    """Short names of layers for a table: of `model/block/conv_1/Relu;…/BiasAdd`, as converters write it, the
    `conv_1`; whole names where that would make two of them equal."""
    short = [name.split(";")[0].split("/") for name in names]
    found = [parts[-2] if len(parts) > 1 else parts[-1] for parts in short]
    return found if len(set(found)) == len(set(names)) else list(names)


def _explained(found: tuple[list[Line], str], as_json: bool) -> int:
    from collections import Counter

    from quantfl.cli.output import console, print_json
    from quantfl.package.explain import MARKS
    from quantfl.report.tables import Column, FittedTable, number

    lines, why = found
    if as_json:
        print_json({"operators": [line.to_json() for line in lines], "trainable_end": why or None})
        return 0
    table = FittedTable(
        [
            number("op"),
            Column("operator"),
            Column("layer", name=True, drop=2),
            Column("shape", drop=1),
            Column("mark"),
        ]
    )
    for line in lines:
        shape = " x ".join(map(str, line.shape))
        table.add(str(line.number), line.operator, line.layer, shape, line.mark)
    c = console()
    c.print(table)
    counts = Counter(line.mark for line in lines)
    for mark, meaning in MARKS.items():
        if counts[mark]:
            c.print(f"{mark} ({counts[mark]}): {meaning}", highlight=False, soft_wrap=True)
    for line in lines:
        if line.why:
            c.print(
                f"operator {line.number} ({line.operator}): {line.why}",
                highlight=False,
                soft_wrap=True,
                markup=False,
            )
    if why:
        c.print(why, highlight=False, soft_wrap=True, markup=False)
    return 0


def _costs(rows: list[Cost], train: str, as_json: bool) -> int:
    from dataclasses import asdict

    from quantfl.cli.output import console, print_json
    from quantfl.package.fit import SAMPLES
    from quantfl.report.tables import Column, FittedTable, number

    if as_json:
        print_json(
            [
                asdict(r)
                | {"cut": r.cut.number, "layer": r.cut.layer, "head": r.cut.text, "params": r.cut.params}
                for r in rows
            ]
        )
        return 0
    c = console()
    for r in rows:
        c.print(f"operator {r.cut.number}: {r.cut.text} ({r.cut.layer})", highlight=False, soft_wrap=True)
    table = FittedTable(
        [
            number("op"),
            number("params", drop=2),
            number("RAM"),
            number("sample", drop=1),
            number("package", drop=3),
            number("f32/round", drop=4),
            number("BU(64)", drop=5),
            number("insns"),
        ],
        title=f"bytes; RAM with {SAMPLES} samples cached (qemu_m4); "
        "about so many instructions per sample (Cortex-M4F)",
    )
    for r in rows:
        numbers = (
            r.cut.number,
            r.cut.params,
            r.ram,
            r.per_sample,
            r.flash,
            r.round_fp32,
            r.round_bu,
            r.insns,
        )
        table.add(*(f"{n:,}" for n in numbers))
    boards = FittedTable(
        [Column("board", name=True), *(number(str(r.cut.number)) for r in rows)],
        title="samples that fit, by operator (-: none, or the package is too large)",
    )
    for board in rows[0].samples:
        boards.add(board, *(f"{r.samples[board]:,}" if r.samples[board] else "-" for r in rows))
    c.print(table)
    c.print(boards)
    if train != "all":
        c.print("*: a scale and a bias per channel")
    return 0


def _write(out: Path, data: bytes, write: Callable[[Path, bytes], None]) -> None:
    from quantfl.errors import UsageError
    from quantfl.package import carray

    if not out.parent.is_dir():
        raise UsageError(f"{out}: cannot be written: there is no folder {out.parent}")
    if out.suffix.lower() in carray.SUFFIXES:
        data = carray.write(data, out.name.split(".")[0]).encode()
    write(out, data)
