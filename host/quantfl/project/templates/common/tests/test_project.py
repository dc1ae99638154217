"""The project learns: a few rounds on virtual boards in this process."""

from __future__ import annotations

from pathlib import Path

import quantfl

PROJECT = Path(__file__).resolve().parents[1]


def test_it_learns() -> None:
    config = quantfl.describe(PROJECT / "FLEET.toml").model_dump()
    config["run"]["rounds"] = 5
    config["fleet"] = {"emulate": "inproc", "boards": 4}
    run = quantfl.run(config, base=PROJECT)
    accuracy = [value for _, value in run.history.curve("accuracy")]
    assert max(accuracy[1:]) > accuracy[0]
