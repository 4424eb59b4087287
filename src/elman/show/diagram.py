"""Networks unrolled over their steps: what each direction reads, where it begins afresh, and where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from elman.show.style import AXIS_COLOURS, BAD, DIM, END, FORWARD, REVERSE, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from elman.show.specification import Segment

WIDE, NARROW = 6, 2  # cells from one step to the next: with arrows; with no room for them
TICK = 5  # where there is no room for more, so many steps from one numbered step to the next

STEP, STEP_AT_END, PADDING, RESET, UP, MORE = "○◆·┃↑…"
LINE, FORWARD_ARROW, REVERSE_ARROW = "─", "──▶", "◀──"


class Lane(NamedTuple):
    """One direction of one layer or sequence: its name, the segments it runs through, and what is said behind it."""

    name: str
    direction: str
    segments: Sequence[Segment]
    note: Text


def diagram(groups: Sequence[Sequence[Lane]], seq_len: int, width: int, stacked: bool) -> Text:
    """Lanes below one another, steps from left to right; an empty group stands for those left out. Stacked groups are layers from the top
    down: arrows lead up from each to the next, and to the lowest one from x.
    """
    lanes = [lane for group in groups for lane in group]
    left = max(cell_len(lane.name) for lane in lanes) + 2
    room = width - left - max(lane.note.cell_len for lane in lanes) - 2
    column = WIDE if seq_len * WIDE <= room + WIDE - 1 else NARROW
    steps = shortened(range(seq_len), max(3, (room + column - 1) // column), None)  # None stands for the steps left out
    arrows = Text(" " * left + "".join((" " if step is None else UP).ljust(column) for step in steps).rstrip(), DIM)
    rows = []
    for group in groups:
        rows += [_drawn(lane, steps, left, column) for lane in group] or [Text(" " * left + MORE, DIM)]
        rows += [arrows] if stacked else []
    x = ("x" if stacked else "").ljust(left)
    axis = Text.assemble((x, AXIS_COLOURS["I"]), (_axis(steps, column), AXIS_COLOURS["T"]))
    return Text("\n").join([*rows, axis] if stacked else [axis, *rows])


def _drawn(lane: Lane, steps: Sequence[int | None], left: int, column: int) -> Text:
    """A name, a chain such as "○ ──▶ ○  ┃  ○ ──▶ ◆   ·", and a note."""
    line = Text(lane.name)
    line.pad_right(left - line.cell_len)
    forward = lane.direction == "forward"
    colour, arrow = (FORWARD, FORWARD_ARROW) if forward else (REVERSE, REVERSE_ARROW)
    link = (LINE if column == NARROW else arrow, colour)
    begins, length = {first for first, _ in lane.segments}, lane.segments[-1][1] + 1 if lane.segments else 0
    end = length - 1 if forward else 0
    for before, step in zip([None, *steps], steps, strict=False):
        runs = step is not None and step < length
        if step != 0:
            mark, style = (RESET, BAD) if step in begins else link
            line.append(*((mark.center(column - 1), style) if runs and before is not None else (" " * (column - 1),)))
        run = (STEP_AT_END, END) if step == end else (STEP, colour)
        line.append(*((MORE, DIM) if step is None else run if runs else (PADDING, DIM)))
    return line.append("  ").append_text(lane.note)


def _axis(steps: Sequence[int | None], column: int) -> str:
    """The steps' numbers, each at its mark, as many as there is room for."""
    line = ""
    for index, step in enumerate(steps):
        wide, last = column == WIDE, index == len(steps) - 1
        label = MORE if step is None else f"t={step}" if wide else str(step)
        if (wide or step is None or last or (step % TICK == 0 and index < len(steps) - 2)) and len(line) <= index * column:
            line = line.ljust(index * column) + label
    return line
