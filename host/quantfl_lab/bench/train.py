"""`quantfl bench train`: what training more than the last layer brings on real data, and what it costs a
Cortex-M4F.

Protocol: personalisation. For every writer (FEMNIST) or subject (activity recordings) of the fleet one board
starts from the package's head, is trained on that person's training samples by the boards' own code, and is
scored on the person's test samples; accuracies are over all test samples of all persons. The reference trains
the same layers in float TensorFlow: same features, start, order of samples, batches and learning rate.
Instructions and RAM are counted on an emulated Cortex-M4F while it trains ten of the samples. The last rows
are single dense layers alone, F features to K classes, on ten random samples none of whose features is 0:
nothing is skipped, everything is counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from quantfl.core import lib
from quantfl.core.head import FitConfig, Head, Layer, dense_layers
from quantfl.core.nn import Engine
from quantfl.data.dataset import load
from quantfl.data.quantise import to_int8
from quantfl.emulation.base import ROOT
from quantfl.errors import DataError, ToolError
from quantfl.package.convert import convert_bytes
from quantfl.package.cut import HeadSpec, choose
from quantfl.package.flatfile import ModelFile
from quantfl.package.program import compile_program, open_package
from quantfl_lab.bench.engine import count
from quantfl_lab.bench.headless import dense_model


@dataclass(frozen=True)
class Form:
    """What is trained. layers: how many layers with weights before the last one; lr: one of 0.003, 0.01
    and 0.03, tried on the first 15 persons (nearly always the best of them), the same for all of them."""

    name: str
    layers: int
    train: str
    lr: float


@dataclass(frozen=True)
class Task:
    name: str
    model: str
    data: str
    epochs: int
    forms: tuple[Form, ...]


TASKS = (
    Task(
        "femnist by writer",
        "femnist_pooled",
        "femnist-writers",
        8,
        (
            Form("head only", 0, "all", 0.003),
            Form("last block + head", 2, "all", 0.003),
            Form("bias and scale", 2, "scales", 0.01),
            Form("bias and scale + head", 2, "scales+head", 0.003),
        ),
    ),
    Task(
        "activity by subject",
        "activity",
        "activity-watch",
        8,
        (
            Form("head only", 0, "all", 0.03),
            Form("last block + head", 1, "all", 0.01),
            Form("bias and scale", 1, "scales", 0.03),
            Form("bias and scale + head", 1, "scales+head", 0.03),
        ),
    ),
)
BATCH, MOMENTUM, QUICK = 10, 0.9, 3
#: Single dense layers, features and classes.
DENSE = (
    (64, 2),
    (64, 3),
    (64, 4),
    (64, 5),
    (64, 10),
    (64, 62),
    (128, 2),
    (128, 10),
    (256, 2),
    (256, 3),
    (256, 10),
    (256, 100),
)


def _cut(data: bytes, layers: int) -> str:
    """The operator before which `layers` layers with weights stand in the head, the last one not counted."""
    from quantfl.package.cut import possible_cuts

    for cut in possible_cuts(ModelFile(data)):
        if sum(1 for x in cut.layers if x.weights) == layers + 1:
            return str(cut.number)
    return str(choose(ModelFile(data)).number)


def persons(task: Task, quick: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Per person (x, y, x_test, y_test) in the data set's units. DataError when it is absent."""
    ds = load(task.data)
    names = np.unique(ds.groups_train)
    names = names[: QUICK if quick else None]
    return [
        (
            ds.x_train[ds.groups_train == g],
            ds.y_train[ds.groups_train == g],
            ds.x_test[ds.groups_test == g],
            ds.y_test[ds.groups_test == g],
        )
        for g in names
    ]


def run_form(
    task: Task, form: Form, people: list, *, reference: bool = True, instructions: bool = True
) -> dict:
    """One row of the bench."""
    data = (ROOT / "models" / task.model / f"{task.model}_int8.tflite").read_bytes()
    raw = convert_bytes(data, source=task.model, cut=_cut(data, form.layers), train=form.train).package
    p, engine = open_package(raw), Engine(raw)
    head = p.head
    right = before = expected = total = 0
    first: np.ndarray | None = None
    fit = FloatFit(head, p.params) if reference and tensorflow() is not None else None
    for k, (x, y, x_test, y_test) in enumerate(people):
        inputs = [to_int8(v, p.input_scale, p.input_zero_point, p.input_size, task.data) for v in (x, x_test)]
        first = inputs[0] if first is None else first
        train, test = (engine.run_batch(v) for v in inputs)
        config = FitConfig(lr=form.lr, momentum=MOMENTUM, epochs=task.epochs, batch=BATCH, seed=k)
        trained, _ = head.fit(p.params, train, y.astype(np.uint16), config)
        before += head.evaluate(p.params, test, y_test.astype(np.uint16)).correct
        right += head.evaluate(trained, test, y_test.astype(np.uint16)).correct
        if fit is not None:
            expected += fit.correct(train, y, test, y_test, config)
        total += len(y_test)
    counted = None
    if instructions and first is not None:
        counted = count(raw, np.resize(first, (10, p.input_size)))
    insns = None if counted is None or counted.train_insns is None else counted.train_insns / 10
    return {
        "task": task.name,
        "cut": " → ".join(x.text for x in p.layers),
        "train": form.name,
        "params": int(p.params.size),
        "persons": len(people),
        "test_samples": total,
        "accuracy_before": before / total,
        "accuracy": right / total,
        "reference_accuracy": None if fit is None else expected / total,
        "insns_per_sample": insns,
        "insns_per_weight": None if insns is None else insns / sum(x.weights for x in p.layers),
        "ram_bytes": None if counted is None else counted.train_ram,
        "bytes_per_sample": p.feature_count + 2,
    }


def dense(features: int, classes: int) -> dict:
    """One row: what a fit of a single dense layer costs."""
    rng, zero = np.random.default_rng(1), -5
    params = rng.normal(0, 0.1, (features + 1) * classes).astype(np.float32)
    head = HeadSpec(dense_layers((features, classes)), params)
    raw = compile_program(
        dense_model((features, classes), 0.02, zero), cut_op=0, head=head, name="head", source="a head alone"
    )
    x = rng.integers(-128, 127, (BATCH, features), np.int8)
    x[x >= zero] += 1
    counted = count(raw, x)
    assert counted.train_insns is not None
    insns = counted.train_insns / BATCH
    return {
        "task": "one dense layer",
        "cut": f"{features} → dense({classes})",
        "train": "head only",
        "params": len(params),
        "persons": None,
        "test_samples": None,
        "accuracy_before": None,
        "accuracy": None,
        "reference_accuracy": None,
        "insns_per_sample": insns,
        "insns_per_weight": insns / (features * classes),
        "ram_bytes": counted.train_ram,
        "bytes_per_sample": features + 2,
    }


def run(quick: bool = False) -> list[dict]:
    """One row per task and form, then those of single dense layers. DataError when none of the data is
    here."""
    rows, missing = [], []
    for task in TASKS:
        try:
            people = persons(task, quick)
        except DataError as error:
            missing.append(str(error))
            continue
        rows += [run_form(task, form, people) for form in task.forms]
    if not rows:
        raise DataError("; ".join(missing))
    return rows + [dense(f, k) for f, k in DENSE]


def tensorflow():
    """TensorFlow, or None where it is not installed."""
    import os

    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        import tensorflow as tf
    except ImportError:
        return None
    return tf


class FloatFit:
    """The same layers in float TensorFlow, trained with the same order of samples. ToolError for a layer it
    does not state."""

    def __init__(self, head: Head, params: np.ndarray):
        self.tf, self.head, self.start = tensorflow(), head, params
        self.kernels = [self._fixed(x) for x in head.layers]
        tf = self.tf
        self.w = tf.Variable(params)
        self.v = tf.Variable(np.zeros_like(params))
        self.step = tf.function(self._step, reduce_retracing=True)
        self.logits = tf.function(self._logits, reduce_retracing=True)

    def _fixed(self, layer: Layer) -> np.ndarray | None:
        """The float kernel [k_h, k_w, in, out] (depthwise [k_h, k_w, channels, 1]) of a layer of mode
        "scales"."""
        if layer.mode != "scales":
            return None
        q = np.frombuffer(self.head.base, np.int8, layer.weights, layer.frozen).astype(np.float32)
        scales = np.frombuffer(self.head.base, "<f4", layer.out_shape[2], layer.scales)
        if layer.kind == "depthwise":
            return (q.reshape(*layer.kernel, -1) * scales)[..., None]
        return np.moveaxis(
            q.reshape(-1, *layer.kernel, layer.in_shape[2]) * scales[:, None, None, None], 0, -1
        )

    def _logits(self, x):
        tf, at = self.tf, 0
        for layer, fixed in zip(self.head.layers, self.kernels, strict=True):
            x = tf.reshape(x, (-1, *layer.in_shape))
            bottom, right = (
                (o - 1) * s + k - p - n
                for o, s, k, p, n in zip(
                    layer.out_shape, layer.stride, layer.kernel, layer.pad, layer.in_shape, strict=False
                )
            )
            if not layer.weights:
                if max(*layer.pad, bottom, right) > 0:
                    raise ToolError(f"the reference has no {layer.text} pool with padding")
                pool = tf.nn.avg_pool2d if layer.kind == "average" else tf.nn.max_pool2d
                x = pool(x, layer.kernel, layer.stride, "VALID")
                continue
            n, out = layer.tensors
            kernel, bias = self.w[at : at + n], self.w[at + n : at + n + out]
            at += n + out
            pads = [[0, 0], [layer.pad[0], max(0, bottom)], [layer.pad[1], max(0, right)], [0, 0]]
            strides = [1, *layer.stride, 1]
            x = tf.pad(x, pads)
            if layer.kind == "depthwise":
                shape = (*layer.kernel, out, 1)
                x = tf.nn.depthwise_conv2d(
                    x, tf.reshape(kernel, shape) if fixed is None else fixed, strides, "VALID"
                )
            else:
                shape = (*layer.kernel, layer.in_shape[2], out)
                x = tf.nn.conv2d(x, tf.reshape(kernel, shape) if fixed is None else fixed, strides, "VALID")
            x = x * kernel + bias if fixed is not None else x + bias
            x = {"linear": tf.identity, "relu": tf.nn.relu, "relu6": tf.nn.relu6}[layer.activation](x)
        return tf.reshape(x, (-1, self.head.dims[-1]))

    def _step(self, x, y, lr):
        tf = self.tf
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, self._logits(x)))
        self.v.assign(MOMENTUM * self.v + tf.convert_to_tensor(tape.gradient(loss, self.w)))
        self.w.assign_sub(lr * self.v)

    def correct(
        self, train: np.ndarray, y: np.ndarray, test: np.ndarray, y_test: np.ndarray, config: FitConfig
    ) -> int:
        """How many of the test features it gets right after training on the others."""
        tf = self.tf
        self.w.assign(self.start)
        self.v.assign(np.zeros_like(self.start))
        x, x_test = (
            ((q.astype(np.float32) - self.head.zero_point) * np.float32(self.head.scale))
            for q in (train, test)
        )
        n = len(y)
        for epoch in range(config.epochs):
            order = np.array([lib.qfl_head_order(config.seed, epoch, n, i) for i in range(n)])
            for at in range(0, n, config.batch):
                part = order[at : at + config.batch]
                self.step(tf.constant(x[part]), tf.constant(y[part]), tf.constant(config.lr))
        return int((self.logits(tf.constant(x_test)).numpy().argmax(1) == y_test).sum())
