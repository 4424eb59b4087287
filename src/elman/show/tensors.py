"""A network's tensors: their shapes, what each axis means, the parameters' values, and what they cost."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from elman.show.specification import Spec

# Numbers nested as deep as a tensor has axes.
Nested: TypeAlias = "float | list[Nested]"

# The values of a larger tensor are not listed.
MOST_LISTED = 2**16

LETTERS = {
    "T": "steps",
    "B": "batch",
    "I": "input features",
    "H": "hidden units",
    "L": "layers",
    "P": "projected units",
    "D": "directions",
    "G": "gates",
}
ROLES = {
    "x": "input: features at each step of each sequence",
    "output": "hidden state of the last layer at every step",
    "h_n": "final hidden state of each layer",
    "c_n": "final cell state of each layer",
    "weight_ih": "weights, input to hidden",
    "weight_hh": "weights, hidden to hidden",
    "bias_ih": "bias, input to hidden",
    "bias_hh": "bias, hidden to hidden",
    "weight_hr": "weights, hidden to projection",
}
# Of a bidirectional network.
BIDIRECTIONAL_ROLES = {
    "output": "last layer, every step: [forward, reverse]",
    "h_n": "final hidden state, layer and direction",
    "c_n": "final cell state, layer and direction",
}
# By the cell's name and the gate's.
GATES = {
    "gru.r": "reset gate: how much of the old state the candidate sees",
    "gru.z": "update gate: how much of the old state is kept",
    "gru.n": "candidate state: fills the rest",
    "lstm.i": "input gate: how much of the candidate is written",
    "lstm.f": "forget gate: how much of the old cell state is kept",
    "lstm.g": "candidate: what may be written",
    "lstm.o": "output gate: how much of the cell state appears in h",
}


@dataclass(frozen=True)
class Axis:
    """One axis: the letter used for it everywhere ("T"), or a product of letters ("D·H"), its meaning in words, and its size."""

    symbol: str
    meaning: str
    size: int


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's name, shape and role ("x", "output", "h_n", "weight_ih", ...), and in words what it holds.

    ``layer`` and ``direction`` are a parameter's own; ``values`` is None for what is no parameter, and beyond ``MOST_LISTED`` numbers.
    """

    name: str
    role: str
    meaning: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    layer: int | None = None
    direction: str | None = None
    values: Nested | None = None


@dataclass(frozen=True)
class GateRows:
    """Which rows of a weight or a bias are a gate's, from ``start`` up to ``stop``, and in words what it does."""

    gate: str
    meaning: str
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
    cell, size = spec.stack.cell, spec.hidden_size
    named = enumerate(cell.gates)
    return tuple(GateRows(gate, GATES.get(f"{cell.name}.{gate}", ""), index * size, (index + 1) * size) for index, gate in named)


def inputs_and_outputs(spec: Spec) -> tuple[TensorInfo, ...]:
    """What goes in and what comes out: x, output and the final states."""
    lead, states = spec.in_order("T", "B"), "L·D" if spec.bidirectional else "L"
    h_n, *others = spec.finals
    axes = {"x": (*lead, "I"), "output": (*lead, spec.output_axis), h_n: (states, "B", spec.state_axis)}
    axes |= dict.fromkeys(others, (states, "B", "H"))
    return tuple(_info(spec, name, name, *symbols) for name, symbols in axes.items())


def parameters(spec: Spec, values: Mapping[str, Tensor]) -> tuple[TensorInfo, ...]:
    """The parameters in torch's order, with their values from the network's state_dict."""
    rows = "G·H" if "G" in spec.sizes else "H"
    found = []
    for name, value in values.items():
        ((role, layer, reverse),) = re.findall(r"(\w+)_l(\d+)(_reverse)?", name)
        columns = {"weight_ih": "I" if layer == "0" else spec.output_axis, "weight_hh": spec.state_axis}
        symbols = (spec.state_axis, "H") if role == "weight_hr" else (rows, columns[role]) if role in columns else (rows,)
        found.append(_info(spec, name, role, *symbols, layer=int(layer), direction="reverse" if reverse else "forward", values=value))
    return tuple(found)


def costs(spec: Spec) -> Costs:
    """Parameters and multiply-adds: every weight is used once for each sequence at each step."""
    layers = tuple(
        LayerCost(index, sum(map(prod, layer.shapes)), sum(prod(shape) for shape in layer.shapes if len(shape) == 2))
        for index, layer in enumerate(spec.stack.layers)
    )
    count = sum(layer.parameters for layer in layers)
    per_step = sum(layer.multiply_adds_per_step for layer in layers)
    dtype: torch.dtype = getattr(torch, spec.dtype)
    return Costs(count, count * dtype.itemsize, per_step, per_step * spec.seq_len * spec.batch, layers)


def _info(
    spec: Spec, name: str, role: str, *symbols: str, layer: int | None = None, direction: str | None = None, values: Tensor | None = None
) -> TensorInfo:
    axes = []
    for symbol in symbols:
        letters = symbol.split("·")
        axes.append(Axis(symbol, " × ".join(LETTERS[letter] for letter in letters), prod(spec.sizes[letter] for letter in letters)))
    meaning = (ROLES | BIDIRECTIONAL_ROLES if spec.bidirectional else ROLES).get(role, role)
    listed = values.tolist() if values is not None and values.numel() <= MOST_LISTED else None
    return TensorInfo(name, role, meaning, tuple(axis.size for axis in axes), tuple(axes), layer, direction, listed)
