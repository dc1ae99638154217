"""The board's state is in groups (struct qfl_device): which file may touch which."""

from __future__ import annotations

import re

from tests.support import ROOT

SOURCES = ROOT / "firmware" / "lib" / "qfl_device" / "src"
#: Besides the file that a group is named after. Most of these only take a group's flag back: a message that
#: changes the head ends what was being put, trained or computed.
GROUPS = {
    "round": {"round", "persist", "resume", "info", "model", "put", "stats"},
    "put": {"put", "", "model", "round", "stats"},
    "personal": {"personal", "info", "model", "round"},
    "stats": {"stats", "resume", "round"},
    "keystore": {"keys"},
    "log": {"persist", "info", "model"},
    "eval": {"round", "personal"},
    "asked": {"round", "stats", ""},
    "out": {""},
}


def users(group: str) -> set[str]:
    """Names of the files that touch a group, without qfl_device_; "" is qfl_device.c."""
    found = set()
    for path in SOURCES.glob("*.c"):
        if re.search(rf"\bd->{group}\b", path.read_text()):
            found.add(path.stem.removeprefix("qfl_device").removeprefix("_"))
    return found


def test_a_file_touches_the_groups_that_it_needs():
    assert {group: users(group) for group in GROUPS} == GROUPS


def test_every_group_is_listed():
    header = (SOURCES / "qfl_device_internal.h").read_text()
    declared = set(re.findall(r"^    qfl_(?:device_\w+|keystore) (\w+);", header, re.MULTILINE))
    assert declared == set(GROUPS)
