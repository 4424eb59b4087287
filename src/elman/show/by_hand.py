"""One step of one unit, worked through by hand: each product, the sums, and the value the library computed beside it.

The products and sums are Python's own float64 arithmetic on the network's numbers; only the last step, from the gates' sums to the
state, is the cell's equation (`elman.cells`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.show.facts import GateSum, Product, Worked
from elman.show.tensors import directions, equations, suffix

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
        alone: every layer's own outputs, (T, B, D·H) each.

    Raises:
        ValueError: a step, unit, row, layer or direction that the network does not have.
    """
    import torch

    step = _step(spec, which)
    _check(spec, which, step)
    side = directions(spec).index(which.direction)
    before = step + 1 if which.direction == "reverse" else step - 1
    first = not 0 <= before < spec.seq_len
    half = slice(side * spec.hidden_size, (side + 1) * spec.hidden_size)

    source = x if which.layer == 0 else alone[which.layer - 1]
    inputs = source[step, which.row].tolist()
    states = [0.0] * spec.hidden_size if first else alone[which.layer][before, which.row, half].tolist()
    ending = suffix(which.layer, which.direction)
    gates = tuple(_gate(spec, index, which.unit, ending, values, inputs, states) for index in range(len(spec.cell.gates)))

    projected = torch.tensor([[gate.input_sum + (gate.bias_ih or 0.0) for gate in gates]], dtype=torch.float64)
    recurrent = torch.tensor([[gate.state_sum + (gate.bias_hh or 0.0) for gate in gates]], dtype=torch.float64)
    own = torch.tensor([[states[which.unit]]], dtype=torch.float64)
    by_hand = spec.cell.step(projected, recurrent, (own,))[0].item()
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
    total = input_sum + (bias_ih or 0.0) + state_sum + (bias_hh or 0.0)
    return GateSum(spec.cell.gates[gate], from_input, input_sum, bias_ih, from_state, state_sum, bias_hh, total)


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
    sizes = {"layer": spec.num_layers, "step": spec.seq_len, "row": spec.batch, "unit": spec.hidden_size}
    for name, given in {"layer": which.layer, "step": step, "row": which.row, "unit": which.unit}.items():
        if not 0 <= given < sizes[name]:
            raise ValueError(f"{name} must be between 0 and {sizes[name] - 1}, got {given}")
