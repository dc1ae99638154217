"""`quantfl export`: a run's head as an ordinary int8 .tflite."""

from __future__ import annotations

from pathlib import Path

import typer

from quantfl.cli import complete


def command(
    run: Path = typer.Argument(..., help="Folder of a run.", autocompletion=complete.runs),
    out: Path = typer.Option(..., "-o", "--out", help="The .tflite to write."),
    as_package: bool = typer.Option(False, "--package", help="Write a package, to start another run from."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> int:
    """Put the global head of RUN back into its model: a full int8 .tflite that any interpreter runs."""
    from quantfl.cli.convert import _write
    from quantfl.cli.output import console, print_json
    from quantfl.core.nn import Engine
    from quantfl.data import load
    from quantfl.data.dataset import located
    from quantfl.data.quantise import to_int8
    from quantfl.fleet.checkpoint import RunFolder, write_atomic
    from quantfl.package.export import export
    from quantfl.package.flatfile import read_file
    from quantfl.package.program import open_package

    folder = RunFolder(run)
    state = folder.required().load()
    package = open_package(read_file(folder.package), str(folder.package))
    table = state.config["data"]
    ds = load(*located(table["name"], table["path"], folder.base))
    x = to_int8(ds.x_test[:500], package.input_scale, package.input_zero_point, package.input_size, ds.name)
    data = export(package, state.params, Engine(package.data).run_batch(x), keep_metadata=as_package)
    _write(out, data, write_atomic)
    if as_json:
        print_json({"path": str(out), "bytes": len(data), "round": state.round})
    else:
        console().print(f"{out}: {len(data):,} bytes, head of round {state.round}", highlight=False)
    return 0
