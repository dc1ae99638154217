"""The standard build: below 48 KB of flash on Cortex-M4, the bytes of every other board, what it lacks
refused by name."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess

import pytest
from typer.testing import CliRunner

from quantfl.cli.main import app
from quantfl.core import lib
from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig, Layer
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.emulation.base import firmware
from quantfl.emulation.flash import flash_bytes
from quantfl.errors import DeviceError, RunError, ToolError
from quantfl.link.keys import KeyRing
from quantfl.messages import config_bytes
from quantfl.package.build import SCALES, WINDOWS, build_flags, head_mask, lacking
from quantfl.package.convert import convert
from quantfl.provision import provision
from quantfl_lab.bench.flash import STANDARD_MOST, parts
from tests.emulated.test_same_bytes import assert_same_ledger, trained
from tests.support import DEMO_MODEL, ROOT, demo_config, need_board, need_digits

pytestmark = pytest.mark.emulated
KIND = "standard_m4"


def test_it_stays_below_48_kilobytes(capsys):
    try:
        elf = firmware(KIND, "firmware.elf")
    except ToolError as error:
        pytest.skip(f"{error} (make cores)")
    with capsys.disabled():
        by = ", ".join(f"{k} {v:,}" for k, v in parts(elf.with_suffix(".map")).most_common())
        print(f"\n{KIND}: {flash_bytes(elf):,} bytes of flash: {by}")
    assert flash_bytes(elf) < STANDARD_MOST
    # Nothing is counted twice or missed but what the linker fills up with.
    assert 0 <= flash_bytes(elf) - parts(elf.with_suffix(".map")).total() < 256
    assert parts(elf.with_suffix(".map"))["keys"] < 128


def test_convert_prints_firmwares_as_they_are(tmp_path):
    made = CliRunner().invoke(app, ["convert", str(DEMO_MODEL), "-o", str(tmp_path / "p.tflite"), "--json"])
    assert made.exit_code == 0
    made = json.loads(made.stdout)
    assert made["build_flags"] == "-DQFL_NN_OPS=0x61e -DQFL_HEAD_KINDS=0x02"
    told = {row["board"]: row["firmware"] for row in made["boards"] if row["firmware"] is not None}
    size = shutil.which("arm-none-eabi-size")
    for name, told_bytes in told.items():
        if size and name != "qemu_rv32imc":
            out = subprocess.run(
                [size, firmware(name, "firmware.elf")], capture_output=True, text=True, check=True
            ).stdout
            text, data = out.split()[6:8]
            assert 0 <= told_bytes - int(text) - int(data) < 8  # sections begin at multiples of 8


def test_the_flags_of_the_demo_model_are_those_of_its_build():
    """digits_m4 of platformio.ini is what `quantfl convert` prints."""
    ini = (ROOT / "platformio.ini").read_text()
    lean, own = ini.split("[lean]")[1].split("[", 1)[0], ini.split("[env:digits_m4]")[1].split("[", 1)[0]
    operators, kinds = build_flags(convert(DEMO_MODEL).opened.needs).split()
    assert kinds in lean and operators.lower() in own.lower()


def test_layers_and_what_they_need():
    dense, wide = (
        Layer("conv", (1, 1, 8), (1, 1, 4)),
        Layer("conv", (4, 4, 8), (4, 4, 4), kernel=(3, 3), pad=(1, 1)),
    )
    assert head_mask([dense]) == 0x02
    assert head_mask([wide, dense]) == 0x02 | WINDOWS
    assert (
        head_mask([Layer("depthwise", (4, 4, 8), (4, 4, 8), kernel=(3, 3), mode="scales"), dense])
        == 0x06 | SCALES
    )
    needs = convert(DEMO_MODEL).opened.needs
    assert lacking(needs, 0xFFFFFFFF, 0x7E) is None and lacking(needs, 0xFFFFFFFF, 0x02) is None
    assert "cannot train dense" in lacking(needs, 0xFFFFFFFF, 0x04)
    assert "AVERAGE_POOL_2D" in lacking(needs, 0xFFFFFFFF & ~(1 << 4), 0x02)


def test_rounds_equal_those_of_a_board_with_everything(tmp_path):
    need_digits()
    need_board(KIND)
    for name, tables in {
        "dz": {},
        "bu": {k: {"codec": "bu", "coded": True} for k in ("uplink", "downlink")},
    }.items():
        small = {"run": {"rounds": 2 if name == "dz" else 1}, "fleet": {"boards": 2}} | tables
        *one, rows = trained(KIND, tmp_path / f"{name} standard", **small)
        *all_, others = trained("inproc", tmp_path / f"{name} all", **small)
        assert one == all_
        assert_same_ledger(rows, others)


def test_a_codec_it_lacks_ends_the_run_before_a_round(tmp_path):
    need_digits()
    need_board(KIND)
    from quantfl.fleet import api

    for tables in ({"uplink": {"codec": "bq"}}, {"uplink": {"codec": "bu"}, "downlink": {"codec": "bq"}}):
        config = demo_config(run={"rounds": 2}, fleet={"boards": 1}, **tables)
        with pytest.raises(RunError, match="has no codec bq in its firmware, only fp32, bu, dz"):
            asyncio.run(
                api.run(config, base=DEMO_MODEL.parent, folder=tmp_path / str(len(tables)), kind=KIND)
            )


def test_it_says_what_it_has_and_the_host_asks_for_nothing_else(tmp_path):
    need_board(KIND)
    (board,) = boot_fleet(KIND, 1)
    package = convert(DEMO_MODEL).package

    async def go():
        async with Device(board.url) as device:
            info = await device.read_info()
            assert (info.codecs, info.kinds, info.operators) == (0x07, 0x02, 0xFFE)
            assert {p for p in ("keys", "stats", "personal", "log") if device.has(p)} == {"log"}
            assert await device.push(package)
            bq = config_bytes(FitConfig(), Codec("bq"), run_id=1, seed=1)
            own = config_bytes(FitConfig(holdout=5), Codec("dz"), run_id=1, seed=1, personal=True)
            requests = {
                "codec bq": lambda: device.configure(bq),
                "personalised heads": lambda: device.configure(own),
                "closed-form": lambda: device.sums(bytes((6, 6, 0, 0, 0, 0, 0, 0)), timeout=5.0),
                "keys": lambda: device.set_keys(bytes(32), None),
            }
            for what, request in requests.items():
                with pytest.raises(DeviceError, match=f"{what}.* in its firmware.*QFL_"):
                    await request()
            device.info = None  # a host that asks nevertheless is refused by the board itself
            for request in requests.values():
                with pytest.raises(DeviceError, match="refused") as error:
                    await request()
                assert error.value.status == lib.QFL_E_UNSUPPORTED
        async with asyncio.timeout(20):
            device = Device(board.url, keys=KeyRing.make(tmp_path / "keys.toml"))
            try:
                with pytest.raises(DeviceError, match="has no keys in its firmware"):
                    await provision(device)
            finally:
                await device.close()

    try:
        asyncio.run(go())
    finally:
        close_all([board])
