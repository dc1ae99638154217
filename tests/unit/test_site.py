"""The documentation's site: it builds without a warning, and its generated part leaves nothing out."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
import typer.main
import yaml
from pydantic import BaseModel

import quantfl
from quantfl import errors
from quantfl.cli.main import app
from quantfl.fleet.config import RunConfig
from quantfl.strategy import registry
from tests.support import ROOT

sys.path.insert(0, str(ROOT / "tools"))
import reference
import site_hooks

CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
DOCS = ROOT / "docs"


def build(*arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "host")}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", *arguments]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_it_builds_without_a_warning(tmp_path):
    done = build("--site-dir", str(tmp_path / "site"))
    assert done.returncode == 0, done.stderr
    device = (tmp_path / "site/reference/python/boards.html").read_text(encoding="utf-8")
    assert "quantfl.Device.train" in device  # mkdocstrings has found the class
    assert '<a href="../../PROTOCOL.html">PROTOCOL.md</a>' in (
        tmp_path / "site/reference/c/qfl_link.html"
    ).read_text(encoding="utf-8")


def test_a_link_that_leads_nowhere_ends_the_build(tmp_path):
    (tmp_path / "docs").mkdir()
    text = "# One page\n\n[a](absent.md) [b](#absent) [c](/index.md)\n\nSee docs/ABSENT.md.\n"
    (tmp_path / "docs/index.md").write_text(text, encoding="utf-8")
    hooks = f"import sys\nsys.path.insert(0, {str(ROOT / 'tools')!r})\n"
    hooks += "from site_hooks import on_page_content\n"
    (tmp_path / "hooks.py").write_text(hooks, encoding="utf-8")
    small = {name: CONFIG[name] for name in ("site_name", "validation", "markdown_extensions")}
    small |= {"hooks": ["hooks.py"], "plugins": [], "theme": {"name": "mkdocs"}}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(small), encoding="utf-8")
    done = build("-f", str(tmp_path / "mkdocs.yml"))
    assert done.returncode != 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if line.startswith("WARNING")]
    for said in ("absent.md", "#absent", "/index.md", "docs/ABSENT.md"):
        assert any(said in line for line in warned), done.stderr


def in_nav(entries: list) -> list[str]:
    found = []
    for entry in entries:
        value = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += in_nav(value) if isinstance(value, list) else [value]
    return found


def test_the_navigation_holds_every_page_once():
    written = {p.relative_to(DOCS).as_posix() for p in DOCS.rglob("*.md")}
    assert sorted(in_nav(site_hooks.expanded(CONFIG["nav"]))) == sorted(written | set(site_hooks.generated()))


def verbs(command, name: str = "quantfl"):
    yield name, command
    for inner, sub in getattr(command, "commands", {}).items():
        yield from verbs(sub, f"{name} {inner}")


def test_every_verb_and_option_is_in_the_reference():
    page = reference.cli()
    sections = dict(re.findall(r"^#+ `(quantfl [\w ]+)`\n(.*?)(?=^#+ |\Z)", page, re.DOTALL | re.MULTILINE))
    found = {name: command for name, command in verbs(typer.main.get_command(app)) if name != "quantfl"}
    assert set(sections) == set(found) and len(found) >= 20
    for name, command in found.items():
        for param in command.params:
            if getattr(param, "hidden", False):
                continue
            spelling = param.opts[0] if param.param_type_name == "option" else param.name
            assert spelling in sections[name], f"{name}: {spelling}"


def tables(model: type[BaseModel]):
    """(heading, model) of all tables of a description."""
    for name, field in model.model_fields.items():
        yield f"[{name}]", field.annotation
        for key, inner in field.annotation.model_fields.items():
            for kind in getattr(inner.annotation, "__args__", ()):
                if isinstance(kind, type) and issubclass(kind, BaseModel):
                    yield f"[[{name}.{key}]]", kind


def test_every_key_has_a_line_with_a_sentence():
    sections = dict(re.findall(r"### `(.*?)`\n(.*?)(?=\n### |\Z)", reference.fleet_keys(), re.DOTALL))
    assert list(sections) == [heading for heading, _ in tables(RunConfig)]
    for heading, model in tables(RunConfig):
        for key, field in model.model_fields.items():
            sentence = " ".join((field.description or "").split())
            assert sentence.endswith("."), f"{heading} {key}: give it a docstring of whole sentences"
            assert re.search(rf"^\| `{key}` \| .*{re.escape(sentence)} \|$", sections[heading], re.MULTILINE)


def test_every_key_of_a_strategy_has_a_line_with_a_sentence():
    text = reference.fleet_keys()
    for name in reference.own_strategies():
        for key, field in registry.find(name).options.model_fields.items():
            assert (field.description or "").endswith("."), f"{name}.{key}"
            assert field.description in text


def test_a_key_in_seconds_says_so():
    for heading, model in tables(RunConfig):
        for key, field in model.model_fields.items():
            if key.endswith("_s"):
                assert reference.unit(field) == "s", f"{heading} {key}"


def test_the_page_of_fleet_toml_is_what_the_models_say():
    assert reference.fleet_page() == (DOCS / "FLEET.md").read_text(encoding="utf-8"), (
        "run python tools/reference.py"
    )


def test_every_public_header_has_a_page_with_every_function():
    headers = [p for p in ROOT.glob("firmware/lib/qfl_*/include/*.h") if p.is_file()]
    assert sorted(headers) == sorted(reference.HEADERS) and len(headers) >= 14
    for header in headers:
        code = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
        code = re.sub(r"#ifdef __cplusplus\n.*\n#endif\n", "", code)
        page = reference.c_header(header)
        headings = "\n".join(re.findall(r"^### .*", page, re.MULTILINE))
        for name in re.findall(r"^\w[\w \*]*?\b(qfl_\w+)\(", code, re.MULTILINE):
            assert f"`{name}`" in headings, f"{header.name}: {name}"
        for line in code.splitlines():
            if line.strip() and not line.startswith(("#include", "#ifndef", "#define", "#endif")):
                assert line.strip() in page, f"{header.name}: {line}"


def test_comments_of_a_header_are_whole():
    """Every word of every comment is on the header's page."""
    for header in reference.HEADERS:
        text = header.read_text(encoding="utf-8")
        page = reference.c_header(header).replace("`", "").replace("\\", "")
        for comment in re.findall(r"/\*(.*?)\*/", text, re.DOTALL):
            for line in comment.splitlines():
                assert line.replace("`", "").strip().lstrip("*").strip() in page, f"{header.name}: {line}"


def test_every_public_name_is_in_the_reference():
    objects = {path for _, paths in reference.PYTHON.values() for path in paths}
    for name in quantfl.__all__:
        assert f"quantfl.{name}" in objects or hasattr(errors, name), name


def test_links_of_all_pages_of_the_repository_lead_somewhere():
    names = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split()
    pages = [ROOT / name for name in names] or [*ROOT.glob("*.md"), *DOCS.rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not re.match(r"\w+:", target):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)}: {target}"
