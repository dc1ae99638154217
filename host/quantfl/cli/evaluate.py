"""`quantfl evaluate`: accuracy of a run's head, of a package, or of any full int8 .tflite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from quantfl.cli import complete


def command(
    target: Path = typer.Argument(
        ..., help="Folder of a run, a package, or a full int8 .tflite.", autocompletion=complete.runs
    ),
    data: str = typer.Option(
        None, "--data", help="Data set; default: that of the run.", autocompletion=complete.data_sets
    ),
    data_path: Path = typer.Option(None, "--data-path", help="Where the data set lies."),
    samples: int = typer.Option(None, min=1, help="At most so many test samples."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> int:
    """Score TARGET on the test part of a data set: a run's global head as the boards hold it and its exported
    model; a package's initial head; a .tflite in a stock interpreter."""
    from quantfl.cli.output import console, print_json

    result = evaluate(target, data, data_path, samples)
    if as_json:
        print_json(result)
        return 0
    for key, value in result.items():
        console().print(
            f"{key.replace('_', ' ')}: {value:.4f}"
            if isinstance(value, float)
            else f"{key.replace('_', ' ')}: {value}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    return 0


def evaluate(target: Path, data: str | None, data_path: Path | None, samples: int | None) -> dict[str, Any]:
    """What the verb prints."""
    from quantfl.core.nn import Engine
    from quantfl.data import load
    from quantfl.data.dataset import located_in_run
    from quantfl.data.quantise import to_int8
    from quantfl.errors import UsageError
    from quantfl.fleet.checkpoint import RunFolder
    from quantfl.fleet.finalise import stock_accuracy
    from quantfl.package.flatfile import METADATA_NAME, ModelFile, read_file
    from quantfl.package.program import compile_program, open_package, original_of

    params, model = None, None
    if target.is_dir():
        folder = RunFolder(target)
        state = folder.required().load()
        raw, params = read_file(folder.package), state.params
        if data is None:  # that of the run, wherever its description was
            kept = state.config["data"]
            data, where = located_in_run(kept["name"], kept["path"], folder.base, folder.path)
            data_path = data_path or where
        samples = samples or state.config["data"]["test_samples"]
        model = read_file(folder.model) if folder.model.exists() else None
    else:
        raw = read_file(target)
    if data is None:
        raise UsageError("name a data set with --data")
    if METADATA_NAME not in ModelFile(raw, str(target)).metadata:
        model, raw = raw, compile_program(raw, source=str(target))
    package = open_package(raw, str(target))
    ds = load(data, data_path)
    x = to_int8(ds.x_test[:samples], package.input_scale, package.input_zero_point, package.input_size, data)
    y = ds.y_test[:samples]
    result: dict[str, Any] = {"target": str(target), "data": ds.name, "test_samples": len(y)}
    if package.dims:
        head = package.head
        score = head.evaluate(params if params is not None else package.params, Engine(raw).run_batch(x), y)
        result |= {"accuracy": score.accuracy, "loss": score.loss}
    exported, interpreter = stock_accuracy(model if model is not None else original_of(raw), x, y)
    return result | {"model_accuracy": exported, "interpreter": interpreter}
