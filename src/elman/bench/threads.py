"""Compares numbers of threads: the time of a call with each, and how many threads it ran on."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch

from elman.backends import kernels
from elman.bench.agreement import check
from elman.bench.contestants import Elman
from elman.bench.race import race, ratio
from elman.bench.settings import torch_set

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from elman.bench.case import Case, Mode
    from elman.bench.contestants import Job
    from elman.bench.race import Timing


@dataclass(frozen=True)
class Row:
    """One case in one mode with one number of threads.

    Attributes:
        number: of the case in its grid.
        threads: what ``torch.set_num_threads`` was told.
        used: how many threads the last kernel of a call ran on, in training the backward pass: of each number the share of calls, the most
            frequent first.
        timing: of a call; ``fewest`` with the smallest number of threads in the race.
    """

    number: int
    case: Case
    mode: Mode
    threads: int
    used: Mapping[int, float]
    timing: Timing
    fewest: Timing

    @property
    def over_fewest(self) -> float:
        """The time over that with the smallest number of threads, paired by round: above 1, threads make it slower."""
        return ratio(self.timing, self.fewest)

    def to_dict(self) -> dict[str, Any]:
        return {
            "row": self.number,
            **asdict(self.case),
            "mode": self.mode,
            "threads": self.threads,
            "seconds": self.timing.median,
            "spread": self.timing.spread,
            "over_fewest": self.over_fewest,
            "used": {str(count): share for count, share in self.used.items()},
        }


def measure(
    cases: Iterable[tuple[int, Case]],
    modes: Sequence[Mode],
    counts: Sequence[int],
    *,
    rounds: int,
    min_block_s: float,
) -> Iterator[Row]:
    """Race every case in every mode with each number of threads, one row at a time.

    Args:
        cases: each with its row number in its grid.
        modes: which of inference and training.
        counts: numbers of threads, rising, at least one.
        rounds, min_block_s: of each race (``elman.bench.race``).

    Raises:
        WrongAnswerError: two numbers of threads do not give the same numbers.
    """
    elman = Elman()
    for number, case in cases:
        for mode in modes:
            with torch_set(threads=counts[0]):
                job = elman.kernels(case, mode)
                used: dict[int, Counter[int]] = {count: Counter() for count in counts}
                jobs = {str(count): _with_threads(job, count, used[count]) for count in counts}
                answers = {name: job.numbers(run()) for name, run in jobs.items()}
                for name, answer in answers.items():
                    check(f"{name} threads, {case.cell} {case}, {mode}", answer, answers[str(counts[0])])
                timings = race(jobs, rounds=rounds, min_block_s=min_block_s)
            for count in counts:
                shares = {n: calls / used[count].total() for n, calls in used[count].most_common()}
                yield Row(number, case, mode, count, shares, timings[str(count)], timings[str(counts[0])])


def _with_threads(job: Job, count: int, used: Counter[int]) -> Callable[[], Any]:
    """A call with so many threads, which counts how many it ran on."""

    def run() -> Any:
        if torch.get_num_threads() != count:
            torch.set_num_threads(count)
        result = job.run()
        used[kernels.threads_used()] += 1
        return result

    return run


# Its parent's death closes its input, however the parent died.
_BUSY = """
import sys, threading

def spin():
    while True:
        pass

threading.Thread(target=spin, daemon=True).start()
sys.stdin.read()
"""


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Other processes, each of which keeps a processor busy in the meantime."""
    with ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(subprocess.Popen([sys.executable, "-c", _BUSY], stdin=subprocess.PIPE))
            stack.callback(process.kill)
        yield
