"""`elman bench --threads 1,2`: a row for each number of threads, how long it took and how many threads ran."""

from __future__ import annotations

import json
import os
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import torch

from elman.backends import kernels
from elman.bench import threads
from elman.bench.agreement import WrongAnswerError
from elman.bench.case import cases_of
from elman.bench.contestants import Elman, Job
from elman.bench.machine import Neighbours
from elman.bench.race import Timing
from elman.cli.app import app
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

pytestmark = required
QUICK = ["bench", "--quick", "--rounds", "1", "--cell", "gru", "--rows", "1", "--threads", "1,2"]


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        app(list(arguments))
    assert not left.value.code


def test_each_number_of_threads_has_a_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*QUICK, "--json", str(tmp_path / "threads.json"), "--markdown")
    facts = json.loads((tmp_path / "threads.json").read_text(encoding="utf-8"))
    assert facts["complete"] is True
    assert [(row["mode"], row["threads"]) for row in facts["rows"]] == [("infer", 1), ("infer", 2), ("train", 1), ("train", 2)]
    assert [row["over_fewest"] for row in facts["rows"] if row["threads"] == 1] == [1.0, 1.0]
    assert all(row["seconds"] > 0 and sum(row["used"].values()) == pytest.approx(1) for row in facts["rows"])
    assert all(row["used"] == {"1": 1.0} for row in facts["rows"]), "so small a network runs on one thread"
    assert "| GRU 1 | 5,3,10,20 | infer | 2 |" in capsys.readouterr().out


def test_the_ratio_is_over_the_smallest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def race(jobs: Mapping[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
        return {name: Timing((float(name) * 2,)) for name in jobs}

    monkeypatch.setattr(threads, "race", race)
    rows = list(threads.measure([(1, cases_of("rnn", "sizes")[0])], ["infer"], [2, 3], rounds=1, min_block_s=0.001))
    assert [(row.threads, row.over_fewest) for row in rows] == [(2, 1.0), (3, 1.5)]


def test_threads_that_ran_are_counted() -> None:
    """Where a barrier is said to take no time, a large network takes all the threads it may."""
    kernels._native.assume_barrier(0.0)
    case = cases_of("rnn", "sizes")[5]
    rows = list(threads.measure([(6, case)], ["infer"], [1, 2], rounds=1, min_block_s=0.001))
    assert [row.used for row in rows] == [{1: 1.0}, {min(2, len(os.sched_getaffinity(0))): 1.0}]


def test_numbers_of_threads_that_do_not_agree_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(self: Elman, case: object, mode: object) -> Job:
        return Job(lambda: torch.full((3,), float(torch.get_num_threads())), lambda result: {"output": result.numpy()})

    monkeypatch.setattr(Elman, "kernels", wrong)
    with pytest.raises(WrongAnswerError, match="2 threads"):
        list(threads.measure([(1, cases_of("rnn", "sizes")[0])], ["infer"], [1, 2], rounds=1, min_block_s=0.001))


def test_training_is_the_gradient_of_the_sum() -> None:
    elman, case = Elman(), cases_of("lstm", "sizes")[0]
    ours, usual = elman.kernels(case, "train"), elman.train(case)
    got, expected = ours.numbers(ours.run()), usual.numbers(usual.run())
    assert got.keys() == expected.keys()
    assert all((got[name] == expected[name]).all() for name in got)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The busy processes that have been started; there can be only two."""
    processes: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*arguments: Any, **named: Any) -> subprocess.Popen[bytes]:
        if len(processes) == 2:
            raise BlockingIOError("too many processes")
        processes.append(real(*arguments, **named))
        return processes[-1]

    monkeypatch.setattr(threads.subprocess, "Popen", start)
    return processes


def test_company_comes_and_leaves(started: list[subprocess.Popen[bytes]]) -> None:
    with threads.busy_processes(2):
        assert [process.poll() for process in started] == [None, None]
    assert all(process.poll() is not None for process in started)


def test_if_one_cannot_be_started_the_others_leave(started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(BlockingIOError, match="too many processes"), threads.busy_processes(3):
        pass
    codes = [process.poll() for process in started]
    for process in started:
        process.kill()
        process.wait()
    assert len(codes) == 2
    assert None not in codes


def test_company_keeps_busy_until_its_parent_has_died(started: list[subprocess.Popen[bytes]]) -> None:
    """A parent that is killed ends nothing: its end of the pipe closes."""
    with threads.busy_processes(1):
        (process,) = started
        neighbours = Neighbours()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.5)
        assert neighbours.cores_busy() is None or neighbours.cores_busy() > 0.1
        assert process.stdin is not None
        process.stdin.close()
        process.wait(timeout=10)
