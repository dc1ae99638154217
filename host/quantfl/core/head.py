"""The trainable head (qfl_head) on the host: evaluation, local fits, gradients — with the boards' own
code."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from quantfl.core import ffi, lib, status_text

_KEEP: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # what shapes point to


@dataclass(frozen=True)
class FitConfig:
    """Hyper-parameters of a fit on a board (qfl_head_config)."""

    lr: float = 0.05
    """Learning rate."""
    momentum: float = 0.0
    """Momentum, 0 to below 1."""
    weight_decay: float = 0.0
    """Weight decay."""
    prox: float = 0.0
    """FedProx's µ."""
    epochs: int = 1
    """Passes over the samples."""
    batch: int = 10
    """Samples per step."""
    seed: int = 0
    """Decides the order of samples."""
    holdout: int = 0
    """Every k-th sample is held back for evaluation; 0: none."""

    @property
    def fields(self) -> dict[str, float]:
        """As the fields of a qfl_head_config; the seed modulo 2^32."""
        return asdict(self) | {"seed": self.seed & 0xFFFFFFFF}


@dataclass(frozen=True)
class Score:
    """How good a head is on some samples."""

    count: int
    """Samples evaluated."""
    correct: int
    """Samples whose class is right."""
    loss: float
    """Mean cross-entropy, in nats."""

    @property
    def accuracy(self) -> float:
        return self.correct / self.count if self.count else 0.0


LAYER_CODES = {
    "conv": lib.QFL_HEAD_CONV,
    "depthwise": lib.QFL_HEAD_DEPTHWISE,
    "average": lib.QFL_HEAD_AVERAGE,
    "maximum": lib.QFL_HEAD_MAXIMUM,
}
ACTIVATIONS = {"linear": lib.QFL_HEAD_LINEAR, "relu": lib.QFL_HEAD_RELU, "relu6": lib.QFL_HEAD_RELU6}
MODES = {"all": lib.QFL_HEAD_ALL, "scales": lib.QFL_HEAD_SCALES}


@dataclass(frozen=True)
class Layer:
    """One trainable or pooling layer (qfl_head_layer). shapes: (height, width, channels); a dense layer is a
    conv of one pixel.

    mode: "all" trains kernel and bias; "scales" a scale and a bias per output channel, the int8 kernel
    staying at offset `frozen` of the package with float32 scales at offset `scales`.
    """

    kind: str
    in_shape: tuple[int, int, int]
    out_shape: tuple[int, int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    activation: str = "linear"
    mode: str = "all"
    frozen: int = 0
    scales: int = 0

    @cached_property
    def weights(self) -> int:
        """Elements of its kernel, trained or not; 0 for pooling."""
        return next(iter(tensors_of((replace(self, mode="all"),))), 0)

    @cached_property
    def tensors(self) -> tuple[int, ...]:
        """Sizes of its two trained tensors; none for pooling."""
        return tensors_of((self,))

    @property
    def text(self) -> str:
        """As tables show it: conv3x3(64), dense(10), average."""
        if not self.weights:
            return self.kind
        dense = self.kind == "conv" and self.in_shape[:2] == self.out_shape[:2] == (1, 1)
        size = "" if dense else f"{self.kernel[0]}x{self.kernel[1]}"
        return f"{'dense' if dense else self.kind}{size}({self.out_shape[2]})" + (
            "*" if self.mode == "scales" else ""
        )

    def pack(self) -> bytes:
        """The record a package holds (qfl_head_layer). OverflowError for a number that does not fit its
        field."""
        fields = dict(zip(_PLACES, (*self.in_shape, *self.out_shape), strict=True))
        fields |= dict(zip(_WINDOW, (*self.kernel, *self.stride, *self.pad), strict=True))
        fields |= {"kind": LAYER_CODES[self.kind], "activation": ACTIVATIONS[self.activation]}
        fields |= {"mode": MODES[self.mode], "kernel": self.frozen, "scales": self.scales}
        return bytes(ffi.buffer(ffi.new("qfl_head_layer *", fields)))

    @classmethod
    def unpack(cls, raw: bytes) -> Layer:
        """The layer of a record. ValueError for a kind, activation or mode that does not exist, or for bytes
        that are no record."""
        layer, named = ffi.new("qfl_head_layer *"), []
        ffi.buffer(layer)[:] = raw
        for names, code in ((LAYER_CODES, layer.kind), (ACTIVATIONS, layer.activation), (MODES, layer.mode)):
            if code not in names.values():
                raise ValueError(f"no layer has the code {code}")
            named.append(next(k for k, v in names.items() if v == code))
        places: Any = tuple(getattr(layer, name) for name in _PLACES)
        window: Any = tuple(getattr(layer, name) for name in _WINDOW)
        kind, activation, mode = named
        return cls(
            kind,
            places[:3],
            places[3:],
            kernel=window[:2],
            stride=window[2:4],
            pad=window[4:],
            activation=activation,
            mode=mode,
            frozen=layer.kernel,
            scales=layer.scales,
        )


_PLACES = ("in_h", "in_w", "in_c", "out_h", "out_w", "out_c")
_WINDOW = ("k_h", "k_w", "stride_h", "stride_w", "pad_t", "pad_l")


def _shape_of(layers: tuple[Layer, ...]) -> Any:
    """A qfl_head_shape of these layers; its rows live as long as it does."""
    shape, rows = ffi.new("qfl_head_shape *"), ffi.new("qfl_head_layer[]", len(layers))
    ffi.buffer(rows)[:] = b"".join(layer.pack() for layer in layers)
    shape.layers, shape.layer = len(layers), rows
    _KEEP[shape] = (rows,)
    return shape


def tensors_of(layers: tuple[Layer, ...]) -> tuple[int, ...]:
    """Sizes of the trained tensors, kernel (or scales) and bias of every layer but pools, in the order of a
    delta."""
    sizes = ffi.new("uint32_t[]", 2 * len(layers))
    return tuple(sizes[0 : lib.qfl_head_layout(_shape_of(layers), sizes)])


def dense_layers(dims: tuple[int, ...]) -> tuple[Layer, ...]:
    """A stack of dense layers F, hidden..., K with ReLU between them."""
    last = len(dims) - 2
    return tuple(
        Layer("conv", (1, 1, i), (1, 1, o), activation="linear" if n == last else "relu")
        for n, (i, o) in enumerate(itertools.pairwise(dims))
    )


@dataclass(frozen=True)
class Head:
    """The layers after the cut over int8 features: real = (q - zero_point) * scale.

    dims: (F, outputs of every layer..., K); without `layers` a stack of dense layers. Parameters travel as
    one float32 vector [params]: per layer kernel [k_h][k_w][in][out], then bias [out] (mode "scales": scales
    [out], bias [out]). base: the package, where layers of mode "scales" have their kernels.
    """

    dims: tuple[int, ...]
    scale: float
    zero_point: int
    layers: tuple[Layer, ...] = ()
    base: bytes = field(default=b"", repr=False, compare=False)

    @cached_property
    def _shape(self) -> Any:
        layers = self.layers or dense_layers(self.dims)
        if not 1 <= len(layers) <= lib.QFL_HEAD_MAX_LAYERS:
            raise ValueError(f"a head of {len(layers)} layers: 1 to {lib.QFL_HEAD_MAX_LAYERS} are possible")
        try:
            shape = _shape_of(layers)
        except OverflowError:
            raise ValueError(f"head dimensions {self.dims} are out of range") from None
        base = ffi.new("uint64_t[]", len(self.base) // 8 + 1)
        ffi.buffer(base)[: len(self.base)] = self.base
        shape.base, shape.base_size = ffi.cast("uint8_t *", base), len(self.base)
        _KEEP[shape] += (base,)
        if lib.qfl_head_param_count(shape) == 0:
            raise ValueError(f"head dimensions {self.dims} are out of range")
        return shape

    @property
    def params(self) -> int:
        return int(lib.qfl_head_param_count(self._shape))

    @property
    def scratch_bytes(self) -> int:
        """RAM that a fit takes beside parameters, momentum and features."""
        return int(lib.qfl_head_scratch_size(self._shape))

    @property
    def one_dense(self) -> bool:
        """Whether it is one dense layer trained wholly, for which there is a closed form."""
        return bool(lib.qfl_head_one_dense(self._shape))

    @property
    def centred(self) -> tuple[int, int] | None:
        """(first parameter, classes) of a last dense layer, rows [in + 1][classes] of kernel and bias, in
        which a number added to a whole row changes nothing after the softmax; None: the last layer is another
        one."""
        columns = ffi.new("uint32_t *")
        centred = lib.qfl_head_centred(self._shape, columns)
        return (self.params - centred, columns[0]) if centred else None

    @property
    def tensors(self) -> tuple[int, ...]:
        """Sizes of kernel and bias of every layer, in order: the layout of a delta."""
        return tensors_of(self.layers or dense_layers(self.dims))

    def _data(self, features: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
        features = np.ascontiguousarray(features, np.int8)
        labels = np.ascontiguousarray(labels, np.uint16)
        if features.ndim != 2 or features.shape[1] != self.dims[0] or labels.shape != features.shape[:1]:
            raise ValueError(
                f"features {features.shape} and labels {labels.shape} do not fit a head {self.dims}"
            )
        data = ffi.new("qfl_head_data *")
        keep = (ffi.from_buffer("int8_t[]", features), ffi.from_buffer("uint16_t[]", labels))
        data.q, data.labels, data.count = keep[0], keep[1], len(labels)
        data.scale, data.zero_point = self.scale, self.zero_point
        return data, keep

    def _scratch(self) -> Any:
        return ffi.new("float[]", lib.qfl_head_scratch_size(self._shape) // 4)

    def _floats(self, w: np.ndarray) -> Any:
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

    def outputs(self, w: np.ndarray, features: np.ndarray) -> list[np.ndarray]:
        """Outputs of every layer, float32 [n, size] each, for features int8 [n, F]."""
        features = np.ascontiguousarray(features, np.int8)
        scratch, p, layers = self._scratch(), self._floats(w), self.layers or dense_layers(self.dims)
        out = [np.empty((len(features), int(np.prod(layer.out_shape))), np.float32) for layer in layers]
        for i, row in enumerate(features):
            lib.qfl_head_logits(
                self._shape, p, ffi.from_buffer("int8_t[]", row), self.scale, self.zero_point, scratch
            )
            for k, rows in enumerate(out):
                at = lib.qfl_head_outputs(self._shape, k, scratch)
                rows[i] = np.frombuffer(ffi.buffer(at, 4 * rows.shape[1]), np.float32)
        return out

    def gradient(
        self, w: np.ndarray, q: np.ndarray, label: int, weight: float = 1.0
    ) -> tuple[float, np.ndarray]:
        """Loss and weight * gradient [params] of one sample q int8 [F]."""
        grad = np.zeros(self.params, np.float32)
        q = np.ascontiguousarray(q, np.int8)
        loss = lib.qfl_head_gradient(
            self._shape,
            self._floats(w),
            ffi.from_buffer("int8_t[]", q),
            self.scale,
            self.zero_point,
            label,
            weight,
            ffi.from_buffer("float[]", grad),
            self._scratch(),
        )
        return loss, grad

    def fit(
        self, w: np.ndarray, features: np.ndarray, labels: np.ndarray, config: FitConfig
    ) -> tuple[np.ndarray, float]:
        """A whole local fit from w: the trained parameters [params] and the mean loss of its last epoch."""
        data, _keep = self._data(features, labels)
        trained, start = w.copy(), w.copy()
        v = np.empty_like(trained)
        c = ffi.new("qfl_head_config *", config.fields)
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
    return int.from_bytes(hashlib.sha256(np.ascontiguousarray(params, "<f4").data).digest()[:4], "little")
