"""Schedules of faults over BLE: boards on a virtual adapter, whose air has faults of its own beside those of
the host's end."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

from quantfl.emulation import Board
from quantfl_lab.ble.adapter import BleAdapter, BleBoard


def air_schedule(seed: int) -> str:
    """Random faults of values in the air."""
    rng = random.Random(f"air {seed}")
    parts = [
        f"{rng.choice(['', 'up.', 'down.'])}{name}={rng.choice(rates):g}"
        for name, rates, odds in (
            ("reorder", [0.01, 0.05, 0.1], 0.7),
            ("drop", [0.003, 0.01, 0.03], 0.6),
            ("dup", [0.003, 0.02], 0.5),
            ("cut", [0.003, 0.01], 0.3),
            ("flip", [1e-6, 1e-5], 0.3),
            ("noise", [0.01], 0.2),
        )
        if rng.random() < odds
    ]
    if rng.random() < 0.4:
        parts.append(f"disconnect={rng.randint(1, 2)}")
    if rng.random() < 0.3:
        parts.append("stall=100ms@0.01")
    return ",".join([*parts, f"seed={seed}"])


class Air:
    """The virtual adapter under a fleet."""

    def __init__(self, adapter: BleAdapter):
        self.adapter, self.faults, self.problems = adapter, {}, []

    async def hush(self) -> None:
        """No faults any more; what there has been is counted, and has to add up."""
        await self.adapter.simulate("Quiet")
        for name, ways in json.loads(await self.adapter.simulate("Faults")).items():
            for direction, n in ways.items():
                for fault, count in n["faults"].items():
                    self.faults[f"air {fault}"] = self.faults.get(f"air {fault}", 0) + count
                if n["taken"] + n["added"] != n["given"] + n["swallowed"] + n["held"]:
                    self.problems.append(f"{name} {direction}: the air does not add up: {n}")


@contextmanager
def on_air(fleet: list[Board], spec: str) -> Iterator[Air]:
    """Put native boards that run the BLE port on a virtual adapter, where this process and no other part of
    it finds them by bleak."""
    before = os.environ.get("DBUS_SYSTEM_BUS_ADDRESS")
    radios = [BleBoard(b.name, int(b.url.rsplit(":", 1)[1])) for b in fleet]
    with BleAdapter(radios, chaos=spec) as adapter:
        os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = adapter.address
        for board in fleet:
            board.url = f"ble://{board.name}"
        try:
            yield Air(adapter)
        finally:
            os.environ.pop("DBUS_SYSTEM_BUS_ADDRESS")
            if before is not None:
                os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = before
