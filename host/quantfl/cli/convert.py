"""`quantfl convert`: a model becomes a package."""

from __future__ import annotations

from pathlib import Path

import typer


def command(
    model: Path = typer.Argument(..., help=".keras, .h5 or SavedModel (extra [convert]), or a full int8 .tflite."),
    out: Path = typer.Option(..., "-o", "--out", help="The package to write."),
    calibrate: Path = typer.Option(None, "--calibrate", help=".npz (x) or .npy with real inputs, to quantise Keras models."),
    cut: str = typer.Option(None, "--cut", help="Layer (name or operator number) at whose input to cut."),
    name: str = typer.Option(None, "--name", help="Name kept in the package; default: the file's."),
    labels: str = typer.Option(None, "--labels", help="Class names kept in the package, separated by commas."),
    as_json: bool = typer.Option(False, "--json", help="Print what was made as JSON."),
) -> int:
    """Cut MODEL at the input of its last dense layers and write one ordinary .tflite with our metadata.

    Prints what each known board needs and whether it fits. An unsupported operator is named with its layer and a remedy.
    """
    from quantfl.cli.output import console, print_json
    from quantfl.fleet.checkpoint import write_atomic
    from quantfl.package.convert import convert
    from quantfl.package.program import operator_mask

    done = convert(model, calibrate=calibrate, cut=cut, name=name, labels=tuple(labels.split(",")) if labels else ())
    _write(out, done.package, write_atomic)
    if as_json:
        print_json(done.to_json() | {"path": str(out)})
        return 0
    from rich.table import Table

    c = console()
    c.print(f"{out}: {len(done.package):,} bytes, sha256 {done.sha256[:16]}…", highlight=False)
    c.print(
        f"cut at layer {done.cut.layer}: head {'→'.join(map(str, done.cut.dims))}, {done.cut.params:,} parameters; "
        f"activations {done.arena_size:,} bytes; operators: QFL_NN_OPS={operator_mask(done.package):#x}", highlight=False,
    )  # fmt: skip
    if len(done.cuts) > 1:
        cuts = Table(title="possible cuts")
        for column in ("operator", "layer", "head", "parameters", "float32 bytes a round, each way"):
            cuts.add_column(column)
        for cut_ in done.cuts:
            cuts.add_row(str(cut_.op), cut_.layer, "→".join(map(str, cut_.dims)), f"{cut_.params:,}", f"{4 * cut_.params:,}")
        c.print(cuts)
    table = Table(title="boards, with 100 samples cached (bytes)")
    for column in ("board", "core", "RAM needed", "RAM", "flash needed", "flash slot", "samples at most", "fits"):
        table.add_column(column, justify="left" if column in ("board", "core", "fits") else "right")
    for row in done.fits:
        table.add_row(
            row.board, row.core, f"{row.ram_needed:,}", f"{row.ram:,}", f"{row.flash_needed:,}", f"{row.flash:,}",
            f"{row.max_samples:,}", "[green]yes[/]" if row.fits else "[red]no[/]",
        )  # fmt: skip
    c.print(table)
    return 0


def _write(out: Path, data: bytes, write) -> None:
    from quantfl.errors import UsageError

    try:
        write(out, data)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from None
