"""One step of one unit worked through by hand in float64: each product, the sums, and the value that the library computed beside it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from elman.show.equations import dated, equations, filled, put_out, right_sides, simply_added, work_out
from elman.show.numbers import number
from elman.show.specification import Spec, indexed
from elman.show.tensors import suffix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from elman.show.run import Run


@dataclass(frozen=True)
class Which:
    """Which number to work out. ``step`` None: the second step that the direction takes, the first one whose state before is not zero."""

    step: int | None = None
    unit: int = 0
    sequence: int = 0
    layer: int = 0
    direction: str = "forward"


@dataclass(frozen=True)
class Product:
    """A weight times the number it meets."""

    index: int
    weight: float
    value: float
    product: float


@dataclass(frozen=True)
class GateSum:
    """What enters one gate of one unit: from the input, and from the state before.

    ``bias_ih`` and ``bias_hh`` are None in a network without; ``total`` where the cell does not simply add all of it up, as for GRU's n.
    """

    gate: str
    from_input: tuple[Product, ...]
    input_sum: float
    bias_ih: float | None
    from_state: tuple[Product, ...]
    state_sum: float
    bias_hh: float | None
    total: float | None


@dataclass(frozen=True)
class Line:
    """One equation worked out: what it gives, the equation, the equation with numbers, the value."""

    name: str
    equation: str
    numbers: str
    value: float


@dataclass(frozen=True, kw_only=True)
class HandWorked(Which):
    """One step of one unit worked through by hand.

    Attributes:
        before: the step that the state before came from; None at a direction's first step, where the state is zero.
        input_code, state_code: what is read, as one writes it; ``state_code`` is None at the first step.
        weight_ih, weight_hh: the parameters' names.
        value_code: where the library put the value, as one writes it.
        lines: every equation in turn, with its numbers.
        projection: the products that give the value where the network projects its state; else None.
        by_hand: the value worked out here in float64; ``library`` the one that the library computed.
    """

    before: int | None
    equations: tuple[str, ...]
    input_code: str
    state_code: str | None
    weight_ih: str
    weight_hh: str
    value_code: str
    gates: tuple[GateSum, ...]
    lines: tuple[Line, ...]
    projection: tuple[Product, ...] | None
    by_hand: float
    library: float
    difference: float


def work_by_hand(spec: Spec, which: Which, run: Run) -> HandWorked:
    """Work out one number of one layer's output.

    Raises:
        ValueError: a step, unit, sequence, layer or direction that the network does not have.
    """
    reverse = which.direction == "reverse"
    step = which.step
    if step is None:
        step = max(0, spec.seq_len - 2) if reverse else min(1, spec.seq_len - 1)
    _check(spec, which, step)
    layer, direction, sequence, unit, end = which.layer, which.direction, which.sequence, which.unit, suffix(which.layer, which.direction)
    before = step + 1 if reverse else step - 1
    first = not 0 <= before < spec.seq_len

    top, columns = layer == spec.num_layers - 1, spec.columns(direction)
    if layer == 0:
        input_code = indexed("x", *spec.in_order(step, sequence))
    else:
        input_code = f"{spec.trace_code(layer - 1, None, step, sequence)}.flatten()"
    state_code = spec.output_code(before, sequence, columns) if top else spec.trace_code(layer, direction, before, sequence)
    column = unit + spec.directions.index(direction) * spec.output_size
    value_code = spec.output_code(step, sequence, column) if top else spec.trace_code(layer, direction, step, sequence, unit)

    cell, source = spec.stack.cell, run[input_code].double()
    states = {
        name: run[spec.trace_code(layer, direction, step if first else before, sequence, state=name)].double() for name in cell.states
    }
    if first:
        states = {name: state.new_zeros(state.shape) for name, state in states.items()}
    state = states[cell.states[0]]
    weights = {name.removesuffix(end): value.double() for name, value in run.network.state_dict().items() if name.endswith(end)}
    # A state that a projection has narrowed only enters products.
    known = _terms(spec, weights, source, state) | {name: each for name, each in states.items() if len(each) == spec.hidden_size}
    values = work_out(spec, known)
    terms = {name: value[unit].item() for name, value in (known | values).items()}
    by_hand, projection = terms[put_out(spec)], None
    if spec.proj_size:
        projection = _products(weights["weight_hr"][unit], values[put_out(spec)])
        by_hand = sum(product.product for product in projection)
    library = run[value_code].item()

    def gate_sum(index: int, gate: str) -> GateSum:
        row = index * spec.hidden_size + unit
        bias_ih, bias_hh = terms.get(f"b_i{gate}"), terms.get(f"b_h{gate}")
        input_sum, state_sum = terms[f"W_i{gate} x"], terms[f"W_h{gate} h"]
        total = input_sum + (bias_ih or 0.0) + state_sum + (bias_hh or 0.0) if simply_added(spec, gate) else None
        from_input, from_state = _products(weights["weight_ih"][row], source), _products(weights["weight_hh"][row], state)
        return GateSum(gate, from_input, input_sum, bias_ih, from_state, state_sum, bias_hh, total)

    numbers = {name: number(value).strip() for name, value in terms.items()}
    lines = []
    for name, expression in right_sides(spec).items():
        equation = dated(expression, spec, direction)
        left = equation if spec.proj_size and name == put_out(spec) else dated(name, spec, direction)
        lines.append(Line(left, equation, filled(expression, numbers), terms[name]))
    return HandWorked(
        **asdict(replace(which, step=step)),
        before=None if first else before,
        equations=equations(spec, direction),
        input_code=input_code,
        state_code=None if first else state_code,
        weight_ih="weight_ih" + end,
        weight_hh="weight_hh" + end,
        value_code=value_code,
        gates=tuple(gate_sum(index, gate) for index, gate in enumerate(cell.gates)),
        lines=tuple(lines),
        projection=projection,
        by_hand=by_hand,
        library=library,
        difference=abs(by_hand - library),
    )


def _terms(spec: Spec, weights: Mapping[str, Tensor], source: Tensor, state: Tensor) -> dict[str, Tensor]:
    """What the equations start from, for all units: "W_ir x", "b_ir", "W_hr h" and "b_hr" of each gate r."""
    found = {}
    for role, term in {"weight_ih": "W_i{} x", "bias_ih": "b_i{}", "weight_hh": "W_h{} h", "bias_hh": "b_h{}"}.items():
        if role in weights:
            all_gates = weights[role] @ (source if role == "weight_ih" else state) if role.startswith("weight") else weights[role]
            for gate, of_gate in zip(spec.stack.cell.gates, all_gates.chunk(len(spec.stack.cell.gates)), strict=True):
                found[term.format(gate)] = of_gate
    return found


def _products(weights: Tensor, values: Tensor) -> tuple[Product, ...]:
    pairs = zip(weights.tolist(), values.tolist(), strict=True)
    return tuple(Product(index, weight, value, weight * value) for index, (weight, value) in enumerate(pairs))


def _check(spec: Spec, which: Which, step: int) -> None:
    if which.direction not in ("forward", "reverse"):
        raise ValueError(f"direction must be forward or reverse, got {which.direction!r}")
    if which.direction not in spec.directions:
        raise ValueError("this network has no reverse direction; add --bidirectional")
    sizes = {"layer": spec.num_layers, "step": spec.seq_len, "sequence": spec.batch, "unit": spec.output_size}
    for name, given in {"layer": which.layer, "step": step, "sequence": which.sequence, "unit": which.unit}.items():
        if not 0 <= given < sizes[name]:
            raise ValueError(f"{name} must be between 0 and {sizes[name] - 1}, got {given}")
