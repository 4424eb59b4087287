"""Compares compiled layers with the same layers in eager mode, Elman's and torch.nn's."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from elman.bench.agreement import check
from elman.bench.contestants import CompiledElman, CompiledTorch, Elman, Torch
from elman.bench.measure import AGAIN
from elman.bench.race import race, ratio
from elman.bench.settings import torch_set

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from elman.bench.case import Case, Mode
    from elman.bench.race import Timing

CONTESTANTS = (Elman, CompiledElman, Torch, CompiledTorch)


@dataclass(frozen=True)
class Row:
    """One case in one mode.

    Attributes:
        number: of the case in its grid.
        timings: by contestant; with ``AGAIN``, Elman's compiled layer once more.
    """

    number: int
    case: Case
    mode: Mode
    timings: Mapping[str, Timing]

    @property
    def over_eager(self) -> float:
        """The compiled layer's time over the eager one's, paired by round: above 1, compiling makes it slower."""
        return ratio(self.timings[CompiledElman.name], self.timings[Elman.name])

    @property
    def more_s(self) -> float:
        """How much longer a compiled call takes, in seconds."""
        return self.timings[CompiledElman.name].median - self.timings[Elman.name].median

    @property
    def torchs(self) -> float:
        """torch.nn's compiled layer's time over that of Elman's, paired by round: above 1, Elman is ahead."""
        return ratio(self.timings[CompiledTorch.name], self.timings[CompiledElman.name])

    @property
    def against_itself(self) -> float:
        return ratio(self.timings[AGAIN], self.timings[CompiledElman.name])

    def to_dict(self) -> dict[str, Any]:
        return {
            "row": self.number,
            **asdict(self.case),
            "mode": self.mode,
            "seconds": {name: {"median": timing.median, "spread": timing.spread} for name, timing in self.timings.items()},
            "over_eager": self.over_eager,
            "more_s": self.more_s,
            "torch_compiled_over_elman_compiled": self.torchs,
            "a_against_a": self.against_itself,
        }


def measure(cases: Iterable[tuple[int, Case]], modes: Sequence[Mode], *, threads: int, rounds: int, min_block_s: float) -> Iterator[Row]:
    """Race every case in every mode, one row at a time.

    Args:
        cases: each with its row number in its grid.
        modes: which of inference and training.
        threads: of torch and Elman.
        rounds, min_block_s: of each race (``elman.bench.race``).

    Raises:
        WrongAnswerError: a contestant's numbers are not torch's.
    """
    everybody = [contestant() for contestant in CONTESTANTS]
    for number, case in cases:
        for mode in modes:
            torch.compiler.reset()  # else a layer of another size would be compiled for any
            with torch_set(threads=threads):
                jobs = {who.name: who.job(case, mode) for who in everybody}
                jobs[AGAIN] = CompiledElman().job(case, mode)
                answers = {name: job.numbers(job.run()) for name, job in jobs.items()}
                for name, answer in answers.items():
                    check(f"{name}, {case.cell} {case}, {mode}", answer, answers[Torch.name])
                timings = race({name: job.run for name, job in jobs.items()}, rounds=rounds, min_block_s=min_block_s)
            yield Row(number, case, mode, timings)
