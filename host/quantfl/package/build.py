"""What packages and runs need of a firmware's build options (firmware/lib/qfl_base/include/qfl_options.h),
and what a board lacks."""

from __future__ import annotations

from collections.abc import Iterable

from quantfl.core import lib
from quantfl.core.codec import CODEC_NAMES
from quantfl.core.head import LAYER_CODES, Layer
from quantfl.package.program import Needs

#: Bits of QFL_HEAD_KINDS beside those of the kinds themselves.
SCALES, WINDOWS = 0x20, 0x40
_NAMES = {1 << code: name for name, code in LAYER_CODES.items()} | {
    1 << 1: "dense",
    SCALES: "scales",
    WINDOWS: "convolution windows",
}
#: What INFO's `parts` says, by the build option that leaves it out.
PARTS = {
    "keys": lib.QFL_PART_KEYS,
    "stats": lib.QFL_PART_STATS,
    "personal": lib.QFL_PART_PERSONAL,
    "log": lib.QFL_PART_LOG,
}


def head_mask(layers: Iterable[Layer]) -> int:
    """What QFL_HEAD_KINDS must hold to train these layers."""
    mask = 0
    for layer in layers:
        one_to_one = (layer.kernel, layer.stride, layer.pad) == ((1, 1), (1, 1), (0, 0))
        mask |= (
            1 << LAYER_CODES[layer.kind]
            | SCALES * (layer.mode == "scales")
            | WINDOWS * (layer.kind == "conv" and not one_to_one)
        )
    return mask


def build_flags(needs: Needs) -> str:
    """The compiler's options for a firmware that holds what a package needs, and no other operators and
    layers."""
    return f"-DQFL_NN_OPS={needs.operators:#x} -DQFL_HEAD_KINDS={head_mask(needs.layers):#04x}"


def lacking(needs: Needs, operators: int, kinds: int) -> str | None:
    """What a board with these masks lacks for a package, in words that say how to build it in; None:
    nothing."""
    if missing := needs.missing_operators(operators):
        return (
            f"has no {', '.join(missing)} in its engine, which this package needs; build its firmware "
            "with them "
            f"(QFL_NN_OPS={needs.operators:#x}, see docs/PORTING.md)"
        )
    need = head_mask(needs.layers)
    if missing := [name for bit, name in _NAMES.items() if need & ~kinds & bit]:
        return (
            f"cannot train {', '.join(missing)}, which this package needs; build its firmware with them "
            f"(QFL_HEAD_KINDS={need:#04x}, see docs/PORTING.md)"
        )
    return None


def codec_name(code: int) -> str:
    """Name of a qfl_codec_kind, as descriptions have it; steps agreed on are DZ's."""
    code = lib.QFL_CODEC_DZ if code == lib.QFL_CODEC_DZ_AGREED else code
    return next(
        (name for name in CODEC_NAMES if getattr(lib, f"QFL_CODEC_{name.upper()}") == code), f"codec {code}"
    )


def codec_linked(name: str, codecs: int) -> bool:
    """Whether a board with this mask of codecs has one."""
    return bool(codecs >> getattr(lib, f"QFL_CODEC_{name.upper()}") & 1)
