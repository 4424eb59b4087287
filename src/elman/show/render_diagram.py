"""The network unrolled over its steps, drawn: what each direction reads, where it ends, and which of those states ``output`` holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from elman.show.render_style import AXIS_COLOURS, DIM, END, FORWARD, REVERSE

if TYPE_CHECKING:
    from elman.show.facts import Network, Place
    from elman.show.text import Words

COLUMN = 6  # cells from one step to the next
MOST_LAYERS = 3


def diagram(network: Network, words: Words, width: int) -> Text:
    """Draw it in ``width`` columns: layers from the top down, a line for each direction, steps from left to right.

    What does not fit is folded.
    """
    names = {place.state: _name(network, place, words) for place in network.places}
    left = max(Text(name).cell_len for name in names.values()) + 2
    right = max(_note(place, words).cell_len for place in network.places) + 2
    steps = _steps(network.spec.seq_len, max(3, (width - left - right) // COLUMN))

    lines = []
    for layer in reversed(range(network.spec.num_layers)):
        if network.spec.num_layers > MOST_LAYERS and 0 < layer < network.spec.num_layers - 1:
            if layer == 1:
                lines.append(Text(" " * left + "…", DIM))
                lines.append(_arrows(left, steps))
            continue
        for place in (place for place in network.places if place.layer == layer):
            line = Text(names[place.state])
            line.pad_right(left - line.cell_len)
            lines.append(line + _chain(place.direction, steps) + Text("  ") + _note(place, words))
        lines.append(_arrows(left, steps))
    lines.append(
        Text("x".ljust(left), AXIS_COLOURS["I"]) + Text("").join(Text(_input(step).ljust(COLUMN), AXIS_COLOURS["T"]) for step in steps)
    )
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _name(network: Network, place: Place, words: Words) -> str:
    parts = []
    if network.spec.num_layers > 1:
        parts.append(words("places.layer", layer=place.layer))
    if network.spec.bidirectional:
        parts.append(words(f"places.{place.direction}"))
    return " ".join(parts) or words("places.forward")


def _note(place: Place, words: Words) -> Text:
    if place.where is None:
        return Text(words("places.not_in_output", state=place.state), DIM)
    return Text.assemble((place.state, END), " = ", place.where)


def _chain(direction: str, steps: list[int | None]) -> Text:
    """One direction's line: "○────▶○────▶◆", or "◆◀────○◀────○"."""
    colour = FORWARD if direction == "forward" else REVERSE
    end = len(steps) - 1 if direction == "forward" else 0
    link = " " + "─" * (COLUMN - 4) + "▶ " if direction == "forward" else " ◀" + "─" * (COLUMN - 4) + " "
    line = Text()
    for index, step in enumerate(steps):
        line.append(*(("…", DIM) if step is None else ("◆", END) if index == end else ("○", colour)))
        if index < len(steps) - 1:
            line.append(link, colour)
    return line


def _arrows(left: int, steps: list[int | None]) -> Text:
    return Text(" " * left + "".join((" " if step is None else "↑").ljust(COLUMN) for step in steps), DIM)


def _input(step: int | None) -> str:
    return "…" if step is None else f"t={step}"


def _steps(seq_len: int, fits: int) -> list[int | None]:
    """The steps that are drawn; None stands for those left out."""
    if seq_len <= fits:
        return list(range(seq_len))
    return [*range(fits - 2), None, seq_len - 1]
