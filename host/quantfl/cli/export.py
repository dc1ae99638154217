"""`quantfl export`: a run's head as an ordinary int8 .tflite."""

from __future__ import annotations

from pathlib import Path

import typer

from quantfl.cli import complete


def command(
    run: Path = typer.Argument(..., help="Folder of a run.", autocompletion=complete.runs),
    out: Path = typer.Option(..., "-o", "--out", help="The .tflite to write."),
    as_package: bool = typer.Option(False, "--package", help="Write a package, to start another run from."),
    data: str = typer.Option(
        None,
        "--data",
        help="Data set that the output's scale is chosen on; default: that of the run.",
        autocompletion=complete.data_sets,
    ),
    data_path: Path = typer.Option(None, "--data-path", help="Where the data set lies."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> int:
    """Put the global head of RUN back into its model: a full int8 .tflite that any interpreter runs."""
    from quantfl.cli.convert import _write
    from quantfl.cli.output import console, print_json
    from quantfl.core.nn import Engine
    from quantfl.data import load
    from quantfl.data.dataset import located_in_run
    from quantfl.data.quantise import to_int8
    from quantfl.fleet.checkpoint import RunFolder, write_atomic
    from quantfl.package.export import export
    from quantfl.package.flatfile import read_file
    from quantfl.package.program import open_package

    folder = RunFolder(run)
    state = folder.required().load()
    package = open_package(read_file(folder.package), str(folder.package))
    table = state.config["data"]
    if data is None:
        data, where = located_in_run(table["name"], table["path"], folder.base, folder.path)
        data_path = data_path or where
    ds = load(data, data_path)
    x = to_int8(ds.x_test[:500], package.input_scale, package.input_zero_point, package.input_size, ds.name)
    model = export(package, state.params, Engine(package.data).run_batch(x), keep_metadata=as_package)
    _write(out, model, write_atomic)
    if as_json:
        print_json({"path": str(out), "bytes": len(model), "round": state.round})
    else:
        console().print(
            f"{out}: {len(model):,} bytes, head of round {state.round}", highlight=False, markup=False
        )
    return 0
