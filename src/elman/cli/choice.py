"""What `elman bench` is told to measure, as it is written: cells, rows of a grid, numbers of threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from elman.bench.case import Case

MOST_THREADS = 1024


def select(cells: str, grid: str, rows: str) -> list[tuple[int, Case]]:
    """Of each of the ``cells`` (``"rnn,gru"``) the ``rows`` of the grid (``"4,8"``, ``"2-5"``; all if empty), with their numbers.

    Raises:
        ValueError: a cell or a row that isn't there.
    """
    from elman.bench.case import GRIDS, cases_of

    numbers = _numbers(rows, len(GRIDS[grid]))
    return [(number, cases_of(cell, grid)[number - 1]) for cell in cells_of(cells) for number in numbers]


def cells_of(cells: str) -> list[str]:
    """The cells that ``"rnn,gru"`` names, each once."""
    from elman.bench.case import CELLS
    from elman.zoo.by_name import hint_of_kind

    chosen = cells.split(",")
    if unknown := [cell for cell in chosen if cell not in CELLS]:
        raise ValueError(f"--cell: unknown kind {unknown[0]!r}; {hint_of_kind(unknown[0], CELLS)}")
    return list(dict.fromkeys(chosen))


def thread_counts(threads: str) -> list[int]:
    """The numbers of threads that ``"1,2,4"`` names, rising."""
    try:
        counts = sorted(int(count) for count in threads.split(","))
    except ValueError:
        counts = [0]
    if not 1 <= counts[0] <= counts[-1] <= MOST_THREADS or len(set(counts)) < len(counts):
        raise ValueError(f"--threads: expected different numbers from 1 to {MOST_THREADS} like 2 or 1,2,4, got {threads!r}")
    return counts


def _numbers(rows: str, last_row: int) -> list[int]:
    """The row numbers that ``rows`` names."""
    if not rows:
        return list(range(1, last_row + 1))
    chosen: list[int] = []
    for part in rows.split(","):
        first, dash, last = part.partition("-")
        try:
            span = range(int(first), int(last if dash else first) + 1)
        except ValueError:
            raise ValueError(f"--rows: expected row numbers like 4,8 or 2-5, got {rows!r}") from None
        if not span:
            raise ValueError(f"--rows: expected the smaller row first, like 2-5, got {part!r}")
        if span[0] < 1 or span[-1] > last_row:
            raise ValueError(f"--rows: this grid has rows 1 to {last_row}, got {part!r}")
        chosen += span
    return list(dict.fromkeys(chosen))
