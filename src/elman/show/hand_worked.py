"""One step of one unit worked out by hand in float64: each product, the sums, and the value that the library computed beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.columns import Columns
from rich.text import Text

from elman.language import _, translated
from elman.show.equations import dated, equations, filled, right_sides, work_out
from elman.show.facts import Facts
from elman.show.numbers import count, exact, number, small
from elman.show.specification import indexed
from elman.show.style import AXIS_COLOURS, DIM, END, Part, grid, lines, section, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table
    from torch import Tensor

    from elman.show.specification import Run, Spec

MOST_PRODUCTS = 24


@dataclass(frozen=True)
class Which:
    """Which number to work out. ``step`` None: the second step that the direction takes, the first one whose state before is not zero."""

    step: int | None = None
    unit: int = 0
    sequence: int = 0
    layer: int = 0
    direction: str = "forward"


class HandWorked(Facts):
    """One step of one unit worked out by hand: ``step``, ``unit``, ``sequence``, ``layer``, ``direction``.

    Attributes:
        before: the step that the state before came from; None at a direction's first step, where the state is zero.
        input_code, state_code: what is read, as one writes it; ``state_code`` is None at the first step.
        weight_ih, weight_hh: the parameters' names.
        value_code: where the library put the value, as one writes it.
        gates: what enters each gate: the products with the input and with the state before, their sums, the biases or None, and the total;
            None where the cell does not simply add all of it up, as for GRU's n.
        lines: every equation in turn: what it gives, the equation, the equation with numbers, the value.
        projection: the products that give the value where the network projects its state; else None.
        by_hand: the value worked out here in float64; ``library`` the one that the library computed.

    Raises:
        ValueError: a step, unit, sequence, layer or direction that the network does not have.
    """

    def __init__(self, spec: Spec, which: Which, run: Run) -> None:
        layer, direction, sequence, unit = which.layer, which.direction, which.sequence, which.unit
        reverse, top, cell = direction == "reverse", layer == spec.num_layers - 1, spec.stack.cell
        second = max(0, spec.seq_len - 2) if reverse else min(1, spec.seq_len - 1)
        step = second if which.step is None else which.step
        _check(spec, which, step)
        before = step + 1 if reverse else step - 1
        first = not 0 <= before < spec.seq_len
        super().__init__(**vars(which) | {"step": step})
        self.before = None if first else before
        self.equations = equations(spec, direction)

        columns, column = spec.columns(direction), unit + spec.directions.index(direction) * spec.output_size
        below = f"{spec.trace_code(layer - 1, None, step, sequence)}.flatten()" if layer else ""
        self.input_code = below or indexed("x", *spec.in_order(step, sequence))
        state_code = spec.output_code(before, sequence, columns) if top else spec.trace_code(layer, direction, before, sequence)
        self.state_code = None if first else state_code
        self.value_code = spec.output_code(step, sequence, column) if top else spec.trace_code(layer, direction, step, sequence, unit)
        suffix = f"_l{layer}_reverse" if reverse else f"_l{layer}"
        self.weight_ih, self.weight_hh = f"weight_ih{suffix}", f"weight_hh{suffix}"

        source: Tensor = run[self.input_code].double()
        # At the first step the states are zeros, of the size that they have at every other.
        codes = {name: spec.trace_code(layer, direction, step if first else before, sequence, state=name) for name in cell.states}
        found: dict[str, Tensor] = {name: run[code].double() for name, code in codes.items()}
        states = {name: each.new_zeros(each.shape) if first else each for name, each in found.items()}
        weights = {name.removesuffix(suffix): value.double() for name, value in run.network.state_dict().items() if name.endswith(suffix)}
        state = states[cell.states[0]]
        # A state that a projection has narrowed only enters products.
        known = _terms(cell.gates, weights, source, state) | {name: each for name, each in states.items() if len(each) == spec.hidden_size}
        values = work_out(spec, known)
        terms = {name: value[unit].item() for name, value in (known | values).items()}
        *_others, output = values
        met, gates = {"weight_ih": source, "weight_hh": state}, []
        for gate, row in zip(cell.gates, range(unit, len(weights["weight_ih"]), spec.hidden_size), strict=True):
            products = (_products(weights[name][row], values) for name, values in met.items())
            gates.append(_gate_sum(spec, gate, terms, *products))
        self.gates = tuple(gates)
        self.lines = _lines(spec, direction, terms)
        self.projection = _products(weights["weight_hr"][unit], values[output]) if spec.proj_size else None
        self.by_hand = sum(each.product for each in self.projection) if self.projection else terms[output]
        self.library: float = run[self.value_code].item()
        self.difference = abs(self.by_hand - self.library)


def _check(spec: Spec, which: Which, step: int) -> None:
    if which.direction not in ("forward", "reverse"):
        raise ValueError(f"direction must be forward or reverse, got {which.direction!r}")
    if which.direction not in spec.directions:
        raise ValueError("this network has no reverse direction; add --bidirectional")
    sizes = {"layer": spec.num_layers, "step": spec.seq_len, "sequence": spec.batch, "unit": spec.output_size}
    for name, given in {"layer": which.layer, "step": step, "sequence": which.sequence, "unit": which.unit}.items():
        if not 0 <= given < sizes[name]:
            raise ValueError(f"{name} must be between 0 and {sizes[name] - 1}, got {given}")


def _terms(gates: Sequence[str], weights: Mapping[str, Tensor], source: Tensor, state: Tensor) -> dict[str, Tensor]:
    """What the equations start from, for all units: "W_ir x", "b_ir", "W_hr h" and "b_hr" of each gate r."""
    terms = {"W_i{} x": weights["weight_ih"] @ source, "W_h{} h": weights["weight_hh"] @ state}
    if "bias_ih" in weights:
        terms |= {"b_i{}": weights["bias_ih"], "b_h{}": weights["bias_hh"]}
    return {name.format(gate): part for name, each in terms.items() for gate, part in zip(gates, each.chunk(len(gates)), strict=True)}


def _products(weights: Tensor, values: Tensor) -> tuple[Facts, ...]:
    """Each weight times the number it meets."""
    pairs = enumerate(zip(weights.tolist(), values.tolist(), strict=True))
    return tuple(Facts(index=index, weight=weight, value=value, product=weight * value) for index, (weight, value) in pairs)


def _added(gate: str) -> list[str]:
    """What most gates add up, as the equations write it."""
    return [f"W_i{gate} x", f"b_i{gate}", f"W_h{gate} h", f"b_h{gate}"]


def _gate_sum(spec: Spec, gate: str, terms: Mapping[str, float], from_input: tuple[Facts, ...], from_state: tuple[Facts, ...]) -> Facts:
    names = ("input_sum", "bias_ih", "state_sum", "bias_hh")
    sums = dict(zip(names, map(terms.get, _added(gate)), strict=True))
    simply_added = any(" + ".join(_added(gate)) in line for line in spec.stack.cell.equations)
    total = sum(each or 0.0 for each in sums.values()) if simply_added else None
    return Facts(gate=gate, from_input=from_input, from_state=from_state, **sums, total=total)


def _lines(spec: Spec, direction: str, terms: Mapping[str, float]) -> tuple[Facts, ...]:
    numbers = {name: number(value).strip() for name, value in terms.items()}
    lines = []
    for name, expression in right_sides(spec).items():
        equation = dated(expression, spec, direction)
        given = equation if spec.proj_size and name.startswith(spec.stack.cell.states[0]) else dated(name, spec, direction)
        lines.append(Facts(name=given, equation=equation, numbers=filled(expression, numbers), value=terms[name]))
    return tuple(lines)


def hand_worked_section(spec: Spec, worked: HandWorked) -> Part:
    """The products side by side, the sums, and the library's value."""
    which = _(
        "step {step} · unit {unit} · sequence {sequence} · layer {layer} · {direction}",
        **vars(worked) | {"direction": translated(worked.direction)},
    )
    several = len(worked.gates) > 1
    activated = f"{spec.stack.cell.states[0]}[t]" if several else _("{activation}(total)", activation=spec.nonlinearity)
    labels = max(cell_len(activated), cell_len(worked.value_code))
    worked_out = [((line.name, "bold"), "=", line.numbers, "=", (number(line.value), "bold")) for line in worked.lines]
    difference = _("by the library, in {dtype}; differs by {difference}", dtype=spec.dtype, difference=small(worked.difference))
    by_hand = ((activated, END), (exact(worked.by_hand), END), (_("by hand, in float64"), DIM))
    library = ((worked.value_code, END), (exact(worked.library), END), (difference, DIM))
    return section(
        _("One step of one unit, by hand"),
        (which, "bold"),
        ("\n".join(worked.equations), "italic"),
        "",
        *(_gate(spec, worked, index, labels) for index in range(len(worked.gates))),
        several and lines((_("the equations with these numbers"), "bold"), grid(*worked_out, gap=1), ""),
        worked.projection is not None and _projection(worked),
        _ledger(labels, by_hand, library),
    )


def _gate(spec: Spec, worked: HandWorked, index: int, labels: int) -> Part:
    gate, several = worked.gates[index], len(worked.gates) > 1
    row, most = index * spec.hidden_size + worked.unit, MOST_PRODUCTS // len(worked.gates)
    source = f"{worked.weight_ih}[{row}]\n× {worked.input_code}"
    tables = [_products_table(_("from the input"), source, gate.from_input, gate.input_sum, "I", most)]
    first = worked.state_code is None and lines((_("This is the direction's first step: the state before it is zero."), DIM), "")
    if worked.state_code is not None:
        title, source = _("from the state of step {before}", before=worked.before), f"{worked.weight_hh}[{row}]\n× {worked.state_code}"
        tables.append(_products_table(title, source, gate.from_state, gate.state_sum, "H", most))
    values, colours = (gate.input_sum, gate.bias_ih, gate.state_sum, gate.bias_hh), (AXIS_COLOURS["I"], "", AXIS_COLOURS["H"], "")
    entering = zip(_added(gate.gate), values, colours, strict=True)
    sums = [(label, (exact(value), colour)) for label, value, colour in entering if value is not None]
    if gate.total is not None:
        total = exact(gate.total)
        sums += [("", ("─" * len(total), DIM)), (_("total"), (total, "bold"))]
    heading = several and (_("gate {gate}", gate=gate.gate), "bold")
    return lines(heading, Columns(tables, padding=(0, 4)), "", first, _ledger(labels, *sums), several and "")


def _projection(worked: HandWorked) -> Part:
    source = f"weight_hr{worked.weight_ih.removeprefix('weight_ih')}[{worked.unit}]"
    note = _("W_hr takes all units, each computed like the one above, which is number {unit} here.", unit=worked.unit)
    products = _products_table(_("projected"), source, worked.projection or (), worked.by_hand, "P", MOST_PRODUCTS)
    return lines(products, "", (note, DIM), "")


def _products_table(title: str, source: str, products: Sequence[Facts], total: float, axis: str, most: int) -> Table:
    """At most so many products, one below the other, the others in one line, and their sum."""
    colour = AXIS_COLOURS[axis]
    rows: list[Sequence[Part]] = [
        ((str(each.index), DIM), number(each.weight), ("×", DIM), (number(each.value), colour), ("=", DIM), number(each.product))
        for each in products
    ]
    if others := products[most - 2 : -1] if len(products) > most else ():
        more = _("{count} more", count=count(len(others)))
        rows[most - 2 : -1] = [(("…", DIM), (more, DIM), "", "", "", number(sum(each.product for each in others)))]
    rows.append(("", "", "", (_("sum"), DIM), "", (number(total), f"bold {colour}")))
    made = table(["", _("weight"), "", _("value"), "", _("product")], *rows, gap=1, right=range(6))
    made.columns[-1].no_wrap = True
    made.title, made.title_justify = Text.assemble((title, f"bold {colour}"), "\n", (source, DIM)), "left"
    return made


def _ledger(labels: int, *rows: Sequence[Part]) -> Part:
    """Names, as wide as all of them, and numbers one below the other."""
    made = grid(*rows, right=(1,))
    made.columns[0].min_width = labels
    return made
