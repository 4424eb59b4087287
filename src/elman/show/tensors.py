"""A network's tensors: shapes, what each axis and each gate's rows mean, and the parameters' values."""

from __future__ import annotations

import re
from math import prod, sqrt
from typing import TYPE_CHECKING

from rich.text import Text

from elman.language import _, translated
from elman.show.facts import Facts
from elman.show.numbers import count, folded
from elman.show.style import AXIS_COLOURS, DIM, axis_text, flow, indented, lines, section, shape_text, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import RenderableType
    from torch import Tensor

    from elman.show.network import Network
    from elman.show.specification import Spec

# The values of a larger tensor are not listed.
MOST_LISTED = 2**16

PARAMETER = re.compile(r"(\w+)_l(\d+)_?(reverse)?")

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


class Axis(Facts):
    """One axis: the letter used for it everywhere ("T"), or a product of letters ("D·H"), its meaning in words, and its size."""

    def __init__(self, spec: Spec, symbol: str) -> None:
        letters = symbol.split("·")
        self.symbol, self.meaning = symbol, " × ".join(LETTERS[letter] for letter in letters)
        self.size = prod(spec.sizes[letter] for letter in letters)


class TensorInfo(Facts):
    """A tensor's name, shape and role ("x", "output", "h_n", "weight_ih", ...), and in words what it holds.

    ``layer`` and ``direction`` are a parameter's own; ``values`` is None for what is no parameter, and beyond ``MOST_LISTED`` numbers.
    """

    def __init__(self, spec: Spec, name: str, symbols: Sequence[str], values: Tensor | None = None) -> None:
        role, layer, reverse = PARAMETER.findall(name)[0] if values is not None else (name, "", "")
        self.name, self.role = name, role
        self.meaning: str = (ROLES | BIDIRECTIONAL_ROLES if spec.bidirectional else ROLES).get(role, role)
        self.axes = tuple(Axis(spec, symbol) for symbol in symbols)
        self.shape = tuple(axis.size for axis in self.axes)
        self.layer = int(layer) if layer else None
        self.direction = (reverse or "forward") if layer else None
        self.values = values.tolist() if values is not None and values.numel() <= MOST_LISTED else None


class GateRows(Facts):
    """Which rows of every weight and bias with G·H rows are a gate's, from ``start`` up to ``stop``, and in words what it does."""

    def __init__(self, spec: Spec, index: int) -> None:
        self.gate = spec.stack.cell.gates[index]
        self.meaning = GATES.get(f"{spec.stack.cell.name}.{self.gate}", "")
        self.start, self.stop = index * spec.hidden_size, (index + 1) * spec.hidden_size


def inputs_and_outputs(spec: Spec) -> tuple[TensorInfo, ...]:
    """What goes in and what comes out: x, output and the final states."""
    lead, states = spec.in_order("T", "B"), "L·D" if spec.bidirectional else "L"
    h_n, *others = spec.finals
    axes = {"x": (*lead, "I"), "output": (*lead, spec.output_axis), h_n: (states, "B", spec.state_axis)}
    axes |= dict.fromkeys(others, (states, "B", "H"))
    return tuple(TensorInfo(spec, *each) for each in axes.items())


def parameters(spec: Spec, state_dict: Mapping[str, Tensor]) -> tuple[TensorInfo, ...]:
    """The parameters in torch's order."""
    rows = "G·H" if "G" in spec.sizes else "H"
    axes = {"weight_ih": (rows, spec.output_axis), "weight_hh": (rows, spec.state_axis), "weight_hr": (spec.state_axis, "H")}
    axes |= {"weight_ih_l0": (rows, "I"), "weight_ih_l0_reverse": (rows, "I")}
    return tuple(
        TensorInfo(spec, name, axes.get(name) or axes.get(name.split("_l")[0]) or (rows,), values) for name, values in state_dict.items()
    )


def shapes_section(network: Network) -> RenderableType:
    """Input, output and final states, and what each axis stands for."""
    spec = network.spec
    legend = [
        Text.assemble((letter, AXIS_COLOURS[letter]), f" {translated(LETTERS[letter])} ", (str(size), f"bold {AXIS_COLOURS[letter]}"))
        for letter, size in spec.sizes.items()
    ]
    rows = [((each.name, "bold"), shape_text(each.axes), axis_text(each.axes), translated(each.meaning)) for each in network.tensors]
    batch_first = _("batch_first puts B first in x and output only; {states} still start with the layers.", states=", ".join(spec.finals))
    return section(
        _("Shapes"),
        table([_("tensor"), _("shape"), _("axes"), _("what it holds")], *rows),
        "",
        flow(legend),
        spec.batch_first and (batch_first, DIM),
    )


def parameters_section(network: Network, rows: int = 4) -> RenderableType:
    """Which rows belong to which gate, and each parameter by name with its shape, meaning and values folded to so many rows."""
    gates, units = network.gates, network.spec.hidden_size
    body: list[RenderableType] = []
    for each in network.parameters:
        meaning = Text(translated(each.meaning), DIM)
        size = Text(_("{count} numbers", count=count(prod(each.shape))), DIM)
        body.append(flow([Text(each.name, "bold"), shape_text(each.axes), axis_text(each.axes), meaning]))
        body.append(indented(size if each.values is None else folded(each.values, rows)))
    blocks = _("Every weight and bias has {gates} blocks of {units} rows, one for each gate:", gates=len(gates), units=units)
    named = [((gate.gate, "bold"), f"{gate.start}:{gate.stop}", (translated(gate.meaning), DIM)) for gate in gates]
    projection = network.spec.proj_size > 0 and (_("weight_hr has no gates: it projects h."), DIM)
    return section(
        _("Parameters"),
        (_("Drawn uniformly from -1/√H to 1/√H, here ±{bound}.", bound=f"{1 / sqrt(units):.4f}"), DIM),
        len(gates) > 1 and lines("", blocks, table([_("gate"), _("rows"), _("what it does")], *named), projection, ""),
        *body,
    )
