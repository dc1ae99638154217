"""Status codes: one enum for libraries and ports, each code with one meaning and its words."""

from __future__ import annotations

import re

from quantfl.core import ffi, lib, status_text
from tests.support import ROOT


def test_every_code_has_words_of_its_own():
    names = ffi.typeof("qfl_status").elements
    assert len(names) > 12 and sorted(names) == list(range(1 - len(names), 1))
    words = [ffi.string(lib.qfl_status_text(code)).decode() for code in names]
    assert len(set(words)) == len(words) and "unknown status" not in words
    assert status_text(lib.QFL_E_IO) == "flash or link failed (status -10)"
    assert status_text(-99) == "unknown status (status -99)" and status_text(1) == "unknown status (status 1)"


def test_there_is_no_second_list_of_codes():
    """Negative constants that name an error stand in qfl_status.h and nowhere else in the firmware."""
    codes = re.compile(r"\b(QFL_\w*E_[A-Z]+) = -\d")
    found = {p.name: codes.findall(p.read_text()) for p in (ROOT / "firmware").rglob("*.[ch]")}
    assert [name for name, listed in found.items() if listed] == ["qfl_status.h"]
