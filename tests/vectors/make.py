"""Writes codec.txt, the golden vectors of docs/CODEC.md that tests in C and in Python share.

    python tests/vectors/make.py > tests/vectors/codec.txt

A line: name; how; tensors; x; bytes; y. how is `spec KIND FLAGS LEVELS` (qfl_codec_encode) or `dz CODE AGREED
OFFSET` (symbols by qfl_codec_dz_quantise with that step, then qfl_codec_dz_write). x and y are float32 as
bytes in hex, y what decoding gives.
"""

from __future__ import annotations

import numpy as np

from quantfl.core.codec import Codec, Form, decode, dz_quantise, dz_step, dz_write


def floats(x: np.ndarray) -> str:
    return np.ascontiguousarray(x, "<f4").tobytes().hex()


def line(name: str, how: str, tensors: tuple[int, ...], x: np.ndarray, data: bytes, agreed: int = 0) -> str:
    y = decode(data, tensors, agreed)
    return ";".join((name, how, ",".join(map(str, tensors)), floats(x), data.hex(), floats(y)))


def kernel_like(seed: int, rows: int, columns: int) -> np.ndarray:
    """A dense layer's delta: rows and columns that are busy or not together, many values near zero."""
    rng = np.random.default_rng(seed)
    kernel = np.outer(rng.gamma(0.5, size=rows), rng.normal(size=columns) * rng.gamma(0.7, size=columns))
    return np.concatenate([kernel.reshape(-1), rng.normal(size=columns) * 0.2]).astype(np.float32)


def main() -> None:
    five = np.array([-1, -0.5, 0, 0.5, 1], np.float32)
    delta, tensors = kernel_like(3, 9, 4), (36, 4)
    print("# " + __doc__.splitlines()[0])
    codecs = [Codec("fp32"), Codec("bu", 4), Codec("bq", 4)]
    codecs += [
        Codec(kind, levels, per_tensor, means, coded=coded)
        for kind in ("bu", "bq")
        for levels, per_tensor, means, coded in (
            (8, False, False, True),
            (16, True, False, True),
            (8, False, True, False),
            (4, True, True, True),
        )
    ]
    codecs += [Codec("bu", 256), Codec("bq", 64, coded=True)]
    for codec in codecs:
        how = "spec {} {} {}".format(*codec.fields)
        small = codec.levels == 4 and not codec.per_tensor
        x, t = (five, (5,)) if small else (delta, tensors)
        print(line(str(codec), how, t, x, codec.encode(x, t)))
    constant = np.full(40, -0.25, np.float32)
    print(line("a constant", "spec 1 0 64", tensors, constant, Codec("bu", 64).encode(constant, tensors)))
    for steps in (0.25, 1.0, 4.0):
        codec = Codec("dz", step=steps)
        print(
            line(
                str(codec),
                "spec {} {} {}".format(*codec.fields),
                tensors,
                delta,
                codec.encode(delta, tensors),
            )
        )
    code = dz_step(delta, 1.5)
    for name, x, form in (
        ("dz with a step agreed on", delta, Form(code, True, 3)),
        ("dz with a step agreed on, nothing to say", delta * np.float32(1e-4), Form(code, True, -5)),
        ("dz, nothing to say", delta * np.float32(1e-4), Form(code)),
        ("dz, beyond the unary part", np.array([0, 3.0, -200.0, 0, 1e9, 1, 0, -16.0], np.float32), Form(160)),
    ):
        t = tensors if x.size == 40 else (6, 2)
        data = dz_write(dz_quantise(x, form.code), form, t)
        print(line(name, f"dz {form.code} {int(form.agreed)} {form.offset}", t, x, data, form.code))


if __name__ == "__main__":
    main()
