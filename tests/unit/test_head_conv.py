"""qfl_head beyond dense layers: every kind of layer against a plain float64 statement of it, gradients by
finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantfl.core import lib
from quantfl.core.head import FitConfig, Head, Layer, head_hash

SCALE, ZERO = 0.05, -9


def conv(i, o, k=(1, 1), stride=(1, 1), pad=(0, 0), out=None, act="relu", mode="all", kind="conv"):
    out = out or (i[0], i[1])
    return Layer(kind, i, (*out, o), k, stride, pad, act, mode)


def dense(f, k, act="linear", mode="all"):
    return Layer("conv", (1, 1, f), (1, 1, k), activation=act, mode=mode)


def pool(kind, i, k, stride, out, pad=(0, 0)):
    return Layer(kind, i, (*out, i[2]), k, stride, pad)


STACKS = {
    "pointwise, global average": [
        conv((3, 4, 5), 7),
        pool("average", (3, 4, 7), (3, 4), (1, 1), (1, 1)),
        dense(7, 3),
    ],
    "separable block, relu6": [
        conv((4, 4, 3), 3, (3, 3), pad=(1, 1), kind="depthwise", act="relu6"),
        conv((4, 4, 3), 6, act="relu6"),
        pool("average", (4, 4, 6), (4, 4), (1, 1), (1, 1)),
        dense(6, 4),
    ],
    "depthwise above pointwise, stride 2": [
        conv((5, 4, 3), 4, act="relu6"),
        conv((5, 4, 4), 4, (3, 3), (2, 2), (1, 0), (3, 2), kind="depthwise"),
        conv((3, 2, 4), 5),
        pool("average", (3, 2, 5), (3, 2), (1, 1), (1, 1)),
        dense(5, 3),
    ],
    "3x3 above 3x3": [
        conv((5, 5, 2), 3, (3, 3), pad=(1, 1)),
        conv((5, 5, 3), 4, (3, 3), (2, 2), (1, 1), (3, 3)),
        dense(36, 5, "relu"),
        dense(5, 2),
    ],
    "maximum pool that leaves a border": [
        conv((7, 7, 2), 3, (3, 3), out=(5, 5)),
        pool("maximum", (5, 5, 3), (2, 2), (2, 2), (2, 2)),
        dense(12, 4),
    ],
    "average pool with padding": [
        conv((5, 5, 2), 3),
        pool("average", (5, 5, 3), (2, 2), (2, 2), (3, 3), (1, 1)),
        dense(27, 4),
    ],
    "one dimension": [
        conv((1, 9, 4), 6, (1, 5), (1, 2), (0, 2), (1, 5)),
        pool("average", (1, 5, 6), (1, 5), (1, 1), (1, 1)),
        dense(6, 3),
    ],
    "strided 1x1, linear": [
        conv((5, 5, 3), 4),
        conv((5, 5, 4), 3, (1, 1), (2, 2), out=(3, 3), act="linear"),
        dense(27, 3),
    ],
    "a convolution as the last layer": [
        conv((3, 3, 4), 5),
        conv((3, 3, 5), 3, (3, 3), out=(1, 1), act="linear"),
    ],
    "pool first": [pool("maximum", (4, 4, 3), (2, 2), (2, 2), (2, 2)), dense(12, 3)],
}


def frozen(layers):
    """The layers in mode "scales" with int8 kernels and scales in a made-up package: (layers, package)."""
    rng, out, base = np.random.default_rng(3), [], bytearray(16)
    for layer in layers:
        if layer.weights:
            at = len(base)
            base += rng.integers(-128, 128, layer.weights, np.int8).tobytes()
            base += bytes(-len(base) % 4)
            scales = len(base)
            base += rng.uniform(0.002, 0.006, layer.out_shape[2]).astype("<f4").tobytes()
            layer = Layer(
                layer.kind,
                layer.in_shape,
                layer.out_shape,
                layer.kernel,
                layer.stride,
                layer.pad,
                layer.activation,
                "scales",
                at,
                scales,
            )
        out.append(layer)
    return out, bytes(base)


def make(layers, base=b"", seed=1, n=6):
    rng = np.random.default_rng(seed)
    dims = (math.prod(layers[0].in_shape), *(math.prod(x.out_shape) for x in layers))
    head = Head(dims, SCALE, ZERO, tuple(layers), base)
    w = (rng.normal(size=head.params) * 0.4).astype(np.float32)
    q = rng.integers(-128, 128, (n, dims[0]), np.int8)
    q[:, ::5] = ZERO
    return head, w, q, rng.integers(0, dims[-1], n).astype(np.uint16)


def kernel_of(layer, part, base):
    """float64 [k_h, k_w, in, out] (depthwise [k_h, k_w, channels])."""
    out = layer.out_shape[2]
    shape = (*layer.kernel, out) if layer.kind == "depthwise" else (*layer.kernel, layer.in_shape[2], out)
    if layer.mode == "all":
        return part.reshape(shape)
    q = np.frombuffer(base, np.int8, layer.weights, layer.frozen).astype(np.float64)
    scales = np.frombuffer(base, "<f4", out, layer.scales).astype(np.float64)
    if layer.kind == "depthwise":
        return q.reshape(shape) * scales * part
    return np.moveaxis(q.reshape(out, *shape[:3]), 0, -1) * scales * part


def forward64(layers, w, x, base=b""):
    """Logits in float64, loop by loop."""
    at = 0
    for layer in layers:
        x = x.reshape(layer.in_shape)
        y = np.zeros(layer.out_shape)
        kernel = bias = None
        if layer.weights:
            n, out = layer.tensors
            kernel, bias = kernel_of(layer, w[at : at + n], base), w[at + n : at + n + out]
            at += n + out
        for oy in range(y.shape[0]):
            for ox in range(y.shape[1]):
                taps = []
                for i in range(layer.kernel[0]):
                    for j in range(layer.kernel[1]):
                        r, c = (
                            oy * layer.stride[0] + i - layer.pad[0],
                            ox * layer.stride[1] + j - layer.pad[1],
                        )
                        if 0 <= r < x.shape[0] and 0 <= c < x.shape[1]:
                            taps.append((i, j, x[r, c]))
                if layer.kind == "conv":
                    y[oy, ox] = bias + sum(v @ kernel[i, j] for i, j, v in taps)
                elif layer.kind == "depthwise":
                    y[oy, ox] = bias + sum(v * kernel[i, j] for i, j, v in taps)
                else:
                    values = np.stack([v for _, _, v in taps])
                    y[oy, ox] = values.mean(0) if layer.kind == "average" else values.max(0)
        x = {"linear": y, "relu": np.maximum(y, 0), "relu6": np.clip(y, 0, 6)}[layer.activation]
    return x.reshape(-1)


def loss64(layers, w, x, label, base=b"") -> float:
    z = forward64(layers, w, x, base)
    z = z - z.max()
    return float(np.log(np.exp(z).sum()) - z[label])


@pytest.mark.parametrize("scales", [False, True], ids=["all", "scales"])
@pytest.mark.parametrize("name", STACKS)
def test_forward_and_gradient(name, scales):
    layers, base = frozen(STACKS[name]) if scales else (STACKS[name], b"")
    head, w, q, y = make(layers, base)
    w64 = w.astype(np.float64)
    rng = np.random.default_rng(0)
    for row, label in zip(q[:3], y, strict=False):
        x = (row.astype(np.float64) - ZERO) * float(np.float32(SCALE))
        np.testing.assert_allclose(
            head.logits(w, row[None])[0], forward64(layers, w64, x, base), rtol=1e-4, atol=1e-4
        )
        loss, g = head.gradient(w, row, int(label), 0.5)
        assert math.isclose(loss, loss64(layers, w64, x, label, base), rel_tol=1e-4, abs_tol=1e-4)
        for i in rng.choice(head.params, min(head.params, 40), replace=False):
            e = 1e-6
            up, down = w64.copy(), w64.copy()
            up[i] += e
            down[i] -= e
            numeric = (
                0.5 * (loss64(layers, up, x, label, base) - loss64(layers, down, x, label, base)) / (2 * e)
            )
            assert abs(g[i] - numeric) < 1e-3 * (1 + abs(numeric)), (i, g[i], numeric)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_random_stacks(data):
    """Two windowed layers of random geometry, pooled or flattened: forward and gradient against float64."""
    draw = data.draw
    shape, layers = (draw(st.integers(1, 6)), draw(st.integers(1, 6)), draw(st.integers(1, 9))), []
    for _ in range(draw(st.integers(1, 2))):
        kind = draw(st.sampled_from(["conv", "depthwise", "maximum", "average"]))
        kernel = tuple(draw(st.integers(1, n)) for n in shape[:2])
        stride = tuple(draw(st.integers(1 if kind in ("conv", "depthwise") else k, k + 1)) for k in kernel)
        pad = tuple(draw(st.integers(0, k - 1)) for k in kernel)
        out = tuple((n + 2 * p - k) // s + 1 for n, p, k, s in zip(shape, pad, kernel, stride, strict=False))
        out = tuple(min(o, (n - 1 + p) // s + 1) for o, n, p, s in zip(out, shape, pad, stride, strict=False))
        channels = draw(st.integers(1, 9)) if kind == "conv" else shape[2]
        act = (
            draw(st.sampled_from(["linear", "relu", "relu6"])) if kind in ("conv", "depthwise") else "linear"
        )
        layers.append(Layer(kind, shape, (*out, channels), kernel, stride, pad, act))
        shape = (*out, channels)
    layers.append(dense(math.prod(shape), 3))
    base = b""
    if draw(st.booleans()):
        layers, base = frozen(layers)
    head, w, q, y = make(layers, base, seed=draw(st.integers(0, 99)), n=1)
    x, w64 = (q[0].astype(np.float64) - ZERO) * float(np.float32(SCALE)), w.astype(np.float64)
    loss, g = head.gradient(w, q[0], int(y[0]))
    assert math.isclose(loss, loss64(layers, w64, x, y[0], base), rel_tol=1e-4, abs_tol=1e-3)
    direction = np.random.default_rng(1).normal(size=head.params)
    e, ends = 1e-7, []
    for s in (e, -e):
        ends.append(loss64(layers, w64 + s * direction, x, y[0], base))
    numeric = (ends[0] - ends[1]) / (2 * e)
    size = float(np.linalg.norm(g)) + 1.0
    assert abs(float(g @ direction) - numeric) < 2e-3 * size, (g @ direction, numeric)


@pytest.mark.parametrize("name", ["separable block, relu6", "3x3 above 3x3"])
def test_fit_equals_sgd_in_float64(name):
    layers = STACKS[name]
    head, w, q, y = make(layers, n=11)
    got, _ = head.fit(w, q, y, FitConfig(lr=0.02, momentum=0.9, epochs=2, batch=4, seed=9))
    w64, v = w.astype(np.float64), np.zeros(head.params)
    x = (q.astype(np.float64) - ZERO) * float(np.float32(SCALE))

    def gradient(i):
        g = np.zeros(head.params)
        for p in range(head.params):
            e = np.zeros(head.params)
            e[p] = 1e-6
            g[p] = (loss64(layers, w64 + e, x[i], y[i]) - loss64(layers, w64 - e, x[i], y[i])) / 2e-6
        return g

    for epoch in range(2):
        order = [lib.qfl_head_order(9, epoch, 11, i) for i in range(11)]
        for at in range(0, 11, 4):
            batch = order[at : at + 4]
            v = 0.9 * v + sum(gradient(i) for i in batch) / len(batch)
            w64 = w64 - 0.02 * v
    np.testing.assert_allclose(got, w64, rtol=5e-3, atol=2e-4)


def test_scratch_of_dense_layers_is_their_outputs():
    assert Head((64, 10), 1.0, 0).scratch_bytes == 4 * 2 * 10  # two samples at once
    assert Head((63, 10), 1.0, 0).scratch_bytes == 4 * 10
    assert Head((64, 20, 10), 1.0, 0).scratch_bytes == 4 * (20 + 10)


BAD = {
    "shapes that do not meet": [conv((3, 3, 2), 4), dense(35, 3)],
    "more than one pixel at the end": [conv((3, 3, 2), 4, act="linear")],
    "an activation at the end": [dense(4, 3, "relu")],
    "a pool at the end": [pool("average", (2, 2, 3), (2, 2), (1, 1), (1, 1))],
    "pool windows that overlap": [pool("average", (4, 4, 2), (3, 3), (1, 1), (2, 2)), dense(8, 2)],
    "a window beyond the image": [conv((3, 3, 2), 4, (3, 3), (2, 2), out=(3, 3)), dense(36, 2)],
    "a depthwise layer that changes the channels": [
        Layer("depthwise", (3, 3, 2), (3, 3, 4), (3, 3), pad=(1, 1)),
        dense(36, 2),
    ],
    "no channels": [conv((3, 3, 0), 4), dense(36, 3)],
    "too many layers": [dense(4, 4, "relu")] * 12 + [dense(4, 4)],
    "too many trained layers": [dense(4, 4, "relu")] * 8 + [dense(4, 4)],
    "a kernel outside of the package": [dense(4, 3, mode="scales")],
}


@pytest.mark.parametrize("name", BAD)
def test_damaged_lists_are_refused(name):
    layers = BAD[name]
    with pytest.raises(ValueError, match=r"out of range|layers"):
        _ = Head((math.prod(layers[0].in_shape), 3), 1.0, 0, tuple(layers)).params


def test_bytes_of_a_fit_are_pinned():
    """The same on every processor: tests/emulated/test_train.py compares boards with this code."""
    head, w, q, y = make(STACKS["separable block, relu6"], n=20)
    trained, _ = head.fit(w, q, y, FitConfig(lr=0.05, momentum=0.9, epochs=2, batch=5, seed=3))
    assert head_hash(trained) == PINNED


PINNED = 1142215102
