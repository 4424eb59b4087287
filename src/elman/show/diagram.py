"""Networks unrolled over their steps: what each direction reads, where it begins afresh, and where it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from elman.show.numbers import shortened
from elman.show.style import AXIS_COLOURS, BAD, DIM, END, FORWARD, REVERSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console, ConsoleOptions

# The first and the last step of a part of a sequence.
Segment = tuple[int, int]

WIDE, NARROW = 6, 2  # cells from one step to the next: with arrows; with no room for them
TICK = 5  # where there is no room for more, so many steps from one numbered step to the next

STEP, STEP_AT_END, PADDING, RESET, UP, MORE = "○◆·┃↑…"
LINE, FORWARD_ARROW, REVERSE_ARROW = "─", "──▶", "◀──"
# What stands for them where a terminal cannot show them.
DRAWN, TYPED = "○◆·┃↑…─▶◀", "o*.|^~-><"


@dataclass(frozen=True)
class Drawing:
    """A text for as many columns as there are, in marks that the terminal shows: its own, or what one can type."""

    draw: Callable[[int], Text]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        text = self.draw(options.max_width)
        try:
            DRAWN.encode(options.encoding)
        except UnicodeEncodeError:
            text.plain = text.plain.translate(str.maketrans(DRAWN, TYPED))
        yield text


class Lane(NamedTuple):
    """One direction of one layer or sequence: its name, the segments it runs through, and what is said behind it."""

    name: str
    direction: str
    segments: Sequence[Segment]
    note: Text


class Grid:
    """The columns that steps are drawn in: where they stand, and which are left out."""

    def __init__(self, lanes: Sequence[Lane], seq_len: int, width: int) -> None:
        self.left = max(cell_len(lane.name) for lane in lanes) + 2
        room = width - self.left - max(lane.note.cell_len for lane in lanes) - 2
        self.column = WIDE if seq_len * WIDE <= room + WIDE - 1 else NARROW
        # None stands for the steps left out.
        self.steps = shortened([*range(seq_len)], max(3, (room + self.column - 1) // self.column), None)

    def lane(self, lane: Lane) -> Text:
        """A name, a chain such as "○ ──▶ ○  ┃  ○ ──▶ ◆   ·", and a note."""
        line = Text(lane.name)
        line.pad_right(self.left - line.cell_len)
        forward = lane.direction == "forward"
        colour, arrow = (FORWARD, FORWARD_ARROW) if forward else (REVERSE, REVERSE_ARROW)
        link = (LINE if self.column == NARROW else arrow, colour)
        begins, length = {first for first, _ in lane.segments}, lane.segments[-1][1] + 1 if lane.segments else 0
        end = length - 1 if forward else 0
        for before, step in zip([None, *self.steps], self.steps, strict=False):
            runs = step is not None and step < length
            if step != 0:
                mark, style = (RESET, BAD) if step in begins else link
                line.append(*((mark.center(self.column - 1), style) if runs and before is not None else (" " * (self.column - 1),)))
            run = (STEP_AT_END, END) if step == end else (STEP, colour)
            line.append(*((MORE, DIM) if step is None else run if runs else (PADDING, DIM)))
        return line.append("  ").append_text(lane.note)

    def arrows(self) -> Text:
        """From each step up to what reads it."""
        marks = "".join((" " if step is None else UP).ljust(self.column) for step in self.steps)
        return Text(f"{' ' * self.left}{marks}".rstrip(), DIM)

    def axis(self, name: str = "") -> Text:
        """The steps' numbers, each at its mark, as many as there is room for."""
        line = ""
        for index, step in enumerate(self.steps):
            wide, last = self.column == WIDE, index == len(self.steps) - 1
            label = MORE if step is None else f"t={step}" if wide else str(step)
            if (wide or step is None or last or (step % TICK == 0 and index < len(self.steps) - 2)) and len(line) <= index * self.column:
                line = line.ljust(index * self.column) + label
        return Text.assemble((name.ljust(self.left), AXIS_COLOURS["I"]), (line, AXIS_COLOURS["T"]))
