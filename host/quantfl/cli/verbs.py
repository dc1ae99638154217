"""The list of verbs that `quantfl --help` prints: grouped by task, each with a sentence that is not cut."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

#: Task -> verb -> what it does, in a sentence that fits an 80-column terminal.
TASKS: dict[str, dict[str, str]] = {
    "Start": {
        "new": "Make a project: data, model, firmware, a test.",
        "demo": "Eight virtual boards learn digits; everything is shown.",
    },
    "Models": {
        "convert": "Make a package of a model; say which boards it fits.",
        "evaluate": "Score a run, a package or a model on test data.",
        "export": "Write a run's trained head as an ordinary .tflite.",
    },
    "Boards": {
        "flash": "Write the firmware of a real board, by PlatformIO.",
        "doctor": "Check tools, ports and boards; say what to do.",
        "devices": "Show the boards at ports and in BLE reach.",
        "push": "Send a package to boards.",
        "emulate": "Boot virtual boards and keep them running.",
        "keys": "Make, provision and rotate keys; sign packages.",
    },
    "Runs": {
        "run": "Run federated rounds over a fleet.",
        "watch": "Show a run in this terminal while it goes on.",
        "serve": "Show a run as a page in a browser.",
        "report": "Show what a run did: accuracy, bytes, failures.",
        "compare": "Show several runs side by side.",
        "ledger": "Show every byte of a run, and its energy.",
        "trace": "Print the frames of a trace.",
    },
    "Laboratory": {
        "bench": "Measure what the project claims.",
        "torture": "Train small fleets under random faults.",
    },
}


class Verbs(TyperGroup):
    """The group of all verbs. A verb that TASKS does not name stands under "More verbs"."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write one section per task."""
        left = {n: c for n in self.list_commands(ctx) if (c := self.get_command(ctx, n)) and not c.hidden}
        width = max(map(len, left))
        for task, verbs in TASKS.items():
            rows = [(name.ljust(width), verbs[name]) for name in verbs if left.pop(name, None) is not None]
            if rows:
                with formatter.section(task):
                    formatter.write_dl(rows)
        if left:
            limit = formatter.width - 6 - width
            with formatter.section("More verbs"):
                formatter.write_dl([(n.ljust(width), c.get_short_help_str(limit)) for n, c in left.items()])
