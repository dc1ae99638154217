"""What pages of the documentation say of files, and how long their lines are."""

from __future__ import annotations

import re

from tests.support import ROOT

DOCS = ROOT / "docs"


def test_files_that_pages_name_exist():
    pages = [*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / "examples").glob("*.md")]
    named = r"`((?:docs|examples|firmware|host|models|tests|tools)/[\w./-]+)`"
    found = [(page, path) for page in pages for path in re.findall(named, page.read_text(encoding="utf-8"))]
    assert len(found) >= 60
    for page, path in found:
        if path != "tests/fuzz/corpus/TARGET":
            assert (ROOT / path).exists(), f"{page.relative_to(ROOT)}: {path}"


def test_no_line_of_a_page_is_longer_than_110_columns():
    """Tables and links may be."""
    for page in DOCS.rglob("*.md"):
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            if len(line) > 110 and not line.startswith("|") and "](" not in line:
                raise AssertionError(f"{page.relative_to(ROOT)}:{number} has {len(line)} columns")
