"""`elman bench --cell zoo.MGU` or `path/to/file.py:MyCell`: a cell compared with its own step in a Python loop."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.bench.own_cells import OwnRow
    from elman.bench.render import Page
    from elman.cli.bench import Race


def race_cells(race: Race, cells: str) -> None:
    """Time the cells that ``"zoo.MGU,my.py:Cell"`` names.

    Raises:
        ValueError: one is not there, or several numbers of threads are given.
    """
    from elman.bench import own_cells
    from elman.bench.machine import describe
    from elman.cells.by_name import cell_by_name

    if len(race.counts) > 1:
        raise ValueError(f"--threads: --cell {cells} takes a single number, got {', '.join(map(str, race.counts))}")
    (threads,) = race.counts
    made, machine = [cell_by_name(name) for name in dict.fromkeys(cells.split(","))], describe(("elman", "torch"))

    def results(rows: list[OwnRow]) -> tuple[dict[str, Any], Page]:
        facts = {"machine": asdict(machine), "threads": threads, "rounds": race.rounds, "rows": [row.to_dict() for row in rows]}
        return facts, own_cells.page(rows, machine, threads, race.rounds)

    race.run(
        own_cells.measure(made, race.modes, threads=threads, rounds=race.rounds, min_block_s=race.min_block_s),
        lambda row, number: f"{row.cell} {row.size} {row.mode}: loop/elman {row.ratio:.2f}",
        results,
    )
