"""Faults of values in the air, and whole runs under them held against clean ones."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys

import pytest

from quantfl.cli.main import main
from quantfl.device import Device
from quantfl.errors import UsageError
from quantfl.fleet import api
from quantfl.fleet.config import FleetTable
from quantfl.link.chaos import DOWN, UP, parse
from quantfl_lab.ble.chaos import FaultyAir, check_air
from quantfl_lab.torture.air import air_schedule
from quantfl_lab.torture.runs import command_of, run_schedule
from tests.ble.conftest import run
from tests.ble.test_rounds import over_ble
from tests.support import DEMO_MODEL, demo_config, need_digits

pytestmark = pytest.mark.emulated


async def _play(
    spec: str, values: int = 400, size: int = 20
) -> tuple[FaultyAir, dict[str, list[bytes]], int]:
    """Random values both ways through faulty air; the air, what came out by direction, and how often it hung
    up."""
    out: dict[str, list[bytes]] = {DOWN: [], UP: []}
    hung = []

    async def to_host(value: bytes) -> None:
        out[UP].append(value)

    async def hang_up() -> None:
        hung.append(1)
        air.connected()  # the central is there again at once

    air = FaultyAir(
        "board-00",
        parse(spec),
        size=lambda: size,
        to_board=out[DOWN].append,
        to_host=to_host,
        hang_up=hang_up,
    )
    air.connected()
    rng = random.Random(1)
    for i in range(values):
        air.down(rng.randbytes(rng.randint(1, size)))
        await air.up(rng.randbytes(rng.randint(1, size)))
        if i % 50 == 0:
            await asyncio.sleep(0.002)
    air.quiet = True
    for _ in range(100):  # what is late or stalled comes out
        await asyncio.sleep(0.05)
        if not air.held(UP) and not air.held(DOWN):
            break
    return air, out, len(hung)


@pytest.mark.parametrize(
    "spec",
    ["", *(air_schedule(s) for s in range(12)), "reorder=1", "slow=5ms,stall=5ms@0.02,disconnect=3@0.1"],
)
def test_the_air_adds_up_and_keeps_to_the_mtu(spec):
    air, out, hung = asyncio.run(_play(spec))
    assert all(0 < len(v) <= 20 for direction in out.values() for v in direction)
    struck = air.lines[DOWN].faults + air.lines[UP].faults
    assert hung == struck["disconnect"] and (struck or not spec.split(",seed")[0])
    for direction, n in air.counters().items():
        assert n["taken"] + n["added"] == n["given"] + n["swallowed"] + n["held"] and n["held"] == 0
        if not hung:  # what was given on when it hung up may not have left
            assert n["given"] == sum(map(len, out[direction]))


def test_reordering_swaps_values():
    first, out, _ = asyncio.run(_play("down.reorder=0.2"))
    _, clean, _ = asyncio.run(_play(""))
    assert out[UP] == clean[UP] and out[DOWN] != clean[DOWN] and sorted(out[DOWN]) == sorted(clean[DOWN])
    swaps = first.lines[DOWN].faults["reorder"]
    assert 40 < swaps < 120 and sum(a != b for a, b in zip(out[DOWN], clean[DOWN], strict=True)) <= 2 * swaps
    assert (
        asyncio.run(_play("down.reorder=0.2"))[1] == out
    )  # the same seed and the same values: the same faults


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("reset", "reset is no fault of a radio"),
        ("board-00: lie=nan", "lie is no fault"),
        ("full", "full is no fault"),
        ("drop=0.1@round=2", "a radio knows of no rounds"),
        ("board-07: drop=0.1", "no board is called 'board-07'"),
        ("wobble=1", "there is no fault 'wobble'"),
    ],
)
def test_what_a_radio_cannot_do_is_refused(spec, message, air):
    with pytest.raises(UsageError, match=message):
        check_air(parse(spec), ["board-00"])
    with pytest.raises(UsageError, match="quantfl"):
        air(1, chaos="reset")


def test_a_run_through_faulty_air_gives_the_clean_runs_bytes(air):
    """Values lost, repeated and overtaking each other: every board delivers, and the heads are those of
    boards without a radio."""
    need_digits()
    there = air(3, chaos="reorder=0.08,drop=0.02,dup=0.03,seed=5; qfl-1: disconnect=1@0.05")
    plan = {"run": {"rounds": 3, "deadline_s": 30.0}}
    rounds = over_ble(there, **plan)
    assert [r["failed"] for r in rounds.history[1:]] == [{}, {}, {}]
    counters = json.loads(run(there.adapter.simulate("Faults")))
    struck = {f for b in counters.values() for direction in b.values() for f in direction["faults"]}
    assert {"reorder", "drop", "dup", "disconnect"} <= struck
    alike = demo_config(**plan).model_copy(update={"fleet": FleetTable(emulate="inproc", boards=3)})
    plain = asyncio.run(api.quiet_run(alike, DEMO_MODEL.parent))
    assert [r["head"] for r in rounds.history] == [r["head"] for r in plain.history]
    assert not rounds.ledger.imbalances


@pytest.mark.usefixtures("air")  # it skips where tools are missing
@pytest.mark.parametrize("seed", [4, 5, 7])
def test_schedules_over_ble(seed):
    outcome = run_schedule(seed, str(DEMO_MODEL), kind="native", boards=2, rounds=2, ble=True)
    assert not outcome.problems, (
        f"{command_of(seed, 'native', 2, 2, ble=True)}\n{outcome.spec}\n{outcome.problems}"
    )
    assert any(f.startswith("air ") for f in outcome.faults)


@pytest.mark.usefixtures("air")
def test_emulate_with_chaos_in_the_air():
    """The command line's boards: faults for a host that knows nothing of them, by `run --chaos`'s
    language."""
    quantfl = [sys.executable, "-m", "quantfl.cli.main"]
    command = [*quantfl, "emulate", "--ble", "--chaos", "drop=0.1,reorder=0.1,seed=2", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as emulation:
        try:
            (row,) = json.loads(emulation.stdout.readline())
            os.environ["DBUS_SYSTEM_BUS_ADDRESS"] = row["dbus_system_bus_address"]

            async def go():
                async with Device(row["url"], patience=20) as device:
                    await device.read_info(20)
                    for _ in range(8):
                        await device.status()
                    return (await device.compare(20)).explained

            assert run(go())
        finally:
            os.environ.pop("DBUS_SYSTEM_BUS_ADDRESS", None)
            emulation.terminate()
    assert main(["emulate", "--chaos", "drop=0.1"]) == 2
    assert main(["torture", "--ble", "--board", "qemu_m4"]) == 2
