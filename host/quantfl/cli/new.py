"""`quantfl new`: a project to start from."""

from __future__ import annotations

from pathlib import Path

import typer

from quantfl.cli import complete


def command(
    name: Path = typer.Argument(..., help="The new folder; its last part is the project's name."),
    template: str = typer.Option(
        "digits",
        "--template",
        "-t",
        help="digits, gesture, wakeword or images.",
        autocompletion=complete.templates,
    ),
    board: str = typer.Option(
        "esp32dev",
        "--board",
        help="Board that the firmware is for, by PlatformIO's name.",
        autocompletion=complete.project_boards,
    ),
    model: Path = typer.Option(
        None, "--model", help="A .tflite or .keras of your own instead of the template's model."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print the files as JSON."),
) -> int:
    """Make a project: FLEET.toml, data, model, firmware and a test. `quantfl run` in it works at once, on
    virtual boards and made-up data."""
    from quantfl.cli.output import console, print_json
    from quantfl.project.libraries import folder
    from quantfl.project.new import make

    files = make(name, template, board, model, folder())
    if as_json:
        print_json({"project": str(name), "files": [str(f.relative_to(name)) for f in files]})
        return 0
    c = console()
    for file in files:
        c.print(f"  {file.relative_to(name)}", highlight=False, markup=False)
    c.print(
        f"{name} is ready: cd {name}, then `quantfl run`; README.md says what comes next", highlight=False
    )
    return 0
