"""How things look: a colour for each axis, lines, tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# An axis has one colour wherever it shows up. Plain ANSI names: the terminal's own palette makes them legible on light and dark.
AXIS_COLOURS = {"T": "cyan", "B": "magenta", "I": "green", "H": "yellow", "P": "bright_yellow", "L": "blue"}
AXIS_COLOURS |= {"D": "bright_red", "G": "bright_magenta"}
FORWARD, REVERSE, END, GOOD, BAD, DIM = "cyan", "magenta", "bold yellow", "green", "bold red", "dim"

WIDEST = 120

Part: TypeAlias = "RenderableType | tuple[str, str] | Literal[False] | None"
"""A line or a cell: a text, never markup; a text and its style; anything that rich prints; or, where False or None, nothing."""


def console() -> Console:
    """The terminal, no wider than reads well; plain where it is no terminal or NO_COLOR is set."""
    screen = Console(highlight=False)
    screen.width = min(screen.width, WIDEST)
    return screen


@dataclass(frozen=True)
class Fitted:
    """What is drawn for as many columns as there are where it stands."""

    draw: Callable[[int], Part]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield drawn(self.draw(options.max_width))


def drawn(part: Part) -> RenderableType:
    if part is None or part is False:
        return Group()
    return Text(*part) if isinstance(part, tuple) else Text(part) if isinstance(part, str) else part


def lines(*parts: Part) -> Group:
    """Parts one below the other."""
    return Group(*map(drawn, parts))


def indented(*parts: Part) -> Padding:
    return Padding(lines(*parts), (0, 0, 0, 2))


def heading(text: str) -> Padding:
    return Padding(Rule(Text(text, "bold"), style=DIM, align="left"), (1, 0, 0, 0))


def section(title: str, *parts: Part) -> Group:
    return lines((f"\n{title}", "bold"), indented(*parts))


def python(code: Iterable[str]) -> Syntax:
    return Syntax("\n".join(code), "python", theme="ansi_dark", background_color="default", word_wrap=True)


def table(columns: Sequence[str], *rows: Sequence[Part], gap: int = 2, right: Sequence[int] = ()) -> Table:
    """A table without lines, the columns ``right`` justified so. Only its last column wraps: Chinese, which has no spaces, anywhere."""
    made = Table(box=None, padding=(0, gap, 0, 0), header_style=DIM, pad_edge=False)
    for name in columns[:-1]:
        made.add_column(name, no_wrap=True)
    made.add_column(columns[-1], overflow="fold")
    return _filled(made, rows, right)


def grid(*rows: Sequence[Part], gap: int = 2, right: Sequence[int] = ()) -> Table:
    """Rows without a header, the columns ``right`` justified so."""
    return _filled(Table.grid(*(Column(overflow="fold") for _cell in max(rows, key=len, default=())), padding=(0, gap)), rows, right)


def _filled(made: Table, rows: Sequence[Sequence[Part]], right: Sequence[int]) -> Table:
    for row in rows:
        made.add_row(*map(drawn, row))
    for column in right:
        made.columns[column].justify = "right"
    return made


def flow(pieces: Iterable[Text], width: int) -> Text:
    """Pieces one after the other, broken between them only."""
    rows = [Text()]
    for piece in pieces:
        if rows[-1] and rows[-1].cell_len + 2 + piece.cell_len > width:
            rows.append(Text())
        rows[-1].append("  " if rows[-1] else "").append_text(piece)
    return Text("\n").join(rows)
