"""A cell of one's own as CUDA source: its program, instruction by instruction, as the Step that the kernels ask for (kernels/step.cuh)."""

from __future__ import annotations

from itertools import groupby
from struct import pack, unpack
from typing import TYPE_CHECKING

from elman.backends.cuda.shape import CellShape
from elman.backends.program.program import NOTHING, Opcode, Role

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.backends.program.program import Code, Operand, Program


def refuses(program: Program) -> str | None:
    """Why the kernels do not run a program, as the rest of a sentence; None if they do."""
    if program.needs_rows:
        return "does not run a step that computes over the units of a sequence, as layer norm and softmax do"
    if not program.inputs:
        return "does not run a cell without input gates"
    return None


def shape_of(program: Program, name: str) -> CellShape:
    """A program's shape and source, which is made once and stored with it. The program is one that is not refused.

    Args:
        name: for messages.
    """
    found: CellShape | None = program.__dict__.get("cuda")
    if found is None:
        found = program.__dict__["cuda"] = _made(program, name)
    return found


def _made(program: Program, name: str) -> CellShape:
    reads, codes = program.reads, (program.training, program.backward)
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
        headers=("functions.cuh",),
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
        weight=0.5 + 0.1 * len(program.training.instructions),  # an LSTM's has 20 of them
    )
    object.__setattr__(shape, "source", _struct(program, shape, recurrent_at, shares))
    return shape


def _runs(program: Program, recurrent_at: int) -> tuple[tuple[int, int, int], ...]:
    """``CellShape.runs`` of gates whose gradients begin at this column."""
    # A gate that the step does not read is in no product; its gradients are zeros.
    of_gate = [next((j for j, gates in enumerate(program.products) if gate in gates), 0) for gate in range(program.recurrents)]
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


def _struct(program: Program, shape: CellShape, recurrent_at: int, shares: bool) -> str:
    states, columns = shape.states, shape.columns
    every: dict[Role, str] = {
        Role.STEP_INPUT: "given[{}]",
        Role.DRAW: f"given[{len(shape.step_inputs)} + {{}}]",
        Role.OWN: "own[{}]",
        Role.SAVED: "kept[{}]",
        Role.TEMP: "t[{}]",
        Role.CARRY: "carry[{}]",
    }
    factors = {(Role.FACTOR, index): f"kept[{at}]" for index, at in enumerate(shape.factors_at)}
    forward = every | {Role.INPUT: "x[{}]", Role.RECURRENT: "r[{}]", Role.STATE: "states[{}]", Role.NEW_STATE: "states[{}]"}
    backward = every | {
        Role.GRAD_NEW_STATE: "grads[{}]",
        Role.GRAD_STATE: "grads[{}]",
        Role.GRAD_INPUT: "columns[{}]",
        Role.GRAD_RECURRENT: f"columns[{recurrent_at} + {{}}]",
        Role.GRAD_STEP_INPUT: f"columns[{shape.step_inputs_at} + {{}}]",
        Role.GRAD_OWN: "of_own[{}]",
        Role.GRAD_FACTOR: "grad_factors[{}]",
    }
    of_states = {
        **{(Role.STATE, state): f"before[{index}]" for index, state in enumerate(shape.before)},
        **{(Role.NEW_STATE, state): f"kept[{at}]" for state, at in enumerate(shape.kept_at, 1)},
        (Role.NEW_STATE, 0): "output",
    }
    skipped = {Role.GRAD_INPUT} if shares else set()
    last = len(shape.products) - 1
    stages = ""
    for stage in range(last + 1):
        copies, ends = "", ""
        if stage == last:
            copies = f"    float before[{states}];\n    for (int k = 0; k < {states}; ++k) before[k] = states[k];\n"
            ends = "".join(f"    kept[{at}] = states[{state}];\n" for state, at in enumerate(shape.kept_at, 1) if at >= 0)
        names = forward | ({Role.STATE: "before[{}]"} if copies else {})
        statements = _statements(program.training, stage, names, factors, set())
        stages += _FORWARD.format(stage=stage, temps=max(1, program.training.temps), body=copies + statements + ends)
    for stage in range(last + 1):
        copies, ends = "", ""
        if not stage:
            copies += f"    for (int k = 0; k < {columns}; ++k) columns[k] = 0.f;\n"
        if stage == last:
            copies += f"    float after[{states}], of_own[{max(1, len(shape.own))}] = {{}};\n"
            copies += f"    for (int k = 0; k < {states}; ++k) after[k] = grads[k], grads[k] = 0.f;\n"
            ends = f"    for (int k = 0; k < {len(shape.own)}; ++k) grad_own[k] += of_own[k];\n"
        names = backward | ({Role.GRAD_NEW_STATE: "after[{}]"} if stage == last else {})
        statements = _statements(program.backward, stage, names, of_states | factors, skipped)
        stages += _BACKWARD.format(stage=stage, temps=max(1, program.backward.temps), body=copies + statements + ends)
    carries = max(program.training.carries, program.backward.carries)
    gate_of = [f"({_choice(gates, 'i')})" for gates in shape.products]
    return f"""namespace elman::cuda {{
struct Step {{
  static constexpr int kInputs = {shape.inputs}, kGates = {shape.gates}, kStates = {states};
  static constexpr int kOwn = {len(shape.own)}, kGiven = {shape.given};
  static constexpr int kProducts = {len(shape.products)}, kCarries = {carries};
  static constexpr int kKept = {shape.kept}, kRead = {shape.read}, kBefore = {len(shape.before)}, kColumns = {columns};
  static constexpr bool kReadsOutput = {str(shape.reads_output).lower()};
  static constexpr ELMAN_INLINE int gates(int j) {{ return {_choice([len(gates) for gates in shape.products], "j")}; }}
  static constexpr ELMAN_INLINE int gate(int j, int i) {{ return {_choice(gate_of, "j")}; }}
  static constexpr ELMAN_INLINE int factor_at(int j) {{ return {_choice((0, *shape.factors_at), "j")}; }}
  static constexpr ELMAN_INLINE int before(int i) {{ return {_choice(shape.before, "i")}; }}
  static constexpr ELMAN_INLINE int kept_at(int state) {{ return {_choice((0, *shape.kept_at), "state")}; }}
  static constexpr ELMAN_INLINE int column(int i) {{ return i; }}
  static constexpr ELMAN_INLINE int recurrent(int gate) {{ return {recurrent_at} + gate; }}
{stages}}};
}}
using elman::cuda::Step;
"""


_FORWARD = """  static ELMAN_INLINE void forward(Index<{stage}>, const float* x, const float* r, const float* own, const float* given,
                                   float* carry, float* states, float* kept) {{
    float t[{temps}];
{body}  }}
"""
_BACKWARD = """  static ELMAN_INLINE void backward(Index<{stage}>, const float* kept, float output, const float* before, const float* own,
                                    const float* given, float* carry, const float* grad_factors, float* grads, float* columns,
                                    float* grad_own) {{
    float t[{temps}];
{body}  }}
"""


def _choice(values: Sequence[object], by: str) -> str:
    """A C++ expression: the value of this index."""
    first, *rest = values or (0,)
    return " : ".join([*(f"{by} == {index} ? {value}" for index, value in enumerate(rest, 1)), str(first)])


def _statements(code: Code, stage: int, names: dict[Role, str], places: dict[Operand, str], skipped: set[Role]) -> str:
    """A line an instruction of a stage, but for those that write what is skipped."""

    def name(place: int) -> str:
        role, index = code.operands[place]
        if role is Role.CONSTANT:
            return _number(code.constants[index])
        return places.get((role, index)) or names[role].format(index)

    lines = []
    for opcode, to, *operands in code.instructions[slice(*code.stages[stage])]:
        if code.operands[to][0] not in skipped:
            value = _EXPRESSIONS[Opcode(opcode)].format(*(name(each) for each in operands if each != NOTHING))
            lines.append(f"    {name(to)} = {value};\n")
    return "".join(lines)


def _number(value: float) -> str:
    """A number as a float's literal."""
    if value != value:
        return "__int_as_float(0x7fc00000)"
    try:
        (nearest,) = unpack("f", pack("f", value))
    except OverflowError:
        nearest = float("inf") if value > 0 else float("-inf")
    if nearest in (float("inf"), float("-inf")):
        return f"__int_as_float({'0x7f800000' if nearest > 0 else '0xff800000'})"
    return f"({nearest.hex()}f)"


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
}
