"""A number worked out by hand, on the terminal: two columns of products side by side, the sums, and the library's value."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.columns import Columns
from rich.table import Table
from rich.text import Text

from elman.show.render_style import AXIS_COLOURS, DIM, END, count, exact, number, section, small

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from elman.show.facts import GateSum, Product, Worked
    from elman.show.spec import Spec
    from elman.show.text import Words

MOST_PRODUCTS = 24


def numbers(worked: Worked, spec: Spec, words: Words) -> RenderableType:
    """One step of one unit."""
    which = words(
        "numbers.which",
        step=worked.step,
        unit=worked.unit,
        row=worked.row,
        layer=worked.layer,
        direction=words(f"places.{worked.direction}"),
    )
    several = len(worked.gates) > 1
    activated = f"{spec.cell.states[0]}[t]" if several else words("numbers.activated", activation=spec.nonlinearity)
    labels = max(cell_len(activated), cell_len(worked.value_code))
    body: list[RenderableType] = [Text(which, "bold"), Text("\n".join(worked.equations), "italic"), Text("")]
    for gate in worked.gates:
        if several:
            body.append(Text(words("numbers.gate", gate=gate.gate), "bold"))
        body += [Columns(_factors(gate, worked, spec, words), padding=(0, 4)), Text("")]
        if worked.state_code is None:
            body += [Text(words("numbers.first"), DIM), Text("")]
        body += [_sums(gate, labels, words), *([Text("")] if several else [])]
    if several:
        body += [Text(words("numbers.equations"), "bold"), _lines(worked), Text("")]
    if worked.projection is not None:
        source = f"weight_hr{worked.weight_ih.removeprefix('weight_ih')}[{worked.unit}]"
        table = _products(words("numbers.projection"), source, worked.projection, worked.by_hand, AXIS_COLOURS["P"], MOST_PRODUCTS, words)
        body += [table, Text(""), Text(words("numbers.projected", unit=worked.unit), DIM), Text("")]
    body.append(_result(worked, activated, labels, spec.dtype, words))
    return section(words("section.numbers"), *body)


def _factors(gate: GateSum, worked: Worked, spec: Spec, words: Words) -> list[Table]:
    row = spec.cell.gates.index(gate.gate) * spec.hidden_size + worked.unit
    most = MOST_PRODUCTS // len(worked.gates)
    source = f"{worked.weight_ih}[{row}]\n× {worked.input_code}"
    tables = [_products(words("numbers.input"), source, gate.from_input, gate.input_sum, AXIS_COLOURS["I"], most, words)]
    if worked.state_code is not None:
        source = f"{worked.weight_hh}[{row}]\n× {worked.state_code}"
        title = words("numbers.state", before=worked.before)
        tables.append(_products(title, source, gate.from_state, gate.state_sum, AXIS_COLOURS["H"], most, words))
    return tables


def _products(title: str, source: str, products: Sequence[Product], total: float, colour: str, most: int, words: Words) -> Table:
    table = Table(
        title=Text.assemble((title, f"bold {colour}"), "\n", (source, DIM)),
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        header_style=DIM,
    )
    for name in ("", words("numbers.weight"), "", words("numbers.value"), "", words("numbers.product")):
        table.add_column(name, justify="right", no_wrap=True)
    kept = products if len(products) <= most else products[: most - 2]
    for product in kept:
        _add(table, product, colour)
    if len(kept) < len(products):
        left = products[len(kept) : -1]
        table.add_row(
            Text("…", DIM), Text(words("numbers.more", count=count(len(left))), DIM), "", "", "", number(sum(p.product for p in left))
        )
        _add(table, products[-1], colour)
    table.add_section()
    table.add_row("", "", "", Text(words("numbers.sum"), DIM), "", Text(number(total), f"bold {colour}"))
    return table


def _add(table: Table, product: Product, colour: str) -> None:
    table.add_row(
        Text(str(product.index), DIM),
        number(product.weight),
        Text("×", DIM),
        Text(number(product.value), colour),
        Text("=", DIM),
        number(product.product),
    )


def _sums(gate: GateSum, labels: int, words: Words) -> Table:
    """What enters the gate, one below the other, and their sum."""
    table = _ledger(labels)
    for name, value, colour in (
        (f"W_i{gate.gate} x", gate.input_sum, AXIS_COLOURS["I"]),
        (f"b_i{gate.gate}", gate.bias_ih, ""),
        (f"W_h{gate.gate} h", gate.state_sum, AXIS_COLOURS["H"]),
        (f"b_h{gate.gate}", gate.bias_hh, ""),
    ):
        if value is not None:
            table.add_row(name, Text(exact(value), colour))
    if gate.total is not None:
        table.add_row("", Text("─" * len(exact(gate.total)), DIM))
        table.add_row(words("numbers.total"), Text(exact(gate.total), "bold"))
    return table


def _lines(worked: Worked) -> Table:
    """Each equation with its numbers, and what comes of it."""
    table = Table.grid(padding=(0, 1))
    for line in worked.lines:
        table.add_row(Text(line.name, "bold"), "=", line.numbers, "=", Text(number(line.value), "bold"))
    return table


def _result(worked: Worked, activated: str, labels: int, dtype: str, words: Words) -> Table:
    """The value worked out by hand above the library's."""
    table = _ledger(labels)
    table.add_row(Text(activated, END), Text(exact(worked.by_hand), END), Text(words("numbers.by_hand"), DIM))
    apart = words("numbers.library", dtype=dtype, difference=small(worked.difference))
    table.add_row(Text(worked.value_code, END), Text(exact(worked.library), END), Text(apart, DIM))
    return table


def _ledger(labels: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(min_width=labels)
    table.add_column(justify="right")
    return table
