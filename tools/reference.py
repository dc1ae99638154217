"""The generated part of the documentation: command line, FLEET.toml, C headers, Python API, as Markdown.

    python tools/reference.py

writes the tables of keys into docs/FLEET.md. All the other pages are made while the site is built
(tools/site_hooks.py).
"""

from __future__ import annotations

import re
import types
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.cli import get_docs_for_click

import quantfl
from quantfl.cli.main import app
from quantfl.fleet.config import RunConfig, StrategyTable, Unit
from quantfl.strategy import registry

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HEADERS = sorted(
    p for p in ROOT.glob("firmware/lib/*/include/*.h") if p.parent.parent.name.startswith("qfl_")
)

# Command line ---------------------------------------------------------------------------------------------


def cli() -> str:
    """Every verb with all its options."""
    command = typer.main.get_command(app)
    made: str = get_docs_for_click(obj=command, ctx=typer.Context(command), name="quantfl", title="Verbs")
    made = re.sub(r"^(\s*)\* `--(install|show)-completion`.*\n", "", made, flags=re.MULTILINE)
    return "\n".join(line.strip() if line.startswith(" ") else line for line in made.splitlines()) + "\n"


# FLEET.toml -----------------------------------------------------------------------------------------------


def _type(annotation: Any) -> str:
    """A key's type as TOML has it."""
    if annotation in (str, int, float, bool):
        return {str: "string", int: "integer", float: "number", bool: "boolean"}[annotation]
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(annotation))
    if get_origin(annotation) is typing.Annotated:
        return _type(get_args(annotation)[0])
    if isinstance(annotation, types.UnionType) or get_origin(annotation) is typing.Union:
        return " or ".join(_type(kind) for kind in get_args(annotation) if kind is not type(None))
    if get_origin(annotation) is tuple:
        return "tables"
    raise TypeError(f"no name for the type {annotation}")


SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _metadata(field: FieldInfo) -> list[Any]:
    """Constraints and unit of a key, also where it may be absent."""
    found = list(field.metadata)
    for kind in get_args(field.annotation):
        found += getattr(kind, "__metadata__", ())
    flat: list[Any] = []
    for item in found:
        flat += item.metadata if isinstance(item, FieldInfo) else [item]
    return flat


def _range(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(item, name):,}"
        for item in _metadata(field)
        for name, sign in SIGNS.items()
        if getattr(item, name, None) is not None
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def unit(field: FieldInfo) -> str:
    """The unit of a key; empty where it has none."""
    return next((item.name for item in _metadata(field) if isinstance(item, Unit)), "")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.default
    if value is None or value == () or value == "":
        return "none"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _rows(model: type[BaseModel], without: tuple[str, ...] = ()) -> str:
    rows = ["| key | type | default | unit | meaning |", "|---|---|---|---|---|"]
    for name, field in model.model_fields.items():
        if name in without:
            continue
        meaning = " ".join((field.description or "").split())
        kind = _type(field.annotation) + _range(field)
        rows.append(f"| `{name}` | {kind} | {_default(field)} | {unit(field)} | {meaning} |")
    return "\n".join(rows)


def _said(model: type[BaseModel]) -> str:
    """What a table's docstring says after its name."""
    first = " ".join((model.__doc__ or "").split("\n\n")[0].split())
    words = first.split(": ", 1)[-1]
    return words[0].upper() + words[1:]


def fleet_keys() -> str:
    """A section for every table of FLEET.toml, and one for the keys of every strategy."""
    parts = []
    for name, field in RunConfig.model_fields.items():
        model = field.annotation
        assert isinstance(model, type) and issubclass(model, BaseModel)
        parts.append(f"### `[{name}]`\n\n{_said(model)}\n\n{_rows(model)}")
        for key, inner in model.model_fields.items():
            for kind in get_args(inner.annotation):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    parts.append(f"### `[[{name}.{key}]]`\n\n{_said(kind)}\n\n{_rows(kind)}")
        if model is StrategyTable:
            parts += [_strategy(strategy) for strategy in own_strategies()]
    return "\n\n".join(parts)


def own_strategies() -> list[str]:
    """Names of the strategies that quantfl itself registers."""
    return [n for n in registry.names() if registry.find(n).make.__module__.startswith("quantfl.")]


def _strategy(name: str) -> str:
    return f"Keys of `{name}`:\n\n{_rows(registry.find(name).options)}"


# C ---------------------------------------------------------------------------------------------------------

GUARD = re.compile(r"#ifndef (\w+_H)\n#define \1\n(.*)#endif\s*\Z", re.DOTALL)
NAMES = (
    re.compile(r"^typedef (?:struct|enum|union) (\w+)", re.MULTILINE),
    re.compile(r"^#(?:ifndef|define) (\w+)", re.MULTILINE),
    re.compile(r"^[\w \*]*?\b(qfl_\w+)\(", re.MULTILINE),
    re.compile(r"^enum (\w+)", re.MULTILINE),
)


def _prose(comment: str) -> str:
    """The text of a C comment as Markdown. Paragraphs stay; names of ours become code."""
    lines = [re.sub(r"^\s*(\* ?)?", "", line).rstrip() for line in comment[2:-2].splitlines()]
    text = re.sub(r"([*\[<])", r"\\\1", "\n".join(lines).strip())
    return re.sub(r"(?<![\w`])(qfl_\w+(?:\.h|\(\))?|QFL_[A-Z_0-9]*\w|NULL)(?![\w`])", r"`\1`", text)


def _pieces(body: str) -> list[tuple[str, str]]:
    """(comment, declarations) of a header: a comment belongs to the declarations up to the next one that
    stands at the beginning of a line."""
    found: list[tuple[str, str]] = []
    body = re.sub(r"#ifdef __cplusplus\n[^\n]*\n#endif\n", "", body)  # only C++ sees it
    for chunk in re.split(r"\n(?=/\*)|\n\n+(?=[^\s/}])", "\n" + body):
        text = chunk.strip("\n")
        match = re.match(r"/\*.*?\*/", text, re.DOTALL)
        comment, code = (match[0], text[match.end() :].strip("\n")) if match else ("", text)
        code = re.sub(r"^#include .*\n?", "", code, flags=re.MULTILINE).strip("\n")
        if comment or code:
            found.append((comment, code))
    return found


def declared(code: str) -> list[str]:
    """Names of types, functions and macros that a piece of a header declares, in order."""
    found = {m.start(): m[1] for pattern in NAMES for m in pattern.finditer(code)}
    names = list(dict.fromkeys(found[at] for at in sorted(found)))
    if not names:
        names = re.findall(r"^\s+(QFL_\w+)\s*(?:=|,)", code, re.MULTILINE)[:1]
    return names


def c_header(path: Path) -> str:
    """The page of a header: its first comment, then every declaration below what is said of it."""
    text = path.read_text(encoding="utf-8")
    start = text.index("/*")
    intro = text[start : text.index("*/") + 2]
    guarded = GUARD.search(text)
    assert guarded, f"{path} has no include guard"
    parts = [f"# {path.name}", f"`{path.relative_to(ROOT)}`", _prose(intro)]
    for comment, code in _pieces(guarded[2]):
        names = declared(code)
        if names:
            parts.append("### " + ", ".join(f"`{name}`" for name in names))
        if comment:
            parts.append(_prose(comment))
        if code:
            parts.append(f"```c\n{code}\n```")
    return "\n\n".join(parts) + "\n"


# Python ----------------------------------------------------------------------------------------------------

#: Pages of the Python reference: title, and the objects on it in order.
PYTHON: dict[str, tuple[str, tuple[str, ...]]] = {
    "models": ("Models", ("quantfl.convert", "quantfl.Package")),
    "boards": (
        "Boards",
        (
            "quantfl.emulate",
            "quantfl.discover",
            "quantfl.Device",
            *(f"quantfl.messages.{name}" for name in ("DeviceInfo", "DeviceStatus", "Delta", "config_bytes")),
            "quantfl.core.head.Score",
            "quantfl.core.head.FitConfig",
        ),
    ),
    "runs": ("Runs", ("quantfl.run", "quantfl.describe", "quantfl.Run", "quantfl.History")),
    "codecs": ("Codecs", ("quantfl.Codec", "quantfl.CodecError")),
    "strategies": (
        "Strategies",
        (
            "quantfl.strategy.base",
            "quantfl.strategy.registry",
            "quantfl.strategy.composed",
            "quantfl.strategy.aggregators",
            "quantfl.strategy.server_optimizers",
            "quantfl.strategy.admission",
        ),
    ),
    "errors": ("Errors", ("quantfl.errors",)),
}


def python_page(name: str) -> str:
    """A page of the Python reference, for mkdocstrings."""
    title, objects = PYTHON[name]
    return f"# {title}\n\n" + "\n\n".join(f"::: {path}" for path in objects) + "\n"


def public_names() -> set[str]:
    """What `import quantfl` offers."""
    return set(quantfl.__all__)


# Pasting ---------------------------------------------------------------------------------------------------

BLOCK = re.compile(r"(<!-- generated: fleet -->\n).*?(<!-- end -->)", re.DOTALL)


def fleet_page() -> str:
    """docs/FLEET.md with its generated part as the models have it now."""
    text = (DOCS / "FLEET.md").read_text(encoding="utf-8")
    return BLOCK.sub(lambda m: f"{m[1]}\n{fleet_keys()}\n\n{m[2]}", text)


if __name__ == "__main__":
    (DOCS / "FLEET.md").write_text(fleet_page(), encoding="utf-8")
