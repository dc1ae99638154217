"""One federated round, step by step, without the round loop.

    python examples/one_round_by_hand.py

Two boards train on digits of their own. Their deltas are decoded, averaged, and sent back as a new head.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np

import quantfl
from quantfl.core.codec import decode
from quantfl.core.head import FitConfig, head_hash
from quantfl.data import load
from quantfl.data.quantise import to_int8
from quantfl.messages import config_bytes

MODEL = Path(__file__).resolve().parents[1] / "models/digits/digits_int8.tflite"
FIT = FitConfig(lr=0.003, momentum=0.9, epochs=4, batch=10)
CODEC = quantfl.Codec("dz", step=2.0)  # steps of twice the root mean square of a delta


async def train(board, package: quantfl.Package, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, int]:
    """Set the board up and train one round. Returns its delta, float32 [params], and its samples."""
    async with quantfl.Device(board.url) as device:
        await device.read_info()
        await device.push(package.data)
        await device.configure(config_bytes(FIT, CODEC, run_id=1, seed=1))
        board.feed(x, y)
        await device.wait_samples(len(y), timeout=30)
        before = await device.evaluate()
        delta = await device.train(1, head_hash(package.params), timeout=60)
        print(f"{board.name}: {before.correct} of {before.count} right, delta of {len(delta.data)} bytes")
        return decode(delta.data, package.head.tensors), delta.samples


async def score(board, params: np.ndarray) -> None:
    """Give the board the new head, and let it evaluate it."""
    async with quantfl.Device(board.url) as device:
        await device.read_info()
        await device.put_head(params.tobytes())
        found = await device.evaluate()
        print(f"{board.name}: {found.correct} of {found.count} right with the new head")


async def one_round(boards, package: quantfl.Package) -> None:
    """150 samples on one board, 100 others on the other."""
    digits = load("digits")
    x = to_int8(digits.x_train, package.input_scale, package.input_zero_point, package.input_size)
    parts = [slice(0, 150), slice(150, 250)]
    work = [train(b, package, x[p], digits.y_train[p]) for b, p in zip(boards, parts, strict=True)]
    deltas, samples = zip(*await asyncio.gather(*work), strict=True)
    mean = np.average(deltas, axis=0, weights=samples)  # FedAvg: weighted by the number of samples
    head = (package.params + mean).astype(np.float32)
    await asyncio.gather(*(score(board, head) for board in boards))


with quantfl.emulate(2, kind="inproc") as boards:
    asyncio.run(one_round(boards, quantfl.convert(MODEL)))
