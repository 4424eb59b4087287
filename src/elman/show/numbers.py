"""Numbers as one reads them: values, differences, times, sizes, rows and folded matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from elman.show.style import DIM, Fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import ConsoleOptions

    from elman.show.tensors import Nested

NUMBER_WIDTH = 8  # "-12.3456"


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


def folded(values: Nested, rows: int = 4) -> Fitted:
    """A vector or matrix as torch prints it, folded in the middle to fit the columns and ``rows`` lines."""
    all_rows = values if isinstance(values, list) and values and isinstance(values[0], list) else [values]
    matrix = all_rows is values
    shown = all_rows if len(all_rows) <= rows else [*all_rows[: rows - 2], [], all_rows[-1]]
    cells = [[number(value).strip() for value in row if isinstance(value, float)] for row in shown if isinstance(row, list)]
    wide = max(len(cell) for row in cells for cell in row)

    def draw(options: ConsoleOptions) -> Text:
        fits = max(2, (options.max_width - 4) // (wide + 2))
        lines = []
        for index, row in enumerate(cells):
            told = [cell.rjust(wide) for cell in row]
            if len(told) > fits:
                told = [*told[: max(1, fits - 2)], "…", told[-1]]
            opening = ("[[" if index == 0 else " [") if matrix else "["
            closing = ("]]" if index == len(cells) - 1 else "],") if matrix else "]"
            lines.append(Text.assemble((opening, DIM), ", ".join(told), (closing, DIM)) if row else Text("  …", DIM))
        return Text("\n").join(lines)

    return Fitted(draw)
