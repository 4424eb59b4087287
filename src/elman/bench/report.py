"""A benchmark's results for programs: ratios, geometric means and shares of the ceiling, as one JSON document."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from elman.bench.measure import AGAIN
from elman.bench.race import most_neighbours

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    from elman.bench.case import Mode
    from elman.bench.machine import Machine
    from elman.bench.measure import Row

    R = TypeVar("R", bound=Row)


def geometric_means(rows: Sequence[Row]) -> dict[str, float]:
    """Of every contestant's time over Elman's, and under ``best`` of the best other's in each row."""
    names = dict.fromkeys(name for row in rows for name in row.others)
    means = {name: statistics.geometric_mean(row.over_elman(name) for row in rows if name in row.others) for name in names}
    return means | {"best": statistics.geometric_mean(row.over_elman(row.best_other) for row in rows)}


def parts(rows: Sequence[R]) -> dict[tuple[str, Mode], list[R]]:
    """The rows of each cell and mode that there are, cell by cell."""
    cells, modes = dict.fromkeys(row.case.cell for row in rows), dict.fromkeys(row.mode for row in rows)
    by_part = {(cell, mode): [row for row in rows if (row.case.cell, row.mode) == (cell, mode)] for cell in cells for mode in modes}
    return {part: of_part for part, of_part in by_part.items() if of_part}


def means_by_part(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """The geometric means of each cell, and in it of each mode."""
    means: dict[str, dict[str, dict[str, float]]] = {}
    for (cell, mode), of_part in parts(rows).items():
        means.setdefault(cell, {})[mode] = geometric_means(of_part)
    return means


def raced(row: Row) -> dict[str, Any]:
    """A row's network, and what a race of it found."""
    return {
        **asdict(row.case),
        "mode": row.mode,
        "backend": row.backend,
        "flops": row.case.flops(row.mode),
        "seconds": {
            name: {"median": timing.median, "low": timing.low, "high": timing.high, "rounds": list(timing.rounds)}
            for name, timing in row.timings.items()
        },
        "over_elman": {name: row.over_elman(name) for name in row.others},
        "a_against_a": row.over_elman(AGAIN) if AGAIN in row.timings else None,
    }


@dataclass(frozen=True)
class Report:
    """The rows measured, and all that one needs to judge them.

    Attributes:
        threads, rounds, min_block_s: how it was measured.
        absent: a line on each contestant that could not take part.
        complete: False if it was cut short.
    """

    machine: Machine
    threads: int
    rounds: int
    min_block_s: float
    rows: tuple[Row, ...]
    absent: tuple[str, ...]
    complete: bool

    @property
    def peak(self) -> float | None:
        """The ceiling: the highest peak measured during the run (noise can only lower it), in floating-point operations a second."""
        return max((row.peak for row in self.rows if row.peak is not None), default=None)

    def share_of_peak(self, row: Row) -> float | None:
        return row.flops_per_second / self.peak if self.peak else None

    def to_dict(self) -> dict[str, Any]:
        """All of it, for ``json.dumps``; times in seconds."""
        return {
            "machine": asdict(self.machine),
            "threads": self.threads,
            "rounds": self.rounds,
            "min_block_s": self.min_block_s,
            "fma_peak_flops": self.peak,
            "complete": self.complete,
            "absent": list(self.absent),
            "rows": [self._row(row) for row in self.rows],
            "geometric_means": means_by_part(self.rows),
        }

    def _row(self, row: Row) -> dict[str, Any]:
        return {
            "row": row.number,
            **raced(row),
            "best_other": row.best_other,
            "share_of_peak": self.share_of_peak(row),
            "neighbours_cores_busy": most_neighbours(row.timings.values()),
        }
