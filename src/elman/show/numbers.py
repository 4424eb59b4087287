"""Numbers as one reads them: values, differences, times, sizes, folded vectors and matrices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from rich.text import Text

from elman.show.style import DIM, Fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    Item = TypeVar("Item")

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
    unit, scale = ("s", 1.0) if seconds >= 1 else ("ms", 1e-3) if seconds >= 1e-3 else ("µs", 1e-6)
    return f"{seconds / scale:.3g} {unit}"


def memory(size: int) -> str:
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{size / 2**10:.1f} KiB" if size >= 2**10 else f"{size} B"


def count(value: int) -> str:
    """Thousands set apart by a space: "1 234 567"."""
    return f"{value:,}".replace(",", " ")


def numbers_text(values: Sequence[float], width: int) -> Text:
    """Numbers in columns, as many as the width has room for, at least one; "…" where some are left out."""
    most = max(1, width // (NUMBER_WIDTH + 2))
    return Text("  ".join(map(number, values[:most]))).append("  …" if len(values) > most else "", DIM)


def shortened(items: Sequence[Item], most: int, left_out: Item) -> list[Item]:
    """At most so many items: the first ones, what stands for those left out, and the last."""
    return list(items) if len(items) <= most else [*items[: most - 2], left_out, items[-1]]


def folded(values: list[Any], most_rows: int = 4) -> Fitted:
    """A vector or matrix as torch prints it, folded in the middle to fit the columns and ``most_rows`` lines."""
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
