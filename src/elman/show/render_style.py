"""How things look: a colour for each axis, shapes, numbers, times, folded matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from elman.show.facts import Axis, Nested

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


class Marks(NamedTuple):
    """What a sequence is drawn with: a step that is run, one at which a direction ends, one of padding; and what stands between two."""

    step: str
    end: str
    padding: str
    cut: str
    line: str
    forward: str
    reverse: str
    more: str


DRAWN = Marks("○", "◆", "·", "┃", "─", "──▶", "◀──", "…")
TYPED = Marks("o", "*", ".", "|", "-", "-->", "<--", "~")


def marks_of(encoding: str) -> Marks:
    """Marks that a terminal of this encoding shows.

    >>> marks_of("utf-8").forward, marks_of("ascii").forward
    ('──▶', '-->')
    """
    try:
        "".join(DRAWN).encode(encoding)
    except UnicodeEncodeError:
        return TYPED
    return DRAWN


def console() -> Console:
    """The terminal, no wider than reads well; plain where it is no terminal or NO_COLOR is set."""
    screen = Console(highlight=False)
    screen.width = min(screen.width, WIDEST)
    return screen


def axis_text(axes: Iterable[Axis]) -> Text:
    """Letters as in "T, B, D·H", each in its colour."""
    return Text(", ").join(_letters(axis.symbol) for axis in axes)


def shape_text(axes: Sequence[Axis]) -> Text:
    """Sizes as in "(5, 3, 20)", each in its axis' colour, written as Python writes a tuple."""
    sizes = Text(", ").join(Text(str(axis.size), _colour(axis)) for axis in axes)
    return Text.assemble("(", sizes, ",)" if len(axes) == 1 else ")")


def legend_text(letter: str, meaning: str, size: int) -> Text:
    """A letter with its meaning and size: "T steps 5"."""
    colour = AXIS_COLOURS[letter]
    return Text.assemble((letter, colour), f" {meaning} ", (str(size), f"bold {colour}"))


def number(value: float) -> str:
    """Four places, as torch prints; large and tiny ones by exponent."""
    if value != 0 and not 5e-5 <= abs(value) < 1e3:
        return f"{value:.1e}".rjust(NUMBER_WIDTH)
    return f"{value:.4f}".rjust(NUMBER_WIDTH)


def exact(value: float) -> str:
    """Eight places: as much as float32 holds."""
    return f"{value: .8f}" if abs(value) < 1e4 else f"{value: .7e}"


def small(value: float) -> str:
    """A difference: "0" or "5.96e-08"."""
    return "0" if value == 0 else f"{value:.2e}" if abs(value) < 0.01 else f"{value:.2f}"


def duration(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"


def memory(size: int) -> str:
    for unit, scale in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} B"


def count(value: int) -> str:
    """Thousands set apart by a thin gap that also copies well: "1 234 567"."""
    return f"{value:,}".replace(",", " ")


def row_text(values: Sequence[float], most: int, style: str = "") -> Text:
    """Numbers in columns, as many as ``most``; "…" where some are left out."""
    shown = values[:most]
    text = Text("  ".join(number(value) for value in shown), style)
    return text.append("  …", DIM) if len(values) > most else text


def folded(values: Nested, width: int) -> Text:
    """A vector or matrix as torch prints it, long rows and long columns folded in the middle to fit ``width`` columns."""
    rows = values if isinstance(values, list) and values and isinstance(values[0], list) else [values]
    matrix = rows is values
    kept: list[Nested | None] = list(rows) if len(rows) <= 4 else [*rows[:2], None, rows[-1]]
    wide = max(len(number(value).strip()) for row in kept if isinstance(row, list) for value in row if isinstance(value, float))
    fits = max(2, (width - 2) // (wide + 2))
    lines = []
    for index, row in enumerate(kept):
        if not isinstance(row, list):
            lines.append(Text("  …", DIM))
            continue
        opening = ("[[" if index == 0 else " [") if matrix else "["
        closing = ("]]" if index == len(kept) - 1 else "],") if matrix else "]"
        lines.append(Text.assemble((opening, DIM), _row(row, fits, wide), (closing, DIM)))
    return Text("\n").join(lines)


def flow(pieces: Sequence[Text], width: int, gap: int = 2) -> Text:
    """Pieces one after the other, broken between them only."""
    lines = [Text()]
    for piece in pieces:
        if lines[-1] and lines[-1].cell_len + gap + piece.cell_len > width:
            lines.append(Text())
        lines[-1].append(" " * gap if lines[-1] else "").append_text(piece)
    return Text("\n").join(lines)


def section(title: str, *body: RenderableType) -> Group:
    """A heading, and what is below it, set in by two."""
    return Group(Text(f"\n{title}", "bold"), Padding(Group(*body), (0, 0, 0, 2)))


def _row(row: list[Nested], fits: int, wide: int) -> Text:
    cut = row if len(row) <= fits else [*row[: max(1, fits - 2)], None, row[-1]]
    comma = (", ", DIM)
    text = Text()
    for index, value in enumerate(cut):
        assert not isinstance(value, list)
        text.append(*(("", "") if index == 0 else comma)).append(
            *(("…", DIM) if value is None else (number(value).strip().rjust(wide), ""))
        )
    return text


def _letters(symbol: str) -> Text:
    return Text("").join(Text(letter, AXIS_COLOURS.get(letter, DIM)) for letter in symbol)


def _colour(axis: Axis) -> str:
    return AXIS_COLOURS[axis.symbol[-1]]
