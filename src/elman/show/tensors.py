"""A network's tensors: their shapes, what each axis means, the parameters' values, and what they cost."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from elman.show.specification import Spec

# Numbers nested as deep as a tensor has axes.
Nested: TypeAlias = "float | list[Nested]"

# The values of a larger tensor are not listed.
MOST_LISTED = 2**16


@dataclass(frozen=True)
class Axis:
    """One axis: the letter used for it everywhere ("T"), or a product of letters ("D·H"), its meaning in words, and its size."""

    symbol: str
    meaning: str
    size: int


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, shape and role ("x", "output", "h_n", "weight_ih", ...).

    ``layer`` and ``direction`` are a parameter's own; ``values`` is None for what is no parameter, and beyond ``MOST_LISTED`` numbers.
    """

    name: str
    role: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    layer: int | None = None
    direction: str | None = None
    values: Nested | None = None


@dataclass(frozen=True)
class GateRows:
    """Which rows of a weight or a bias are a gate's: from ``start`` up to ``stop``."""

    gate: str
    start: int
    stop: int


@dataclass(frozen=True)
class LayerCost:
    """A layer's parameters, and its multiply-adds for one sequence at one step."""

    layer: int
    parameters: int
    multiply_adds_per_step: int


@dataclass(frozen=True)
class Costs:
    """Parameters, and multiply-adds of the matrix products: for one sequence at one step, and for the whole call."""

    parameters: int
    bytes: int
    multiply_adds_per_step: int
    multiply_adds_per_call: int
    layers: tuple[LayerCost, ...]


def suffix(layer: int, direction: str) -> str:
    """The end of the names of one direction's parameters: "_l1_reverse"."""
    return f"_l{layer}" + ("_reverse" if direction == "reverse" else "")


def gate_rows(spec: Spec) -> tuple[GateRows, ...]:
    """Which rows of every weight and bias with G·H rows belong to which gate."""
    size = spec.hidden_size
    return tuple(GateRows(gate, index * size, (index + 1) * size) for index, gate in enumerate(spec.stack.cell.gates))


def inputs_and_outputs(spec: Spec) -> tuple[TensorInfo, ...]:
    """What goes in and what comes out: x, output and the final states."""
    steps, batch = Axis("T", "steps", spec.seq_len), Axis("B", "batch", spec.batch)
    lead = (batch, steps) if spec.batch_first else (steps, batch)
    states = Axis("L·D", "layers × directions", spec.num_layers * 2) if spec.bidirectional else Axis("L", "layers", spec.num_layers)
    widths = (_state(spec), *(_hidden(spec),) * (len(spec.finals) - 1))
    return (
        _info("x", "x", (*lead, Axis("I", "inputs", spec.input_size))),
        _info("output", "output", (*lead, _layer_output(spec))),
        *(_info(name, name, (states, batch, width)) for name, width in zip(spec.finals, widths, strict=True)),
    )


def parameters(spec: Spec, values: Mapping[str, Tensor]) -> tuple[TensorInfo, ...]:
    """The parameters in torch's order, with their values from the network's state_dict."""
    gates = len(spec.stack.cell.gates)
    rows = _hidden(spec) if gates == 1 else Axis("G·H", "gates × hidden units", gates * spec.hidden_size)
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
        for direction in spec.directions:
            end = suffix(layer, direction)
            found += [_info(role + end, role, axes[role], layer, direction, values[role + end]) for role in axes if role + end in values]
    return tuple(found)


def costs(spec: Spec) -> Costs:
    """Parameters and multiply-adds: every weight is used once for each sequence at each step."""
    import torch

    layers = tuple(
        LayerCost(index, sum(map(prod, layer.shapes)), sum(prod(shape) for shape in layer.shapes if len(shape) == 2))
        for index, layer in enumerate(spec.stack.layers)
    )
    count = sum(layer.parameters for layer in layers)
    per_step = sum(layer.multiply_adds_per_step for layer in layers)
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return Costs(count, count * dtype.itemsize, per_step, per_step * spec.seq_len * spec.batch, layers)


def _hidden(spec: Spec) -> Axis:
    return Axis("H", "hidden units", spec.hidden_size)


def _state(spec: Spec) -> Axis:
    """The axis of the state that is put out."""
    return Axis("P", "projected units", spec.proj_size) if spec.proj_size else _hidden(spec)


def _layer_output(spec: Spec) -> Axis:
    one = _state(spec)
    return Axis(f"D·{one.symbol}", f"directions × {one.meaning}", 2 * one.size) if spec.bidirectional else one


def _info(
    name: str, role: str, axes: tuple[Axis, ...], layer: int | None = None, direction: str | None = None, values: Tensor | None = None
) -> TensorInfo:
    listed = values.tolist() if values is not None and values.numel() <= MOST_LISTED else None
    return TensorInfo(name, role, tuple(axis.size for axis in axes), axes, layer, direction, listed)
