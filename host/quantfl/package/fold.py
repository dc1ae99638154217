"""Constant folding: operators whose outputs follow from shapes and constants alone, computed on the host.

A model converted with a dynamic batch computes the target of a RESHAPE from the SHAPE of its input. Every
shape of such a file is static for a board, so SHAPE, STRIDED_SLICE, PACK and the like become constants, and
nothing of them runs on the board. Only small integer tensors without quantisation are folded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from quantfl.package.flatfile import Op, Tensor

#: Elements of the largest tensor that is folded: shapes, axes and indices are far smaller.
MOST = 64
_Values = Sequence[np.ndarray]


def _axis(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(v) for v in values.reshape(-1))


def _reduce(function: Callable[..., Any]) -> Callable[[Op, _Values], Any]:
    return lambda op, v: function(v[0], axis=_axis(v[1]), keepdims=bool(op.options.KeepDims()))


def _pair(function: Callable[..., Any]) -> Callable[[Op, _Values], Any]:
    return lambda op, v: function(v[0], v[1])


def _strided_slice(op: Op, v: _Values) -> Any:
    o = op.options
    if o.EllipsisMask() or o.NewAxisMask() or not v[1].size == v[2].size == v[3].size <= v[0].ndim:
        raise ValueError("an ellipsis or a new axis")
    index: list[int | slice] = []
    for i, (first, end, by) in enumerate(zip(_axis(v[1]), _axis(v[2]), _axis(v[3]), strict=True)):
        if o.ShrinkAxisMask() >> i & 1:
            index.append(first)
        else:
            a = None if o.BeginMask() >> i & 1 else first
            b = None if o.EndMask() >> i & 1 else end
            index.append(slice(a, b, by))
    return v[0][tuple(index)]


def _slice(op: Op, v: _Values) -> Any:
    ends = [None if n < 0 else a + n for a, n in zip(_axis(v[1]), _axis(v[2]), strict=True)]
    return v[0][tuple(slice(a, b) for a, b in zip(_axis(v[1]), ends, strict=True))]


_ELEMENTWISE: dict[str, Callable[..., Any]] = {
    "ADD": np.add,
    "SUB": np.subtract,
    "MUL": np.multiply,
    "MAXIMUM": np.maximum,
    "MINIMUM": np.minimum,
    "FLOOR_DIV": np.floor_divide,
    "FLOOR_MOD": np.mod,
}

#: Operator -> its output from the values of its inputs.
_FOLDS: dict[str, Callable[[Op, _Values], Any]] = {
    "STRIDED_SLICE": _strided_slice,
    "SLICE": _slice,
    "PACK": lambda op, v: np.stack(v, axis=op.options.Axis()),
    "CONCATENATION": lambda op, v: np.concatenate(v, axis=op.options.Axis()),
    "GATHER": lambda op, v: np.take(v[0], v[1], axis=op.options.Axis()),
    "REDUCE_PROD": _reduce(np.prod),
    "REDUCE_MAX": _reduce(np.max),
    "REDUCE_MIN": _reduce(np.min),
    "SUM": _reduce(np.sum),
    "RANGE": lambda op, v: np.arange(int(v[0]), int(v[1]), int(v[2])),
    "FILL": lambda op, v: np.full(_axis(v[0]), v[1]),
    "CAST": lambda op, v: v[0],
    **{name: _pair(f) for name, f in _ELEMENTWISE.items()},
}
#: Their output is the first input in the shape that the output tensor has.
_SHAPED = ("RESHAPE", "SQUEEZE", "EXPAND_DIMS")


def folded(op: Op, tensors: Sequence[Tensor]) -> np.ndarray | None:
    """The constant that an operator makes, in the output's dtype and shape, or None: it runs on the board."""
    if len(op.outputs) != 1 or not op.inputs:
        return None
    out = tensors[op.outputs[0]]
    if out.dtype not in (np.int32, np.int64) or len(out.scales) or out.data is not None or out.size > MOST:
        return None
    if op.name == "SHAPE":
        return _fitting(np.array(tensors[op.inputs[0]].shape), out)
    values = [tensors[t].data for t in op.inputs if t >= 0]
    known = [v for v in values if v is not None and v.dtype.kind == "i"]
    if len(known) != len(op.inputs):
        return None
    if op.name in _SHAPED:
        return _fitting(known[0].reshape(-1), out, reshape=True)
    fold = _FOLDS.get(op.name)
    if fold is None:
        return None
    try:
        return _fitting(np.asarray(fold(op, known)), out)
    except (ValueError, IndexError, TypeError, AttributeError, ZeroDivisionError, OverflowError):
        return None


#: Operators whose output has the shape of their first input.
_LIKE_INPUT = ("RELU", "RELU6", "QUANTIZE", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "SOFTMAX")


def shaped(op: Op, tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """The shape that an operator's output has, where the file only says a placeholder (a dimension that was
    dynamic is 1 there), or None: what the file says holds."""
    if len(op.outputs) != 1 or not op.inputs or op.inputs[0] < 0:
        return None
    x, out = tensors[op.inputs[0]], tensors[op.outputs[0]]
    found: tuple[int, ...] | None = None
    if op.name == "RESHAPE" and len(op.inputs) > 1 and op.inputs[1] >= 0 and x.size != out.size:
        target = tensors[op.inputs[1]].data
        found = None if target is None else _resolved(_axis(target), x.size)
    elif op.name == "FULLY_CONNECTED" and len(tensors[op.inputs[1]].shape) == 2:
        channels, inputs = tensors[op.inputs[1]].shape
        if inputs and x.size % inputs == 0 and out.size != x.size // inputs * channels:
            found = (x.size // inputs, channels)
    elif op.name in _LIKE_INPUT and x.size != out.size:
        found = x.shape
    return found


def _resolved(target: tuple[int, ...], size: int) -> tuple[int, ...] | None:
    """The target of a RESHAPE of `size` elements, its -1 replaced; None where it does not fit."""
    known = int(np.prod([n for n in target if n != -1], dtype=np.int64))
    if target.count(-1) == 1 and known > 0 and size % known == 0:
        return tuple(size // known if n == -1 else n for n in target)
    return target if known == size and -1 not in target else None


def _fitting(value: np.ndarray, out: Tensor, *, reshape: bool = False) -> np.ndarray | None:
    """The value as the output tensor has it; None where the file says another shape."""
    if value.size != out.size or not (reshape or value.shape == out.shape):
        return None
    return np.array(value.reshape(out.shape), out.dtype)
