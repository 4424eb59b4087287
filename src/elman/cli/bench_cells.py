"""`elman bench --cell zoo.MGU`, `path/to/file.py:MyCell` or `--grid cells`: cells compared with their own step without Elman."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.bench.own_cells import OwnRow
    from elman.bench.render import Page
    from elman.cli.bench import Race

RIVALS = "loop,compile,jax"


def race_cells(race: Race, cells: str, against: str) -> None:
    """Race the cells that ``"zoo.MGU,my.py:Cell"`` names; all of the zoo if it names none.

    Raises:
        ValueError: a cell or a contestant is not there, or several numbers of threads are given.
    """
    from elman import zoo
    from elman.bench import own_cells
    from elman.bench.cell_contestants import ElmanNetwork, rivals
    from elman.bench.machine import describe
    from elman.zoo.by_name import cell_by_name

    cells = cells or ",".join(f"zoo.{cell.__name__}" for cell in zoo.CELLS)
    if len(race.counts) > 1:
        raise ValueError(f"--threads: --cell {cells} takes a single number, got {', '.join(map(str, race.counts))}")
    (threads,) = race.counts
    made = [cell_by_name(name) for name in dict.fromkeys(cells.split(","))]
    others, absent = rivals({"loop", *against.split(",")}, threads)
    elman = ElmanNetwork(threads)
    machine = describe(package for who in (elman, *others) for package in who.packages)

    def results(rows: list[OwnRow]) -> tuple[dict[str, Any], Page]:
        facts = {"machine": asdict(machine), "threads": threads, "rounds": race.rounds, "absent": absent}
        return facts | {"rows": [row.to_dict() for row in rows]}, own_cells.page(rows, absent, machine, threads, race.rounds)

    race.run(
        own_cells.measure(made, race.modes, elman, others, rounds=race.rounds, min_block_s=race.min_block_s),
        lambda row, number: f"{row.cell} {row.size} {row.mode}: loop/elman {row.over_elman('loop'):.2f}",
        results,
    )
