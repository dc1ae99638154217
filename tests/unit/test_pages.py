"""What tutorials and how-tos tell a reader to do works, word for word.

A fenced block has a mark on the line above it:

- `<!-- run -->`: the block is run, sh or python, in an empty folder with the checkout's models/ beside it;
- `<!-- file: NAME -->`: the block is saved under that name first;
- `<!-- check: fleet -->`: a description that is checked but needs hardware to run; `verb`: see below.

Blocks of a page are run in order and share the folder. Boards are in this process and on virtual time.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import typer

from quantfl.cli import plugins
from quantfl.fleet.config import parse
from tests.support import ROOT

PAGES = sorted(
    page
    for room in ("tutorials", "how-to")
    for page in (ROOT / "docs" / room).glob("*.md")
    if page.name != "index.md"
)
BLOCK = re.compile(r"<!-- (run|file: [\w.-]+|check: \w+) -->\n```(\w+)\n(.*?)```", re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def environment(folder: Path) -> dict[str, str]:
    """`quantfl` and this tree's modules, whatever else is installed."""
    commands = folder.parent / f"{folder.name}-bin"
    commands.mkdir()
    command = commands / "quantfl"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m quantfl.cli.main "$@"\n')
    command.chmod(0o755)
    found = {k: v for k, v in os.environ.items() if not k.startswith("QUANTFL_")}
    return found | {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "host")}


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_what_a_page_tells_to_do_works(page, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "models").symlink_to(ROOT / "models", target_is_directory=True)
    env = environment(folder)
    for mark, language, text in blocks(page):
        if mark.startswith("file: "):
            (folder / mark.removeprefix("file: ")).write_text(text, encoding="utf-8")
        elif mark == "check: fleet":
            parse(text)
        elif mark == "run":
            command = {"sh": ["sh", "-e", "-c", text], "python": [sys.executable, "-c", text]}[language]
            done = subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, timeout=600, check=False
            )
            assert done.returncode == 0, f"{page.name}:\n{text}\n{done.stdout}\n{done.stderr}"


def test_every_page_has_something_that_is_run_or_checked():
    assert len(PAGES) >= 12
    assert [p.name for p in PAGES if not blocks(p)] == []


def test_every_mark_belongs_to_a_block():
    for page in PAGES:
        assert page.read_text(encoding="utf-8").count("<!-- ") == len(blocks(page)), page.name


def test_the_verb_of_the_documentation_can_be_called(tmp_path, monkeypatch, capsys):
    found = {mark: text for mark, _, text in blocks(ROOT / "docs/how-to/cli-verb.md")}
    (tmp_path / "my_verbs.py").write_text(found["file: my_verbs.py"])
    monkeypatch.syspath_prepend(tmp_path)
    offered = tomllib.loads(found["check: verb"])["project"]["entry-points"][plugins.VERBS]
    entries = [metadata.EntryPoint(name, value, plugins.VERBS) for name, value in offered.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda **_: entries)
    app = typer.Typer()
    app.command("other")(lambda: 0)
    plugins.add_verbs(app)
    app(args=["greet", "world"], standalone_mode=False)
    assert capsys.readouterr().out == "hello, world\n"
