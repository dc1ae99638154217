"""Push a model to a board, and let the board score it on its own samples.

    python examples/push_and_evaluate.py [MODEL.tflite]

MODEL: a full int8 .tflite for images of 8 x 8. Without it, the model of models/digits.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import quantfl
from quantfl.data.dataset import digits_arrays
from quantfl.data.quantise import to_int8

MODEL = Path(__file__).resolve().parents[1] / "models/digits/digits_int8.tflite"


async def visit(board, package: quantfl.Package) -> None:
    """Push, feed 200 samples as a sensor would, and evaluate."""
    images, labels = digits_arrays()  # float32 [1797, 8, 8, 1], 0 to 255
    x = to_int8(images[:200], package.input_scale, package.input_zero_point, package.input_size)
    async with quantfl.Device(board.url) as device:
        await device.read_info()
        moved = await device.push(package.data)
        print("pushed" if moved else "the board has this package already")
        board.feed(x, labels[:200])
        status = await device.wait_samples(200, timeout=30)
        score = await device.evaluate()
        print(f"{score.correct} of {status.samples} right, loss {score.loss:.3f}")
        traffic = device.counters()
        print(f"{traffic.tx_payload:,} bytes of messages sent, {traffic.rx_payload:,} received")


package = quantfl.convert(sys.argv[1] if len(sys.argv) > 1 else MODEL)
print(f"package of {len(package.data):,} bytes, head {package.dims}")
with quantfl.emulate(1, kind="inproc") as boards:
    asyncio.run(visit(boards[0], package))
