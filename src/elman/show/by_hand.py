"""One step of one unit, worked through by hand: each product, the sums, and the value the library computed beside it.

Products, sums and the cell's equations are worked out in Python's own float64 arithmetic, on the network's numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.show.alone import states_after
from elman.show.equations import added, equations, work_out
from elman.show.facts import GateSum, Product, Worked
from elman.show.tensors import directions, suffix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from elman.show.spec import Spec


@dataclass(frozen=True)
class Which:
    """Which number to work out. ``step`` None: the second step that the direction takes, the first one whose state before is not zero."""

    step: int | None = None
    unit: int = 0
    row: int = 0
    layer: int = 0
    direction: str = "forward"


def work(spec: Spec, which: Which, values: Mapping[str, Tensor], x: Tensor, alone: Sequence[Tensor]) -> Worked:
    """Work out one number of one layer's output.

    Args:
        spec: the network.
        which: the number.
        values: the parameters by name.
        x: the input, (T, B, I).
        alone: every layer's own outputs, (T, B, D·H) each; with a projection P stands for H.

    Raises:
        ValueError: a step, unit, row, layer or direction that the network does not have.
    """
    step = _step(spec, which)
    _check(spec, which, step)
    side = directions(spec).index(which.direction)
    before = step + 1 if which.direction == "reverse" else step - 1
    first = not 0 <= before < spec.seq_len
    half = slice(side * spec.output_units, (side + 1) * spec.output_units)

    source = x if which.layer == 0 else alone[which.layer - 1]
    inputs = source[step, which.row].tolist()
    if first:
        states = [[0.0] * size for size in spec.stack.state_sizes]
    else:
        found = states_after(spec, values, which.layer, which.direction, before, source)
        states = [state[which.row].tolist() for state in (alone[which.layer][before, :, half], *found[1:])]
    ending = suffix(which.layer, which.direction)

    gates = tuple(_gate(spec, index, which.unit, ending, values, inputs, states[0]) for index in range(len(spec.cell.gates)))
    lines = work_out(spec, which.direction, _known(spec, gates, [state[which.unit] for state in states]))
    by_hand = next(
        line.value for line, text in zip(lines, spec.cell.equations, strict=True) if text.startswith(f"{spec.cell.states[0]}' =")
    )
    projection = None
    if spec.proj_size:
        units = _all_units(spec, ending, values, inputs, states)
        units[which.unit] = by_hand
        projection = _products(values["weight_hr" + ending][which.unit].tolist(), units)
        by_hand = sum(product.product for product in projection)
    library = alone[which.layer][step, which.row, half][which.unit].item()

    def code(layer: int, at: int, columns: str) -> str:
        name = "x" if layer < 0 else "output" if layer == spec.num_layers - 1 else f"output_l{layer}"
        return f"{name}[{which.row}, {at}, {columns}]" if spec.batch_first else f"{name}[{at}, {which.row}, {columns}]"

    columns = f"{half.start}:{half.stop}" if spec.bidirectional else ":"
    return Worked(
        step=step,
        unit=which.unit,
        row=which.row,
        layer=which.layer,
        direction=which.direction,
        before=None if first else before,
        equations=equations(spec, which.direction),
        input_code=code(which.layer - 1, step, ":"),
        state_code=None if first else code(which.layer, before, columns),
        weight_ih="weight_ih" + ending,
        weight_hh="weight_hh" + ending,
        value_code=code(which.layer, step, str(half.start + which.unit)),
        gates=gates,
        lines=lines,
        projection=projection,
        by_hand=by_hand,
        library=library,
        difference=abs(by_hand - library),
    )


def _gate(
    spec: Spec, gate: int, unit: int, ending: str, values: Mapping[str, Tensor], inputs: Sequence[float], states: Sequence[float]
) -> GateSum:
    line = gate * spec.hidden_size + unit
    from_input = _products(values["weight_ih" + ending][line].tolist(), inputs)
    from_state = _products(values["weight_hh" + ending][line].tolist(), states)
    bias_ih, bias_hh = (values[name + ending][line].item() if spec.bias else None for name in ("bias_ih", "bias_hh"))
    input_sum, state_sum = (sum(product.product for product in products) for products in (from_input, from_state))
    name = spec.cell.gates[gate]
    total = input_sum + (bias_ih or 0.0) + state_sum + (bias_hh or 0.0) if added(spec, name) else None
    return GateSum(name, from_input, input_sum, bias_ih, from_state, state_sum, bias_hh, total)


def _known(spec: Spec, gates: Sequence[GateSum], states: Sequence[float]) -> dict[str, float]:
    """The numbers that the equations start from, by the terms that they are written with."""
    known = dict(zip(spec.cell.states, states, strict=True))
    for gate in gates:
        if (whole := added(spec, gate.gate)) and gate.total is not None:
            known[whole] = gate.total
            continue
        terms = {"W_i{} x": gate.input_sum, "b_i{}": gate.bias_ih, "W_h{} h": gate.state_sum, "b_h{}": gate.bias_hh}
        known |= {term.format(gate.gate): value for term, value in terms.items() if value is not None}
    return known


def _all_units(
    spec: Spec, ending: str, values: Mapping[str, Tensor], inputs: Sequence[float], states: Sequence[Sequence[float]]
) -> list[float]:
    """What every unit gives before the projection, by the cell's step in float64."""
    import torch
    from torch.nn.functional import linear

    x, *before = (torch.tensor([numbers], dtype=torch.float64) for numbers in (inputs, *states))
    bias_ih, bias_hh = (values[name + ending].double() if spec.bias else None for name in ("bias_ih", "bias_hh"))
    projected = linear(x, values["weight_ih" + ending].double(), bias_ih)
    recurrent = linear(before[0], values["weight_hh" + ending].double(), bias_hh)
    units: list[float] = spec.cell.step(spec.cell.activate(projected, recurrent), tuple(before))[0][0].tolist()
    return units


def _products(weights: Sequence[float], values: Sequence[float]) -> tuple[Product, ...]:
    return tuple(Product(i, w, v, w * v) for i, (w, v) in enumerate(zip(weights, values, strict=True)))


def _step(spec: Spec, which: Which) -> int:
    if which.step is not None:
        return which.step
    return max(0, spec.seq_len - 2) if which.direction == "reverse" else min(1, spec.seq_len - 1)


def _check(spec: Spec, which: Which, step: int) -> None:
    if which.direction not in ("forward", "reverse"):
        raise ValueError(f"direction must be forward or reverse, got {which.direction!r}")
    if which.direction not in directions(spec):
        raise ValueError("this network has no reverse direction; add --bidirectional")
    sizes = {"layer": spec.num_layers, "step": spec.seq_len, "row": spec.batch, "unit": spec.output_units}
    for name, given in {"layer": which.layer, "step": step, "row": which.row, "unit": which.unit}.items():
        if not 0 <= given < sizes[name]:
            raise ValueError(f"{name} must be between 0 and {sizes[name] - 1}, got {given}")
