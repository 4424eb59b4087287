"""How things look: a colour for each axis, lines, tables, shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from elman.show.tensors import Axis

# An axis has one colour wherever it shows up. Plain ANSI names: the terminal's own palette makes them legible on light and dark.
AXIS_COLOURS = {
    "T": "cyan",
    "B": "magenta",
    "I": "green",
    "H": "yellow",
    "P": "bright_yellow",
    "L": "blue",
    "D": "bright_red",
    "G": "bright_magenta",
}
FORWARD, REVERSE, END, GOOD, BAD, DIM = "cyan", "magenta", "bold yellow", "green", "bold red", "dim"

WIDEST = 120

Part: TypeAlias = "RenderableType | tuple[str, str]"
"""A line or a cell: a text, never markup; a text and its style; or anything that rich prints."""


def console() -> Console:
    """The terminal, no wider than reads well; plain where it is no terminal or NO_COLOR is set."""
    screen = Console(highlight=False)
    screen.width = min(screen.width, WIDEST)
    return screen


@dataclass(frozen=True)
class Fitted:
    """What is drawn for as many columns as there are where it stands, in the terminal's encoding."""

    draw: Callable[[ConsoleOptions], RenderableType]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield self.draw(options)


def drawn(part: Part) -> RenderableType:
    return Text(*part) if isinstance(part, tuple) else Text(part) if isinstance(part, str) else part


def lines(*parts: Part | Literal[False] | None) -> Group:
    """Parts one below the other, without those that are False or None."""
    return Group(*(drawn(part) for part in parts if part is not False and part is not None))


def indented(*parts: Part | Literal[False] | None) -> Padding:
    return Padding(lines(*parts), (0, 0, 0, 2))


def heading(text: str) -> RenderableType:
    return Padding(Rule(Text(text, "bold"), style=DIM, align="left"), (1, 0, 0, 0))


def section(title: str, *parts: Part | Literal[False] | None) -> Group:
    return lines((f"\n{title}", "bold"), indented(*parts))


def python(code: Iterable[str]) -> Syntax:
    return Syntax("\n".join(code), "python", theme="ansi_dark", background_color="default", word_wrap=True)


def table(columns: Sequence[str], *rows: Sequence[Part], gap: int = 2) -> Table:
    """A table without lines. Only its last column wraps: Chinese, which has no spaces, anywhere."""
    made = Table(box=None, padding=(0, gap, 0, 0), header_style=DIM, pad_edge=False)
    for column in columns[:-1]:
        made.add_column(column, no_wrap=True)
    made.add_column(columns[-1], overflow="fold")
    for row in rows:
        made.add_row(*map(drawn, row))
    return made


def grid(*rows: Sequence[Part], gap: int = 2) -> Table:
    """Rows without a header."""
    made = Table.grid(padding=(0, gap))
    for _cell in max(rows, key=len, default=()):
        made.add_column(overflow="fold")
    for row in rows:
        made.add_row(*map(drawn, row))
    return made


def axis_text(axes: Iterable[Axis]) -> Text:
    """Letters as in "T, B, D·H", each in its colour."""
    letters = (Text("").join(Text(letter, AXIS_COLOURS.get(letter, DIM)) for letter in axis.symbol) for axis in axes)
    return Text(", ").join(letters)


def shape_text(axes: Sequence[Axis]) -> Text:
    """Sizes as in "(5, 3, 20)", each in its axis' colour, written as Python writes a tuple."""
    sizes = Text(", ").join(Text(str(axis.size), AXIS_COLOURS[axis.symbol[-1]]) for axis in axes)
    return Text.assemble("(", sizes, ",)" if len(axes) == 1 else ")")


def flow(pieces: Iterable[Text]) -> Fitted:
    """Pieces one after the other, broken between them only."""

    def draw(options: ConsoleOptions) -> Text:
        rows = [Text()]
        for piece in pieces:
            if rows[-1] and rows[-1].cell_len + 2 + piece.cell_len > options.max_width:
                rows.append(Text())
            rows[-1].append("  " if rows[-1] else "").append_text(piece)
        return Text("\n").join(rows)

    return Fitted(draw)
