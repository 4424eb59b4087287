"""`elman bench --cell zoo.MGU`, `path/to/file.py:MyCell` or `--grid cells`: cells compared with their own step without Elman."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elman.bench.own_cells import OwnRow
    from elman.bench.render import Page
    from elman.cli.bench_race import Race


def race_cells(race: Race, cells: str, against: str, on_gpu: bool, dtype: str) -> None:
    """Race the cells that ``"zoo.MGU,my.py:Cell"`` names, all of the zoo if it names none, against those that ``"loop,jax"`` names, or all.

    Raises:
        ValueError: a cell or a contestant is not there, or several numbers of threads are given.
    """
    import torch

    from elman import zoo
    from elman.bench import own_cells
    from elman.bench.cell_contestants import ElmanNetwork, rivals
    from elman.bench.dtype_race import DTYPES
    from elman.zoo.by_name import cell_by_name

    cells = cells or ",".join(f"zoo.{cell.__name__}" for cell in zoo.CELLS)
    if len(race.counts) > 1:
        raise ValueError(f"--threads: --cell {cells} takes a single number, got {', '.join(map(str, race.counts))}")
    place = race.place(on_gpu)
    shapes = own_cells.SHAPES[place.device]
    made = [cell_by_name(name, [size for *_, size in shapes]) for name in dict.fromkeys(cells.split(","))]
    total = len(made) * len(shapes) * len(race.modes)
    where = place.device, DTYPES[dtype]
    others, absent = rivals(against.split(",") if against else (), place.threads, *where)
    elman = ElmanNetwork(*where)
    place = place.with_packages(package for who in (elman, *others) for package in who.packages)

    def results(rows: list[OwnRow]) -> tuple[dict[str, Any], Page]:
        tf32 = {"allow_tf32": torch.backends.cudnn.allow_tf32} if on_gpu else {}
        complete = len(rows) == total
        measured = {"dtype": dtype, **tf32, "rounds": race.rounds, "min_block_s": place.block_s, "complete": complete}
        facts = {**place.to_dict(), **measured, "absent": absent}
        page = own_cells.page(rows, absent, place, dtype, race.rounds, complete=complete)
        return facts | {"rows": [row.to_dict() for row in rows]}, page

    race.run(
        own_cells.measure(made, race.modes, elman, others, place, rounds=race.rounds),
        lambda row, number: f"{row.cell} {row.size} {row.mode}: loop/elman {row.over_elman('loop'):.2f}",
        results,
    )
