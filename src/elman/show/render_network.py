"""A network's facts as sections on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from elman.show.render_diagram import MOST_LAYERS, diagram
from elman.show.render_style import (
    BAD,
    DIM,
    END,
    GOOD,
    NUMBER_WIDTH,
    axis_text,
    count,
    duration,
    flow,
    folded,
    legend_text,
    memory,
    row_text,
    section,
    shape_text,
    small,
)
from elman.show.tensors import directions

if TYPE_CHECKING:
    from elman.show.facts import Network, Place, Quartiles, TensorFacts
    from elman.show.text import Words


def heading(text: str) -> RenderableType:
    return Padding(Rule(Text(text, "bold"), style=DIM, align="left"), (1, 0, 0, 0))


def code(network: Network, words: Words) -> RenderableType:
    """The lines that make it, and its equation."""
    lines = Syntax("\n".join(network.code), "python", theme="ansi_dark", background_color="default", word_wrap=True)
    half = len(network.equations) // network.spec.num_directions
    equations = Table.grid(padding=(0, 2))
    for direction, first in zip(directions(network.spec), (0, half), strict=False):
        label: list[RenderableType] = [Text(words(f"places.{direction}"), DIM)] if network.spec.bidirectional else []
        equations.add_row(*label, Text("\n".join(network.equations[first : first + half]), "italic"))
    return Panel(Group(lines, Text(""), equations), border_style=DIM, padding=(0, 1))


def shapes(network: Network, words: Words, width: int) -> RenderableType:
    """Input, output and hidden state: shape, axes and meaning; and what each axis stands for."""
    table = _table(words("column.tensor"), words("column.shape"), words("column.axes"), words("column.meaning"))
    for tensor in network.tensors:
        table.add_row(Text(tensor.name, "bold"), shape_text(tensor.axes), axis_text(tensor.axes), _meaning(network, tensor, words))
    body: list[RenderableType] = [table, Text(""), _legend(network, words, width - 2)]
    if network.spec.batch_first:
        body.append(Text(words("shapes.batch_first", states=finals(network)), DIM))
    return section(words("section.shapes"), *body)


def where_states_sit(network: Network, words: Words, width: int) -> RenderableType:
    """The picture, each place with its numbers, and the reverse direction's trap."""
    inner = width - 2
    body: list[RenderableType] = [diagram(network, words, inner), Text(""), Text(words("places.row"), DIM)]
    body.append(_compared([_compare(place, network, words) for place in _shown(network.places)], inner))
    lower = [place for place in network.places if place.nearest is not None]
    if lower:
        states = lower[0].state if len(lower) == 1 else f"{lower[0].state} … {lower[-1].state}"
        body += [Text(""), Text(words("places.lower", states=states, nearest=small(min(place.nearest or 0.0 for place in lower))))]
    inner_states = [f"{state}_n" for state in network.spec.cell.states[1:]]
    if inner_states:
        body += [Text(""), Text(words("places.inner", states=", ".join(inner_states)))]
    if network.trap is not None:
        trap = network.trap
        verdict = Text(words("places.trap.unequal", difference=small(trap.difference)), BAD)
        table = _compared([Compared(trap.state, trap.state_row, trap.where, trap.found_row, verdict)], inner - 4)
        sentence = Text(words("places.trap", where=trap.where) + "\n")
        title = Text(words("places.trap.title"), BAD)
        body += [Text(""), Panel(Group(sentence, table), title=title, title_align="left", border_style="red", padding=(0, 1))]
    return section(words("section.places"), *body)


def parameters(network: Network, words: Words, width: int) -> RenderableType:
    """Whose rows are where, and each parameter by name with its shape, meaning and folded values."""
    body: list[RenderableType] = [
        Text(words("parameters.range", bound=f"{1 / math.sqrt(network.spec.hidden_size):.4f}"), DIM),
    ]
    if len(network.gates) > 1:
        body += [Text(""), *_gates(network, words), Text("")]
    for tensor in network.parameters:
        meaning = Text(words(f"role.{tensor.role}"), DIM)
        body.append(flow([Text(tensor.name, "bold"), shape_text(tensor.axes), axis_text(tensor.axes), meaning], width - 2))
        body.append(_values(tensor, words, width - 4))
    return section(words("section.parameters"), *body)


def costs(network: Network, words: Words) -> RenderableType:
    """Parameters and multiply-adds."""
    spec, cost = network.spec, network.costs
    table = Table(box=None, padding=(0, 3, 0, 0), header_style=DIM, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in ("costs.parameters", "costs.step"):
        table.add_column(words(name), justify="right")
    if spec.num_layers > 1:
        for layer in cost.layers[:1] if spec.num_layers > MOST_LAYERS else cost.layers:
            table.add_row(words("places.layer", layer=layer.layer), count(layer.parameters), count(layer.multiply_adds_per_step))
    if spec.num_layers > MOST_LAYERS:
        last = cost.layers[-1]
        table.add_row(words("costs.each", last=last.layer), count(last.parameters), count(last.multiply_adds_per_step))
    table.add_row(words("costs.all"), Text(count(cost.parameters), "bold"), Text(count(cost.multiply_adds_per_step), "bold"))
    call = words("costs.call", steps=count(spec.seq_len), batch=count(spec.batch))
    body: list[RenderableType] = [
        table,
        Text(""),
        Text.assemble(call, "  ", (count(cost.multiply_adds_per_call), "bold")),
        Text.assemble(words("costs.memory", dtype=spec.dtype), "  ", (memory(cost.bytes), "bold")),
    ]
    if spec.dropout:
        key = "costs.dropout" if spec.num_layers > 1 else "costs.dropout.one_layer"
        body.append(Text(words(key, dropout=f"{spec.dropout:g}"), DIM))
    return section(words("section.costs"), *body)


def beside_torch(network: Network, words: Words, width: int) -> RenderableType:
    """How far from torch.nn's numbers, and how fast beside it."""
    agreement = network.agreement
    same = agreement.same_seed
    seed = words("torch.seed.same" if same else "torch.seed.other", seed=network.spec.seed)
    body: list[RenderableType] = [
        Text.assemble(words("torch.backend"), "  ", (network.backend, "bold")),
        Text.assemble(("✓ " if same else "✗ ", GOOD if same else BAD), seed),
        Text(words("torch.difference", output=small(agreement.output), state=small(agreement.state), states=finals(network))),
    ]
    if agreement.elman_from_float64 is not None and agreement.torch_from_float64 is not None:
        judged = words("torch.judge", elman=small(agreement.elman_from_float64), torch=small(agreement.torch_from_float64))
        body.append(Text(judged, DIM))
    if network.speed is not None:
        speed = network.speed
        slowest = max(speed.elman.median, speed.torch.median)
        table = Table.grid(padding=(0, 2))
        for name, time in (("elman", speed.elman), ("torch.nn", speed.torch)):
            table.add_row(name, *_bar(time, slowest, max(10, width - 50), "green" if name == "elman" else DIM))
        body += [Text(""), table, _verdict(speed.ratio, words)]
        body.append(Text(words("torch.fairness", rounds=speed.rounds, threads=speed.threads), DIM))
    return section(words("section.torch"), *body)


def _gates(network: Network, words: Words) -> list[RenderableType]:
    spec = network.spec
    table = _table(words("column.gate"), words("column.rows"), words("column.purpose"))
    for gate in network.gates:
        table.add_row(Text(gate.gate, "bold"), f"{gate.start}:{gate.stop}", Text(words(f"gate.{spec.cell.name}.{gate.gate}"), DIM))
    found: list[RenderableType] = [Text(words("parameters.gates", gates=len(network.gates), units=spec.hidden_size)), table]
    return [*found, Text(words("parameters.projection"), DIM)] if spec.proj_size else found


def finals(network: Network) -> str:
    """The final states by name: "h_n, c_n"."""
    return ", ".join(f"{state}_n" for state in network.spec.cell.states)


def _verdict(ratio: float, words: Words) -> Text:
    if 0.95 < ratio < 1.05:
        return Text(words("torch.level"))
    if ratio > 1:
        return Text(words("torch.faster", ratio=f"{ratio:.1f}"), f"bold {GOOD}")
    return Text(words("torch.slower", ratio=f"{1 / ratio:.1f}"), BAD)


def _bar(time: Quartiles, slowest: float, width: int, style: str) -> tuple[RenderableType, ...]:
    bar = Text("█" * max(1, round(width * time.median / slowest)), style)
    spread = Text(f"{duration(time.low)} – {duration(time.high)}", DIM)
    return Text(duration(time.median), "bold", justify="right"), bar, spread


class Compared(NamedTuple):
    """Two rows of numbers, one below the other, and what came of it."""

    state: str
    state_row: tuple[float, ...]
    where: str
    found_row: tuple[float, ...]
    verdict: Text


def _compare(place: Place, network: Network, words: Words) -> Compared:
    size = network.spec.batch * network.spec.output_units
    if not place.holds:
        verdict = Text(words("places.unequal", difference=small(place.difference)), BAD)
    elif place.where is not None:
        verdict = Text(words("places.equal", count=count(size)), GOOD)
    else:
        verdict = Text(words("places.alone.equal", difference=small(place.difference)), GOOD)
    return Compared(place.state, place.state_row, place.where or words("places.alone", layer=place.layer), place.found_row, verdict)


def _compared(rows: list[Compared], width: int) -> Table:
    """As many numbers of each as leave room for the names and the verdicts."""
    left = max(cell_len(row.where) for row in rows)
    right = max(row.verdict.cell_len for row in rows)
    most = max(1, min(6, (width - left - right - 7) // (NUMBER_WIDTH + 2)))
    table = Table.grid(padding=(0, 2))
    for row in rows:
        table.add_row(Text(row.state, END), row_text(row.state_row, most))
        table.add_row(row.where, row_text(row.found_row, most), row.verdict)
    return table


def _shown(found: tuple[Place, ...]) -> tuple[Place, ...]:
    """Many layers are folded: the lowest and the top one."""
    top = found[-1].layer
    return tuple(place for place in found if place.layer in (0, top)) if top >= 3 else found


def _values(tensor: TensorFacts, words: Words, width: int) -> RenderableType:
    values = Text(words("parameters.count", count=count(tensor.count)), DIM) if tensor.values is None else folded(tensor.values, width)
    return Padding(values, (0, 0, 0, 2))


def _meaning(network: Network, tensor: TensorFacts, words: Words) -> Text:
    both = network.spec.bidirectional and tensor.role != "x"
    return Text(words(f"role.{tensor.role}" + (".bidirectional" if both else "")))


def _legend(network: Network, words: Words, width: int) -> Text:
    spec = network.spec
    sizes = {"T": spec.seq_len, "B": spec.batch, "I": spec.input_size, "H": spec.hidden_size, "L": spec.num_layers}
    if spec.proj_size:
        sizes["P"] = spec.proj_size
    if spec.bidirectional:
        sizes["D"] = spec.num_directions
    if len(spec.cell.gates) > 1:
        sizes["G"] = len(spec.cell.gates)
    return flow([legend_text(letter, words(f"letter.{letter}"), size) for letter, size in sizes.items()], width)


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=DIM, pad_edge=False)
    for column in columns[:-1]:
        table.add_column(column, no_wrap=True)
    table.add_column(columns[-1])
    return table
