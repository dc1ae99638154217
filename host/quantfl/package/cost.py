"""What each possible cut costs a board: RAM, flash, bytes per round, instructions per sample, samples that
fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from quantfl.core.codec import Codec
from quantfl.core.head import Layer
from quantfl.core.nn import Engine, device_need
from quantfl.package import fit
from quantfl.package.boards import BOARDS, Board
from quantfl.package.cut import Cut, stages_of
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import Package, compile_program

#: Of which `ram` is said: smaller boards need less, as their message buffers are smaller.
LARGE = next(b for b in BOARDS if b.name == "qemu_m4")
_INPUTS = 4  # random ones, to see how many activations are 0


@dataclass(frozen=True)
class Cost:
    """One cut in one mode. ram: bytes of LARGE's arena for fit.SAMPLES cached samples; per_sample: bytes a
    cached sample takes; flash: the package. round_fp32, round_bu: bytes of a delta as float32 and as BU(64).
    insns: estimate for one sample forward and backward and its share of a step (batch 10) on Cortex-M4F.
    samples: that fit per board name; 0: the package does not fit.
    """

    cut: Cut
    ram: int
    per_sample: int
    flash: int
    round_fp32: int
    round_bu: int
    insns: int
    samples: dict[str, int]


#: Instructions on Cortex-M4F, fitted to those counted for the models in models/ and MLPerf Tiny's, and
#: rounded (a test): within a factor of 1.25 where convolutions are trained wholly, 1.5 for a dense layer
#: alone and in mode "scales". The error passed down per weight and pixel, by the last layer, by others, and
#: there for the share of outputs that are not 0; the step per parameter; what a sample costs beside.
_BACK_LAST, _BACK, _BACK_USED, _STEP, _SAMPLE = 4.3, 0.5, 7.0, 0.8, 1500.0


def _forward_and_gradient(outputs: int, used: float) -> float:
    """Per weight of a dense layer or of one pixel. used: share of the inputs that are not 0."""
    block = min(12, outputs)
    return used * (10.0 + 15.0 / block) + (1.0 - used) * 18.0 / block


def _one_dense(layer: Layer, used: float) -> float:
    """A head of one dense layer, of which boards take two samples at once (qfl_head_pair.c); from four
    outputs on they skip a feature that is 0 in both. used: share of the features that are not 0."""
    outputs = layer.out_shape[2]
    block = outputs / math.ceil(outputs / 5)
    taken = 1.0 - (1.0 - used) ** 2 if block > 3 else 1.0
    return 350.0 + 45.0 * outputs + taken * layer.weights * (6.3 + 5.8 / block) + 0.55 * sum(layer.tensors)


def used_inputs(package: Package, cut: Cut) -> tuple[float, ...]:
    """Share of the inputs of every layer of the head that are not 0, in the int8 model on random inputs."""
    model = ModelFile(package.original)
    engine = Engine(compile_program(model, row_tiling=False))
    made = {t: op.index for op in model.ops for t in op.outputs}
    shares = np.ones((_INPUTS, len(cut.layers)))
    for row, x in zip(
        shares,
        np.random.default_rng(1).integers(-128, 128, (_INPUTS, engine.nn.input_size), np.int8),
        strict=True,
    ):
        engine.set_input(x)
        for op in model.ops:
            engine.run_ops(op.index, op.index + 1)
            for i, stage in enumerate(stages_of(model, cut.op)):
                if made.get(stage.op.inputs[0]) == op.index:
                    row[i] = np.mean(engine.output(op.index) != model.tensors[stage.op.inputs[0]].zero_point)
    return tuple(float(v) for v in shares.mean(0))


def insns(layers: tuple[Layer, ...], used: tuple[float, ...]) -> int:
    """Estimated instructions of one sample on Cortex-M4F. used: of every layer, as `used_inputs` has it."""
    if len(layers) == 1 and layers[0].mode == "all" and layers[0].in_shape[:2] == (1, 1):
        return round(_one_dense(layers[0], used[0]))
    total = _SAMPLE + 75.0 * layers[-1].out_shape[2]
    for i, layer in enumerate(layers):
        pixels = layer.out_shape[0] * layer.out_shape[1]
        outputs, inputs = math.prod(layer.out_shape), math.prod(layer.in_shape)
        if not layer.weights:
            total += inputs * (30.0 if i else 12.0)
            continue
        macs = pixels * layer.weights
        if layer.mode == "scales":
            total += macs * (13.2 if layer.kind == "conv" else 23.0) + (
                macs * (6.3 if layer.kind == "conv" else 13.8) if i else 0
            )
        elif layer.kind == "depthwise":
            total += macs * (24.0 if i else 21.0)
        else:
            back = _BACK_LAST if i + 1 == len(layers) else _BACK + _BACK_USED * used[i + 1]
            total += macs * (_forward_and_gradient(layer.out_shape[2], used[i]) + (back if i else 0))
            if layer.kernel != (1, 1):
                total += pixels * layer.weights / layer.out_shape[2] * 20.0
        total += 10.0 * outputs + (12.0 * inputs if i else 0.0) + _STEP * sum(layer.tensors)
    return round(total)


def cost(package: Package, cut: Cut, *, boards: tuple[Board, ...] = BOARDS) -> Cost:
    """The cost of a package that was made with this cut."""
    rows = fit.check(package, boards=boards)
    fits = {r.board: r.max_samples if r.flash_needed <= r.flash and r.lacks is None else 0 for r in rows}
    tensors = tuple(n for layer in cut.layers for n in layer.tensors)
    ramp = np.linspace(-1.0, 1.0, cut.params, dtype=np.float32)
    return Cost(
        cut,
        fit.needed(package.data, LARGE),
        device_need(package.data, LARGE.arena)["per_sample"],
        len(package.data),
        4 * cut.params,
        len(Codec("bu", 64).encode(ramp, tensors)),
        insns(cut.layers, used_inputs(package, cut)),
        fits,
    )
