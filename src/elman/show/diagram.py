"""Networks unrolled over their steps: what each direction reads, where it begins afresh, and where it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.text import Text

from elman.show.style import AXIS_COLOURS, BAD, DIM, END, FORWARD, REVERSE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import ConsoleOptions

    from elman.show.sequences import Segment

WIDE, NARROW = 6, 2  # cells from one step to the next: with arrows; with no room for them
TICK = 5  # where there is no room for more, so many steps from one numbered step to the next


STEP, STEP_AT_END, PADDING, RESET, UP, MORE = "○◆·┃↑…"
LINE, FORWARD_ARROW, REVERSE_ARROW = "─", "──▶", "◀──"
# What stands for them where a terminal cannot show them.
DRAWN, TYPED = "○◆·┃↑…─▶◀", "o*.|^~-><"


def typed(drawing: Text, options: ConsoleOptions) -> Text:
    """The drawing in marks that the terminal shows: its own, or what one can type."""
    try:
        DRAWN.encode(options.encoding)
    except UnicodeEncodeError:
        drawing.plain = drawing.plain.translate(str.maketrans(DRAWN, TYPED))
    return drawing


class Lane(NamedTuple):
    """One direction of one layer or sequence: its name, the segments it runs through, and what is said behind it."""

    name: str
    direction: str
    segments: Sequence[Segment]
    note: Text


class Grid:
    """The columns that steps are drawn in: where they stand, and which are left out."""

    def __init__(self, lanes: Sequence[Lane], seq_len: int, options: ConsoleOptions) -> None:
        self.left = max(Text(lane.name).cell_len for lane in lanes) + 2
        room = options.max_width - self.left - max(lane.note.cell_len for lane in lanes) - 2
        self.column = WIDE if seq_len * WIDE <= room + WIDE - 1 else NARROW
        fits = max(3, (room + self.column - 1) // self.column)
        # None stands for the steps left out.
        self.steps: list[int | None] = list(range(seq_len)) if seq_len <= fits else [*range(fits - 2), None, seq_len - 1]

    def lane(self, lane: Lane) -> Text:
        """A name, a chain such as "○ ──▶ ○  ┃  ○ ──▶ ◆   ·", and a note."""
        line = Text(lane.name)
        line.pad_right(self.left - line.cell_len)
        return line.append_text(self._chain(lane)).append("  ").append_text(lane.note)

    def _chain(self, lane: Lane) -> Text:
        forward = lane.direction == "forward"
        colour = FORWARD if forward else REVERSE
        link = LINE if self.column == NARROW else FORWARD_ARROW if forward else REVERSE_ARROW
        begins, length = {first for first, _ in lane.segments}, lane.segments[-1][1] + 1 if lane.segments else 0
        end = None if not lane.segments else length - 1 if forward else lane.segments[0][0]
        line = Text()
        for index, step in enumerate(self.steps):
            if step is not None and index and self.steps[index - 1] is not None and step < length:
                line.append(*((RESET.center(self.column - 1), BAD) if step in begins else (link.center(self.column - 1), colour)))
            elif index:
                line.append(" " * (self.column - 1))
            if step is None:
                line.append(MORE, DIM)
            elif step >= length:
                line.append(PADDING, DIM)
            else:
                line.append(*((STEP_AT_END, END) if step == end else (STEP, colour)))
        return line

    def arrows(self) -> Text:
        """From each step up to what reads it."""
        return Text(" " * self.left + "".join((" " if step is None else UP).ljust(self.column) for step in self.steps), DIM)

    def axis(self, name: str = "") -> Text:
        """The steps' numbers, each at its mark, as many as there is room for."""
        line = ""
        for index, step in enumerate(self.steps):
            wide, last = self.column == WIDE, index == len(self.steps) - 1
            label = MORE if step is None else f"t={step}" if wide else str(step)
            if (wide or step is None or last or (step % TICK == 0 and index < len(self.steps) - 2)) and len(line) <= index * self.column:
                line = line.ljust(index * self.column) + label
        return Text.assemble((name.ljust(self.left), AXIS_COLOURS["I"]), (line, AXIS_COLOURS["T"]))
