"""A number worked out by hand, on the terminal: the products side by side, the sums, and the library's value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from elman.language import _, translated
from elman.show.numbers import count, exact, number, small
from elman.show.style import AXIS_COLOURS, DIM, END, grid, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from elman.show.hand_worked import GateSum, HandWorked, Product
    from elman.show.specification import Spec

MOST_PRODUCTS = 24


def hand_worked(worked: HandWorked, spec: Spec) -> RenderableType:
    """One step of one unit."""
    which = _(
        "step {step} · unit {unit} · sequence {sequence} · layer {layer} · {direction}",
        step=worked.step,
        unit=worked.unit,
        sequence=worked.sequence,
        layer=worked.layer,
        direction=translated(worked.direction),
    )
    several = len(worked.gates) > 1
    activated = f"{spec.stack.cell.states[0]}[t]" if several else _("{activation}(total)", activation=spec.nonlinearity)
    labels = max(cell_len(activated), cell_len(worked.value_code))
    body: list[RenderableType] = [Text(which, "bold"), Text("\n".join(worked.equations), "italic"), Text("")]
    for index, gate in enumerate(worked.gates):
        if several:
            body.append(Text(_("gate {gate}", gate=gate.gate), "bold"))
        row, most = index * spec.hidden_size + worked.unit, MOST_PRODUCTS // len(worked.gates)
        source = f"{worked.weight_ih}[{row}]\n× {worked.input_code}"
        tables = [_products(_("from the input"), source, gate.from_input, gate.input_sum, "I", most)]
        if worked.state_code is not None:
            title = _("from the state of step {before}", before=worked.before)
            source = f"{worked.weight_hh}[{row}]\n× {worked.state_code}"
            tables.append(_products(title, source, gate.from_state, gate.state_sum, "H", most))
        body += [Columns(tables, padding=(0, 4)), Text("")]
        if worked.state_code is None:
            body += [Text(_("This is the direction's first step: the state before it is zero."), DIM), Text("")]
        body += [_sums(gate, labels), *([Text("")] if several else [])]
    if several:
        rows = [(Text(line.name, "bold"), "=", line.numbers, "=", Text(number(line.value), "bold")) for line in worked.lines]
        body += [Text(_("the equations with these numbers"), "bold"), grid(*rows, gap=1), Text("")]
    if worked.projection is not None:
        source = f"weight_hr{worked.weight_ih.removeprefix('weight_ih')}[{worked.unit}]"
        body += [_products(_("projected"), source, worked.projection, worked.by_hand, "P", MOST_PRODUCTS), Text("")]
        told = _("W_hr takes all units. Each is worked out as the one above, which is number {unit} here.", unit=worked.unit)
        body += [Text(told, DIM), Text("")]
    result = _ledger(labels)
    result.add_row(Text(activated, END), Text(exact(worked.by_hand), END), Text(_("by hand, in float64"), DIM))
    told = _("by the library, in {dtype}; differs by {difference}", dtype=spec.dtype, difference=small(worked.difference))
    result.add_row(Text(worked.value_code, END), Text(exact(worked.library), END), Text(told, DIM))
    return section(_("One step of one unit, by hand"), *body, result)


def _products(title: str, source: str, products: Sequence[Product], total: float, axis: str, most: int) -> Table:
    colour = AXIS_COLOURS[axis]
    heading = Text.assemble((title, f"bold {colour}"), "\n", (source, DIM))
    made = Table(title=heading, title_justify="left", box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style=DIM)
    for name in ("", _("weight"), "", _("value"), "", _("product")):
        made.add_column(name, justify="right", no_wrap=True)
    shown = len(products) if len(products) <= most else most - 2
    for product in products if shown == len(products) else (*products[:shown], products[-1]):
        if product.index == len(products) - 1 > shown:
            left = products[shown:-1]
            more = Text(_("{count} more", count=count(len(left))), DIM)
            made.add_row(Text("…", DIM), more, "", "", "", number(sum(each.product for each in left)))
        value = Text(number(product.value), colour)
        made.add_row(Text(str(product.index), DIM), number(product.weight), Text("×", DIM), value, Text("=", DIM), number(product.product))
    made.add_section()
    made.add_row("", "", "", Text(_("sum"), DIM), "", Text(number(total), f"bold {colour}"))
    return made


def _sums(gate: GateSum, labels: int) -> Table:
    """What enters the gate, one below the other, and the total."""
    made = _ledger(labels)
    for name, value, colour in (
        (f"W_i{gate.gate} x", gate.input_sum, AXIS_COLOURS["I"]),
        (f"b_i{gate.gate}", gate.bias_ih, ""),
        (f"W_h{gate.gate} h", gate.state_sum, AXIS_COLOURS["H"]),
        (f"b_h{gate.gate}", gate.bias_hh, ""),
    ):
        if value is not None:
            made.add_row(name, Text(exact(value), colour))
    if gate.total is not None:
        made.add_row("", Text("─" * len(exact(gate.total)), DIM))
        made.add_row(_("total"), Text(exact(gate.total), "bold"))
    return made


def _ledger(labels: int) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_column(min_width=labels)
    made.add_column(justify="right")
    return made
