"""What each possible cut costs a board: RAM, flash, bytes per round, instructions per sample, samples that fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantfl.core.codec import Codec
from quantfl.core.head import Layer
from quantfl.core.nn import device_need
from quantfl.package.boards import BOARDS, Board
from quantfl.package.cut import Cut
from quantfl.package.fit import SAMPLES


@dataclass(frozen=True)
class Cost:
    """One cut in one mode. ram: bytes of arena for SAMPLES cached samples; per_sample: bytes a cached sample takes; flash: the
    package. round_fp32, round_bu: bytes of a delta as float32 and as BU(64). insns: estimate for one sample forward and backward and
    its share of a step (batch 10) on Cortex-M4F. samples: that fit per board name; 0: the package does not fit.
    """

    cut: Cut
    ram: int
    per_sample: int
    flash: int
    round_fp32: int
    round_bu: int
    insns: int
    samples: dict[str, int]


#: Instructions on Cortex-M4F, fitted to `quantfl bench train` and rounded: the error passed down per weight and pixel, the step per
#: parameter, what a sample costs beside. How many inputs are 0, and so skipped, is the data's own; the estimate is within a factor of
#: 1.5 for the models in models/ (a test), and may be 2.5 times too high where nearly all activations are 0.
_BACK, _STEP, _SAMPLE = 4.3, 0.8, 1500.0


def _forward_and_gradient(outputs: int, dense: bool) -> float:
    """Per weight of a dense layer or of one pixel; one in five of a dense layer's inputs and two in five of a pixel's count as 0."""
    used, block = 0.8 if dense else 0.6, min(12, outputs)
    return used * (7.0 + 15.0 / block) + (1.0 - used) * 12.0 / block


def _one_dense(layer: Layer) -> float:
    """A head of one dense layer, of which boards take two samples at once (qfl_head_pair.c)."""
    outputs = layer.out_shape[2]
    block = outputs / math.ceil(outputs / 5)
    return 350.0 + 45.0 * outputs + layer.weights * (4.3 + 14.0 / block) + _STEP * sum(layer.tensors)


def insns(layers: tuple[Layer, ...]) -> int:
    """Estimated instructions of one sample on Cortex-M4F."""
    if len(layers) == 1 and layers[0].mode == "all" and layers[0].in_shape[:2] == (1, 1):
        return round(_one_dense(layers[0]))
    total = _SAMPLE + 75.0 * layers[-1].out_shape[2]
    for i, layer in enumerate(layers):
        pixels = layer.out_shape[0] * layer.out_shape[1]
        outputs, inputs = math.prod(layer.out_shape), math.prod(layer.in_shape)
        if not layer.weights:
            total += inputs * (30.0 if i else 12.0)
            continue
        macs = pixels * layer.weights
        if layer.mode == "scales":
            total += macs * (11.5 if layer.kind == "conv" else 20.0) + (macs * (5.5 if layer.kind == "conv" else 12.0) if i else 0)
        elif layer.kind == "depthwise":
            total += macs * (24.0 if i else 21.0)
        else:
            total += macs * (_forward_and_gradient(layer.out_shape[2], pixels == 1) + (_BACK if i else 0))
            if layer.kernel != (1, 1):
                total += pixels * layer.weights / layer.out_shape[2] * 20.0
        total += 10.0 * outputs + (12.0 * inputs if i else 0.0) + _STEP * sum(layer.tensors)
    return round(total)


def cost(package: bytes, cut: Cut, *, boards: tuple[Board, ...] = BOARDS) -> Cost:
    """The cost of a package that was made with this cut."""
    needs = {b.name: device_need(package, b.arena) for b in boards}
    one = needs[boards[0].name]
    fits = {b.name: needs[b.name]["capacity"] if len(package) <= b.slot else 0 for b in boards}
    tensors = tuple(n for layer in cut.layers for n in layer.tensors)
    ramp = np.linspace(-1.0, 1.0, cut.params, dtype=np.float32)
    return Cost(
        cut, one["fixed"] + one["params"] + one["activations"] + 16 + SAMPLES * one["per_sample"], one["per_sample"],
        len(package), 4 * cut.params, len(Codec("bu", 64).encode(ramp, tensors)), insns(cut.layers), fits,
    )  # fmt: skip
