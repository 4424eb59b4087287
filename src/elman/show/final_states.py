"""Where each final state is in ``output`` or ``trace(x)``, checked on the numbers of a run, and where it is looked for by mistake."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.panel import Panel
from rich.text import Text

from elman.language import _, translated
from elman.show.diagram import MORE, Drawing, Grid, Lane
from elman.show.facts import Facts
from elman.show.numbers import NUMBER_WIDTH, count, numbers_text, small
from elman.show.specification import MOST_LAYERS_SHOWN, apart, rounding
from elman.show.style import BAD, DIM, END, GOOD, Fitted, Part, grid, lines, section

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.network import Network
    from elman.show.specification import Run, Spec

MOST_LISTED, MOST_PRINTED = 8, 6


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
        output = run["output"].transpose(0, 1) if spec.batch_first else run["output"]
        places = output.reshape(spec.seq_len, spec.batch, len(spec.directions), spec.output_size)
        self.nearest = None if top else float((places - state[None, :, None]).abs().amax(dim=(1, 3)).min())

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


def final_states_section(network: Network) -> Part:
    """The diagram, each final state beside the same numbers elsewhere, and the mistakes that the network invites."""
    spec, top = network.spec, network.spec.num_layers - 1
    shown = [place for place in network.places if top < MOST_LAYERS_SHOWN or place.layer in (0, top)]
    compared = _numbers(*((place, _equality(spec, place)) for place in shown))
    mistakes = [part for mistake in _mistakes(network) for part in ("", mistake)][1:]
    panel = Panel(lines(*mistakes), title=Text(_("Common mistakes"), BAD), title_align="left", border_style="red", padding=(0, 1))
    none = _("{where} equals h_n only with one layer, one direction and no padding.", where=network.places[0].where)
    drawing = Drawing(partial(_diagram, spec, shown))
    return section(_("Where the final states are"), drawing, "", compared, panel if mistakes else (none, DIM))


def _diagram(spec: Spec, shown: Sequence[FinalState], width: int) -> Text:
    """Layers from the top down, a line for each direction, steps from left to right."""
    lanes: dict[int, list[Lane]] = {place.layer: [] for place in reversed(shown)}
    for place in shown:
        name = _("layer {layer}", layer=place.layer) if spec.num_layers > 1 else ""
        direction = translated(place.direction) if spec.bidirectional or not name else ""
        note = Text.assemble((place.state, END), " = ", place.where) if place.where else Text(f"{place.state} ∉ output", DIM)
        lanes[place.layer].append(Lane(f"{name} {direction}".strip(), place.direction, [(0, spec.seq_len - 1)], note))
    made = Grid([*chain(*lanes.values())], spec.seq_len, width)
    rows: list[Text] = []
    for layer, of_layer in lanes.items():
        rows += [*map(made.lane, of_layer), made.arrows()]
        if layer and layer - 1 not in lanes:
            rows += [Text(" " * made.left + MORE, DIM), made.arrows()]
    return Text("\n").join([*rows, made.axis("x")])


def _mistakes(network: Network) -> list[Part]:
    mistakes: list[Part] = []
    if (wrong := network.trap) is not None:
        where = _("{where} is not the final state of the reverse direction, which reads from the last step to step 0.", where=wrong.where)
        verdict = Text(_("✗ differs by {difference}", difference=small(wrong.difference)), BAD)
        mistakes.append(lines(where, _("At the last step it has seen a single step."), _numbers((wrong, verdict))))
    trace, cell = f"{network.spec.kind}.trace(x)", network.spec.stack.cell
    if lower := {place.state: place.nearest for place in network.places if place.nearest is not None}:
        nowhere = _(
            "output holds the last layer only. {states} is nowhere in it: the closest place differs by {nearest}.",
            states=" … ".join(dict.fromkeys((next(iter(lower)), next(reversed(lower))))),
            nearest=small(min(lower.values())),
        )
        mistakes.append(lines(nowhere, _("For every layer at every step, use {code}.", code=f"{trace}.{cell.states[0]}")))
    for state in cell.states[1:]:
        mistakes += [_("{state} is not in output at any step: use {code}.", state=f"{state}_n", code=f"{trace}.{state}")]
    return mistakes


def _equality(spec: Spec, place: FinalState) -> Text:
    if not place.holds:
        return Text(_("✗ NOT equal, differs by {difference}", difference=small(place.difference)), BAD)
    if place.difference == 0:
        return Text(_("✓ equal, all {count} numbers", count=count(spec.batch * spec.output_size)), GOOD)
    return Text(_("✓ equal up to {difference}", difference=small(place.difference)), GOOD)


def _numbers(*verdicts: tuple[FinalState, Text]) -> Fitted:
    """Each state's numbers above those it is compared with, as many as leave room for the names and the verdicts."""
    others = max(cell_len(place.code) for place, _verdict in verdicts) + max(verdict.cell_len for _place, verdict in verdicts)

    def draw(width: int) -> Part:
        room = min(MOST_PRINTED * (NUMBER_WIDTH + 2), width - others - 7)
        rows: list[Sequence[Part]] = []
        for place, verdict in verdicts:
            rows.append(((place.state, END), numbers_text(place.state_numbers, room)))
            rows.append((place.code, numbers_text(place.found_numbers, room), verdict))
        return grid(*rows)

    return Fitted(draw)
