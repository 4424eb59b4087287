"""How things look: a colour for each axis, shapes, numbers, times, folded matrices, tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from elman.show.tensors import Axis, Nested

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
NUMBER_WIDTH = 8  # "-12.3456"


def console() -> Console:
    """The terminal, no wider than reads well; plain where it is no terminal or NO_COLOR is set."""
    screen = Console(highlight=False)
    screen.width = min(screen.width, WIDEST)
    return screen


def heading(text: str) -> RenderableType:
    return Padding(Rule(Text(text, "bold"), style=DIM, align="left"), (1, 0, 0, 0))


def section(title: str, *body: RenderableType) -> Group:
    """A heading, and what is below it, set in by two."""
    return Group(Text(f"\n{title}", "bold"), Padding(Group(*body), (0, 0, 0, 2)))


def python(lines: Iterable[str]) -> Syntax:
    return Syntax("\n".join(lines), "python", theme="ansi_dark", background_color="default", word_wrap=True)


def table(*columns: str, gap: int = 2) -> Table:
    """A table without lines. Only its last column wraps: Chinese, which has no spaces, anywhere."""
    made = Table(box=None, padding=(0, gap, 0, 0), header_style=DIM, pad_edge=False)
    for column in columns[:-1]:
        made.add_column(column, no_wrap=True)
    made.add_column(columns[-1], overflow="fold")
    return made


def grid(*rows: Sequence[RenderableType], gap: int = 2) -> Table:
    """Rows without a header; strings as they are, with no markup in them."""
    made = Table.grid(padding=(0, gap))
    for _cell in max(rows, key=len, default=()):
        made.add_column(overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    return made


def axis_text(axes: Iterable[Axis]) -> Text:
    """Letters as in "T, B, D·H", each in its colour."""
    letters = (Text("").join(Text(letter, AXIS_COLOURS.get(letter, DIM)) for letter in axis.symbol) for axis in axes)
    return Text(", ").join(letters)


def shape_text(axes: Sequence[Axis]) -> Text:
    """Sizes as in "(5, 3, 20)", each in its axis' colour, written as Python writes a tuple."""
    sizes = Text(", ").join(Text(str(axis.size), AXIS_COLOURS[axis.symbol[-1]]) for axis in axes)
    return Text.assemble("(", sizes, ",)" if len(axes) == 1 else ")")


def number(value: float) -> str:
    """Four places, as torch prints; large and tiny ones by exponent."""
    return f"{value:{'.1e' if value != 0 and not 5e-5 <= abs(value) < 1e3 else '.4f'}}".rjust(NUMBER_WIDTH)


def exact(value: float) -> str:
    """Eight places: as much as float32 holds."""
    return f"{value: .8f}" if abs(value) < 1e4 else f"{value: .7e}"


def small(value: float) -> str:
    """A difference: "0" or "5.96e-08"."""
    return "0" if value == 0 else f"{value:.2e}" if abs(value) < 0.01 else f"{value:.2f}"


def duration(seconds: float) -> str:
    unit, scale = next(((unit, scale) for unit, scale in (("s", 1.0), ("ms", 1e-3)) if seconds >= scale), ("µs", 1e-6))
    return f"{seconds / scale:.3g} {unit}"


def memory(size: int) -> str:
    unit, scale = next(((unit, scale) for unit, scale in (("MiB", 2**20), ("KiB", 2**10)) if size >= scale), ("B", 1))
    return f"{size} B" if scale == 1 else f"{size / scale:.1f} {unit}"


def count(value: int) -> str:
    """Thousands set apart by a space: "1 234 567"."""
    return f"{value:,}".replace(",", " ")


def numbers_text(values: Sequence[float], most: int) -> Text:
    """Numbers in columns, as many as ``most``; "…" where some are left out."""
    text = Text("  ".join(number(value) for value in values[:most]))
    return text.append("  …", DIM) if len(values) > most else text


def folded(values: Nested, width: int, rows: int = 4) -> Text:
    """A vector or matrix as torch prints it, folded in the middle to fit ``width`` columns and ``rows`` lines."""
    all_rows = values if isinstance(values, list) and values and isinstance(values[0], list) else [values]
    matrix = all_rows is values
    shown: list[Nested | None] = list(all_rows) if len(all_rows) <= rows else [*all_rows[: rows - 2], None, all_rows[-1]]
    wide = max(len(number(value).strip()) for row in shown if isinstance(row, list) for value in row if isinstance(value, float))
    fits = max(2, (width - 4) // (wide + 2))
    lines = []
    for index, row in enumerate(shown):
        if not isinstance(row, list):
            lines.append(Text("  …", DIM))
            continue
        cells = [number(value).strip().rjust(wide) for value in row if isinstance(value, float)]
        if len(cells) > fits:
            cells = [*cells[: max(1, fits - 2)], "…", cells[-1]]
        opening = ("[[" if index == 0 else " [") if matrix else "["
        closing = ("]]" if index == len(shown) - 1 else "],") if matrix else "]"
        lines.append(Text.assemble((opening, DIM), ", ".join(cells), (closing, DIM)))
    return Text("\n").join(lines)


def flow(pieces: Sequence[Text], width: int, gap: int = 2) -> Text:
    """Pieces one after the other, broken between them only."""
    lines = [Text()]
    for piece in pieces:
        if lines[-1] and lines[-1].cell_len + gap + piece.cell_len > width:
            lines.append(Text())
        lines[-1].append(" " * gap if lines[-1] else "").append_text(piece)
    return Text("\n").join(lines)
