"""Races the contestants over a grid of cases: checks that they agree, then times them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from elman.backends import kernels
from elman.bench.agreement import check
from elman.bench.race import Timing, race, ratio
from elman.bench.settings import torch_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from elman.bench.case import Case, Mode
    from elman.bench.contestants import Contestant, Elman

AGAIN = "elman again"
"""The name under which Elman races against itself."""


@dataclass(frozen=True)
class Row:
    """One case in one mode.

    Attributes:
        number: of the case in its grid.
        backend: what Elman ran it on, as ``elman.why`` says it.
        timings: by contestant, Elman's among them; with ``AGAIN``, a second Elman's, built anew.
        peak: the machine's FMA peak measured before the race, in floating-point operations a second; None if nothing can measure it.
    """

    number: int
    case: Case
    mode: Mode
    backend: str
    timings: Mapping[str, Timing]
    peak: float | None

    @property
    def others(self) -> tuple[str, ...]:
        """The contestants that aren't Elman."""
        return tuple(name for name in self.timings if name not in ("elman", AGAIN))

    def over_elman(self, name: str) -> float:
        """A contestant's time over Elman's, paired by round: above 1, Elman is ahead."""
        return ratio(self.timings[name], self.timings["elman"])

    @property
    def best_other(self) -> str:
        """The fastest contestant other than Elman."""
        return min(self.others, key=self.over_elman)

    @property
    def flops_per_second(self) -> float:
        """Elman's rate in floating-point operations a second, counting those that the case needs."""
        return self.case.flops(self.mode) / self.timings["elman"].median


def fma_peak(threads: int) -> float | None:
    """The machine's float32 peak in floating-point operations a second: multiply-adds in registers alone. None without the kernels."""
    return kernels.fma_peak(threads) if kernels.available() else None


def measure(
    cases: Iterable[tuple[int, Case]],
    modes: Sequence[Mode],
    elman: Elman,
    others: Sequence[Contestant],
    *,
    threads: int,
    rounds: int,
    min_block_s: float,
    always_again: bool = False,
) -> Iterator[Row]:
    """Race every case in every mode, one row at a time.

    Args:
        cases: each with its row number in its grid.
        modes: which of inference and training.
        elman: ours.
        others: torch first, whose numbers the others' are checked against.
        threads: of torch, Elman and the peak; the others have been made with theirs.
        rounds: of each race.
        min_block_s: how long each timed block lasts, in seconds.
        always_again: race Elman against itself in every row, not only in the first of each cell and mode.

    Raises:
        WrongAnswerError: a contestant's numbers are not torch's, in the row after the last one given.
    """
    again: set[tuple[str, Mode]] = set()
    for number, case in cases:
        for mode in modes:
            with torch_set(threads=threads):
                jobs = {who.name: who.job(case, mode) for who in (*others, elman) if mode in who.modes}
                if always_again or (case.cell, mode) not in again:
                    again.add((case.cell, mode))
                    jobs[AGAIN] = elman.job(case, mode)
                answers = {name: job.numbers(job.run()) for name, job in jobs.items()}
                for name, answer in answers.items():
                    check(f"{name}, {case.cell} {case}, {mode}", answer, answers["torch"])
                peak = fma_peak(threads)
                timings = race({name: job.run for name, job in jobs.items()}, rounds=rounds, min_block_s=min_block_s)
                row = Row(number, case, mode, elman.why(case, mode), timings, peak)
            yield row
