"""A cell of one's own as CUDA source: its program, instruction by instruction, as the Step that the kernels ask for (kernels/step.cuh)."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from itertools import groupby
from struct import pack
from typing import TYPE_CHECKING

from elman.backends.cuda.phases import Phase, phases_of
from elman.backends.cuda.shape import CellKernel, CellShape
from elman.backends.program.program import Opcode, Role
from elman.backends.program.remembered import remember

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from elman.backends.program.program import Code, Operand, Program


def refuses(program: Program) -> str | None:
    """Why the kernels do not run a program, as the rest of a sentence; None if they do."""
    if not program.inputs:
        return "does not run a cell whose input_gates are empty"
    return None


_shapes: dict[Hashable, CellShape] = {}


def kernel_of(program: Program, name: str) -> CellKernel:
    """A program as the kernels have it, which is made once and stored with it. The program is one that is not refused.

    Programs that differ in their constants alone have one shape, and so one kernel.

    Args:
        name: for messages.
    """
    found: CellKernel | None = program.__dict__.get("cuda")
    if found is None:
        made = _made(program, name)
        key = tuple(getattr(made, each.name) for each in fields(made))
        shape = _shapes.get(key)
        if shape is None:
            shape = made
            remember(_shapes, key, made)
        found = program.__dict__["cuda"] = CellKernel(shape, *(_constants(code) for code in _codes(program)))
    return found


def _codes(program: Program) -> tuple[Code, Code]:
    """What runs: in inference, too, forward as in training, since what it keeps is computed anyway."""
    return program.training, program.backward


def _constants(code: Code) -> bytes:
    """As float32, one after the other."""
    return b"".join(map(_as_float, code.constants))


def _as_float(number: float) -> bytes:
    """The nearest number of float32; beyond its range infinity."""
    try:
        return pack("f", number)
    except OverflowError:
        return pack("f", math.copysign(math.inf, number))


def _made(program: Program, name: str) -> CellShape:
    reads, codes = program.reads, _codes(program)
    after = [(Role.NEW_STATE, state) for state in range(1, program.states)]
    before = [state for state in range(program.states) if (Role.STATE, state) in reads]
    factors = [(Role.FACTOR, index) for index in range(len(program.products) - 1)]
    read = [operand for operand in (*after, *factors) if operand in reads]
    beyond = [operand for operand in after if (Role.STATE, operand[1]) in reads] + factors  # kept, but not read of the step itself
    kept = {operand: program.saved + place for place, operand in enumerate(dict.fromkeys([*read, *beyond]))}
    # Where all gradients of the parts of x are those of the parts of h, both have the same columns.
    shares = program.inputs == program.recurrents and _copied(program.backward) == set(range(program.inputs))
    recurrent_at = 0 if shares else program.inputs
    step_inputs_at = recurrent_at + program.recurrents
    shape = CellShape(
        name=name,
        source="",
        inputs=program.inputs,
        gates=program.recurrents,
        products=program.products,
        states=program.states,
        own=program.own,
        step_inputs=program.step_inputs,
        draws=program.draws if any(role is Role.DRAW for code in codes for role, _ in code.operands) else 0,
        kept=program.saved + len(kept),
        read=program.saved + len(read),
        reads_output=(Role.NEW_STATE, 0) in reads,
        before=tuple(before),
        kept_at=tuple(kept.get(operand, -1) for operand in after),
        factors_at=tuple(kept[factor] for factor in factors),
        columns=step_inputs_at + len(program.step_inputs),
        runs=_runs(program, recurrent_at),
        step_inputs_at=step_inputs_at,
        rows=(0, 0),
        sums=(0, 0),
        held=(0, 0),
        constants=(len(codes[0].constants), len(codes[1].constants)),
        weight=0.5 + 0.1 * len(program.training.instructions),  # an LSTM's has 20 of them
    )
    both = _training(program, shape), _gradient(program, shape, recurrent_at, shares)
    forward, backward = ([phase.rows for stage in stages for phase in stage] for stages, _ in both)
    sums = sum(map(bool, forward)), sum(map(bool, backward))
    rows, held = (max(forward), max(backward)), (0, 0)
    if len(forward) > 1 or len(backward) > 1:
        beside = shape.kept + shape.gates, shape.columns + 2 * shape.states
        held = rows[0] + both[0][1] + beside[0], rows[1] + both[1][1] + beside[1]
    shape = replace(shape, rows=rows, sums=sums, held=held)
    return replace(shape, source=_struct(shape, recurrent_at, *both))


def _runs(program: Program, recurrent_at: int) -> tuple[tuple[int, int, int], ...]:
    """``CellShape.runs`` of gates whose gradients begin at this column."""
    of_gate = [next(j for j, gates in enumerate(program.products) if gate in gates) for gate in range(program.recurrents)]
    runs = [(j, list(gates)) for j, gates in groupby(range(program.recurrents), of_gate.__getitem__)]
    return tuple((j, recurrent_at + gates[0], recurrent_at + gates[-1] + 1) for j, gates in runs)


def _copied(code: Code) -> set[int]:
    """The gates whose two gradients are one value."""
    found = set()
    for opcode, to, a, _, _ in code.instructions:
        (role, index), operand = code.operands[to], code.operands[a]
        if opcode == Opcode.COPY and role is Role.GRAD_INPUT and operand == (Role.GRAD_RECURRENT, index):
            found.add(index)
    return found


# --- The struct ---------------------------------------------------------------------------------------------------------


def _struct(shape: CellShape, recurrent_at: int, training: _Stages, gradient: _Stages) -> str:
    (of_training, held), (of_gradient, grad_held) = training, gradient
    gate_of = [f"({_choice(gates, 'i')})" for gates in shape.products]
    return f"""namespace elman::cuda {{
struct Step {{
  static constexpr int kInputs = {shape.inputs}, kGates = {shape.gates}, kStates = {shape.states};
  static constexpr int kOwn = {len(shape.own)}, kApart = {len(shape.apart)}, kGiven = {shape.given}, kProducts = {len(shape.products)};
  static constexpr int kKept = {shape.kept}, kRead = {shape.read}, kBefore = {len(shape.before)}, kColumns = {shape.columns};
  static constexpr int kForwardRows = {shape.rows[0]}, kBackwardRows = {shape.rows[1]}, kForwardHeld = {held}, kBackwardHeld = {grad_held};
  static constexpr int kForwardConstants = {shape.constants[0]}, kBackwardConstants = {shape.constants[1]};
  static constexpr bool kReadsOutput = {str(shape.reads_output).lower()};
  static constexpr ELMAN_INLINE int gates(int j) {{ return {_choice([len(gates) for gates in shape.products], "j")}; }}
  static constexpr ELMAN_INLINE int gate(int j, int i) {{ return {_choice(gate_of, "j")}; }}
  static constexpr ELMAN_INLINE int apart(int i) {{ return {_choice(shape.apart, "i")}; }}
  static constexpr ELMAN_INLINE int factor_at(int j) {{ return {_choice((0, *shape.factors_at), "j")}; }}
  static constexpr ELMAN_INLINE int before(int i) {{ return {_choice(shape.before, "i")}; }}
  static constexpr ELMAN_INLINE int kept_at(int state) {{ return {_choice((0, *shape.kept_at), "state")}; }}
  static constexpr ELMAN_INLINE int column(int i) {{ return i; }}
  static constexpr ELMAN_INLINE int recurrent(int gate) {{ return {recurrent_at} + gate; }}
  static constexpr ELMAN_INLINE int forward_phases(int j) {{ return {_choice(list(map(len, of_training)), "j")}; }}
  static constexpr ELMAN_INLINE int backward_phases(int i) {{ return {_choice(list(map(len, of_gradient)), "i")}; }}
  static constexpr ELMAN_INLINE int forward_maxima(int j, int phase) {{ return {_maxima(of_training, "j")}; }}
  static constexpr ELMAN_INLINE int backward_maxima(int i, int phase) {{ return {_maxima(of_gradient, "i")}; }}
{_functions(_FORWARD, of_training)}{_functions(_BACKWARD, of_gradient)}}};
}}
using elman::cuda::Step;
"""


_FORWARD = """  static ELMAN_INLINE void forward(Index<{stage}>, Index<{phase}>, const float* constants, const float* x, const float* r,
                                   const float* own, const float* given, const float* states, float* next, float* kept, float* held,
                                   float* rows) {{
{body}  }}
"""
_BACKWARD = """  static ELMAN_INLINE void backward(Index<{stage}>, Index<{phase}>, const float* constants, const float* kept, float output,
                                    const float* before, const float* own, const float* given, const float* grad_factors,
                                    const float* grads, float* grads_before, float* columns, float* grad_own, float* held,
                                    float* rows) {{
{body}  }}
"""

_Stages = tuple[list[list[Phase]], int]


def _functions(template: str, stages: list[list[Phase]]) -> str:
    """A function for each phase of each stage."""
    return "".join(
        template.format(stage=stage, phase=index, body="".join(f"    {line}\n" for line in phase.lines))
        for stage, phases in enumerate(stages)
        for index, phase in enumerate(phases)
    )


def _training(program: Program, shape: CellShape) -> _Stages:
    """The phases forward, and how many numbers they hold."""
    places = {
        Role.INPUT: "x[{}]",
        Role.RECURRENT: "r[{}]",
        Role.STATE: "states[{}]",
        Role.NEW_STATE: "next[{}]",
    }
    stages, held = phases_of(program.training, _places(program.training, shape, places, {}))
    stages[-1][-1].lines += [f"kept[{at}] = next[{state}];" for state, at in enumerate(shape.kept_at, 1) if at >= 0]
    return stages, held


def _gradient(program: Program, shape: CellShape, recurrent_at: int, shares: bool) -> _Stages:
    """The phases backward. Where the parts of x share the columns of the gates, nothing is written for them."""
    places = {
        Role.GRAD_NEW_STATE: "grads[{}]",
        Role.GRAD_STATE: "grads_before[{}]",
        Role.GRAD_INPUT: "" if shares else "columns[{}]",
        Role.GRAD_RECURRENT: f"columns[{recurrent_at} + {{}}]",
        Role.GRAD_STEP_INPUT: f"columns[{shape.step_inputs_at} + {{}}]",
        Role.GRAD_OWN: "grad_own[{}]",
        Role.GRAD_FACTOR: "grad_factors[{}]",
    }
    of_states = {
        **{(Role.STATE, state): f"before[{index}]" for index, state in enumerate(shape.before)},
        **{(Role.NEW_STATE, state): f"kept[{at}]" for state, at in enumerate(shape.kept_at, 1)},
        (Role.NEW_STATE, 0): "output",
    }
    return phases_of(program.backward, _places(program.backward, shape, places, of_states))


def _places(code: Code, shape: CellShape, places: dict[Role, str], of_states: dict[Operand, str]) -> dict[Operand, str]:
    """The C++ of each operand that is not scratch: of a role, but for states that lie elsewhere."""
    places = places | {
        Role.STEP_INPUT: "given[{}]",
        Role.DRAW: f"given[{len(shape.step_inputs)} + {{}}]",
        Role.OWN: "own[{}]",
        Role.SAVED: "kept[{}]",
    }
    by_role = {operand: places[operand[0]].format(operand[1]) for operand in code.operands if operand[0] in places}
    factors = {(Role.FACTOR, index): f"kept[{at}]" for index, at in enumerate(shape.factors_at)}
    return {**by_role, **factors, **of_states}


def _maxima(stages: list[list[Phase]], by: str) -> str:
    """C++ that gives ``Phase.maxima``."""
    return _choice([f"({_choice([phase.maxima for phase in phases], 'phase')})" for phases in stages], by)


def _choice(values: Sequence[object], by: str) -> str:
    """A C++ expression: the value of this index."""
    first, *rest = values or (0,)
    return " : ".join([*(f"{by} == {index} ? {value}" for index, value in enumerate(rest, 1)), str(first)])
