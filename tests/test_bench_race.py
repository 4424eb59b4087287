"""The race is fair, on a clock that only the contestants move."""

from __future__ import annotations

import gc

import pytest

from elman.bench.race import Timing, by_clock, race, ratio


class FakeClock:
    """Time stands still but for what the contestants take; notes who ran and when it was read."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events: list[str] = []

    def __call__(self) -> float:
        self.events.append("tick")
        return self.now

    def contestant(self, name: str, seconds: float):
        def run() -> None:
            self.now += seconds
            self.events.append(name)

        return run

    def blocks(self) -> list[list[str]]:
        """What ran before and between each pair of readings: the untimed blocks and the timed ones, by turns."""
        found: list[list[str]] = [[]]
        for event in self.events:
            if event == "tick":
                found.append([])
            else:
                found[-1].append(event)
        return found[:-1]


def test_per_call_seconds_are_those_of_the_contestant() -> None:
    clock = FakeClock()
    timings = race(
        {"slow": clock.contestant("slow", 0.5), "fast": clock.contestant("fast", 0.125)},
        rounds=3,
        min_block_s=1.0,
        stopwatch=by_clock(clock),
    )
    assert timings == {"slow": Timing((0.5,) * 3), "fast": Timing((0.125,) * 3)}
    assert ratio(timings["slow"], timings["fast"]) == 4.0


def test_a_against_a_is_one() -> None:
    clock = FakeClock()
    timings = race(
        {"a": clock.contestant("a", 0.25), "again": clock.contestant("again", 0.25)}, rounds=4, min_block_s=1.0, stopwatch=by_clock(clock)
    )
    assert ratio(timings["a"], timings["again"]) == 1.0


def test_every_timed_block_lasts_long_enough_and_follows_an_untimed_one_of_the_same_contestant() -> None:
    clock = FakeClock()
    contestants = {name: clock.contestant(name, seconds) for name, seconds in {"a": 0.25, "b": 0.5, "c": 3.0}.items()}
    race(contestants, rounds=5, min_block_s=2.0, stopwatch=by_clock(clock))
    pairs = clock.blocks()[-2 * 3 * 5 :]
    for warm, timed in zip(pairs[::2], pairs[1::2], strict=True):
        assert set(warm) == set(timed) == {timed[0]}
        assert len(warm) >= 1
        assert len(timed) * {"a": 0.25, "b": 0.5, "c": 3.0}[timed[0]] >= 2.0


@pytest.mark.slow
def test_all_run_in_every_round_in_an_order_that_changes_and_is_given_by_the_seed() -> None:
    def orders(seed: int) -> list[tuple[str, ...]]:
        clock = FakeClock()
        race({name: clock.contestant(name, 1.0) for name in "abc"}, rounds=12, min_block_s=1.0, seed=seed, stopwatch=by_clock(clock))
        timed = [block[0] for block in clock.blocks()[-2 * 3 * 12 :][1::2]]
        return [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]

    assert all(sorted(order) == ["a", "b", "c"] for order in orders(0))
    assert len(set(orders(0))) > 2
    assert orders(0) == orders(0) != orders(1)


def test_the_ratio_is_paired_by_round() -> None:
    slow_spell = Timing((1.0, 10.0, 1.0, 10.0, 10.0))
    same_spell = Timing((0.5, 5.0, 0.5, 5.0, 5.0))
    assert ratio(slow_spell, same_spell) == 2.0
    with pytest.raises(ValueError, match="zip"):
        ratio(slow_spell, Timing((1.0,)))


def test_median_and_quartiles() -> None:
    timing = Timing((5.0, 1.0, 4.0, 2.0, 3.0))
    assert (timing.low, timing.median, timing.high) == (2.0, 3.0, 4.0)
    assert (Timing((7.0,)).low, Timing((7.0,)).median, Timing((7.0,)).high) == (7.0, 7.0, 7.0)


def test_the_garbage_collector_rests_during_the_race_and_comes_back() -> None:
    seen: list[bool] = []
    clock = FakeClock()
    advance = clock.contestant("a", 1.0)

    def run() -> None:
        seen.append(gc.isenabled())
        advance()

    race({"a": run}, rounds=1, min_block_s=1.0, stopwatch=by_clock(clock))
    assert not any(seen)
    assert gc.isenabled()

    def fails() -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        race({"a": fails}, rounds=1, min_block_s=1.0)
    assert gc.isenabled()


def test_no_rounds_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1 round, got 0"):
        race({}, rounds=0, min_block_s=1.0)


def test_a_race_tells_how_busy_other_processes_were(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = iter([(0.0, 0.0, 0.0), (2.0, 4.0, 1.0)])  # of 4 seconds at work in 2, 1 was this process's
    monkeypatch.setattr("elman.bench.machine._clocks", lambda: next(clocks))
    timings = race({"one": lambda: None}, rounds=1, min_block_s=0.0)
    assert timings["one"].neighbours == 1.5
