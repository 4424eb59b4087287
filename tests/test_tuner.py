"""How many threads a call gets: the fastest number of them, found and kept at a small cost, in worlds that are made up."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from native import required

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

pytestmark = required

# A world says how long a call takes on a number of threads, in seconds. Work is in multiply-adds, of which one thread does 50e9 a second.


def a_tuner() -> Any:
    from elman import _native

    return _native.Tuner()


def seconds(work: float) -> float:
    return work / 50e9


def live(tuner: Any, world: Callable[[int], float], work: float, most: int, for_seconds: float) -> tuple[float, Counter[int]]:
    """Calls until so many seconds are over. Their mean time, and how often each number of threads was chosen."""
    spent, chosen = 0.0, Counter[int]()
    while spent < for_seconds:
        threads = tuner.choose(1, work, most)
        assert 1 <= threads <= most
        taken = world(threads)
        tuner.learn(1, work, threads, taken)
        spent += taken
        chosen[threads] += 1
    return spent / chosen.total(), chosen


def steady(times: Mapping[int, float], noise: float = 0.02, seed: int = 0) -> Callable[[int], float]:
    draw = random.Random(seed)
    return lambda threads: times[threads] * draw.uniform(1 - noise, 1 + noise)


SMALL, MIDDLE, LARGE = 2.5e6, 5e7, 5e9  # 50 µs, 1 ms and 100 ms on one thread
works = pytest.mark.parametrize("work", [SMALL, MIDDLE, LARGE], ids=["50 µs", "1 ms", "100 ms"])


@works
@pytest.mark.parametrize("speedup", [1.15, 1.9])
def test_threads_that_help_are_used(work: float, speedup: float) -> None:
    alone = seconds(work)
    mean, chosen = live(a_tuner(), steady({1: alone, 2: alone / speedup}), work, 2, 2000 * alone)
    assert mean < 1.03 * alone / speedup, chosen


@works
@pytest.mark.parametrize("slowdown", [1.02, 1.3, 3.0, 40.0])
def test_threads_that_do_not_help_cost_next_to_nothing(work: float, slowdown: float) -> None:
    alone = seconds(work)
    mean, chosen = live(a_tuner(), steady({1: alone, 2: alone * slowdown}), work, 2, max(1.0, 2000 * alone + 2 * slowdown * alone))
    assert mean < 1.05 * alone, chosen


@works
def test_of_many_numbers_the_fastest_is_found(work: float) -> None:
    """More is not always better: from some number on, each further thread makes a call slower."""
    alone = seconds(work)
    times = {1: alone, 2: alone / 1.7, 4: alone / 2.5, 8: alone / 1.4, 16: alone / 0.7}
    tuner = a_tuner()
    live(tuner, steady(times), work, 16, 600 * alone)
    mean, chosen = live(tuner, steady(times), work, 16, 600 * alone)
    assert chosen.most_common(1)[0][0] == 4
    assert mean < 1.06 * times[4], chosen


def test_a_number_that_is_no_power_of_two_is_used() -> None:
    alone = seconds(MIDDLE)
    _, chosen = live(a_tuner(), steady({1: alone, 2: alone / 1.9, 4: alone / 3.5, 6: alone / 5}), MIDDLE, 6, 1.0)
    assert chosen.most_common(1)[0][0] == 6


@works
def test_company_sends_calls_back_to_one_thread_and_when_it_leaves_they_return(work: float) -> None:
    alone = seconds(work)
    quiet, company = steady({1: alone, 2: alone / 1.8}), steady({1: alone, 2: alone * 4})
    tuner = a_tuner()
    live(tuner, quiet, work, 2, 1000 * alone)
    mean, chosen = live(tuner, company, work, 2, 1000 * alone)
    assert mean < 1.08 * alone, chosen
    live(tuner, quiet, work, 2, max(1500 * alone, 1.0))  # it is found out within a second
    mean, chosen = live(tuner, quiet, work, 2, 1000 * alone)
    assert mean < 1.04 * alone / 1.8, chosen


def test_a_team_that_is_halted_now_and_then_is_left() -> None:
    """Sixty quick calls in a row, then one that waits for a slice of the system's time: a median would not show it."""
    alone, slice_s = seconds(SMALL), 4e-3
    since = 0.0

    def world(threads: int) -> float:
        nonlocal since
        if threads == 1:
            return alone
        taken = alone / 1.5
        since += taken
        if since > slice_s:
            since = 0.0
            taken += slice_s
        return taken

    mean, chosen = live(a_tuner(), world, SMALL, 2, 20.0)
    assert mean < 1.06 * alone, chosen


def test_one_long_halt_changes_no_choice() -> None:
    """What stops a call for a tenth of a second stops everything: it says nothing about threads."""
    alone = seconds(MIDDLE)
    tuner = a_tuner()
    live(tuner, steady({1: alone, 2: alone / 1.8}), MIDDLE, 2, 1.0)
    tuner.learn(1, MIDDLE, 2, 0.1)
    _, chosen = live(tuner, steady({1: alone, 2: alone / 1.8}), MIDDLE, 2, 0.2)
    assert chosen[2] > 20 * chosen[1]


def test_the_first_calls_that_wake_a_sleeping_thread_do_not_count_against_the_team() -> None:
    alone, before = seconds(SMALL), 1

    def world(threads: int) -> float:
        nonlocal before
        taken = alone if threads == 1 else alone / 1.4 + (60e-6 if before == 1 else 0)
        before = threads
        return taken

    mean, chosen = live(a_tuner(), world, SMALL, 2, 2.0)
    assert mean < 1.05 * alone / 1.4, chosen


@works
def test_a_slow_first_call_of_a_team_does_not_decide(work: float) -> None:
    """It starts threads and finds nothing in the caches."""
    alone, calls = seconds(work), 0

    def world(threads: int) -> float:
        nonlocal calls
        calls += threads == 2
        return alone if threads == 1 else alone * 4 if calls == 1 else alone / 1.9

    _, chosen = live(a_tuner(), world, work, 2, 20 * alone)
    assert chosen[2] > 3 * chosen[1], chosen


def test_kinds_of_calls_do_not_disturb_one_another() -> None:
    tuner = a_tuner()
    alone = seconds(MIDDLE)
    worlds = {kind: steady({1: alone, 2: alone / 1.8 if kind % 2 else alone * 2}, seed=kind) for kind in range(1, 9)}
    chosen: dict[int, Counter[int]] = {kind: Counter() for kind in worlds}
    for _ in range(2000):
        for kind, world in worlds.items():
            threads = tuner.choose(kind, MIDDLE, 2)
            tuner.learn(kind, MIDDLE, threads, world(threads))
            chosen[kind][threads] += 1
    for kind, counts in chosen.items():
        assert counts.most_common(1)[0][0] == (2 if kind % 2 else 1)


def test_calls_of_one_kind_may_differ_in_length() -> None:
    tuner, draw, chosen = a_tuner(), random.Random(0), Counter[int]()
    for _ in range(3000):
        work = MIDDLE * draw.uniform(0.7, 1.4)
        threads = tuner.choose(1, work, 2)
        tuner.learn(1, work, threads, seconds(work) / (1.0 if threads == 1 else 1.8))
        chosen[threads] += 1
    assert chosen[2] > 0.95 * chosen.total()


def test_what_is_no_call_is_refused() -> None:
    tuner = a_tuner()
    for arguments in ((1, 0.0, 2), (1, -1.0, 2), (1, float("nan"), 2), (1, 1e6, 1)):
        with pytest.raises(ValueError, match="there must be work"):
            tuner.choose(*arguments)
    with pytest.raises(ValueError, match="no negative time"):
        tuner.learn(1, 1e6, 2, -1.0)
