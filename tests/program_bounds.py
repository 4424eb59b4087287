"""How far a float32 run of a program may be from a float64 run of the same numbers: derived, instruction by instruction.

``approx`` says how errors arise and pass on in sums and products. Here each value has an error beside it, of the very instructions that the
kernels run, forward and backward, over the steps of one layer and direction:

- a function f passes an error e on as the furthest that f gets from f(a) at a - e and a + e, where it is monotone; where its slope is at
  most 1, as e. A choice may go either way where errors make it doubtful;
- an instruction rounds to as many units as ``ROUNDINGS`` says, which are at most 2u = 2^-23 of the value each (test_program_functions,
  test_activations); of the C library's functions we take two;
- a product of weights and a sum over steps, sequences or units are sums in any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from approx import SIGMOID_ULPS, TANH_ULPS, TINY, U, gamma
from elman.backends.program.arithmetic import COMPUTE
from elman.backends.program.program import NOTHING, Opcode, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from elman.backends.program.program import Code, Operand, Program
    from program_runs import Call


@dataclass
class Near:
    """Numbers, and how far what float32 has of each may be."""

    value: Tensor
    error: Tensor

    @staticmethod
    def exact(value: Tensor) -> Near:
        return Near(value, torch.zeros_like(value))

    @property
    def reach(self) -> Tensor:
        return self.value.abs() + self.error

    def plus(self, other: Near) -> Near:
        """With no rounding."""
        return Near(self.value + other.value, self.error + other.error)

    def rounded(self, units: float) -> Near:
        return Near(self.value, self.error + units * 2 * U * self.reach + units * TINY)

    def on(self, shape: Tensor) -> Near:
        return Near(self.value.expand_as(shape), self.error.expand_as(shape))


def times(a: Near, b: Near) -> Near:
    return Near(a.value * b.value, a.value.abs() * b.error + b.value.abs() * a.error + a.error * b.error)


def summed(a: Near, dim: tuple[int, ...], keepdim: bool = False) -> Near:
    """A sum in any order."""
    count = math.prod(a.value.shape[each] for each in dim)
    error = a.error.sum(dim, keepdim) + gamma(count) * a.reach.sum(dim, keepdim) + count * TINY
    return Near(a.value.sum(dim, keepdim), error)


def through(w: Tensor, v: Near, terms: int) -> Near:
    """``w v``, as a part of a sum of so many terms."""
    error = v.error @ w.abs().T + gamma(terms) * (v.reach @ w.abs().T) + terms * TINY
    return Near(v.value @ w.T, error)


# --- What an instruction passes on ------------------------------------------------------------------------------------


def _monotone(opcode: Opcode) -> Callable[[Near], Near]:
    def rule(a: Near) -> Near:
        value = COMPUTE[opcode](a.value)
        ends = [(COMPUTE[opcode](a.value + sign * a.error) - value).abs() for sign in (1, -1)]
        return Near(value, torch.maximum(*ends).nan_to_num(torch.inf))

    return rule


def _of_slope_one(opcode: Opcode) -> Callable[[Near], Near]:
    return lambda a: Near(COMPUTE[opcode](a.value), a.error)


def _away_from_zero(opcode: Opcode) -> Callable[[Near], Near]:
    """Monotone on either side of zero, where there is a pole."""

    def rule(a: Near) -> Near:
        found = _monotone(opcode)(a)
        return Near(found.value, torch.where(a.error < a.value.abs(), found.error, torch.inf))

    return rule


def _jump(opcode: Opcode) -> Callable[..., Near]:
    """1 or 0 by which number is greater: either where they are nearer to one another than their errors."""

    def rule(a: Near, b: Near) -> Near:
        return Near(
            COMPUTE[opcode](a.value, b.value), ((a.value - b.value).abs() <= a.error + b.error).to(a.value) * (a.error + b.error > 0)
        )

    return rule


def _extreme(opcode: Opcode) -> Callable[..., Near]:
    return lambda a, b: Near(COMPUTE[opcode](a.value, b.value), torch.maximum(a.error, b.error))


def _where(c: Near, a: Near, b: Near) -> Near:
    taken = torch.where(c.value != 0, a.error, b.error)
    doubtful = torch.maximum(a.error, b.error) + (a.value - b.value).abs()
    return Near(COMPUTE[Opcode.WHERE](c.value, a.value, b.value), torch.where(c.error > 0, doubtful, taken))


def _div(a: Near, b: Near) -> Near:
    inverse = _away_from_zero(Opcode.RECIPROCAL)(b)
    found = times(a, inverse)
    return Near(a.value / b.value, found.error)


def _pow(a: Near, b: Near) -> Near:
    value = COMPUTE[Opcode.POW](a.value, b.value)
    ends = [(COMPUTE[Opcode.POW](a.value + sign * a.error, b.value) - value).abs() for sign in (1, -1)]
    return Near(value, torch.where(a.error < a.value.abs(), torch.maximum(*ends), torch.inf).nan_to_num(torch.inf))


def _sign(a: Near) -> Near:
    return Near(torch.sign(a.value), 2.0 * ((a.error >= a.value.abs()) & (a.error > 0)).to(a.value))


def _over_units(mean: bool) -> Callable[[Near], Near]:
    def rule(a: Near) -> Near:
        found = summed(a, (-1,), keepdim=True)
        count = a.value.shape[-1] if mean else 1
        return Near(found.value / count, found.error / count).on(a.value)

    return rule


def _of_fma(over_units: Callable[[Near], Near]) -> Callable[..., Near]:
    """Over products and sums, which round once each."""
    return lambda a, b, c: over_units(times(a, b).plus(c).rounded(0.5))


def _row_max(a: Near) -> Near:
    return Near(a.value.amax(-1, keepdim=True), a.error.amax(-1, keepdim=True)).on(a.value)


_JUMPS = (Opcode.LT, Opcode.LE, Opcode.GT, Opcode.GE, Opcode.EQ, Opcode.NE)
_MONOTONE = (Opcode.EXP, Opcode.LOG, Opcode.LOG1P, Opcode.EXPM1, Opcode.TANH, Opcode.SIGMOID, Opcode.RELU, Opcode.SOFTPLUS, Opcode.ERF)
PASSES: dict[Opcode, Callable[..., Near]] = {
    **{opcode: _monotone(opcode) for opcode in (*_MONOTONE, Opcode.SQRT)},
    **{opcode: _of_slope_one(opcode) for opcode in (Opcode.COPY, Opcode.NEG, Opcode.ABS, Opcode.SIN, Opcode.COS)},
    **{opcode: _jump(opcode) for opcode in _JUMPS},
    **{opcode: _extreme(opcode) for opcode in (Opcode.MIN, Opcode.MAX)},
    **{opcode: _away_from_zero(opcode) for opcode in (Opcode.RECIPROCAL, Opcode.RSQRT)},
    Opcode.ADD: Near.plus,
    Opcode.SUB: lambda a, b: Near(a.value - b.value, a.error + b.error),
    Opcode.MUL: times,
    Opcode.SQUARE: lambda a: times(a, a),
    Opcode.FMA: lambda a, b, c: times(a, b).plus(c),
    Opcode.FNMA: lambda a, b, c: times(Near(-a.value, a.error), b).plus(c),
    Opcode.DIV: _div,
    Opcode.POW: _pow,
    Opcode.WHERE: _where,
    Opcode.SIGN: _sign,
    Opcode.ROW_SUM: _over_units(mean=False),
    Opcode.ROW_MEAN: _over_units(mean=True),
    Opcode.ROW_MAX: _row_max,
    Opcode.ROW_SUM_FMA: _of_fma(_over_units(mean=False)),
    Opcode.ROW_MEAN_FMA: _of_fma(_over_units(mean=True)),
}
_ROUNDING_ONCE = (Opcode.ADD, Opcode.SUB, Opcode.MUL, Opcode.DIV, Opcode.FMA, Opcode.FNMA, Opcode.SQUARE, Opcode.SQRT, Opcode.RECIPROCAL)
ROUNDINGS: dict[Opcode, float] = {  # in units in the last place
    **dict.fromkeys(_ROUNDING_ONCE, 0.5),
    **dict.fromkeys((Opcode.ROW_MEAN, Opcode.ROW_MEAN_FMA), 0.5),
    Opcode.RSQRT: 1.01,
    Opcode.EXP: 1.0,
    Opcode.LOG: 1.0,
    Opcode.EXPM1: 1.5,
    Opcode.LOG1P: 2.5,
    Opcode.SOFTPLUS: 3.0,
    Opcode.TANH: TANH_ULPS,
    Opcode.SIGMOID: SIGMOID_ULPS,
    **dict.fromkeys((Opcode.SIN, Opcode.COS, Opcode.ERF, Opcode.POW), 2.0),
}


# --- A run ------------------------------------------------------------------------------------------------------------


def _run(code: Code, given: Mapping[Operand, Near], after_stage: Callable[[int, dict[Operand, Near]], None]) -> dict[Operand, Near]:
    """All that there is after the stages, as ``program_interpreter.run`` has it."""
    arrays = dict(given)
    like = next(each.value for each in given.values())
    for stage, (first, end) in enumerate(code.stages):
        for opcode, to, *reads in code.instructions[first:end]:
            operands = []
            for role, index in (code.operands[read] for read in reads if read != NOTHING):
                if role is Role.CONSTANT:
                    number = torch.full_like(like, code.constants[index])
                    operands.append(Near(number, (number - number.float().double()).abs()))
                else:
                    operands.append(arrays[role, index].on(like))
            arrays[code.operands[to]] = PASSES[Opcode(opcode)](*operands).rounded(ROUNDINGS.get(Opcode(opcode), 0.0))
        after_stage(stage, arrays)
    return arrays


def run(program: Program, call: Call, arriving: list[Tensor]) -> tuple[list[Near], list[Near]]:
    """The results and the gradients of ``Call.differentiate``, of a call of one layer and direction without lengths and resets.

    Args:
        call: of float32 numbers, in float64.
        arriving: the gradients of the results, likewise.
    """
    stack, spans = call.stack, call.spans
    inputs, units, states = program.inputs, stack.hidden_size, program.states
    weights = dict(zip(stack.kinds, call.params, strict=True))
    none = call.x.new_zeros(0)
    w_ih, w_hh = (weights.get(f"weight_{which}", none).split(units) for which in ("ih", "hh"))
    b_ih, b_hh = (
        weights.get(f"bias_{which}", call.x.new_zeros(count * units)).split(units)
        for which, count in (("ih", inputs), ("hh", program.recurrents))
    )
    own = {(Role.OWN, k): Near.exact(weights[name]) for k, name in enumerate(stack.cell.parameters)}
    terms = stack.input_size + units + 3  # of a gate's two parts, which the kernels add up in one sum where nothing else reads them

    def product(of: int, v: Near) -> dict[Operand, Near]:
        def part(gate: int) -> Near:
            bias = b_hh[gate].expand_as(v.value)
            return through(w_hh[gate], v, terms).plus(Near(bias, gamma(terms) * bias.abs()))

        return {(Role.RECURRENT, gate): part(gate) for gate in program.products[of]}

    before = [Near.exact(state[0]) for state in call.states or ()] or [Near.exact(call.x.new_zeros(call.x.shape[1], units))] * states
    memory: list[dict[Operand, Near]] = []
    for t, x in enumerate(call.x):
        given = {(Role.STATE, k): state for k, state in enumerate(before)} | own
        for g in range(inputs):
            bias = b_ih[g].expand(len(x), units)
            given[Role.INPUT, g] = through(w_ih[g], Near.exact(x), terms).plus(Near(bias, gamma(terms) * bias.abs()))
        for k, values in enumerate(spans.step_inputs or ()):
            given[Role.STEP_INPUT, k] = Near.exact(values[t] if values.dim() == 3 else values[t].unsqueeze(-1))
        for k, values in enumerate(spans.draws or ()):
            given[Role.DRAW, k] = Near.exact(values[0, t] if values.dim() == 4 else values[0])

        def after(stage: int, arrays: dict[Operand, Near]) -> None:
            if stage + 1 < len(program.products):
                arrays |= product(stage + 1, arrays[Role.FACTOR, stage])

        memory.append(_run(program.training, given | product(0, before[0]), after))
        before = [memory[-1][Role.NEW_STATE, k] for k in range(states)]
    output = [step[Role.NEW_STATE, 0] for step in memory]
    results = [_stacked(output), *(_stacked([state]) for state in before)]
    return results, _backward(program, call, memory, (w_ih, w_hh), arriving)


def _stacked(steps: list[Near]) -> Near:
    return Near(torch.stack([step.value for step in steps]), torch.stack([step.error for step in steps]))


def _backward(
    program: Program,
    call: Call,
    memory: list[dict[Operand, Near]],
    weights: tuple[tuple[Tensor, ...], tuple[Tensor, ...]],
    arriving: list[Tensor],
) -> list[Near]:
    stack, (w_ih, w_hh) = call.stack, weights
    units, states, factors = stack.hidden_size, program.states, len(program.products) - 1
    carried = [Near.exact(grad[0]) for grad in arriving[1:]]
    found: list[dict[Operand, Near]] = []
    like = carried[0].value
    nothing = Near.exact(torch.zeros_like(like))

    def product(of: int, arrays: dict[Operand, Near]) -> Near:
        gates = [(w_hh[gate].T, arrays.get((Role.GRAD_RECURRENT, gate), nothing)) for gate in program.products[of]]
        return _total([through(w, grad, len(gates) * units + 1) for w, grad in gates], nothing)

    for t in reversed(range(len(memory))):
        given = {
            key: each for key, each in memory[t].items() if key[0] in (Role.STATE, Role.NEW_STATE, Role.OWN, Role.STEP_INPUT, Role.DRAW)
        }
        given |= {key: each for key, each in memory[t].items() if key[0] in (Role.SAVED, Role.FACTOR)}
        given |= {(Role.GRAD_NEW_STATE, k): each for k, each in enumerate(carried)}
        given[Role.GRAD_NEW_STATE, 0] = carried[0].plus(Near.exact(arriving[0][t])).rounded(0.5)

        def after(stage: int, arrays: dict[Operand, Near]) -> None:
            if stage < factors:
                arrays[Role.GRAD_FACTOR, factors - 1 - stage] = product(factors - stage, arrays)

        arrays = _run(program.backward, given, after)
        carried = [arrays.get((Role.GRAD_STATE, k), nothing) for k in range(states)]
        carried[0] = carried[0].plus(product(0, arrays)).rounded(0.5)
        found.insert(0, arrays)

    def every(role: Role, k: int) -> Near:
        return _stacked([arrays.get((role, k), nothing).on(like) for arrays in found])

    grad_in = [every(Role.GRAD_INPUT, g) for g in range(program.inputs)]
    grad_rec = [every(Role.GRAD_RECURRENT, g) for g in range(program.recurrents)]
    x = Near.exact(call.x)
    none = Near.exact(torch.zeros_like(call.x))
    gradients = [_total([through(w.T, grad, program.inputs * units) for w, grad in zip(w_ih, grad_in, strict=True)], none)]
    gradients += [_stacked([grad]) for grad in carried] if call.states else []
    for k, is_vector in enumerate(program.step_inputs):
        grad = every(Role.GRAD_STEP_INPUT, k)
        gradients.append(grad if is_vector else summed(grad, (-1,)))
    multiplied = [_stacked([step[Role.STATE, 0] for step in memory])]
    multiplied += [_stacked([step[Role.FACTOR, j] for step in memory]) for j in range(factors)]
    of = {gate: multiplied[index] for index, gates in enumerate(program.products) for gate in gates}
    kinds = {
        "weight_ih": lambda: [_outer(grad, x) for grad in grad_in],
        "weight_hh": lambda: [_outer(grad, of[gate]) for gate, grad in enumerate(grad_rec)],
        "bias_ih": lambda: [summed(grad, (0, 1)) for grad in grad_in],
        "bias_hh": lambda: [summed(grad, (0, 1)) for grad in grad_rec],
    }
    for kind in stack.kinds:
        if kind in kinds:
            parts = kinds[kind]()
            gradients.append(Near(torch.cat([each.value for each in parts]), torch.cat([each.error for each in parts])))
        else:
            index = list(stack.cell.parameters).index(kind)
            gradients.append(summed(every(Role.GRAD_OWN, index), (0, 1) if program.own[index] else (0, 1, 2)))
    return gradients


def _outer(grad: Near, v: Near) -> Near:
    """Sums of products over steps and sequences: (units, columns)."""
    (g, e), (a, b) = ((each.value.flatten(0, 1), each.error.flatten(0, 1)) for each in (grad, v))
    error = g.abs().T @ b + e.T @ (a.abs() + b) + gamma(len(g) + 1) * (g.abs() + e).T @ (a.abs() + b) + len(g) * TINY
    return Near(g.T @ a, error)


def _total(parts: list[Near], nothing: Near) -> Near:
    """Of sums that are parts of one sum, whose rounding is in them already."""
    for part in parts:
        nothing = nothing.plus(part)
    return nothing
