"""What is known of a network, section by section, on the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.panel import Panel
from rich.text import Text

from elman.language import _, translated
from elman.show.diagram import Grid, Lane
from elman.show.style import (
    AXIS_COLOURS,
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
    grid,
    memory,
    numbers_text,
    python,
    section,
    shape_text,
    small,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.diagram import Marks
    from elman.show.final_states import FinalState
    from elman.show.network import Network, Quartiles

# Of more layers the lowest and the top one are shown.
MOST_LAYERS = 3


def name_of(direction: str) -> str:
    return _("forward") if direction == "forward" else _("reverse")


def code(network: Network, brief: bool = False) -> RenderableType:
    """The lines that make it, and its equations; ``brief`` tells the reverse direction's by the forward ones."""
    half = len(network.equations) // len(network.spec.directions)
    rows = []
    for index, direction in enumerate(network.spec.directions):
        label = [Text(name_of(direction), DIM)] if network.spec.bidirectional else []
        equations = Text("\n".join(network.equations[index * half : (index + 1) * half]), "italic")
        if brief and index and half > 1:
            equations = Text(_("as above, with t+1 in place of t-1"), DIM)
        rows.append([*label, equations])
    return Padding(Group(python(network.code), grid(*rows)), (0, 0, 0, 2))


def shapes(network: Network, width: int) -> RenderableType:
    """Input, output and final states: shape, axes and meaning; and what each axis stands for."""
    spec = network.spec
    made = table(_("tensor"), _("shape"), _("axes"), _("what it holds"))
    for tensor in network.tensors:
        made.add_row(
            Text(tensor.name, "bold"), shape_text(tensor.axes), axis_text(tensor.axes), Text(_meaning(tensor.role, spec.bidirectional))
        )
    letters = {"T": (_("steps"), spec.seq_len), "B": (_("batch"), spec.batch), "I": (_("input features"), spec.input_size)}
    letters |= {"H": (_("hidden units"), spec.hidden_size), "L": (_("layers"), spec.num_layers)}
    letters |= {"P": (_("projected units"), spec.proj_size)} if spec.proj_size else {}
    letters |= {"D": (_("directions"), 2)} if spec.bidirectional else {}
    letters |= {"G": (_("gates"), len(network.gates))} if len(network.gates) > 1 else {}
    legend = [
        Text.assemble((letter, AXIS_COLOURS[letter]), f" {meaning} ", (str(size), f"bold {AXIS_COLOURS[letter]}"))
        for letter, (meaning, size) in letters.items()
    ]
    body: list[RenderableType] = [made, Text(""), flow(legend, width - 2)]
    if spec.batch_first:
        states = ", ".join(spec.finals)
        body.append(Text(_("batch_first puts B first in x and output only; {states} still start with the layers.", states=states), DIM))
    return section(_("Shapes"), *body)


def final_states(network: Network, width: int, marks: Marks) -> RenderableType:
    """The diagram, each final state beside the same numbers elsewhere, and the mistakes that the network invites."""
    inner, top = width - 2, network.spec.num_layers - 1
    shown = [place for place in network.places if top < MOST_LAYERS or place.layer in (0, top)]
    body: list[RenderableType] = [_diagram(network, shown, inner, marks), Text("")]
    body.append(_compared([_comparison(place, network) for place in shown], inner))
    body += [_mistakes(network, inner)]
    return section(_("Where the final states are"), *body)


def parameters(network: Network, width: int, rows: int = 4) -> RenderableType:
    """Which rows belong to which gate, and each parameter by name with its shape, meaning and folded values."""
    bound = f"{1 / math.sqrt(network.spec.hidden_size):.4f}"
    body: list[RenderableType] = [Text(_("Drawn uniformly from -1/√H to 1/√H, here ±{bound}.", bound=bound), DIM)]
    if len(network.gates) > 1:
        body += [Text(""), *_gates(network), Text("")]
    for tensor in network.parameters:
        told = [Text(tensor.name, "bold"), shape_text(tensor.axes), axis_text(tensor.axes), Text(_role(tensor.role), DIM)]
        size = count(math.prod(tensor.shape))
        values = Text(_("{count} numbers", count=size), DIM) if tensor.values is None else folded(tensor.values, width - 4, rows)
        body += [flow(told, width - 2), Padding(values, (0, 0, 0, 2))]
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


def compared_with_torch(network: Network, width: int, brief: bool = False) -> RenderableType:
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
        slowest, bars = max(speed.elman.median, speed.torch.median), max(10, width - 50)
        body.append(grid(_bar("elman", speed.elman, slowest, bars, GOOD), _bar("torch.nn", speed.torch, slowest, bars, DIM)))
        body += [_verdict(speed.ratio), *([] if brief else [Text(how_timed(network), DIM)])]
    return section(_("Compared with torch.nn, same weights"), *body)


def how_timed(network: Network) -> str:
    assert network.speed is not None
    rounds, threads = network.speed.rounds, network.speed.threads
    if network.spec.device == "cuda":
        return _("A call without gradients: medians and quartiles of {rounds} rounds, timed by events on the GPU.", rounds=rounds)
    return _("A call without gradients: medians and quartiles of {rounds} rounds, threads: {threads}.", rounds=rounds, threads=threads)


def _meaning(role: str, bidirectional: bool) -> str:
    return {
        "x": _("input: features at each step of each sequence"),
        "output": _("top layer, every step: [forward, reverse]") if bidirectional else _("hidden state of the top layer at every step"),
        "h_n": _("final hidden state, layer and direction") if bidirectional else _("final hidden state of each layer"),
        "c_n": _("final cell state, layer and direction") if bidirectional else _("final cell state of each layer"),
    }.get(role, role)


def _role(role: str) -> str:
    return {
        "weight_ih": _("weights, input to hidden"),
        "weight_hh": _("weights, hidden to hidden"),
        "bias_ih": _("bias, input to hidden"),
        "bias_hh": _("bias, hidden to hidden"),
        "weight_hr": _("weights, hidden to projection"),
    }.get(role, role)


def _gates(network: Network) -> list[RenderableType]:
    spec = network.spec
    made = table(_("gate"), _("rows"), _("what it does"))
    for gate in network.gates:
        made.add_row(Text(gate.gate, "bold"), f"{gate.start}:{gate.stop}", Text(_purpose(spec.stack.cell.name, gate.gate), DIM))
    told = _(
        "Every weight and bias has {gates} blocks of {units} rows, one for each gate:", gates=len(network.gates), units=spec.hidden_size
    )
    projection = [Text(_("weight_hr has no gates: it projects h."), DIM)] if spec.proj_size else []
    return [Text(told), made, *projection]


def _purpose(cell: str, gate: str) -> str:
    return {
        "gru.r": _("reset gate: how much of the old state the candidate sees"),
        "gru.z": _("update gate: how much of the old state is kept"),
        "gru.n": _("candidate state: fills the rest"),
        "lstm.i": _("input gate: how much of the candidate is written"),
        "lstm.f": _("forget gate: how much of the old cell state is kept"),
        "lstm.g": _("candidate: what may be written"),
        "lstm.o": _("output gate: how much of the cell state appears in h"),
    }.get(f"{cell}.{gate}", "")


def _diagram(network: Network, shown: Sequence[FinalState], width: int, marks: Marks) -> Text:
    """Layers from the top down, a line for each direction, steps from left to right."""
    spec = network.spec
    segments, lanes = [(0, spec.seq_len - 1)], {}
    for place in shown:
        which = [_("layer {layer}", layer=place.layer)] if spec.num_layers > 1 else []
        name = " ".join([*which, *([name_of(place.direction)] if spec.bidirectional else [])]) or name_of("forward")
        note = Text.assemble((place.state, END), " = ", place.where) if place.where else Text(f"{place.state} ∉ output", DIM)
        lanes[place] = Lane(name, place.direction, segments, note)
    drawn = Grid(list(lanes.values()), spec.seq_len, width, marks)
    lines: list[Text] = []
    above: int | None = None
    for layer in sorted({place.layer for place in shown}, reverse=True):
        if above is not None and above - layer > 1:
            lines += [Text(" " * drawn.left + marks.more, DIM), drawn.arrows()]
        lines += [drawn.lane(lane) for place, lane in lanes.items() if place.layer == layer]
        lines.append(drawn.arrows())
        above = layer
    lines.append(drawn.axis("x"))
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _mistakes(network: Network, width: int) -> RenderableType:
    spec, trap = network.spec, network.trap
    found: list[list[RenderableType]] = []
    if trap is not None:
        told = _("{where} is not the final state of the reverse direction, which reads from the last step to step 0.", where=trap.where)
        verdict = Text(_("✗ differs by {difference}", difference=small(trap.difference)), BAD)
        compared = _compared([(trap.state, trap.state_numbers, trap.where or trap.trace, trap.found_numbers, verdict)], width - 4)
        found.append([Text(told), Text(_("At the last step it has seen a single step.")), compared])
    lower = [place for place in network.places if place.nearest is not None]
    if lower:
        states = lower[0].state if len(lower) == 1 else f"{lower[0].state} … {lower[-1].state}"
        nearest = small(min(place.nearest or 0.0 for place in lower))
        told = _(
            "output holds the top layer only. {states} is nowhere in it: the closest place differs by {nearest}.",
            states=states,
            nearest=nearest,
        )
        found.append(
            [Text(told), Text(_("For every layer at every step, use {code}.", code=f"{spec.kind}.trace(x).{spec.stack.cell.states[0]}"))]
        )
    for state in spec.stack.cell.states[1:]:
        code = f"{spec.kind}.trace(x).{state}"
        found.append([Text(_("{state} is not in output at any step: use {code}.", state=f"{state}_n", code=code))])
    if not found:
        told = _("{where} is all of h_n only with one layer, one direction and no padding.", where=network.places[0].where)
        return Text(told, DIM)
    spaced = [part for one in found for part in (Text(""), *one)][1:]
    return Panel(Group(*spaced), title=Text(_("Common mistakes"), BAD), title_align="left", border_style="red", padding=(0, 1))


Comparison = tuple[str, "Sequence[float]", str, "Sequence[float]", Text]


def _comparison(place: FinalState, network: Network) -> Comparison:
    if not place.holds:
        verdict = Text(_("✗ NOT equal, differs by {difference}", difference=small(place.difference)), BAD)
    elif place.difference == 0:
        verdict = Text(_("✓ equal, all {count} numbers", count=count(network.spec.batch * network.spec.output_size)), GOOD)
    else:
        verdict = Text(_("✓ equal up to {difference}", difference=small(place.difference)), GOOD)
    return place.state, place.state_numbers, place.where or place.trace, place.found_numbers, verdict


def _compared(comparisons: Sequence[Comparison], width: int) -> RenderableType:
    """Each state's numbers above those it is compared with, as many as leave room for the names and the verdicts."""
    left = max(cell_len(where) for _state, _numbers, where, _found, _verdict in comparisons)
    right = max(verdict.cell_len for *_others, verdict in comparisons)
    most = max(1, min(6, (width - left - right - 7) // (NUMBER_WIDTH + 2)))
    rows: list[Sequence[RenderableType]] = []
    for state, numbers, where, found, verdict in comparisons:
        rows += [(Text(state, END), numbers_text(numbers, most)), (where, numbers_text(found, most), verdict)]
    return grid(*rows)


def _verdict(ratio: float) -> Text:
    if 0.95 < ratio < 1.05:
        return Text(_("as fast as torch.nn"))
    if ratio > 1:
        return Text(_("{ratio} times as fast as torch.nn", ratio=f"{ratio:.1f}"), f"bold {GOOD}")
    return Text(_("takes {ratio} times as long as torch.nn", ratio=f"{1 / ratio:.1f}"), BAD)


def _bar(name: str, time: Quartiles, slowest: float, width: int, style: str) -> tuple[RenderableType, ...]:
    bar = Text("█" * max(1, round(width * time.median / slowest)), style)
    return name, Text(duration(time.median), "bold", justify="right"), bar, Text(f"{duration(time.low)} – {duration(time.high)}", DIM)
