"""A program's code as C++ statements, in phases: between two phases the kernels sum numbers over the units of each sequence.

Each value is a constant of its own here, and stands in the first phase in which what it is made of is there. What a later phase reads is
held, one number a value, where it has no place to be read from anyway.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from elman.backends.program.program import NOTHING, Opcode, Role

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elman.backends.program.program import Code, Operand

_MOST_ROWS = 31  # of a phase: a C++ int has a bit for each


@dataclass
class Phase:
    """A part of a stage.

    Attributes:
        lines: statements.
        rows: how many numbers are summed after it.
        maxima: which of them are not to be summed, but the largest is sought: a bit for each.
    """

    lines: list[str] = field(default_factory=list)
    rows: int = 0
    maxima: int = 0


@dataclass
class _Value:
    """What an instruction makes.

    Attributes:
        phase: from which on it is there.
        name: by which its own phase reads it.
        place: where others find it; empty: nowhere, so far.
    """

    phase: int
    name: str
    place: str


def phases_of(code: Code, places: Mapping[Operand, str]) -> tuple[list[list[Phase]], int]:
    """The phases of each stage, and how many numbers are held.

    Args:
        places: the C++ of each operand but those of scratch; of what is not there, an instruction writes nothing.
    """
    made: dict[Operand, _Value] = {}
    phases: list[Phase] = []
    stages: list[list[Phase]] = []
    held = 0

    def read(operand: int, phase: int) -> str:
        nonlocal held
        key = code.operands[operand]
        if key[0] is Role.CONSTANT:
            return f"constants[{key[1]}]"
        value = made.get(key)
        if value is None:
            return places[key]
        if value.phase == phase:
            return value.name
        if not value.place:
            value.place, held = f"held[{held}]", held + 1
            phases[value.phase].lines.append(f"{value.place} = {value.name};")
        return value.place

    for begin, end in code.stages:
        first = len(phases)
        phases.append(Phase())
        for number, (opcode, to, *operands) in enumerate(code.instructions[begin:end], begin):
            there = [operand for operand in operands if operand != NOTHING]
            values = [made[key] for key in (code.operands[each] for each in there) if key in made]
            phase = max([first, *(value.phase for value in values)])
            if Opcode(opcode).over_rows:
                while phase < len(phases) and phases[phase].rows == _MOST_ROWS:
                    phase += 1
            while phase >= len(phases):
                phases.append(Phase())
            expression = _EXPRESSIONS[Opcode(opcode)].format(*(read(each, phase) for each in there))
            name = f"v{number}"
            if Opcode(opcode).over_rows:
                row = phases[phase].rows
                phases[phase].lines.append(f"rows[{row}] = {expression};")
                phases[phase].rows += 1
                phases[phase].maxima |= (opcode == Opcode.ROW_MAX) << row
                phase += 1
                if phase == len(phases):
                    phases.append(Phase())
                # First of all: whatever is summed next takes its place.
                expression = f"rows[{row}]" + " / kHidden" * (opcode in (Opcode.ROW_MEAN, Opcode.ROW_MEAN_FMA))
                phases[phase].lines.insert(0, f"const float {name} = {expression};")
            else:
                phases[phase].lines.append(f"const float {name} = {expression};")
            key = code.operands[to]
            place = places.get(key, "")
            made[key] = _Value(phase, name, place)
            if place:
                phases[phase].lines.append(f"{place} = {name};")
        stages.append(phases[first:])
    return stages, held


_EXPRESSIONS = {
    Opcode.COPY: "{}",
    Opcode.ADD: "{} + {}",
    Opcode.SUB: "{} - {}",
    Opcode.MUL: "{} * {}",
    Opcode.DIV: "{} / {}",
    Opcode.NEG: "-{}",
    Opcode.FMA: "fma({}, {}, {})",
    Opcode.FNMA: "fnma({}, {}, {})",
    Opcode.POW: "power({}, {})",
    Opcode.MIN: "minimum({}, {})",
    Opcode.MAX: "maximum({}, {})",
    Opcode.WHERE: "{} != 0.f ? {} : {}",
    Opcode.LT: "{} < {} ? 1.f : 0.f",
    Opcode.LE: "{} <= {} ? 1.f : 0.f",
    Opcode.GT: "{} > {} ? 1.f : 0.f",
    Opcode.GE: "{} >= {} ? 1.f : 0.f",
    Opcode.EQ: "{} == {} ? 1.f : 0.f",
    Opcode.NE: "{} != {} ? 1.f : 0.f",
    Opcode.ABS: "fabsf({})",
    Opcode.SIGN: "sign({})",
    Opcode.SQRT: "sqrtf({})",
    Opcode.RSQRT: "1.f / sqrtf({})",
    Opcode.EXP: "expf({})",
    Opcode.LOG: "logf({})",
    Opcode.LOG1P: "log1pf({})",
    Opcode.EXPM1: "expm1f({})",
    Opcode.TANH: "tanh({})",
    Opcode.SIGMOID: "sigmoid({})",
    Opcode.RELU: "relu({})",
    Opcode.SOFTPLUS: "softplus({})",
    Opcode.SIN: "sinf({})",
    Opcode.COS: "cosf({})",
    Opcode.ERF: "erff({})",
    Opcode.RECIPROCAL: "1.f / {}",
    Opcode.SQUARE: "square({})",
    # The number that is summed, or of which the largest is sought.
    Opcode.ROW_SUM: "{}",
    Opcode.ROW_MEAN: "{}",
    Opcode.ROW_MAX: "{}",
    Opcode.ROW_SUM_FMA: "fma({}, {}, {})",
    Opcode.ROW_MEAN_FMA: "fma({}, {}, {})",
}
