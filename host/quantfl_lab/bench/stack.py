"""How deep the stack of an emulated board gets in all that it does with keys; part of `quantfl bench
keys`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

import numpy as np

from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig, head_hash
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.emulation.base import ROOT
from quantfl.fleet.setup import load_package
from quantfl.link.keys import KeyRing
from quantfl.messages import config_bytes
from quantfl.provision import provision, rotate

MODEL = ROOT / "models" / "micro" / "micro_int8.tflite"
_SAMPLES = 12


def measured(kind: str = "qemu_m0", *, signed: bool = True) -> list[dict]:
    """Rows `board, after, signed, stack_bytes, used_bytes, margin_bytes`: since the board was started.
    signed: it knows its owner and checks packages. ToolError when it cannot be booted."""
    package = load_package(MODEL)
    (board,) = boot_fleet(kind, 1)
    rows: list[dict] = []

    def note(after: str) -> None:
        size, used = board.stack()
        row = {"board": kind, "after": after, "signed": signed, "stack_bytes": size, "used_bytes": used}
        rows.append(row | {"margin_bytes": size - used})

    async def go(ring: KeyRing) -> None:
        async with asyncio.timeout(120):
            device = Device(board.url, keys=ring)
            try:
                await provision(device, owner=signed)
                note("its first keys")
                await device.push(ring.sign(package.data) if signed else package.data, timeout=60)
                note("a package")
                rng = np.random.default_rng(1)
                x = rng.integers(-128, 128, (_SAMPLES, package.input_size), np.int8)
                board.feed(x, (np.arange(_SAMPLES) % package.dims[-1]).astype(np.uint16))
                await device.wait_samples(_SAMPLES, timeout=60)
                await device.configure(
                    config_bytes(FitConfig(lr=0.01, epochs=2), Codec("dz", step=4.0), run_id=1, seed=1)
                )
                await device.train(1, head_hash(package.params), timeout=60)
                note("a round")
                board.reset()
                while (
                    info := await device.read_info(30)
                ).uptime_ms > 20_000 or "keeps rounds" not in info.persisted:
                    await asyncio.sleep(0.2)
                note("a reset")
                await rotate(device, owner=False, timeout=60)  # the owner signs it, where there is one
                note("its owner's leave")
            finally:
                await device.close()

    try:
        with tempfile.TemporaryDirectory() as folder:
            asyncio.run(go(KeyRing.make(Path(folder) / "keys.toml")))
    finally:
        close_all([board])
    return rows
