"""The shapes of a network's tensors, and what each axis means; what it costs in parameters and multiply-adds."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from elman.show.facts import Axis, Costs, GateRows, LayerCost, TensorFacts

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


def roles(spec: Spec) -> tuple[str, ...]:
    """What the parameters of one direction of one layer are for, in torch's order."""
    biases = ("bias_ih", "bias_hh") if spec.bias else ()
    return ("weight_ih", "weight_hh", *biases, *(("weight_hr",) if spec.proj_size else ()))


def gate_rows(spec: Spec) -> tuple[GateRows, ...]:
    """Whose rows are where in every weight and bias with G·H rows."""
    size = spec.hidden_size
    return tuple(GateRows(gate, index * size, (index + 1) * size) for index, gate in enumerate(spec.cell.gates))


def outer_tensors(spec: Spec) -> tuple[TensorFacts, ...]:
    """What goes in and what comes out: x, output and the final states."""
    steps, batch = Axis("T", "steps", spec.seq_len), Axis("B", "batch", spec.batch)
    lead = (batch, steps) if spec.batch_first else (steps, batch)
    states = Axis("L·D", "layers × directions", spec.num_layers * 2) if spec.bidirectional else Axis("L", "layers", spec.num_layers)
    widths = (_state(spec), *(_hidden(spec),) * (len(spec.cell.states) - 1))
    return (
        _facts("x", "x", (*lead, Axis("I", "inputs", spec.input_size))),
        _facts("output", "output", (*lead, _layer_output(spec))),
        *(_facts(f"{state}_n", f"{state}_n", (states, batch, width)) for state, width in zip(spec.cell.states, widths, strict=True)),
    )


def parameter_tensors(spec: Spec, values: Mapping[str, Tensor]) -> tuple[TensorFacts, ...]:
    """The parameters in torch's order.

    Args:
        spec: the network.
        values: the parameters by name, as in its state_dict.
    """
    gates = len(spec.cell.gates)
    rows = _hidden(spec) if gates == 1 else Axis("G·H", "gates × hidden units", spec.gate_rows)
    found = []
    for layer in range(spec.num_layers):
        inputs = Axis("I", "inputs", spec.input_size) if layer == 0 else _layer_output(spec)
        axes = {
            "weight_ih": (rows, inputs),
            "weight_hh": (rows, _state(spec)),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
            "weight_hr": (_state(spec), _hidden(spec)),
        }
        for direction in directions(spec):
            for role in roles(spec):
                name = role + suffix(layer, direction)
                found.append(_facts(name, role, axes[role], layer, direction, values[name]))
    return tuple(found)


def costs(spec: Spec) -> Costs:
    """Parameters and multiply-adds: every weight is met once by each row of the batch at each step."""
    layers = [
        LayerCost(index, sum(map(prod, layer.shapes)), sum(prod(shape) for shape in layer.shapes if len(shape) == 2))
        for index, layer in enumerate(spec.stack.layers)
    ]
    parameters = sum(layer.parameters for layer in layers)
    per_step = sum(layer.multiply_adds_per_step for layer in layers)
    return Costs(
        parameters=parameters,
        bytes=parameters * spec.torch_dtype().itemsize,
        multiply_adds_per_step=per_step,
        multiply_adds_per_call=per_step * spec.seq_len * spec.batch,
        layers=tuple(layers),
    )


def _hidden(spec: Spec) -> Axis:
    return Axis("H", "hidden units", spec.hidden_size)


def _state(spec: Spec) -> Axis:
    """The axis of the state that is put out."""
    return Axis("P", "projected units", spec.proj_size) if spec.proj_size else _hidden(spec)


def _layer_output(spec: Spec) -> Axis:
    one = _state(spec)
    return Axis(f"D·{one.symbol}", f"directions × {one.meaning}", 2 * one.size) if spec.bidirectional else one


def _facts(
    name: str, role: str, axes: tuple[Axis, ...], layer: int | None = None, direction: str | None = None, values: Tensor | None = None
) -> TensorFacts:
    listed = values.tolist() if values is not None and values.numel() <= MOST_LISTED else None
    return TensorFacts(name, role, tuple(axis.size for axis in axes), axes, layer, direction, listed)
