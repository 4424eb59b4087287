"""One step of one unit worked out by hand in float64: each product, the sums, and the value that the library computed beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from elman.language import _, translated
from elman.show.equations import dated, equations, filled, put_out, right_sides, simply_added, work_out
from elman.show.facts import Facts
from elman.show.numbers import count, exact, number, small
from elman.show.specification import indexed
from elman.show.style import AXIS_COLOURS, DIM, END, Part, grid, lines, section

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from rich.console import RenderableType
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


class Product(Facts):
    """A weight times the number it meets."""

    def __init__(self, index: int, weight: float, value: float) -> None:
        self.index, self.weight, self.value, self.product = index, weight, value, weight * value


class GateSum(Facts):
    """What enters one gate of one unit: from the input, and from the state before.

    ``bias_ih`` and ``bias_hh`` are None in a network without; ``total`` where the cell does not simply add all of it up, as for GRU's n.
    """

    def __init__(self, spec: Spec, gate: str, terms: Mapping[str, float], *products: tuple[Product, ...]) -> None:
        self.gate, (self.from_input, self.from_state) = gate, products
        self.input_sum, self.bias_ih = terms[f"W_i{gate} x"], terms.get(f"b_i{gate}")
        self.state_sum, self.bias_hh = terms[f"W_h{gate} h"], terms.get(f"b_h{gate}")
        total = self.input_sum + (self.bias_ih or 0.0) + self.state_sum + (self.bias_hh or 0.0)
        self.total = total if simply_added(spec, gate) else None


class Line(Facts):
    """One equation worked out: what it gives, the equation, the equation with numbers, the value."""

    def __init__(self, name: str, equation: str, numbers: str, value: float) -> None:
        self.name, self.equation, self.numbers, self.value = name, equation, numbers, value


class HandWorked(Facts):
    """One step of one unit worked out by hand: ``step``, ``unit``, ``sequence``, ``layer``, ``direction``.

    Attributes:
        before: the step that the state before came from; None at a direction's first step, where the state is zero.
        input_code, state_code: what is read, as one writes it; ``state_code`` is None at the first step.
        weight_ih, weight_hh: the parameters' names.
        value_code: where the library put the value, as one writes it.
        lines: every equation in turn, with its numbers.
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
        self.step, self.unit, self.sequence, self.layer, self.direction = step, unit, sequence, layer, direction
        self.before = None if first else before
        self.equations = equations(spec, direction)

        columns, column = spec.columns(direction), unit + spec.directions.index(direction) * spec.output_size
        self.input_code = indexed("x", *spec.in_order(step, sequence))
        if layer:
            self.input_code = f"{spec.trace_code(layer - 1, None, step, sequence)}.flatten()"
        state_code = spec.output_code(before, sequence, columns) if top else spec.trace_code(layer, direction, before, sequence)
        self.state_code = None if first else state_code
        self.value_code = spec.output_code(step, sequence, column) if top else spec.trace_code(layer, direction, step, sequence, unit)
        suffix = f"_l{layer}_reverse" if reverse else f"_l{layer}"
        self.weight_ih, self.weight_hh = f"weight_ih{suffix}", f"weight_hh{suffix}"

        def state_before(name: str) -> Tensor:
            state: Tensor = run[spec.trace_code(layer, direction, step if first else before, sequence, state=name)].double()
            return state.new_zeros(state.shape) if first else state

        source, states = run[self.input_code].double(), {name: state_before(name) for name in cell.states}
        state = states[cell.states[0]]
        weights = {name.removesuffix(suffix): value.double() for name, value in run.network.state_dict().items() if name.endswith(suffix)}
        # A state that a projection has narrowed only enters products.
        known = _terms(cell.gates, weights, source, state) | {name: each for name, each in states.items() if len(each) == spec.hidden_size}
        values = work_out(spec, known)
        terms = {name: value[unit].item() for name, value in (known | values).items()}
        rows = [index * spec.hidden_size + unit for index in range(len(cell.gates))]
        self.gates = tuple(
            GateSum(spec, gate, terms, _products(weights["weight_ih"][row], source), _products(weights["weight_hh"][row], state))
            for gate, row in zip(cell.gates, rows, strict=True)
        )
        self.lines = tuple(_lines(spec, direction, terms))
        self.projection = _products(weights["weight_hr"][unit], values[put_out(spec)]) if spec.proj_size else None
        self.by_hand = sum(each.product for each in self.projection) if self.projection else terms[put_out(spec)]
        self.library: float = run[self.value_code].item()
        self.difference = abs(self.by_hand - self.library)


def _terms(gates: Sequence[str], weights: Mapping[str, Tensor], source: Tensor, state: Tensor) -> dict[str, Tensor]:
    """What the equations start from, for all units: "W_ir x", "b_ir", "W_hr h" and "b_hr" of each gate r."""
    terms = {"W_i{} x": weights["weight_ih"] @ source, "W_h{} h": weights["weight_hh"] @ state}
    if "bias_ih" in weights:
        terms |= {"b_i{}": weights["bias_ih"], "b_h{}": weights["bias_hh"]}
    return {name.format(gate): part for name, each in terms.items() for gate, part in zip(gates, each.chunk(len(gates)), strict=True)}


def _products(weights: Tensor, values: Tensor) -> tuple[Product, ...]:
    return tuple(map(Product, range(len(weights)), weights.tolist(), values.tolist()))


def _lines(spec: Spec, direction: str, terms: Mapping[str, float]) -> Iterator[Line]:
    numbers = {name: number(value).strip() for name, value in terms.items()}
    for name, expression in right_sides(spec).items():
        equation = dated(expression, spec, direction)
        left = equation if spec.proj_size and name == put_out(spec) else dated(name, spec, direction)
        yield Line(left, equation, filled(expression, numbers), terms[name])


def _check(spec: Spec, which: Which, step: int) -> None:
    if which.direction not in ("forward", "reverse"):
        raise ValueError(f"direction must be forward or reverse, got {which.direction!r}")
    if which.direction not in spec.directions:
        raise ValueError("this network has no reverse direction; add --bidirectional")
    sizes = {"layer": spec.num_layers, "step": spec.seq_len, "sequence": spec.batch, "unit": spec.output_size}
    for name, given in {"layer": which.layer, "step": step, "sequence": which.sequence, "unit": which.unit}.items():
        if not 0 <= given < sizes[name]:
            raise ValueError(f"{name} must be between 0 and {sizes[name] - 1}, got {given}")


def hand_worked_section(spec: Spec, worked: HandWorked) -> RenderableType:
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
        None if worked.projection is None else _projection(worked, worked.projection),
        _ledger(labels, by_hand, library),
    )


def _gate(spec: Spec, worked: HandWorked, index: int, labels: int) -> RenderableType:
    gate, several = worked.gates[index], len(worked.gates) > 1
    row, most = index * spec.hidden_size + worked.unit, MOST_PRODUCTS // len(worked.gates)
    source = f"{worked.weight_ih}[{row}]\n× {worked.input_code}"
    tables = [_products_table(_("from the input"), source, gate.from_input, gate.input_sum, "I", most)]
    if worked.state_code is not None:
        title = _("from the state of step {before}", before=worked.before)
        source = f"{worked.weight_hh}[{row}]\n× {worked.state_code}"
        tables.append(_products_table(title, source, gate.from_state, gate.state_sum, "H", most))
    first = _("This is the direction's first step: the state before it is zero.")
    return lines(
        several and (_("gate {gate}", gate=gate.gate), "bold"),
        Columns(tables, padding=(0, 4)),
        "",
        worked.state_code is None and lines((first, DIM), ""),
        _sums(gate, labels),
        several and "",
    )


def _projection(worked: HandWorked, products: Sequence[Product]) -> RenderableType:
    source = f"weight_hr{worked.weight_ih.removeprefix('weight_ih')}[{worked.unit}]"
    note = _("W_hr takes all units, each computed like the one above, which is number {unit} here.", unit=worked.unit)
    return lines(_products_table(_("projected"), source, products, worked.by_hand, "P", MOST_PRODUCTS), "", (note, DIM), "")


def _products_table(title: str, source: str, products: Sequence[Product], total: float, axis: str, most: int) -> Table:
    colour = AXIS_COLOURS[axis]
    heading = Text.assemble((title, f"bold {colour}"), "\n", (source, DIM))
    made = Table(title=heading, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style=DIM)
    for name in ("", _("weight"), "", _("value"), "", _("product")):
        made.add_column(name, justify="right", no_wrap=True)
    folded = products[most - 2 : -1] if len(products) > most else ()
    for each in products:
        if each not in folded:
            value = Text(number(each.value), colour)
            made.add_row(Text(str(each.index), DIM), number(each.weight), Text("×", DIM), value, Text("=", DIM), number(each.product))
        elif each is folded[0]:
            more = Text(_("{count} more", count=count(len(folded))), DIM)
            made.add_row(Text("…", DIM), more, "", "", "", number(sum(each.product for each in folded)))
    made.add_section()
    made.add_row("", "", "", Text(_("sum"), DIM), "", Text(number(total), f"bold {colour}"))
    return made


def _sums(gate: GateSum, labels: int) -> Table:
    """What enters the gate, one below the other, and the total."""
    rows: list[Sequence[Part]] = [(f"W_i{gate.gate} x", (exact(gate.input_sum), AXIS_COLOURS["I"]))]
    if gate.bias_ih is not None:
        rows.append((f"b_i{gate.gate}", exact(gate.bias_ih)))
    rows.append((f"W_h{gate.gate} h", (exact(gate.state_sum), AXIS_COLOURS["H"])))
    if gate.bias_hh is not None:
        rows.append((f"b_h{gate.gate}", exact(gate.bias_hh)))
    if gate.total is not None:
        total = exact(gate.total)
        rows += [("", ("─" * len(total), DIM)), (_("total"), (total, "bold"))]
    return _ledger(labels, *rows)


def _ledger(labels: int, *rows: Sequence[Part]) -> Table:
    made = grid(*rows)
    made.columns[0].min_width, made.columns[1].justify = labels, "right"
    return made
