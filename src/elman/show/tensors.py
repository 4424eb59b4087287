"""A network's tensors: shapes, what each axis and each gate's rows mean, and the parameters' values."""

from __future__ import annotations

import re
from functools import partial
from math import prod, sqrt
from typing import TYPE_CHECKING

from rich.text import Text

from elman.language import _, translated
from elman.show.facts import Facts
from elman.show.numbers import count, folded
from elman.show.style import AXIS_COLOURS, DIM, Fitted, Part, flow, indented, lines, section, table

if TYPE_CHECKING:
    from collections.abc import Mapping

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


class TensorInfo(Facts):
    """A tensor's name, shape and role ("x", "output", "h_n", "weight_ih", ...), and in words what it holds.

    Each of its ``axes`` has the letter used for it everywhere ("T"), or a product of two ("D·H"), its meaning in words, and its size.
    ``layer`` and ``direction`` are a parameter's own; ``values`` is None for what is no parameter, and beyond ``MOST_LISTED`` numbers.
    """

    def __init__(self, spec: Spec, name: str, values: Tensor | None = None) -> None:
        role, layer, reverse = PARAMETER.findall(name)[0] if values is not None else (name, "", "")
        sizes, axes = sizes_by_letter(spec), _axes(spec)
        self.name, self.role = name, role
        self.meaning = (ROLES | BIDIRECTIONAL_ROLES if spec.bidirectional else ROLES)[role]
        self.axes = tuple(_axis(sizes, symbol) for symbol in axes.get(name) or axes[role])
        self.shape = tuple(axis.size for axis in self.axes)
        self.layer = int(layer) if layer else None
        self.direction = (reverse or "forward") if layer else None
        self.values = values.tolist() if values is not None and values.numel() <= MOST_LISTED else None

    @property
    def letters(self) -> Text:
        """As in "T, B, D·H", each in its colour."""
        axes = (Text("").join(Text(letter, AXIS_COLOURS.get(letter, DIM)) for letter in axis.symbol) for axis in self.axes)
        return Text(", ").join(axes)

    @property
    def sizes(self) -> Text:
        """The shape, as in "(5, 3, 20)", each size in its axis' colour, written as Python writes a tuple."""
        sizes = Text(", ").join(Text(str(axis.size), AXIS_COLOURS[axis.symbol[-1]]) for axis in self.axes)
        return Text.assemble("(", sizes, ",)" if len(self.axes) == 1 else ")")


def sizes_by_letter(spec: Spec) -> dict[str, int]:
    """The size of each axis that the network has."""
    sizes = {"T": spec.seq_len, "B": spec.batch, "I": spec.input_size, "H": spec.hidden_size, "L": spec.num_layers}
    gates = len(spec.stack.cell.gates)
    optional = {"P": spec.proj_size, "D": 2 * spec.bidirectional, "G": gates if gates > 1 else 0}
    return sizes | {letter: size for letter, size in optional.items() if size}


def _axis(sizes: Mapping[str, int], symbol: str) -> Facts:
    letters = symbol.split("·")
    meaning = " × ".join(LETTERS[letter] for letter in letters)
    return Facts(symbol=symbol, meaning=meaning, size=prod(sizes[letter] for letter in letters))


def _axes(spec: Spec) -> dict[str, tuple[str, ...]]:
    """Each tensor's axes by its name, where it has some of its own, or by its role."""
    lead, state = spec.in_order("T", "B"), "P" if spec.proj_size else "H"
    output, states = (f"D·{state}", "L·D") if spec.bidirectional else (state, "L")
    rows = "G·H" if len(spec.stack.cell.gates) > 1 else "H"
    axes: dict[str, tuple[str, ...]] = {
        "x": (*lead, "I"),
        "output": (*lead, output),
        "h_n": (states, "B", state),
        "c_n": (states, "B", "H"),
    }
    axes |= {"weight_ih_l0": (rows, "I"), "weight_ih_l0_reverse": (rows, "I"), "weight_ih": (rows, output)}
    return axes | {"weight_hh": (rows, state), "bias_ih": (rows,), "bias_hh": (rows,), "weight_hr": (state, "H")}


def gate_rows(spec: Spec) -> tuple[Facts, ...]:
    """Which rows of every weight and bias with G·H rows are a gate's, from ``start`` up to ``stop``, and in words what it does."""
    cell, units = spec.stack.cell, spec.hidden_size
    return tuple(
        Facts(gate=gate, meaning=GATES.get(f"{cell.name}.{gate}", ""), start=index * units, stop=(index + 1) * units)
        for index, gate in enumerate(cell.gates)
    )


def shapes_section(network: Network) -> Part:
    """Input, output and final states, and what each axis stands for."""
    spec = network.spec
    legend = [
        Text.assemble((letter, AXIS_COLOURS[letter]), f" {translated(LETTERS[letter])} ", (str(size), f"bold {AXIS_COLOURS[letter]}"))
        for letter, size in sizes_by_letter(spec).items()
    ]
    rows = [((each.name, "bold"), each.sizes, each.letters, translated(each.meaning)) for each in network.tensors]
    batch_first = _("batch_first puts B first in x and output only; {states} still start with the layers.", states=", ".join(spec.finals))
    return section(
        _("Shapes"),
        table([_("tensor"), _("shape"), _("axes"), _("what it holds")], *rows),
        "",
        Fitted(partial(flow, legend)),
        spec.batch_first and (batch_first, DIM),
    )


def parameters_section(network: Network, rows: int = 4) -> Part:
    """Which rows belong to which gate, and each parameter by name with its shape, meaning and values folded to so many rows."""
    gates, units = network.gates, network.spec.hidden_size
    body: list[Part] = []
    for each in network.parameters:
        size = Text(_("{count} numbers", count=count(prod(each.shape))), DIM)
        pieces = [Text(each.name, "bold"), each.sizes, each.letters, Text(translated(each.meaning), DIM)]
        body.append(Fitted(partial(flow, pieces)))
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
