"""The product does without the laboratory: it never imports it, and says what is missing where it is not
installed."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

import pytest
import typer

import quantfl
from quantfl.cli import emulate, plugins
from quantfl.errors import ToolError

PRODUCT = Path(quantfl.__file__).parent


def imported(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it, and every string that looks like one given to
    import_module."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
        elif (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith("quantfl")
        ):
            names.add(node.value.split(" ")[0])
    return names


def test_the_product_never_imports_the_laboratory():
    files = sorted(PRODUCT.rglob("*.py"))
    assert len(files) > 50
    wrong = {str(f): n for f in files for n in imported(f) if n.partition(".")[0] == "quantfl_lab"}
    assert wrong == {}


def test_nothing_but_the_command_line_imports_it():
    """Dependencies point one way: no module outside quantfl.cli imports quantfl.cli."""
    files = [f for f in PRODUCT.rglob("*.py") if "cli" not in f.relative_to(PRODUCT).parts]
    wrong = {str(f): n for f in files for n in imported(f) if n.startswith("quantfl.cli")}
    assert wrong == {}


def test_without_the_laboratory_its_verbs_say_what_is_missing(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda **_: ())
    app = typer.Typer()
    app.command("other")(lambda: 0)
    plugins.add_verbs(app)
    for name in plugins.LABORATORY:
        with pytest.raises(ToolError, match="pip install quantfl-lab"):
            app([name, "bytes", "--quick"], standalone_mode=False)
    with pytest.raises(ToolError, match="laboratory"):
        plugins.virtual_radio()


def test_a_verb_that_cannot_be_imported_stops_no_other(monkeypatch):
    broken = metadata.EntryPoint("sparkle", "no_such_package.verb:command", plugins.VERBS)
    monkeypatch.setattr(plugins, "entry_points", lambda **_: (broken,))
    app, called = typer.Typer(), []
    app.command("other")(lambda: called.append(1))
    plugins.add_verbs(app)
    app(["other"], standalone_mode=False)
    assert called == [1]
    with pytest.raises(ToolError, match="no_such_package"):
        app(["sparkle"], standalone_mode=False)


def test_the_product_runs_where_the_laboratory_cannot_be_imported(tmp_path):
    code = (
        "import sys; sys.modules['quantfl_lab'] = None\n"
        "import importlib, pkgutil, quantfl\n"
        "for m in pkgutil.walk_packages(quantfl.__path__, 'quantfl.'):\n"
        "    if not m.name.endswith(('pytest_chaos', '_qfl')): importlib.import_module(m.name)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_each_distribution_holds_its_own_packages_and_no_other():
    """The product's wheel has no laboratory, the laboratory's list has every folder of it, and types are
    shipped."""
    root = PRODUCT.parents[1]
    product = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    rule = product["packages"]["find"]
    packages = [
        ".".join(f.parent.relative_to(PRODUCT.parent).parts) for f in PRODUCT.parent.rglob("__init__.py")
    ]
    found = {name for name in packages for pattern in rule["include"] if fnmatchcase(name, pattern)}
    assert rule["where"] == ["host"] and "quantfl.cli" in found
    assert found == {name for name in packages if name.partition(".")[0] == "quantfl"} != set(packages)
    data = product["package-data"]["quantfl"]
    assert "py.typed" in data and all(list(PRODUCT.glob(pattern)) for pattern in data)
    lab = root / "host" / "quantfl_lab"
    named = tomllib.loads((lab / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {".".join(("quantfl_lab", *f.parent.relative_to(lab).parts)) for f in lab.rglob("__init__.py")}
    assert set(named) == folders


def test_boards_on_a_missing_radio_are_not_booted(monkeypatch):
    monkeypatch.setattr(plugins, "entry_points", lambda **_: ())
    monkeypatch.setattr("quantfl.emulation.boot_fleet", lambda *_, **__: pytest.fail("booted"))
    with pytest.raises(ToolError, match="laboratory"):
        emulate.command(
            board="native",
            count=1,
            seed=1,
            package=None,
            data=None,
            data_path=None,
            ble=True,
            chaos=None,
            battery=None,
        )
