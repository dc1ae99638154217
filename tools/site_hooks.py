"""Hooks of mkdocs.yml: pages that are generated, and links in what is not written as Markdown.

The reference comes from the code (tools/reference.py). The start page, "Contributing" and the changelog are
the files at the top of the repository.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from markdown.extensions.toc import slugify
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).resolve().parent))
import reference

log = logging.getLogger("mkdocs.hooks.quantfl")

EXAMPLES = "tutorials/examples.md"
LANGUAGES = {".py": "python", ".c": "c", ".ini": "ini", ".ipynb": "python"}
#: Pages that are files of the repository's top.
TOP = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def top_page(name: str) -> str:
    """A file of the repository's top as a page: links into docs/ become links between pages."""
    text = (reference.ROOT / name).read_text(encoding="utf-8")
    moved = {source: page for page, source in TOP.items()}
    text = re.sub(r"\]\((\w+\.md)", lambda m: f"]({moved.get(m[1], m[1])}", text)
    text = text.replace("](examples/README.md)", f"]({EXAMPLES})")
    return re.sub(r"\]\((?:\./)?docs/", "](", text)


def examples() -> str:
    """examples/README.md, with the text of every example below it."""
    folder = reference.ROOT / "examples"
    text = (folder / "README.md").read_text(encoding="utf-8").replace("](../docs/", "](../")
    files = re.findall(r"\]\(([\w.]+)\) \|", text)
    text = re.sub(r"\]\(([\w.]+)\) \|", lambda m: f"](#{slugify(m[1], '-')}) |", text)
    for name in files:
        text += f"\n## {name}\n"
        whole = sorted(p for p in (folder / name).rglob("*") if p.suffix in LANGUAGES) or [folder / name]
        for path in whole:
            code = path.read_text(encoding="utf-8")
            if path.suffix == ".ipynb":
                code = "\n".join("".join(c["source"]) + "\n" for c in code_cells(code))
            text += f'\n```{LANGUAGES[path.suffix]} title="{path.relative_to(folder)}"\n{code}```\n'
    return text


def code_cells(notebook: str) -> list[dict[str, Any]]:
    """The cells of a notebook that hold code."""
    return [cell for cell in json.loads(notebook)["cells"] if cell["cell_type"] == "code"]


def generated() -> dict[str, str]:
    """Every generated page: its path below docs/, and its Markdown."""
    pages = {page: top_page(source) for page, source in TOP.items()}
    pages[EXAMPLES] = examples()
    pages["reference/cli.md"] = "# Every verb and option\n\n" + reference.cli()
    for header in reference.HEADERS:
        pages[f"reference/c/{header.stem}.md"] = reference.c_header(header)
    for name in reference.PYTHON:
        pages[f"reference/python/{name}.md"] = reference.python_page(name)
    return pages


def expanded(nav: list[Any]) -> list[Any]:
    """A navigation in which an entry that ends with * stands for all generated pages that begin so."""
    found: list[Any] = []
    for entry in nav:
        if isinstance(entry, dict):
            found += [{k: expanded(v) if isinstance(v, list) else v for k, v in entry.items()}]
        elif entry.endswith("*"):
            found += sorted(page for page in generated() if page.startswith(entry[:-1]))
        else:
            found.append(entry)
    return found


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Every public header has its place in the navigation."""
    config.nav = expanded(config.nav or [])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for path, text in generated().items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The keys of FLEET.toml as the models have them now."""
    return reference.fleet_page() if page.file.src_uri == "FLEET.md" else markdown


def linked(html: str, page_url: str, urls: dict[str, str]) -> tuple[str, list[str]]:
    """HTML in which `docs/NAME.md` is a link, as docstrings and comments say it, and names that are no page.

    page_url: the page's own URL. urls: by source path.
    """
    unknown: list[str] = []

    def link(match: re.Match[str]) -> str:
        name = match[1]
        if name not in urls:
            unknown.append(name)
            return match[0]
        return f'<a href="{posixpath.relpath(urls[name], posixpath.dirname(page_url) or ".")}">{name}</a>'

    depth, parts = 0, []
    for part in re.split(r"(<[^>]+>)", html):
        opened = re.match(r"<(/?)(a|code|pre|h[1-6])\b", part)
        if opened:
            depth += -1 if opened[1] else 1
        parts.append(part if depth or part.startswith("<") else re.sub(r"\bdocs/([\w/-]+\.md)", link, part))
    return "".join(parts), unknown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Plain mentions of a page become links. One that names no page is a warning, and so ends the build."""
    urls: dict[str, Any] = {file.src_uri: file.url for file in files.documentation_pages()}
    text, unknown = linked(html, page.file.url, urls)
    for name in unknown:
        log.warning("%s names docs/%s, which is no page", page.file.src_uri, name)
    return text
