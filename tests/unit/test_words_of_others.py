"""What a board, a file or a user named is printed as it is: brackets are no markup, and end nothing."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from quantfl.data.dataset import located, located_in_run
from quantfl.errors import UsageError
from quantfl.report.live import LiveTable

ODD = ("[/x]", "[bold]", "[red]a[/]", "\\[")


@pytest.mark.parametrize("text", ODD)
def test_a_run_tells_the_words_of_boards_as_they_are(text):
    out = io.StringIO()
    live = LiveTable(Console(file=out, width=200))
    live.warn(f"a warning {text}")
    live.phase(f"a phase {text}")
    live.round_done(
        {
            "round": 1,
            "contributors": [],
            "failed": {text: f"a reason {text}"},
            "up_bytes": 1,
            "down_bytes": 1,
            "seconds": 0.1,
        }
    )
    told = out.getvalue()
    for line in (f"a warning {text}\n", f"a phase {text}\n", f"{text}: a reason {text}\n"):
        assert line in told


def test_a_python_file_that_came_with_a_run_is_not_run(tmp_path):
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    for name in ("python:evil.py", f"python:{run / 'evil.py'}", "python:../x/evil.py"):
        with pytest.raises(UsageError, match="came with the run"):
            located_in_run(name, None, run, run)
    mine = located_in_run("python:data.py", None, tmp_path, run)
    assert mine == located("python:data.py", None, tmp_path)
    assert located_in_run("npz:a.npz", None, run, run) == located("npz:a.npz", None, run)
