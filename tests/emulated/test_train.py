"""Heads beyond dense layers on boards: the same bytes as the library in this process, features cached or
computed again."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from quantfl.core.codec import Codec
from quantfl.core.head import FitConfig, dense_layers, head_hash
from quantfl.core.nn import Engine, device_need
from quantfl.device import Device
from quantfl.emulation import boot_fleet, close_all
from quantfl.errors import ToolError
from quantfl.fleet import api
from quantfl.messages import config_bytes
from quantfl.package.convert import convert, convert_bytes
from quantfl.package.cost import insns, used_inputs
from quantfl.package.cut import HeadSpec
from quantfl.package.program import compile_program, open_package
from quantfl_lab.bench.engine import count
from quantfl_lab.bench.headless import dense_model
from tests.emulated.cases import need_core
from tests.support import DEMO_MODEL, ROOT, demo_config, need_board, need_digits, shared_data

pytestmark = pytest.mark.emulated

FORMS = {
    "separable block": {"cut": "2"},
    "whole model": {"cut": "0"},
    "scales": {"cut": "2", "train": "scales"},
    "scales and head": {"cut": "1", "train": "scales+head"},
    "inputs cached": {"cut": "2", "recompute": True},
}
FIT = FitConfig(lr=0.01, momentum=0.9, epochs=2, batch=4, holdout=4)


def samples(n: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    return rng.integers(-128, 128, (n, 64), np.int8), rng.integers(0, 10, n).astype(np.uint16)


@pytest.mark.parametrize("kind", ["native", "qemu_m4", "inproc"])
def test_a_round_equals_the_library(kind):
    """Delta and both evaluations, for every form of head, byte for byte."""
    need_board(kind)
    x, y = samples(24)

    async def one(form: str, board) -> None:
        package = convert(DEMO_MODEL, **FORMS[form]).package
        p = open_package(package)
        head, features = p.head, Engine(package).run_batch(x)
        async with Device(board.url) as device:
            info = await device.read_info()
            await device.push(package)
            board.feed(x, y)
            await device.wait_samples(24, timeout=30)
            info = await device.read_info()
            assert (info.params, info.classes, info.features) == (head.params, 10, p.feature_count)
            await device.configure(config_bytes(FIT, Codec("fp32"), run_id=1, seed=7))
            delta = await device.train(3, head_hash(p.params), timeout=120)
            got = np.frombuffer(delta.data[-4 * head.params :], "<f4")
            seed = 7 ^ (3 * 0x9E3779B9 & 0xFFFFFFFF)
            trained, _ = head.fit(p.params, features, y, FitConfig(**{**FIT.__dict__, "seed": seed}))
            assert got.tobytes() == (trained - p.params).tobytes(), form
            assert await device.evaluate() == head.evaluate(p.params, features, y), form
            held = await device.evaluate(held_back=True)
            assert held == head.evaluate(p.params, features[3::4], y[3::4]), form

    for form in FORMS:
        (board,) = boot_fleet(kind, 1)
        try:
            asyncio.run(one(form, board))
        finally:
            close_all([board])


def test_caching_inputs_leaves_room_for_more_samples():
    """64 bytes of input against 512 of features."""
    features, inputs = (
        device_need(convert(DEMO_MODEL, cut="2", recompute=r).package, 1 << 18) for r in (False, True)
    )
    assert features["per_sample"] == 514 and inputs["per_sample"] == 66
    assert inputs["capacity"] > 7 * features["capacity"]


def test_scales_need_a_fraction_of_the_memory():
    whole, scales = (
        device_need(convert(DEMO_MODEL, cut="1", train=t).package, 1 << 18) for t in ("all", "scales")
    )
    assert scales["params"] < 0.05 * whole["params"]


@pytest.mark.parametrize("recompute", [False, True], ids=["features", "inputs"])
@pytest.mark.parametrize("kind", ["inproc", "qemu_m4"])
def test_a_board_keeps_the_better_head(kind, recompute):
    """Own head, counts in the status, and a delta that is what it is without; the same decisions stated in
    Python."""
    need_board(kind)
    package = convert(DEMO_MODEL, recompute=recompute).package
    p = open_package(package)
    x, _ = samples(60)
    features, head = Engine(package).run_batch(x), p.head
    y = np.where(np.arange(60) % 3 == 0, 4, 7).astype(np.uint16)  # this board's own habit
    (board,) = boot_fleet(kind, 1)

    def score(params):
        s = head.evaluate(params, features[3::4], y[3::4])
        return s.correct, -s.loss

    async def go() -> None:
        async with Device(board.url) as device:
            await device.read_info()
            await device.push(package)
            room = (await device.read_info()).capacity
            board.feed(x, y)
            await device.wait_samples(60, timeout=30)
            await device.configure(config_bytes(FIT, Codec("fp32"), run_id=1, seed=7, personal=True))
            assert (await device.read_info()).capacity < room
            status = await device.status()
            assert (status.personalised, status.held) == (False, 0)
            fitted = []
            for round_ in (1, 2):
                delta = await device.train(round_, head_hash(p.params), timeout=120)
                seed = 7 ^ (round_ * 0x9E3779B9 & 0xFFFFFFFF)
                trained, _ = head.fit(p.params, features, y, FitConfig(**{**FIT.__dict__, "seed": seed}))
                assert delta.data[-4 * head.params :] == (trained - p.params).tobytes()
                fitted.append(trained)
                status = await device.status()
                best = max([p.params, *fitted], key=score)
                assert (status.personalised, status.held) == (True, 15)
                assert (status.global_hits, status.hits) == (score(p.params)[0], score(best)[0])
                assert status.hits > status.global_hits
            assert await device.evaluate(in_use=True) == head.evaluate(best, features, y)
            assert await device.evaluate(held_back=True) == head.evaluate(p.params, features[3::4], y[3::4])
            assert await device.evaluate() == head.evaluate(p.params, features, y)
            # A global head that is better for this board: its own is given up.
            ideal, _ = head.fit(best, features[3::4], y[3::4], FitConfig(lr=0.01, epochs=40, batch=4))
            assert score(ideal) > score(best)
            await device.put_head(ideal.tobytes())
            await device.evaluate(held_back=True)
            status = await device.status()
            assert not status.personalised and status.hits == status.global_hits == score(ideal)[0]
            # Given back when it is no longer asked for.
            await device.configure(config_bytes(FIT, Codec("fp32"), run_id=2, seed=7))
            assert (await device.read_info()).capacity == room and not (await device.status()).personalised

    try:
        asyncio.run(go())
    finally:
        close_all([board])


def test_a_personal_run_reports_own_heads(tmp_path):
    need_digits()
    train = {"holdout": 5, "personal": True}
    config = demo_config(run={"rounds": 3}, fleet={"boards": 3, "emulate": "inproc"}, train=train)
    outcome = asyncio.run(api.run(config, base=DEMO_MODEL.parent, folder=tmp_path / "run", kind="inproc"))
    own = outcome.summary["personalised_heads"]
    assert len(own) == 3 and all(b["held"] > 0 and b["in_use"] >= b["global"] for b in own.values())
    plain = demo_config(run={"rounds": 3}, fleet={"boards": 3, "emulate": "inproc"}, train={"holdout": 5})
    other = asyncio.run(api.run(plain, base=DEMO_MODEL.parent, folder=tmp_path / "plain", kind="inproc"))
    assert other.summary["personalised_heads"] == {} and other.summary["head"] == outcome.summary["head"]


@pytest.mark.parametrize("model", ["digits", "activity", "femnist_pooled"])
def test_estimated_instructions_are_near_those_counted(model):
    """`convert --cuts` prints an estimate; the emulated Cortex-M4F is what it stands for."""
    need_board("qemu_m4")
    data = (ROOT / "models" / model / f"{model}_int8.tflite").read_bytes()
    for option in convert_bytes(data, source=model).cuts[:3]:
        for train in ("all", "scales"):
            done = convert_bytes(data, source=model, cut=str(option.op), train=train)
            size = open_package(done.package).input_size
            counted = count(done.package, np.random.default_rng(1).integers(-128, 128, (10, size), np.int8))
            estimate = insns(done.cut.layers, used_inputs(done.opened, done.cut))
            bound = 1.25 if train == "all" and len(done.cut.layers) > 1 else 1.5
            assert 1 / bound < 10 * estimate / counted.train_insns < bound, (
                option.text,
                train,
                estimate,
                counted.train_insns,
            )


def test_estimated_instructions_where_nearly_all_activations_are_zero():
    need_board("qemu_m4")
    data = (shared_data("models/mlperf_tiny") / "vww_96_int8.tflite").read_bytes()
    done = convert_bytes(data, source="vww", cut="25")
    counted = count(done.package, np.random.default_rng(1).integers(-128, 128, (10, 27648), np.int8))
    assert (
        1 / 1.25
        < 10 * insns(done.cut.layers, used_inputs(done.opened, done.cut)) / counted.train_insns
        < 1.25
    )


def test_one_dense_layer_meets_its_bounds():
    """At most 12 instructions per weight and sample, and 4 (F + K) + 512 bytes beside parameters, momentum
    and features."""
    need_board("qemu_m4")
    package = convert(DEMO_MODEL).package
    counted = count(package, np.random.default_rng(1).integers(-128, 128, (10, 64), np.int8))
    assert counted.train_insns <= 12 * 10 * 1290
    assert counted.train_ram <= 4 * (128 + 10) + 512


def test_dense_layers_of_any_number_of_classes_meet_their_bounds():
    """At most 12 instructions per weight and sample, features none of which is 0, everything counted."""
    need_board("qemu_m4")
    from quantfl_lab.bench.train import dense

    for features, classes in ((64, 2), (64, 3), (64, 4), (64, 7), (64, 62), (128, 2), (256, 2), (256, 3)):
        row = dense(features, classes)
        assert row["insns_per_weight"] <= 12, (features, classes, row["insns_per_weight"])
        assert row["ram_bytes"] <= 4 * (features + classes) + 512


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 7, 10])
def test_the_trained_bits_of_dense_layers_are_the_same_in_the_bench_firmware(classes):
    """Rows loaded and stored as one instruction: zeros, a stride beyond the block, a batch that is not
    even."""
    need_board("qemu_m4")
    rng, zero = np.random.default_rng(classes), -5
    params = rng.normal(0, 0.1, 69 * classes).astype(np.float32)
    head = HeadSpec(dense_layers((68, classes)), params)
    package = compile_program(
        dense_model((68, classes), 0.02, zero), cut_op=0, head=head, name="head", source="a head alone"
    )
    x = np.where(rng.random((9, 68)) < 0.3, zero, rng.integers(-128, 128, (9, 68))).astype(np.int8)
    x[:, 8:16] = zero
    y = np.arange(9, dtype=np.uint16) % classes
    p = open_package(package)
    trained, _ = p.head.fit(p.params, x, y, FitConfig(lr=0.001, momentum=0.9, epochs=1, batch=10, seed=1))
    assert count(package, x).train_sum == checksum(trained)


def checksum(params: np.ndarray) -> int:
    """firmware/bench/main.c's train_sum."""
    total = 0
    for word in params.view(np.uint32).tolist():
        total = ((total << 5 | total >> 27) & 0xFFFFFFFF) ^ word
    return total


@pytest.mark.parametrize("core", ["m4", "m55"])
@pytest.mark.parametrize("features", [64, 63], ids=["two samples at once", "one"])
def test_subnormal_numbers_are_not_flushed(core, features):
    """Gradients and steps below 2^-126. Helium's float vectors would flush them: a compiler must not use
    these."""
    need_core(core)
    classes, rng = 16, np.random.default_rng(1)
    params = np.zeros((features + 1) * classes, np.float32)
    params[-classes] = 15.0
    head = HeadSpec(dense_layers((features, classes)), params)
    package = compile_program(
        dense_model((features, classes), 1e-24, -5), cut_op=0, head=head, name="head", source="a head alone"
    )
    x = (rng.integers(-4, 5, (10, features)) - 5).astype(np.int8)
    config = FitConfig(lr=0.001, momentum=0.9, epochs=1, batch=10, seed=1)
    p = open_package(package)
    trained, _ = p.head.fit(p.params, x, np.arange(10, dtype=np.uint16), config)
    assert ((trained != 0) & (np.abs(trained) < np.finfo(np.float32).tiny)).any()
    try:
        assert count(package, x, env=f"bench_{core}").train_sum == checksum(trained)
    except ToolError as error:
        pytest.skip(str(error))


def test_the_trained_bits_are_the_same_in_the_bench_firmware():
    """The M4's parameters after an epoch, by checksum, for a convolutional head."""
    need_board("qemu_m4")
    package = convert(DEMO_MODEL, cut="1").package
    x = np.random.default_rng(1).integers(-128, 128, (10, 64), np.int8)
    counted, p = count(package, x), open_package(package)
    y = np.arange(10, dtype=np.uint16)
    trained, _ = p.head.fit(
        p.params,
        Engine(package).run_batch(x),
        y,
        FitConfig(lr=0.001, momentum=0.9, epochs=1, batch=10, seed=1),
    )
    assert counted.train_sum == checksum(trained)
