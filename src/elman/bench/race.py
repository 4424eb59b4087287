"""Times callables in turns, so that a disturbance affects all of them.

A machine's speed drifts (frequency, neighbours, caches), so times taken minutes apart say little about each other. Here every contestant
runs in every round, in an order shuffled anew each round, and two contestants are compared round by round.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Protocol

from elman.bench.machine import Neighbours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping


class Stopwatch(Protocol):
    """Times a block of calls."""

    def __call__(self, run: Callable[[], object], calls: int, untimed: int) -> float:
        """The seconds that ``calls`` calls take together, right after ``untimed`` ones that are not timed."""


BLOCK_S, QUICK_BLOCK_S = 0.05, 0.02
"""How long a timed block lasts by default, in seconds, and with --quick."""


@dataclass(frozen=True)
class Timing:
    """The times of one contestant, in seconds per call.

    >>> Timing((3.0, 1.0, 2.0)).median
    2.0

    Attributes:
        rounds: the mean over each round's block, in order; the same round of two contestants of one race lies close in time.
        neighbours: how many cores other processes kept busy during the race; None where unknown.
    """

    rounds: tuple[float, ...]
    neighbours: float | None = field(default=None, compare=False)

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    @property
    def low(self) -> float:
        """The lower quartile."""
        return self._quartiles()[0]

    @property
    def high(self) -> float:
        """The upper quartile."""
        return self._quartiles()[2]

    @property
    def spread(self) -> float:
        """Half the distance between the quartiles, as a share of the median."""
        return (self.high - self.low) / 2 / self.median

    def _quartiles(self) -> list[float]:
        if len(self.rounds) == 1:
            return [self.rounds[0]] * 3
        return statistics.quantiles(self.rounds, n=4, method="inclusive")


def most_neighbours(timings: Iterable[Timing]) -> float | None:
    """How many cores other processes kept busy in the race in which they were busiest.

    >>> most_neighbours([Timing((1.0,), neighbours=0.5), Timing((1.0,), neighbours=0.25), Timing((1.0,))])
    0.5
    """
    return max((timing.neighbours for timing in timings if timing.neighbours is not None), default=None)


def ratio(a: Timing, b: Timing) -> float:
    """How many times as long ``a`` took as ``b``: the median over the rounds of ``a``'s time over ``b``'s in that round.

    >>> ratio(Timing((2.0, 8.0, 4.0)), Timing((1.0, 2.0, 2.0)))
    2.0

    Raises:
        ValueError: the two have not run the same number of rounds.
    """
    return statistics.median(x / y for x, y in zip(a.rounds, b.rounds, strict=True))


def race(
    contestants: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    min_block_s: float,
    seed: int = 0,
    stopwatch: Stopwatch | None = None,
) -> dict[str, Timing]:
    """Time each contestant ``rounds`` times, all of them in every round.

    >>> timings = race({"long": lambda: sum(range(10000)), "short": lambda: sum(range(10))}, rounds=5, min_block_s=0.001)
    >>> ratio(timings["long"], timings["short"]) > 1
    True

    A block is as many calls as last ``min_block_s``, found once for each contestant before the first round. Before each timed block a
    quarter of it runs untimed: it brings the contestant's data back into the caches and outlasts the previous contestant's threads, which
    keep spinning in wait of work for some milliseconds and would otherwise slow the next one. The garbage collector rests during the race.

    Args:
        contestants: by name, what to call; what it returns is dropped.
        rounds: how many blocks of each, at least 1.
        min_block_s: how long a timed block lasts, in seconds, at least one call.
        seed: of the order in which the contestants run.
        stopwatch: times a block; None for the wall clock.

    Returns:
        The timing of each contestant, in the order of ``contestants``.

    Raises:
        ValueError: no rounds.
    """
    if rounds < 1:
        raise ValueError(f"expected at least 1 round, got {rounds}")
    timed = stopwatch or by_clock()
    shuffle = random.Random(seed).shuffle
    order = list(contestants)
    seconds: dict[str, list[float]] = {name: [] for name in order}
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    neighbours = Neighbours()
    try:
        calls = {name: _calls_lasting(min_block_s, run, timed) for name, run in contestants.items()}
        for _ in range(rounds):
            shuffle(order)
            for name in order:
                seconds[name].append(timed(contestants[name], calls[name], (calls[name] + 3) // 4) / calls[name])
    finally:
        if collecting:
            gc.enable()
    busy = neighbours.cores_busy()
    return {name: Timing(tuple(seconds[name]), busy) for name in contestants}


def _calls_lasting(min_block_s: float, run: Callable[[], object], timed: Stopwatch) -> int:
    run()  # compiles, allocates
    calls = 1
    while True:
        elapsed = timed(run, calls, 0)
        if elapsed >= min_block_s:
            return calls
        # Aim a little beyond; at most tenfold, since few calls foretell little.
        calls = max(calls + 1, min(10 * calls, round(1.1 * calls * min_block_s / max(elapsed, 1e-9))))


def by_clock(clock: Callable[[], float] = time.perf_counter) -> Stopwatch:
    """A stopwatch for calls that are done when they return, by a clock that gives seconds."""

    def timed(run: Callable[[], object], calls: int, untimed: int) -> float:
        for _ in repeat(None, untimed):
            run()
        start = clock()
        for _ in repeat(None, calls):
            run()
        return clock() - start

    return timed
