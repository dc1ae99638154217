"""Every operator of a model and what becomes of it: runs, folded, trained, or refused and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from quantfl.errors import PackageError, UnsupportedError
from quantfl.package import cut as cutting
from quantfl.package.flatfile import ModelFile, Op
from quantfl.package.operators import CODES
from quantfl.package.program import Compiler

#: What is said of an operator, and what it means.
MARKS = {
    "runs": "on boards, as int8",
    "nothing": "boards have nothing to do for it",
    "folded": "a constant, computed here",
    "unused": "no output that was chosen needs it",
    "trained": "part of the head, by default",
    "trainable": "may be part of the head (--cut)",
    "refused": "boards cannot run it",
    "float": "quantised first, with --calibrate",
}


@dataclass(frozen=True)
class Line:
    """One operator. number: in the file; shape: of its first output; why: of a refusal."""

    number: int
    operator: str
    layer: str
    shape: tuple[int, ...]
    mark: str
    why: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "operator": self.number,
            "kind": self.operator,
            "layer": self.layer,
            "shape": list(self.shape),
            "mark": self.mark,
            "why": self.why,
        }


def explain(model: ModelFile, cut: str | None = None, *, quantised: bool = True) -> tuple[list[Line], str]:
    """One line per operator of a full int8 model, and what ends the trainable chain ("": nothing does).
    quantised False: a float model, whose operators are named and not looked at."""
    alive = {op.number: op for op in model.ops}
    trainable = {s.op.number for s in cutting.tail(model).stages} if quantised else set()
    trained, why = _trained(model, cut) if quantised else (set(), "")
    compiler = Compiler(model)
    lines = []
    for op in model.all_ops:
        mark, reason = "float", ""
        if op.number not in alive:
            folded = any(model.tensors[t].data is not None for t in op.outputs)
            mark = "folded" if folded else "unused"
        elif quantised:
            mark, reason = _ran(compiler, alive[op.number])
            if mark != "refused" and op.number in trainable:
                mark = "trained" if op.number in trained else "trainable"
        first = model.tensors[op.outputs[0]] if op.outputs else None
        name, shape = (first.name, first.shape) if first else ("", ())
        lines.append(Line(op.number, op.name, name, shape, mark, reason))
    return lines, why


def _ran(compiler: Compiler, op: Op) -> tuple[str, str]:
    try:
        record = compiler.record(op)
    except (UnsupportedError, PackageError) as error:
        return "refused", str(error).removeprefix(f"{compiler.m.label(op)}: ")
    return ("nothing" if record.code == CODES["RESHAPE"] else "runs"), ""


def _trained(model: ModelFile, cut: str | None) -> tuple[set[int], str]:
    """Numbers of the operators with the head's layers, and why there are none."""
    try:
        chosen = cutting.choose(model, cut)
    except UnsupportedError as error:
        return set(), str(error)
    return {s.op.number for s in cutting.stages_of(model, chosen.op)}, ""
