"""A network's tensors: shapes, what each axis and each gate's rows mean, the parameters' values, and what they cost."""

from __future__ import annotations

import re
from math import prod
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from rich.columns import Columns
from rich.text import Text

from elman.cells import Cell
from elman.language import _, translated
from elman.show.style import COLOURS, DIM, Part, count, folded, indented, lines, section, table

if TYPE_CHECKING:
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
# The axes of a tensor and what it holds, by its role. Letters that a network does not have are left out; P is then H.
ROLES = {
    "x": ("T B I", "input: features at each step of each sequence"),
    "output": ("T B D·P", "hidden state of the last layer at every step"),
    "h_n": ("L·D B P", "final hidden state of each layer and direction"),
    "c_n": ("L·D B H", "final cell state of each layer and direction"),
    "weight_ih": ("G·H D·P", "weights, input to hidden"),
    "weight_hh": ("G·H P", "weights, hidden to hidden"),
    "bias_ih": ("G·H", "bias, input to hidden"),
    "bias_hh": ("G·H", "bias, hidden to hidden"),
    "weight_hr": ("P H", "weights, hidden to projection"),
    "output of both directions": ("T B D·P", "last layer, every step: [forward, reverse]"),
    "other final state": ("L·D B H", "final state of each layer and direction"),
    "own parameter": ("", "parameter of the cell's own"),
    "step input": ("T B", "step input: comes with x"),
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


class TensorInfo(SimpleNamespace):
    """A tensor's name, shape and role, in words what it holds, and of each of its axes the letters, their meaning and the size.

    ``layer`` and ``direction`` are a parameter's own; ``values`` is None for what is no parameter, and beyond ``MOST_LISTED`` numbers.
    """

    def __init__(self, spec: Spec, name: str, tensor: Tensor, is_parameter: bool = False) -> None:
        role, layer, reverse = PARAMETER.findall(name)[0] if is_parameter else (name, "", "")
        self.name, self.role, self.shape = name, role, tuple(tensor.shape)
        axes, self.meaning = roles(spec)[role]
        axes = "G·H I" if role == "weight_ih" and layer == "0" else axes
        self.axes = tuple(_axis(spec, letters, size) for letters, size in zip(axes.split(), self.shape, strict=True))
        self.layer = int(layer) if layer else None
        self.direction = (reverse or "forward") if layer else None
        self.values = tensor.tolist() if is_parameter and tensor.numel() <= MOST_LISTED else None

    @property
    def letters(self) -> Text:
        """As in "T, B, D·H", each in its colour."""
        axes = (Text("").join(Text(letter, COLOURS.get(letter, DIM)) for letter in axis.symbol) for axis in self.axes)
        return Text(", ").join(axes)

    @property
    def sizes(self) -> Text:
        """The shape, as in "(5, 3, 20)", each size in its axis' colour, written as Python writes a tuple."""
        sizes = Text(", ").join(Text(str(axis.size), COLOURS[axis.symbol[-1]]) for axis in self.axes)
        return Text.assemble("(", sizes, ",)" if len(self.axes) == 1 else ")")


def roles(spec: Spec) -> dict[str, tuple[str, str]]:
    """Each tensor's axes, x laid out as the network takes it, and its meaning, by its role."""
    cell, lead = spec.stack.cell, " ".join(spec.in_order("T", "B"))
    known = dict.fromkeys(spec.finals, ROLES["other final state"]) | ROLES
    known["output"] = ROLES["output of both directions" if spec.bidirectional else "output"]
    for kind, sizes in {"own parameter": cell.parameters, "step input": cell.step_inputs}.items():
        known |= {name: (" ".join((ROLES[kind][0], *size)), ROLES[kind][1]) for name, size in sizes.items()}
    return {role: (axes.replace("T B", lead), meaning) for role, (axes, meaning) in known.items()}


def _axis(spec: Spec, letters: str, size: int) -> SimpleNamespace:
    sizes = sizes_by_letter(spec)
    symbols = [letter if letter in sizes else "H" for letter in letters.split("·") if letter in sizes or letter == "P"]
    if prod(sizes[letter] for letter in symbols) != size:  # the rows of some of the cell's gates
        symbols = ["H"] if size == spec.hidden_size else [str(size // spec.hidden_size), "H"]
    return SimpleNamespace(symbol="·".join(symbols), meaning=" × ".join(LETTERS.get(symbol, symbol) for symbol in symbols), size=size)


def sizes_by_letter(spec: Spec) -> dict[str, int]:
    """The size of each axis that the network has."""
    sizes, gates = {"T": spec.seq_len, "B": spec.batch, "I": spec.input_size, "H": spec.hidden_size}, len(spec.stack.cell.gates)
    sizes |= {"L": spec.num_layers, "P": spec.proj_size, "D": 2 * spec.bidirectional, "G": gates if gates > 1 else 0}
    return {letter: size for letter, size in sizes.items() if size}


def gate_rows(spec: Spec) -> tuple[SimpleNamespace, ...]:
    """Which rows of every weight and bias with G·H rows are a gate's, from ``start`` up to ``stop``, and in words what it does."""
    cell, units = spec.stack.cell, spec.hidden_size
    return tuple(
        SimpleNamespace(gate=gate, meaning=GATES.get(f"{cell.name}.{gate}", ""), start=index * units, stop=(index + 1) * units)
        for index, gate in enumerate(cell.gates)
    )


def costs(spec: Spec) -> SimpleNamespace:
    """Parameters, and multiply-adds of the matrix products, in which every weight is used once; per step those of one sequence."""
    layers = []
    for index, layer in enumerate(spec.stack.layers):
        products = sum(prod(shape) for shape in layer.shapes if len(shape) == 2)
        layers.append(SimpleNamespace(layer=index, parameters=sum(map(prod, layer.shapes)), multiply_adds_per_step=products))
    parameters, products = (sum(getattr(each, name) for each in layers) for name in ("parameters", "multiply_adds_per_step"))
    return SimpleNamespace(
        layers=tuple(layers),
        parameters=parameters,
        bytes=parameters * getattr(torch, spec.dtype).itemsize,
        multiply_adds_per_step=products,
        multiply_adds_per_call=products * spec.seq_len * spec.batch,
    )


def shapes_section(network: Network) -> Part:
    """Input, output and final states, and what each axis stands for."""
    legend = [
        Text.assemble((letter, COLOURS[letter]), f" {translated(LETTERS[letter])} ", (str(size), f"bold {COLOURS[letter]}"))
        for letter, size in sizes_by_letter(network.spec).items()
    ]
    rows = [((each.name, "bold"), each.sizes, each.letters, translated(each.meaning)) for each in network.tensors]
    finals = ", ".join(network.spec.finals)
    batch_first = _("batch_first puts B first in x and output only; {states} still start with the layers.", states=finals)
    header = _("tensor"), _("shape"), _("axes"), _("what it holds")
    return section(
        _("Shapes"), table(*rows, header=header), Columns(legend, padding=(0, 2)), network.spec.batch_first and (batch_first, DIM)
    )


def parameters_section(network: Network, rows: int = 4) -> Part:
    """Which rows belong to which gate, and each parameter by name with its shape, meaning and values folded to so many rows."""
    body: list[Part] = []
    for each in network.parameters:
        size = _("{count} numbers", count=count(prod(each.shape)))
        pieces = Text(each.name, "bold"), each.sizes, each.letters, Text(translated(each.meaning), DIM)
        body.append(Text("  ").join(filter(None, pieces)))
        body.append(indented((size, DIM) if each.values is None else folded(each.values, rows)))
    bound, uniform = f"{network.spec.hidden_size**-0.5:.4f}", type(network.spec.stack.cell).init is Cell.init
    return section(
        _("Parameters"),
        uniform and (_("Drawn uniformly from -1/√H to 1/√H, here ±{bound}.", bound=bound), DIM),
        len(network.gates) > 1 and lines(*_gates(network), ""),
        *body,
    )


def _gates(network: Network) -> list[Part]:
    gates, cell = network.gates, network.spec.stack.cell
    title = _("Every weight and bias has {gates} blocks of {units} rows, one for each gate:", gates=len(gates), units=gates[0].stop)
    columns = 3 if any(gate.meaning for gate in gates) else 2  # nobody knows what the gates of somebody's own cell do
    rows = [((gate.gate, "bold"), f"{gate.start}:{gate.stop}", (translated(gate.meaning), DIM))[:columns] for gate in gates]
    notes = [
        _("weight_{side} and bias_{side} have rows of {gates} only.", side=side, gates=_rows_of(network, some))
        for side, some in (("ih", cell.input_gates), ("hh", cell.recurrent_gates))
        if 0 < len(some) < len(gates)
    ]
    projection = network.spec.proj_size > 0 and (_("weight_hr has no gates: it projects h."), DIM)
    return [title, table(*rows, header=(_("gate"), _("rows"), _("what it does"))[:columns]), *((note, DIM) for note in notes), projection]


def _rows_of(network: Network, some: tuple[str, ...]) -> str:
    """Where gates lie in a weight that has no others."""
    return ", ".join(f"{name} ({each.start}:{each.stop})" for name, each in zip(some, network.gates, strict=False))


def costs_section(network: Network) -> Part:
    spec, cost = network.spec, network.costs
    rows = [(_("layer {layer}", layer=each.layer), count(each.parameters), count(each.multiply_adds_per_step)) for each in cost.layers]
    total = (_("total"), (count(cost.parameters), "bold"), (count(cost.multiply_adds_per_step), "bold"))
    header = "", _("parameters"), _("multiply-adds per step and sequence")
    scale, unit = (2**20, "MiB") if cost.bytes >= 2**20 else (2**10, "KiB")
    call = _("multiply-adds per call, {steps} steps × {batch} sequences", steps=count(spec.seq_len), batch=count(spec.batch))
    dropout = _("Dropout of {dropout} applies between layers, in training only: not in this run.", dropout=f"{spec.dropout:g}")
    return section(
        _("Cost"),
        table(*(rows if len(rows) > 1 else ()), total, header=header, gap=3, right=(1, 2)),
        "",
        Text.assemble(call, "  ", (count(cost.multiply_adds_per_call), "bold")),
        Text.assemble(_("memory of the parameters, {dtype}", dtype=spec.dtype), "  ", (f"{cost.bytes / scale:.1f} {unit}", "bold")),
        spec.dropout > 0 and (dropout, DIM),
    )
