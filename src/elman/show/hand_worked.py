"""A cell's equations: written with their times, and one step of one unit worked out by hand in float64 beside the library's value."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from rich.columns import Columns
from rich.text import Text

from elman.language import _, translated
from elman.show.specification import check_between, indexed
from elman.show.style import COLOURS, DIM, END, Part, count, lines, number, section, small, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.table import Table
    from torch import Tensor

    from elman.show.specification import Run, Spec

MOST_PRODUCTS = 24
# "W_ir x" is a product: what it is with, the gate, the vector. Other terms are names, primed where they are states after the step.
PRODUCT = re.compile(r"W_([ih])(\w+) (\w+)")
TERM = re.compile(r"W_\w+ \w+|[A-Za-z_]\w*'?")
NAME = re.compile(r"([A-Za-z_]\w*)('?)")
BIAS = re.compile(r" \+ b_\w+")
APPLIED = re.compile(r"([a-z]+)\((.*)\)")  # a function to all that follows
FUNCTIONS = {"tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu}


def right_sides(spec: Spec) -> dict[str, str]:
    """The right side of each equation by the name on its left, as the network has them: without biases, or with a projection of m to h."""
    sides = dict(line.split(" = ", 1) for line in spec.stack.cell.equations)
    if spec.proj_size:
        sides |= {"m": sides.pop("h'"), "h'": "W_hr m"}
    return sides if spec.bias else {name: BIAS.sub("", side) for name, side in sides.items()}


def equations(spec: Spec, direction: str = "forward") -> tuple[str, ...]:
    """The equations with their times, "h[t] = (1 - z[t]) * n[t] + z[t] * h[t-1]"; the reverse direction comes from the step after."""
    before, cell = "[t-1]" if direction == "forward" else "[t+1]", spec.stack.cell
    times = dict.fromkeys(("x", "m", *cell.gates), "[t]") | dict.fromkeys(cell.states, before)
    written = "\n".join(f"{name} = {side}" for name, side in right_sides(spec).items())
    return tuple(NAME.sub(lambda name: name[1] + ("[t]" if name[2] else times.get(name[1], "")), written).splitlines())


def filled(side: str, terms: Mapping[str, str]) -> str:
    """A right side with something else for its terms."""
    return TERM.sub(lambda match: terms.get(match[0], match[0]), side).replace("+ -", "- ")


def value_of(side: str, terms: Mapping[str, Tensor]) -> Tensor:
    """The value of a right side, given those of its terms. The text is a cell's, never a reader's."""
    code = filled(side, {term: f"terms[{term!r}]" for term in terms})
    return eval(code, {"__builtins__": {}, "terms": terms, **FUNCTIONS})  # type: ignore[no-any-return]


class HandWorked(SimpleNamespace):
    """One step of one unit worked out by hand: each equation in turn, with the sums of products in it, its numbers and its value.

    By default it is the second step that the direction takes, the first one with a step ``before``. A line's ``total`` is what its function
    is applied to, if it is just a function of something.
    """

    def __init__(
        self, spec: Spec, run: Run, step: int | None = None, unit: int = 0, sequence: int = 0, layer: int = 0, direction: str = "forward"
    ) -> None:
        if direction not in spec.directions:
            raise ValueError("this network has no reverse direction; add --bidirectional")
        reverse, cell = direction == "reverse", spec.stack.cell
        if step is None:
            step = max(0, spec.seq_len - 2) if reverse else min(1, spec.seq_len - 1)
        super().__init__(step=step, unit=unit, sequence=sequence, layer=layer, direction=direction)
        sizes = {"layer": spec.num_layers, "step": spec.seq_len, "sequence": spec.batch, "unit": spec.output_size}
        for name, size in sizes.items():
            check_between(name, getattr(self, name), size - 1)
        before = step + 1 if reverse else step - 1
        self.before = before if 0 <= before < spec.seq_len else None
        below = f"{spec.trace_code(layer - 1, None, step, sequence)}.flatten()" if layer else ""
        self.input_code = below or indexed("x", *spec.in_order(step, sequence))
        columns, first_column = spec.columns(direction), spec.directions.index(direction) * spec.output_size
        if layer == spec.num_layers - 1:
            state_code, self.value_code = spec.output_code(before, sequence, columns), spec.output_code(step, sequence, first_column + unit)
        else:
            state_code, self.value_code = (
                spec.trace_code(layer, direction, *each) for each in ((before, sequence), (step, sequence, unit))
            )
        self.state_code = None if self.before is None else state_code

        suffix = f"_l{layer}_reverse" if reverse else f"_l{layer}"
        parameters = run.network.state_dict().items()
        weights = {name.removesuffix(suffix): value.double() for name, value in parameters if name.endswith(suffix)}
        # The values for all units of what the equations are made of, and where the vectors are.
        terms: dict[str, Tensor] = {"x": run[self.input_code].double()}
        for state, size in zip(cell.states, spec.stack.state_sizes, strict=True):
            code = spec.trace_code(layer, direction, before, sequence, of=state)
            terms[state] = terms["x"].new_zeros(size) if self.before is None else run[code].double()
        for side in "ih" if spec.bias else "":
            biases = zip(cell.gates, weights[f"bias_{side}h"].chunk(len(cell.gates)), strict=True)
            terms |= {f"b_{side}{gate}": bias for gate, bias in biases}
        codes = {"x": self.input_code, cell.states[0]: self.state_code, "m": "m[t]"}

        lines = []
        for (name, expression), equation in zip(right_sides(spec).items(), equations(spec, direction), strict=True):
            sums = []
            for side, gate, vector in PRODUCT.findall(expression):
                kind, start = ("weight_hr", 0) if vector == "m" else (f"weight_{side}h", cell.gates.index(gate) * spec.hidden_size)
                term, weight = f"W_{side}{gate} {vector}", weights[kind][start : start + spec.hidden_size]
                terms[term] = weight @ terms[vector]
                source, value = f"{kind}{suffix}[{start + unit}]\n× {codes[vector]}", terms[term][unit].item()
                pairs = enumerate(zip(weight[unit].tolist(), terms[vector].tolist(), strict=True))
                products = tuple(SimpleNamespace(index=index, weight=w, value=v, product=w * v) for index, (w, v) in pairs)
                if codes[vector]:  # the state before the first step is zero
                    sums.append(SimpleNamespace(term=term, source=source, products=products, value=value))
            terms[name] = value_of(expression, terms)
            value, function = terms[name][unit].item(), APPLIED.fullmatch(expression)
            total = value_of(function[2], terms)[unit].item() if function else None
            numbers = filled(expression, {term: number(each[unit].item()).strip() for term, each in terms.items() if term != "x"})
            lines.append(SimpleNamespace(equation=equation, sums=tuple(sums), numbers=numbers, total=total, value=value))
        self.lines, self.by_hand, self.library = tuple(lines), value, run[self.value_code].item()
        self.difference = abs(self.by_hand - self.library)


def hand_worked_section(spec: Spec, worked: HandWorked) -> Part:
    """Each equation, its products side by side, and its numbers; at the end the library's value."""
    which = _(
        "step {step} · unit {unit} · sequence {sequence} · layer {layer} · {direction}",
        **vars(worked) | {"direction": translated(worked.direction)},
    )
    first = _("This is the direction's first step: the state before it is zero.")
    note = _("W_hr takes all units of m, each computed like the one above, which is number {unit} here.", unit=worked.unit)
    difference = _("by the library, in {dtype}; differs by {difference}", dtype=spec.dtype, difference=small(worked.difference))
    by_hand = ((f"{spec.stack.cell.states[0]}[t]", END), (f"{worked.by_hand: .8f}", END), (_("by hand, in float64"), DIM))
    library = ((worked.value_code, END), (f"{worked.library: .8f}", END), (difference, DIM))
    return section(
        _("One step of one unit, by hand"),
        (which, "bold"),
        worked.before is None and (first, DIM),
        *(_line(line, MOST_PRODUCTS // len(spec.stack.cell.gates)) for line in worked.lines),
        spec.proj_size > 0 and (note, DIM),
        "",
        table(by_hand, library, right=(1,)),
    )


def _line(line: SimpleNamespace, most: int) -> Part:
    """An equation below its sums side by side, and what it is in numbers, one step of the calculation below the other."""
    name, _equals, expression = line.equation.partition(" = ")
    total = f"{expression.partition('(')[0]}({number(line.total).strip()})" if line.total is not None else line.numbers
    rows: list[Sequence[Part]] = [((name, "bold"), "=", (expression, "italic"))]
    rows += [("", "=", step) for step in dict.fromkeys((line.numbers, total, number(line.value).strip()))]
    most = most if len(line.sums) > 1 else MOST_PRODUCTS
    return lines("", Columns([_sum(each, most) for each in line.sums], padding=(0, 4)), table(*rows, gap=1))


def _sum(each: SimpleNamespace, most: int) -> Table:
    """At most so many products, one below the other, the others in one line, and their sum."""
    colour = COLOURS[{"x": "I", "m": "P"}.get(each.term.split()[1], "H")]
    rows: list[Sequence[Part]] = [
        ((str(one.index), DIM), number(one.weight), ("×", DIM), (number(one.value), colour), ("=", DIM), number(one.product))
        for one in each.products
    ]
    if others := each.products[most - 2 : -1] if len(rows) > most else ():
        more = _("{count} more", count=count(len(others)))
        rows[most - 2 : -1] = [(("…", DIM), (more, DIM), "", "", "", number(sum(one.product for one in others)))]
    rows.append(("", "", "", (each.term, DIM), ("=", DIM), (number(each.value), f"bold {colour}")))
    made = table(*rows, header=("", _("weight"), "", _("value"), "", _("product")), gap=1, right=range(6), wrapping=0)
    made.title, made.title_justify = Text.assemble((each.term, f"bold {colour}"), "\n", (each.source, DIM)), "left"
    return made
