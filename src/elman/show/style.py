"""How things look: numbers, a colour for each axis, lines, tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from rich.console import Console, ConsoleOptions, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Column, Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# An axis or a direction has one colour everywhere. Plain ANSI names: the terminal's own palette makes them legible on light and dark.
COLOURS = {"T": "cyan", "B": "magenta", "I": "green", "H": "yellow", "P": "bright_yellow", "L": "blue"}
COLOURS |= {"D": "bright_red", "G": "bright_magenta", "forward": "cyan", "reverse": "magenta"}
END, GOOD, BAD, DIM = "bold yellow", "green", "bold red", "dim"

WIDEST = 120
NUMBER_WIDTH = 8  # "-12.3456"

# The marks of diagrams, and what stands for them where a terminal cannot show them.
DRAWN, TYPED = "○◆·┃↑…─▶◀", "o*.|^~-><"

Part: TypeAlias = "RenderableType | tuple[str, str] | Literal[False] | None"
"""A line or a cell: a text, never markup; a text and its style; anything that rich prints; or, where False or None, nothing."""


def console() -> Console:
    """The terminal, no wider than reads well; plain where it is no terminal or NO_COLOR is set."""
    screen = Console(highlight=False)
    screen.width = min(screen.width, WIDEST)
    return screen


@dataclass(frozen=True)
class Fitted:
    """What is drawn for as many columns as there are where it stands, in marks that the terminal shows."""

    draw: Callable[[int], Part]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        part = drawn(self.draw(options.max_width))
        try:
            DRAWN.encode(options.encoding)
        except UnicodeEncodeError:
            if isinstance(part, Text):
                part.plain = part.plain.translate(str.maketrans(DRAWN, TYPED))
        yield part


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


def table(*rows: Sequence[Part], header: Sequence[str] = (), gap: int = 2, right: Sequence[int] = (), wrapping: int = 1) -> Table:
    """A table without lines, the columns ``right`` justified so. Chinese, which has no spaces, wraps anywhere; with a header only so many
    of the last columns wrap.
    """
    titles = header or [""] * max(map(len, rows), default=0)
    columns = [Column(title, justify="right" if index in right else "left", overflow="fold") for index, title in enumerate(titles)]
    for column in columns[: len(header) - wrapping] if header else ():
        column.no_wrap = True
    made = Table(*columns, box=None, padding=(0, gap, 0, 0), header_style=DIM, pad_edge=False, show_header=bool(header))
    for row in rows:
        made.add_row(*map(drawn, row))
    return made


def number(value: float) -> str:
    """Four places, as torch prints; large and tiny ones by exponent."""
    return f"{value:{'.1e' if value != 0 and not 5e-5 <= abs(value) < 1e3 else '.4f'}}".rjust(NUMBER_WIDTH)


def small(value: float) -> str:
    """A difference: "0" or "5.96e-08"."""
    return "0" if value == 0 else f"{value:.2e}" if abs(value) < 0.01 else f"{value:.2f}"


def duration(seconds: float) -> str:
    unit, scale = ("s", 1.0) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("µs", 1e-6)
    return f"{seconds / scale:.3g} {unit}"


def count(value: int) -> str:
    """Thousands set apart by a comma: "1,234,567"."""
    return f"{value:,}"


def numbers(values: Sequence[float], width: int) -> Text:
    """Numbers in columns, as many as the width has room for, at least one; "…" where some are left out."""
    most = max(1, width // (NUMBER_WIDTH + 2))
    return Text("  ".join(map(number, values[:most]))).append("  …" if len(values) > most else "", DIM)


def shortened(items: Sequence[Any], most: int, left_out: Any) -> list[Any]:
    """At most so many items: the first ones, what stands for those left out, and the last."""
    return list(items) if len(items) <= most else [*items[: most - 2], left_out, items[-1]]


def folded(values: Any, most_rows: int = 4) -> Fitted:
    """A number, vector or matrix as torch prints it, folded in the middle to fit the columns and ``most_rows`` lines."""
    values = values if isinstance(values, list) else [values]
    matrix = isinstance(values[0], list)
    cells = [[number(value).strip() for value in row] for row in shortened(values if matrix else [values], most_rows, [])]
    wide = max(len(cell) for row in cells for cell in row)

    def draw(width: int) -> Text:
        fits = max(3, (width - 4) // (wide + 2))
        lines = []
        for index, row in enumerate(cells):
            opening = "[" if not matrix else "[[" if index == 0 else " ["
            closing = "]" if not matrix else "]]" if index == len(cells) - 1 else "],"
            text = ", ".join("…" if cell == "…" else cell.rjust(wide) for cell in shortened(row, fits, "…"))
            lines.append(Text.assemble((opening, DIM), text, (closing, DIM)) if row else Text("  …", DIM))
        return Text("\n").join(lines)

    return Fitted(draw)
