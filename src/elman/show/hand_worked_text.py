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
    named = vars(worked) | {"direction": translated(worked.direction)}
    which = _("step {step} · unit {unit} · sequence {sequence} · layer {layer} · {direction}", **named)
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
    told = _("by the library, in {dtype}; differs by {difference}", dtype=spec.dtype, difference=small(worked.difference))
    by_hand = (Text(activated, END), Text(exact(worked.by_hand), END), Text(_("by hand, in float64"), DIM))
    library = (Text(worked.value_code, END), Text(exact(worked.library), END), Text(told, DIM))
    return section(_("One step of one unit, by hand"), *body, _ledger(labels, by_hand, library))


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
    from_input, from_state = (Text(exact(total), AXIS_COLOURS[axis]) for total, axis in ((gate.input_sum, "I"), (gate.state_sum, "H")))
    rows: list[Sequence[RenderableType]] = [(f"W_i{gate.gate} x", from_input), (f"W_h{gate.gate} h", from_state)]
    if gate.bias_ih is not None and gate.bias_hh is not None:
        rows = [rows[0], (f"b_i{gate.gate}", exact(gate.bias_ih)), rows[1], (f"b_h{gate.gate}", exact(gate.bias_hh))]
    if gate.total is not None:
        total = exact(gate.total)
        rows += [("", Text("─" * len(total), DIM)), (_("total"), Text(total, "bold"))]
    return _ledger(labels, *rows)


def _ledger(labels: int, *rows: Sequence[RenderableType]) -> Table:
    made = grid(*rows)
    made.columns[0].min_width, made.columns[1].justify = labels, "right"
    return made
