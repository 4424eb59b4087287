"""Compares a network of a cell, from the zoo or from a file, with the same step without Elman."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from elman.bench import dtype_race
from elman.bench.agreement import check
from elman.bench.cell_contestants import CellCase, Loop
from elman.bench.race import race, ratio
from elman.bench.render import Page, Table, doubts, microseconds, mode_name, place_text, ratio_text, tf32_text, versions_text
from elman.bench.settings import torch_set
from elman.language import _, translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from elman.bench.case import Arrays, Mode
    from elman.bench.cell_contestants import CellContestant, ElmanNetwork
    from elman.bench.place import Place
    from elman.bench.race import Timing
    from elman.cells import Cell

SHAPES = {"cpu": ((100, 16, 64), (100, 16, 128)), "cuda": ((512, 16, 128), (512, 64, 256))}
"""By device: steps, batch, and I and H of what is raced."""


@dataclass(frozen=True)
class OwnRow:
    """A cell at a size in a mode.

    Attributes:
        cell: as it shows itself.
        steps, batch: T and B.
        size: I and H.
        backend: what Elman ran it on, as ``elman.why`` says it.
        timings: how long each contestant took, by name.
        lacking: by the name of each contestant that was left out, the operation that it does not know.
    """

    cell: str
    mode: Mode
    steps: int
    batch: int
    size: int
    backend: str
    timings: Mapping[str, Timing]
    lacking: Mapping[str, str]

    def over_elman(self, name: str) -> float:
        """A contestant's time over Elman's, paired by round."""
        return ratio(self.timings[name], self.timings["elman"])

    def to_dict(self) -> dict[str, Any]:
        return {
            "cell": self.cell,
            "mode": self.mode,
            "steps": self.steps,
            "batch": self.batch,
            "size": self.size,
            "backend": self.backend,
            "seconds": {name: timing.median for name, timing in self.timings.items()},
            "over_elman": {name: self.over_elman(name) for name in self.timings if name != "elman"},
            "lacking": dict(self.lacking),
        }


def measure(
    cells: Sequence[Cell],
    modes: Sequence[Mode],
    elman: ElmanNetwork,
    others: Sequence[CellContestant],
    place: Place,
    *,
    rounds: int,
) -> Iterator[OwnRow]:
    """Race every cell at every size in every mode, in evaluation, without random numbers.

    Args:
        cells: the equations.
        modes: which of inference and training.
        elman: ours.
        others: the loop, and more; one that knows no operation of a cell is left out there.
        place: where, on whose device the contestants have been made.
        rounds: of each race.

    In float32 on the CPU numbers are held against the loop's largest error, elsewhere against its relative error and the dtype's, as in
    a race in one dtype.

    Raises:
        WrongAnswerError: a contestant's numbers are not those of a loop in float64.
    """
    (exact,) = (who for who in others if isinstance(who, Loop))
    tf32 = torch.backends.cudnn.allow_tf32 if place.device == "cuda" else None  # every product as recurrent layers multiply it
    for cell in cells:
        for steps, batch, size in SHAPES[place.device]:
            case = CellCase(cell, steps, batch, size)
            for mode in modes:
                with torch_set(threads=place.threads, matmul_tf32=tf32):
                    jobs, numbers, lacking = {}, {}, {}
                    for who in (*others, elman):
                        job = who.job(case, mode)
                        try:
                            numbers[who.name] = job.numbers(job.run())
                        except NotImplementedError as error:
                            lacking[who.name] = str(error)
                            continue
                        jobs[who.name] = job.run
                    job = exact.job(case, mode, in_float64=True)
                    expected = job.numbers(job.run())
                    for name, found in numbers.items():
                        _check(f"{name}, {cell!r}, {size}, {mode}", found, expected, numbers["loop"], exact)
                    timings = race(jobs, rounds=rounds, min_block_s=place.block_s, stopwatch=place.stopwatch)
                    row = OwnRow(repr(cell), mode, steps, batch, size, elman.why(case, mode), timings, lacking)
                yield row


def _check(who: str, found: Arrays, expected: Arrays, of_loop: Arrays, loop: Loop) -> None:
    """Raise if the numbers found are wrong, beside the loop's own."""
    if loop.is_usual:
        check(who, found, expected, of_loop)
    elif found is not of_loop:  # the loop is the yardstick
        errors, loops = (dtype_race.relative_errors(_tensors(arrays), _tensors(expected)) for arrays in (found, of_loop))
        dtype_race.check(who, errors, loops, loop.dtype)


def _tensors(arrays: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def page(rows: Sequence[OwnRow], absent: Sequence[str], place: Place, dtype: str, rounds: int, *, complete: bool) -> Page:
    """A line for each cell, size and mode, and what ran it."""
    others = list(dict.fromkeys(name for row in rows for name in row.timings if name != "elman"))
    header = ["", "T,B,I,H", "", "µs", *(_("loop/elman") if name == "loop" else f"{name}/elman" for name in others)]
    body = [
        [
            row.cell,
            f"{row.steps},{row.batch},{row.size},{row.size}",
            mode_name(row.mode),
            microseconds(row.timings["elman"]),
            *(ratio_text(row.over_elman(name)) if name in row.timings else "" for name in others),
        ]
        for row in rows
    ]
    notes = [
        _(
            "µs: Elman's time. The others' over it: loop, the same step in a Python loop of torch's operators; compile, that loop over a "
            "step that torch.compile has compiled."
        ),
        *([_("jax: a jitted scan of the step.")] if "jax" in others else []),
        *dict.fromkeys(f"{row.cell}{_(': ')}{translated(row.backend)}" for row in rows),
        *dict.fromkeys(
            _("{cell} is not run by {name}, which has no {operation}.", cell=row.cell, name=name, operation=operation)
            for row in rows
            for name, operation in row.lacking.items()
        ),
        _("{dtype}; medians of {rounds} interleaved rounds.", dtype=dtype, rounds=rounds),
        *([tf32_text(torch.backends.cudnn.allow_tf32)] if place.device == "cuda" and dtype == "float32" else []),
        place_text(place),
    ]
    warnings = doubts((timing for row in rows for timing in row.timings.values()), complete=complete)
    return Page([Table("", header, body, words=(0, 2))], [*notes, *map(translated, absent), versions_text(place.machine)], warnings)
