"""Where each final state is in ``output`` or ``trace(x)``, checked on the numbers of a run, and where it is looked for by mistake."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.panel import Panel
from rich.text import Text

from elman.language import _, translated
from elman.show.diagram import MORE, Grid, Lane, typed
from elman.show.facts import Facts
from elman.show.numbers import NUMBER_WIDTH, count, numbers_text, small
from elman.show.specification import MOST_LAYERS_SHOWN, apart, rounding
from elman.show.style import BAD, DIM, END, GOOD, Fitted, Part, grid, lines, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import ConsoleOptions, RenderableType
    from torch import Tensor

    from elman.show.network import Network
    from elman.show.specification import Run, Spec

MOST_LISTED = 8


class FinalState(Facts):
    """Where one slice of h_n is.

    Attributes:
        state: the slice, as one writes it: "h_n[1]".
        where: the same numbers in ``output``, as one writes it; None for every layer but the top one, which output does not hold.
        trace: the same numbers in what ``trace`` gives: "rnn.trace(x).h[0, 1, 0]".
        holds: checked: the numbers in ``output`` are the very same; of a lower layer, those in the trace are, up to rounding.
        difference: the largest difference found in that check.
        state_numbers: the slice's first numbers, of sequence 0.
        found_numbers: those that they were compared with.
        nearest: of a lower layer: the largest difference from the place in ``output`` that comes nearest; else None.
    """

    def __init__(self, spec: Spec, run: Run, layer: int, direction: str, step: int) -> None:
        top = layer == spec.num_layers - 1
        self.state = f"h_n[{layer * len(spec.directions) + spec.directions.index(direction)}]"
        self.layer, self.direction = layer, direction
        self.where = spec.output_code(step, ":", spec.columns(direction)) if top else None
        self.trace = spec.trace_code(layer, direction, step, ":")
        state, found = run[self.state], run[self.code]
        self.difference = apart(state, found)
        self.holds = self.difference <= (0 if top else rounding(found))
        self.state_numbers = tuple(state[0, :MOST_LISTED].tolist())
        self.found_numbers = tuple(found[0, :MOST_LISTED].tolist())
        self.nearest = None if top else _nearest(spec, run["output"], state)

    @property
    def code(self) -> str:
        """What the slice is compared with."""
        return self.where or self.trace


def final_states(spec: Spec, run: Run) -> tuple[FinalState, ...]:
    """One for each slice of h_n: the forward direction ends at the last step, the reverse direction at step 0."""
    ends = {direction: -1 if direction == "forward" else 0 for direction in spec.directions}
    return tuple(FinalState(spec, run, layer, *end) for layer in range(spec.num_layers) for end in ends.items())


def trap(spec: Spec, run: Run) -> FinalState | None:
    """The mistake that a network invites: ``output[-1]`` holds the reverse direction's first step, not its final state.

    None without a reverse direction, and for a single step, where the two are one.
    """
    return FinalState(spec, run, spec.num_layers - 1, "reverse", -1) if spec.bidirectional and spec.seq_len > 1 else None


def _nearest(spec: Spec, output: Tensor, state: Tensor) -> float:
    steps_first = output.transpose(0, 1) if spec.batch_first else output
    slots = steps_first.reshape(spec.seq_len, spec.batch, len(spec.directions), spec.output_size)
    return float((slots - state[None, :, None]).abs().amax(dim=(1, 3)).min())


def final_states_section(network: Network) -> RenderableType:
    """The diagram, each final state beside the same numbers elsewhere, and the mistakes that the network invites."""
    spec, top = network.spec, network.spec.num_layers - 1
    shown = [place for place in network.places if top < MOST_LAYERS_SHOWN or place.layer in (0, top)]
    compared = _numbers([(place, _equality(spec, place)) for place in shown])
    diagram = Fitted(lambda options: _diagram(spec, shown, options))
    mistakes = [part for mistake in _mistakes(network) for part in ("", *mistake)][1:]
    panel = Panel(lines(*mistakes), title=Text(_("Common mistakes"), BAD), title_align="left", border_style="red", padding=(0, 1))
    none = _("{where} equals h_n only with one layer, one direction and no padding.", where=network.places[0].where)
    return section(_("Where the final states are"), diagram, "", compared, panel if mistakes else (none, DIM))


def _diagram(spec: Spec, shown: Sequence[FinalState], options: ConsoleOptions) -> Text:
    """Layers from the top down, a line for each direction, steps from left to right."""
    lanes = {}
    for place in shown:
        name = _("layer {layer}", layer=place.layer) if spec.num_layers > 1 else ""
        direction = translated(place.direction) if spec.bidirectional or not name else ""
        note = Text.assemble((place.state, END), " = ", place.where) if place.where else Text(f"{place.state} ∉ output", DIM)
        lanes[place] = Lane(f"{name} {direction}".strip(), place.direction, [(0, spec.seq_len - 1)], note)
    made = Grid(list(lanes.values()), spec.seq_len, options)
    rows: list[Text] = []
    layers = sorted({place.layer for place in shown}, reverse=True)
    for above, layer in zip([layers[0] + 1, *layers], layers, strict=False):
        if above - layer > 1:
            rows += [Text(" " * made.left + MORE, DIM), made.arrows()]
        rows += [*(made.lane(lane) for place, lane in lanes.items() if place.layer == layer), made.arrows()]
    rows.append(made.axis("x"))
    for row in rows:
        row.rstrip()
    return typed(Text("\n").join(rows), options)


def _mistakes(network: Network) -> list[list[Part]]:
    """Each in a few lines."""
    mistakes: list[list[Part]] = []
    if (wrong := network.trap) is not None:
        verdict = Text(_("✗ differs by {difference}", difference=small(wrong.difference)), BAD)
        mistakes.append(
            [
                _("{where} is not the final state of the reverse direction, which reads from the last step to step 0.", where=wrong.where),
                _("At the last step it has seen a single step."),
                _numbers([(wrong, verdict)]),
            ]
        )
    trace, cell = f"{network.spec.kind}.trace(x)", network.spec.stack.cell
    if lower := {place.state: place.nearest for place in network.places if place.nearest is not None}:
        lower_layers = _(
            "output holds the last layer only. {states} is nowhere in it: the closest place differs by {nearest}.",
            states=" … ".join(dict.fromkeys((next(iter(lower)), next(reversed(lower))))),
            nearest=small(min(lower.values())),
        )
        mistakes.append([lower_layers, _("For every layer at every step, use {code}.", code=f"{trace}.{cell.states[0]}")])
    for state in cell.states[1:]:
        mistakes += [[_("{state} is not in output at any step: use {code}.", state=f"{state}_n", code=f"{trace}.{state}")]]
    return mistakes


def _equality(spec: Spec, place: FinalState) -> Text:
    if not place.holds:
        return Text(_("✗ NOT equal, differs by {difference}", difference=small(place.difference)), BAD)
    if place.difference == 0:
        return Text(_("✓ equal, all {count} numbers", count=count(spec.batch * spec.output_size)), GOOD)
    return Text(_("✓ equal up to {difference}", difference=small(place.difference)), GOOD)


def _numbers(verdicts: Sequence[tuple[FinalState, Text]]) -> Fitted:
    """Each state's numbers above those it is compared with, as many as leave room for the names and the verdicts."""
    others = max(cell_len(place.code) for place, _verdict in verdicts) + max(verdict.cell_len for _place, verdict in verdicts)

    def draw(options: ConsoleOptions) -> RenderableType:
        most = max(1, min(6, (options.max_width - others - 7) // (NUMBER_WIDTH + 2)))
        rows: list[Sequence[Part]] = []
        for place, verdict in verdicts:
            rows.append(((place.state, END), numbers_text(place.state_numbers, most)))
            rows.append((place.code, numbers_text(place.found_numbers, most), verdict))
        return grid(*rows)

    return Fitted(draw)
