"""Every core gives the same bytes: kernels, training, whole rounds. M0 to M55, RV32IMC, LX106, in QEMU."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from quantfl.fleet import api
from quantfl.fleet.checkpoint import RunFolder
from quantfl.fleet.config import load
from quantfl.package import layout
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import compile_program
from tests.emulated.cases import CORES, Case, need_core, run_cases
from tests.emulated.test_same_bytes import assert_same_ledger, in_process, trained
from tests.support import DEMO_MODEL, ROOT, need_board, need_digits
from tests.unit.test_nn_models import structured
from tests.unit.test_nn_more_ops import all_cases as more_cases
from tests.unit.test_nn_ops import cases, convert, tf
from tests.unit.test_row_tiling import randomly_divided
from tests.unit.tflite_models import OPERATORS, Builder, Generator, NetGenerator, schema

pytest.importorskip("tflite_micro", reason="the tflite-micro wheel is not installed (Linux x86-64 only)")
pytestmark = pytest.mark.emulated
assert tf and in_process  # fixtures


def open_input(package: bytes) -> int:
    model = ModelFile(package)
    return model.tensors[model.inputs[0]].size


@pytest.fixture(scope="module")
def kernel_cases(tf):
    """Each generated model twice: as the host plans it, and with every tensor at an odd address."""
    found = []
    for name, shape, build in (*cases(), *(c[:3] for c in more_cases()[::3])):
        data = convert(tf, shape, build, sum(map(ord, name)))
        size = int(np.prod(shape))
        inputs = np.concatenate(
            [np.random.default_rng(3).integers(-128, 128, (4, size), np.int8), structured(size, 6)]
        )
        for shift in (0, 1 + len(found) % 15):
            found.append(Case(f"{name}+{shift}", compile_program(data, shift=shift), inputs))
    for operator in OPERATORS:
        for i in range(8):
            package = compile_program(getattr(Generator(100 * i + 7), operator)(), shift=(3 * i) % 16)
            size = open_input(package)
            inputs = np.random.default_rng(i).integers(-128, 128, (3, size), np.int8)
            found.append(Case(f"{operator} {i}", package, np.concatenate([inputs, structured(size, 2)])))
    with pytest.MonkeyPatch.context() as patch:
        for i in range(10):
            patch.setattr(layout, "choose", randomly_divided(np.random.default_rng(i)))
            package = compile_program(NetGenerator(i).net(), shift=(5 * i) % 16)
            inputs = np.random.default_rng(i).integers(-128, 128, (2, open_input(package)), np.int8)
            found.append(Case(f"row tiling {i}", package, inputs))
    for path in (DEMO_MODEL, ROOT / "models" / "micro" / "micro_int8.tflite"):
        model = ModelFile(path.read_bytes())
        size = model.tensors[model.inputs[0]].size
        for shift in (0, 3):
            package = compile_program(path.read_bytes(), shift=shift)
            found.append(
                Case(
                    f"{path.stem}+{shift}",
                    package,
                    np.random.default_rng(4).integers(-128, 128, (4, size), np.int8),
                )
            )
    return found


@pytest.mark.parametrize("core", CORES)
def test_kernels(core, kernel_cases, tmp_path):
    need_core(core)
    found = run_cases(core, kernel_cases, tmp_path)
    wrong, large = [], 0
    for case in kernel_cases:
        got = found[case.name]
        if isinstance(got, str):
            large += got == "too large"
            wrong += [f"{case.name}: {got}"] if got != "too large" else []
        elif (got != case.expected()).any():
            wrong.append(f"{case.name}: {int((got != case.expected()).sum())} of {got.size} bytes differ")
    assert not wrong
    # 16 KB of RAM hold package, arena and inputs of most cases; everything else holds all.
    assert large <= (len(kernel_cases) // 4 if core == "m0" else 0)


class OfChannels(Generator):
    """Models whose tensors have a given number of channels."""

    def __init__(self, seed: int, channels: int):
        super().__init__(seed)
        self.channels = lambda: channels


@pytest.mark.parametrize("core", ["m4", "m55"])
def test_every_number_of_channels(core, tmp_path):
    """1 to 33 channels and some more, tensors at any address: where vectors of 4, 8 and 16 lanes begin and
    end."""
    need_core(core)
    operators = (
        "conv_2d",
        "depthwise_conv_2d",
        "fully_connected",
        "add",
        "average_pool_2d",
        "max_pool_2d",
        "mean",
    )
    found = []
    for channels in (*range(1, 34), 47, 48, 64):
        for k, operator in enumerate(operators):
            seed = 1000 * channels + k
            package = compile_program(getattr(OfChannels(seed, channels), operator)(), shift=seed % 16)
            inputs = np.random.default_rng(seed).integers(-128, 128, (2, open_input(package)), np.int8)
            found.append(Case(f"{operator} of {channels} channels", package, inputs))
    got = run_cases(core, found, tmp_path)
    assert [
        c.name for c in found if isinstance(got[c.name], str) or (got[c.name] != c.expected()).any()
    ] == []


def roundings(seed: int) -> bytes:
    """A dense layer of one input, whose accumulators lie at, above and below halves of an output's step, at
    any scale."""
    rng, b, n = np.random.default_rng(seed), Builder(), 256
    scales = 2.0 ** -rng.integers(1, 25, n) * rng.choice([1.0, 1.0, 1.0 + 2.0**-20, 1.0 - 2.0**-20, 1.37], n)
    scales[::17] = 2.0 ** rng.integers(0, 3, len(scales[::17]))  # shifts to the left
    halves = rng.integers(-130, 131, n) + rng.choice([0.0, 0.5], n)
    bias = np.clip(np.round(halves / scales) + rng.integers(-1, 2, n), -(2**31) + 2**15, 2**31 - 2**15)
    scales = scales.astype(np.float32)
    x = b.add([1, 1], scales=1.0, zero=0)
    w = b.add([n, 1], scales=scales, data=rng.integers(-1, 2, (n, 1)).astype(np.int8))
    ids = [x, w, b.add([n], "int32", scales, 0, bias.astype(np.int32))]
    return b.finish(
        "FULLY_CONNECTED", ids, [b.add([1, n], scales=1.0, zero=0)], schema.FullyConnectedOptionsT()
    )


@pytest.mark.parametrize("core", ["m0", "m4", "m55", "rv32imc"])
def test_halves_are_rounded_alike(core, tmp_path):
    need_core(core)
    x = np.arange(-3, 4, dtype=np.int8)[:, None]
    found = [Case(f"seed {seed}", compile_program(roundings(seed)), x) for seed in range(40)]
    got = run_cases(core, found, tmp_path)
    assert [
        c.name for c in found if isinstance(got[c.name], str) or (got[c.name] != c.expected()).any()
    ] == []
    assert len({v for c in found for v in np.unique(c.expected()).tolist()}) == 256


@pytest.mark.parametrize("kind", ["qemu_m3", "qemu_m7", "qemu_m33", "qemu_m55", "qemu_rv32imc"])
def test_rounds(kind, in_process, tmp_path):
    """Three rounds of three boards: deltas, head and ledger equal those of boards inside this process."""
    need_board(kind)
    deltas, params, rows = trained(kind, tmp_path / "run")
    assert deltas == in_process[0] and params == in_process[1]
    assert_same_ledger(rows, in_process[2])


def test_rounds_in_16_kilobytes(tmp_path):
    """A micro:bit trains: deltas and head equal those of boards inside this process."""
    need_digits()
    need_board("qemu_m0")
    path = ROOT / "models" / "micro" / "micro.toml"
    found = []
    for kind in ("inproc", "qemu_m0"):
        asyncio.run(api.run(load(path), base=path.parent, folder=tmp_path / kind, kind=kind))
        state = RunFolder(tmp_path / kind).load()
        found.append(
            (
                [[b["delta_sha256"] for b in r["boards"].values()] for r in state.history[1:]],
                state.params.tobytes(),
            )
        )
        assert state.history[-1]["accuracy"] > 0.5
    assert found[0] == found[1]
