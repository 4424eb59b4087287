"""What is known of a network, section by section, on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from elman.language import _, translated
from elman.show.diagram import MORE, Grid, Lane, typed
from elman.show.numbers import NUMBER_WIDTH, count, duration, folded, memory, numbers_text, small
from elman.show.style import AXIS_COLOURS, BAD, DIM, END, GOOD, Fitted, axis_text, flow, grid, python, section, shape_text, table
from elman.show.tensors import LETTERS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.final_states import FinalState
    from elman.show.network import Network, Speed

# Of more layers the lowest and the top one are shown.
MOST_LAYERS = 3


def code(network: Network, brief: bool = False) -> RenderableType:
    """The lines that make it, and its equations; ``brief`` tells the reverse direction's by the forward ones."""
    half = len(network.equations) // len(network.spec.directions)
    rows = []
    for index, direction in enumerate(network.spec.directions):
        label = [Text(translated(direction), DIM)] if network.spec.bidirectional else []
        equations = Text("\n".join(network.equations[index * half : (index + 1) * half]), "italic")
        if brief and index and half > 1:
            equations = Text(_("as above, with t+1 in place of t-1"), DIM)
        rows.append([*label, equations])
    return Padding(Group(python(network.code), grid(*rows)), (0, 0, 0, 2))


def shapes(network: Network) -> RenderableType:
    """Input, output and final states: shape, axes and meaning; and what each axis stands for."""
    spec = network.spec
    made = table(_("tensor"), _("shape"), _("axes"), _("what it holds"))
    for tensor in network.tensors:
        made.add_row(Text(tensor.name, "bold"), shape_text(tensor.axes), axis_text(tensor.axes), Text(translated(tensor.meaning)))
    legend = [
        Text.assemble((letter, AXIS_COLOURS[letter]), f" {translated(LETTERS[letter])} ", (str(size), f"bold {AXIS_COLOURS[letter]}"))
        for letter, size in spec.sizes.items()
    ]
    body: list[RenderableType] = [made, Text(""), flow(legend)]
    if spec.batch_first:
        states = ", ".join(spec.finals)
        body.append(Text(_("batch_first puts B first in x and output only; {states} still start with the layers.", states=states), DIM))
    return section(_("Shapes"), *body)


def final_states(network: Network) -> RenderableType:
    """The diagram, each final state beside the same numbers elsewhere, and the mistakes that the network invites."""
    top = network.spec.num_layers - 1
    shown = [place for place in network.places if top < MOST_LAYERS or place.layer in (0, top)]
    compared = _compared([(place, _equality(place, network)) for place in shown])
    diagram = Fitted(lambda options: _diagram(network, shown, options))
    return section(_("Where the final states are"), diagram, Text(""), compared, _mistakes(network))


def parameters(network: Network, rows: int = 4) -> RenderableType:
    """Which rows belong to which gate, and each parameter by name with its shape, meaning and folded values."""
    bound = f"{1 / math.sqrt(network.spec.hidden_size):.4f}"
    body: list[RenderableType] = [Text(_("Drawn uniformly from -1/√H to 1/√H, here ±{bound}.", bound=bound), DIM)]
    if len(network.gates) > 1:
        body += [Text(""), *_gates(network), Text("")]
    for tensor in network.parameters:
        told = [Text(tensor.name, "bold"), shape_text(tensor.axes), axis_text(tensor.axes), Text(translated(tensor.meaning), DIM)]
        size = count(math.prod(tensor.shape))
        values = Text(_("{count} numbers", count=size), DIM) if tensor.values is None else folded(tensor.values, rows)
        body += [flow(told), Padding(values, (0, 0, 0, 2))]
    return section(_("Parameters"), *body)


def costs(network: Network) -> RenderableType:
    """Parameters and multiply-adds."""
    spec, cost = network.spec, network.costs
    made = table("", _("parameters"), _("multiply-adds per step and sequence"), gap=3)
    for column in made.columns[1:]:
        column.justify = "right"
    many = spec.num_layers > MOST_LAYERS
    for layer in (cost.layers[0], cost.layers[-1]) if many else cost.layers if spec.num_layers > 1 else ():
        last = many and layer.layer
        name = _("layers 1 to {last}, each", last=layer.layer) if last else _("layer {layer}", layer=layer.layer)
        made.add_row(name, count(layer.parameters), count(layer.multiply_adds_per_step))
    made.add_row(_("total"), Text(count(cost.parameters), "bold"), Text(count(cost.multiply_adds_per_step), "bold"))
    call = _("multiply-adds per call, {steps} steps × {batch} sequences", steps=count(spec.seq_len), batch=count(spec.batch))
    body: list[RenderableType] = [
        made,
        Text(""),
        Text.assemble(call, "  ", (count(cost.multiply_adds_per_call), "bold")),
        Text.assemble(_("memory of the parameters, {dtype}", dtype=spec.dtype), "  ", (memory(cost.bytes), "bold")),
    ]
    if spec.dropout and spec.num_layers > 1:
        dropout = f"{spec.dropout:g}"
        body.append(Text(_("Dropout of {dropout} applies between layers, in training only: not in this run.", dropout=dropout), DIM))
    elif spec.dropout:
        body.append(Text(_("Dropout applies between layers; with a single layer it does nothing."), DIM))
    return section(_("Cost"), *body)


def compared_with_torch(network: Network, brief: bool = False) -> RenderableType:
    """How far from torch.nn's numbers, and how fast beside it; ``brief`` leaves out what is alike in similar networks."""
    agreement, spec = network.agreement, network.spec
    body: list[RenderableType] = [Text.assemble(_("backend"), "  ", (translated(network.backend), "bold"))]
    if not agreement.same_seed:
        body.append(Text("✗ " + _("seed {seed} gives the two DIFFERENT weights", seed=spec.seed), BAD))
    elif not brief:
        body.append(Text.assemble(("✓ ", GOOD), _("seed {seed} gives both the same weights", seed=spec.seed)))
    output, state, states = small(agreement.output), small(agreement.state), ", ".join(spec.finals)
    body.append(Text(_("largest difference: {output} in output, {state} in {states}", output=output, state=state, states=states)))
    if not brief and agreement.elman_from_float64 is not None and agreement.torch_from_float64 is not None:
        ours, theirs = small(agreement.elman_from_float64), small(agreement.torch_from_float64)
        body.append(Text(_("difference from a float64 run: Elman {elman}, torch.nn {torch}", elman=ours, torch=theirs), DIM))
    if network.speed is not None:
        speed = network.speed
        body += [
            Fitted(lambda options: _bars(speed, max(10, options.max_width - 48))),
            _verdict(speed.ratio),
            *([] if brief else [Text(how_timed(network), DIM)]),
        ]
    return section(_("Compared with torch.nn, same weights"), *body)


def how_timed(network: Network) -> str:
    assert network.speed is not None
    rounds, threads = network.speed.rounds, network.speed.threads
    if network.spec.device == "cuda":
        return _("A call without gradients: medians and quartiles of {rounds} rounds, timed by events on the GPU.", rounds=rounds)
    return _("A call without gradients: medians and quartiles of {rounds} rounds, threads: {threads}.", rounds=rounds, threads=threads)


def _gates(network: Network) -> list[RenderableType]:
    made = table(_("gate"), _("rows"), _("what it does"))
    for gate in network.gates:
        made.add_row(Text(gate.gate, "bold"), f"{gate.start}:{gate.stop}", Text(translated(gate.meaning), DIM))
    gates, units = len(network.gates), network.spec.hidden_size
    told = _("Every weight and bias has {gates} blocks of {units} rows, one for each gate:", gates=gates, units=units)
    projection = [Text(_("weight_hr has no gates: it projects h."), DIM)] if network.spec.proj_size else []
    return [Text(told), made, *projection]


def _diagram(network: Network, shown: Sequence[FinalState], options: ConsoleOptions) -> Text:
    """Layers from the top down, a line for each direction, steps from left to right."""
    spec = network.spec
    segments, lanes = [(0, spec.seq_len - 1)], {}
    for place in shown:
        which = [_("layer {layer}", layer=place.layer)] if spec.num_layers > 1 else []
        name = " ".join([*which, *([translated(place.direction)] if spec.bidirectional else [])]) or _("forward")
        note = Text.assemble((place.state, END), " = ", place.where) if place.where else Text(f"{place.state} ∉ output", DIM)
        lanes[place] = Lane(name, place.direction, segments, note)
    drawn = Grid(list(lanes.values()), spec.seq_len, options)
    lines: list[Text] = []
    above: int | None = None
    for layer in sorted({place.layer for place in shown}, reverse=True):
        if above is not None and above - layer > 1:
            lines += [Text(" " * drawn.left + MORE, DIM), drawn.arrows()]
        lines += [drawn.lane(lane) for place, lane in lanes.items() if place.layer == layer]
        lines.append(drawn.arrows())
        above = layer
    lines.append(drawn.axis("x"))
    for line in lines:
        line.rstrip()
    return typed(Text("\n").join(lines), options)


def _mistakes(network: Network) -> RenderableType:
    spec, trap, cell = network.spec, network.trap, network.spec.stack.cell
    trace = f"{spec.kind}.trace(x)"
    found: list[list[RenderableType]] = []
    if trap is not None:
        told = _("{where} is not the final state of the reverse direction, which reads from the last step to step 0.", where=trap.where)
        verdict = Text(_("✗ differs by {difference}", difference=small(trap.difference)), BAD)
        found.append([Text(told), Text(_("At the last step it has seen a single step.")), _compared([(trap, verdict)])])
    lower = {place.state: place.nearest for place in network.places if place.nearest is not None}
    if lower:
        told = _(
            "output holds the last layer only. {states} is nowhere in it: the closest place differs by {nearest}.",
            states=" … ".join(dict.fromkeys((next(iter(lower)), next(reversed(lower))))),
            nearest=small(min(lower.values())),
        )
        found.append([Text(told), Text(_("For every layer at every step, use {code}.", code=f"{trace}.{cell.states[0]}"))])
    found += [
        [Text(_("{state} is not in output at any step: use {code}.", state=f"{state}_n", code=f"{trace}.{state}"))]
        for state in cell.states[1:]
    ]
    if not found:
        told = _("{where} equals h_n only with one layer, one direction and no padding.", where=network.places[0].where)
        return Text(told, DIM)
    spaced = [part for one in found for part in (Text(""), *one)][1:]
    return Panel(Group(*spaced), title=Text(_("Common mistakes"), BAD), title_align="left", border_style="red", padding=(0, 1))


def _equality(place: FinalState, network: Network) -> Text:
    if not place.holds:
        return Text(_("✗ NOT equal, differs by {difference}", difference=small(place.difference)), BAD)
    if place.difference == 0:
        return Text(_("✓ equal, all {count} numbers", count=count(network.spec.batch * network.spec.output_size)), GOOD)
    return Text(_("✓ equal up to {difference}", difference=small(place.difference)), GOOD)


def _compared(verdicts: Sequence[tuple[FinalState, Text]]) -> RenderableType:
    """Each state's numbers above those it is compared with, as many as leave room for the names and the verdicts."""
    others = max(cell_len(place.where or place.trace) for place, _told in verdicts) + max(told.cell_len for _place, told in verdicts)

    def draw(options: ConsoleOptions) -> RenderableType:
        most = max(1, min(6, (options.max_width - others - 7) // (NUMBER_WIDTH + 2)))
        rows: list[Sequence[RenderableType]] = []
        for place, told in verdicts:
            rows.append((Text(place.state, END), numbers_text(place.state_numbers, most)))
            rows.append((place.where or place.trace, numbers_text(place.found_numbers, most), told))
        return grid(*rows)

    return Fitted(draw)


def _verdict(ratio: float) -> Text:
    if 0.95 < ratio < 1.05:
        return Text(_("as fast as torch.nn"))
    if ratio > 1:
        return Text(_("{ratio} times as fast as torch.nn", ratio=f"{ratio:.1f}"), f"bold {GOOD}")
    return Text(_("takes {ratio} times as long as torch.nn", ratio=f"{1 / ratio:.1f}"), BAD)


def _bars(speed: Speed, width: int) -> RenderableType:
    longest = width / max(speed.elman.median, speed.torch.median)
    rows = []
    for name, time, style in (("elman", speed.elman, GOOD), ("torch.nn", speed.torch, DIM)):
        bar, spread = Text("█" * max(1, round(time.median * longest)), style), f"{duration(time.low)} – {duration(time.high)}"
        rows.append((name, Text(duration(time.median), "bold", justify="right"), bar, Text(spread, DIM)))
    return grid(*rows)
