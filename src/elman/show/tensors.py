"""The shapes of a network's tensors, and what each axis means; what it costs in parameters and multiply-adds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from elman.show.facts import Axis, Costs, LayerCost, TensorFacts
from elman.show.kinds import EQUATIONS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from elman.show.spec import Spec

# A tensor of more numbers is described, not listed.
MOST_LISTED = 2**16


def suffix(layer: int, direction: str) -> str:
    """The end of the names of one direction's parameters: "_l1_reverse"."""
    return f"_l{layer}" + ("_reverse" if direction == "reverse" else "")


def directions(spec: Spec) -> tuple[str, ...]:
    return ("forward", "reverse") if spec.bidirectional else ("forward",)


def equations(spec: Spec, direction: str = "forward") -> tuple[str, ...]:
    """The cell's equations; the reverse direction comes from the step after."""
    lines = EQUATIONS[spec.cell.name]
    return lines if direction == "forward" else tuple(line.replace("[t-1]", "[t+1]") for line in lines)


def outer_tensors(spec: Spec) -> tuple[TensorFacts, ...]:
    """What goes in and what comes out: x, output and the final states."""
    steps, batch = Axis("T", "steps", spec.seq_len), Axis("B", "batch", spec.batch)
    lead = (batch, steps) if spec.batch_first else (steps, batch)
    states = Axis("L·D", "layers × directions", spec.num_layers * 2) if spec.bidirectional else Axis("L", "layers", spec.num_layers)
    hidden = Axis("H", "hidden units", spec.hidden_size)
    return (
        _facts("x", "x", (*lead, Axis("I", "inputs", spec.input_size))),
        _facts("output", "output", (*lead, _layer_output(spec))),
        *(_facts(f"{state}_n", f"{state}_n", (states, batch, hidden)) for state in spec.cell.states),
    )


def parameter_tensors(spec: Spec, values: Mapping[str, Tensor]) -> tuple[TensorFacts, ...]:
    """The parameters in torch's order.

    Args:
        spec: the network.
        values: the parameters by name, as in its state_dict.
    """
    gates = len(spec.cell.gates)
    rows = Axis("H", "hidden units", spec.hidden_size) if gates == 1 else Axis("G·H", "gates × hidden units", spec.gate_rows)
    found = []
    for layer in range(spec.num_layers):
        inputs = Axis("I", "inputs", spec.input_size) if layer == 0 else _layer_output(spec)
        axes = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, Axis("H", "hidden units", spec.hidden_size)),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        for direction in directions(spec):
            for role in axes if spec.bias else ("weight_ih", "weight_hh"):
                name = role + suffix(layer, direction)
                found.append(_facts(name, role, axes[role], layer, direction, values[name]))
    return tuple(found)


def costs(spec: Spec) -> Costs:
    """Parameters and multiply-adds: every weight is met once by each row of the batch at each step."""
    layers = []
    for layer in range(spec.num_layers):
        rows = spec.num_directions * spec.gate_rows
        weights = rows * (spec.layer_inputs(layer) + spec.hidden_size)
        layers.append(LayerCost(layer, weights + (2 * rows if spec.bias else 0), weights))
    parameters = sum(layer.parameters for layer in layers)
    per_step = sum(layer.multiply_adds_per_step for layer in layers)
    return Costs(
        parameters=parameters,
        bytes=parameters * spec.torch_dtype().itemsize,
        multiply_adds_per_step=per_step,
        multiply_adds_per_call=per_step * spec.seq_len * spec.batch,
        layers=tuple(layers),
    )


def _layer_output(spec: Spec) -> Axis:
    if spec.bidirectional:
        return Axis("D·H", "directions × hidden units", 2 * spec.hidden_size)
    return Axis("H", "hidden units", spec.hidden_size)


def _facts(
    name: str, role: str, axes: tuple[Axis, ...], layer: int | None = None, direction: str | None = None, values: Tensor | None = None
) -> TensorFacts:
    listed = values.tolist() if values is not None and values.numel() <= MOST_LISTED else None
    return TensorFacts(name, role, tuple(axis.size for axis in axes), axes, layer, direction, listed)
