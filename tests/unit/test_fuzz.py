"""The libFuzzer targets: the kept corpus replayed and a short run of each, under address and
undefined-behaviour sanitizers."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fuzz.run import TARGETS, WORK, build, missing
from tests.support import ROOT


@pytest.fixture(scope="module")
def built():
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    build(TARGETS)
    return WORK


@pytest.mark.parametrize("target", TARGETS)
def test_the_corpus_and_a_short_run_are_clean(built, target):
    command = [sys.executable, str(ROOT / "tests" / "fuzz" / "run.py"), target, "--seconds", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "clean" in done.stdout and (ROOT / "tests" / "fuzz" / "corpus" / target).is_dir()
