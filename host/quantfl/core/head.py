"""The trainable head (qfl_head) on the host: evaluation, local fits, gradients — with the boards' own code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from quantfl.core import ffi, lib, status_text


@dataclass(frozen=True)
class FitConfig:
    """Hyper-parameters of a local fit (qfl_head_config).

    lr: learning rate. prox: FedProx mu. holdout: every k-th sample is held back for evaluation, 0: none.
    """

    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    prox: float = 0.0
    epochs: int = 1
    batch: int = 10
    seed: int = 0
    holdout: int = 0


@dataclass(frozen=True)
class Score:
    """count samples, of which correct; loss: mean cross-entropy in nats."""

    count: int
    correct: int
    loss: float

    @property
    def accuracy(self) -> float:
        return self.correct / self.count if self.count else 0.0


@dataclass(frozen=True)
class Head:
    """A stack of dense layers over int8 features: dims (F, hidden..., K); real = (q - zero_point) * scale.

    Parameters travel as one float32 vector [params]: per layer kernel [in][out], then bias [out].
    """

    dims: tuple[int, ...]
    scale: float
    zero_point: int

    @cached_property
    def _shape(self):
        shape = ffi.new("qfl_head_shape *")
        if not 2 <= len(self.dims) <= lib.QFL_HEAD_MAX_LAYERS + 1:
            raise ValueError(f"a head of {len(self.dims) - 1} layers: 1 to {lib.QFL_HEAD_MAX_LAYERS} are possible")
        shape.layers = len(self.dims) - 1
        for i, n in enumerate(self.dims):
            shape.dims[i] = n
        if lib.qfl_head_param_count(shape) == 0:
            raise ValueError(f"head dimensions {self.dims} are out of range")
        return shape

    @property
    def params(self) -> int:
        return lib.qfl_head_param_count(self._shape)

    @property
    def tensors(self) -> tuple[int, ...]:
        """Sizes of kernel and bias of every layer, in order: the layout of a delta."""
        return tuple(n for i, o in zip(self.dims, self.dims[1:], strict=False) for n in (i * o, o))

    def _data(self, features: np.ndarray, labels: np.ndarray):
        features = np.ascontiguousarray(features, np.int8)
        labels = np.ascontiguousarray(labels, np.uint16)
        if features.ndim != 2 or features.shape[1] != self.dims[0] or labels.shape != features.shape[:1]:
            raise ValueError(f"features {features.shape} and labels {labels.shape} do not fit a head {self.dims}")
        data = ffi.new("qfl_head_data *")
        keep = (ffi.from_buffer("int8_t[]", features), ffi.from_buffer("uint16_t[]", labels))
        data.q, data.labels, data.count = keep[0], keep[1], len(labels)
        data.scale, data.zero_point = self.scale, self.zero_point
        return data, keep

    def _scratch(self):
        return ffi.new("float[]", lib.qfl_head_scratch_size(self._shape) // 4)

    def _floats(self, w: np.ndarray):
        if w.dtype != np.float32 or w.shape != (self.params,) or not w.flags.c_contiguous:
            raise ValueError(f"parameters must be a contiguous float32 vector of {self.params}")
        return ffi.from_buffer("float[]", w)

    def evaluate(self, w: np.ndarray, features: np.ndarray, labels: np.ndarray) -> Score:
        """Score of parameters w [params] on features int8 [n, F] and labels [n]."""
        data, _keep = self._data(features, labels)
        score = ffi.new("qfl_head_score *")
        lib.qfl_head_evaluate(self._shape, self._floats(w), data, 0, 0, len(labels), score, self._scratch())
        lib.qfl_head_score_finish(score)
        return Score(score.count, score.correct, score.loss)

    def logits(self, w: np.ndarray, features: np.ndarray) -> np.ndarray:
        """float32 [n, K] for features int8 [n, F]."""
        features = np.ascontiguousarray(features, np.int8)
        scratch, p, k = self._scratch(), self._floats(w), self.dims[-1]
        out = np.empty((len(features), k), np.float32)
        for i, row in enumerate(features):
            z = lib.qfl_head_logits(
                self._shape, p, ffi.from_buffer("int8_t[]", row), self.scale, self.zero_point, scratch
            )
            out[i] = np.frombuffer(ffi.buffer(z, 4 * k), np.float32)
        return out

    def gradient(self, w: np.ndarray, q: np.ndarray, label: int, weight: float = 1.0) -> tuple[float, np.ndarray]:
        """Loss and weight * gradient [params] of one sample q int8 [F]."""
        grad = np.zeros(self.params, np.float32)
        q = np.ascontiguousarray(q, np.int8)
        loss = lib.qfl_head_gradient(
            self._shape, self._floats(w), ffi.from_buffer("int8_t[]", q), self.scale, self.zero_point, label, weight,
            ffi.from_buffer("float[]", grad), self._scratch(),
        )  # fmt: skip
        return loss, grad

    def fit(
        self, w: np.ndarray, features: np.ndarray, labels: np.ndarray, config: FitConfig
    ) -> tuple[np.ndarray, float]:
        """A whole local fit from w: the trained parameters [params] and the mean loss of its last epoch."""
        data, _keep = self._data(features, labels)
        trained, start = w.copy(), w.copy()
        v = np.empty_like(trained)
        c = ffi.new("qfl_head_config *")
        c.lr, c.momentum, c.weight_decay, c.prox = config.lr, config.momentum, config.weight_decay, config.prox
        c.epochs, c.batch, c.seed, c.holdout = config.epochs, config.batch, config.seed & 0xFFFFFFFF, config.holdout
        fit, scratch = ffi.new("qfl_head_fit *"), self._scratch()
        status = lib.qfl_head_fit_begin(
            fit, self._shape, c, data, self._floats(trained), self._floats(start), self._floats(v), scratch
        )
        if status < 0:
            raise ValueError(f"cannot fit: {status_text(status)}")
        while lib.qfl_head_fit_step(fit):
            pass
        return trained, fit.loss


def head_hash(params: np.ndarray) -> int:
    """How messages name a head: the first four bytes of its SHA-256 (qfl_device_head_hash)."""
    params = np.ascontiguousarray(params, np.float32)
    return lib.qfl_device_head_hash(ffi.from_buffer("float[]", params), params.size)
