"""No time without a right answer, and a report that says what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.testing import assert_allclose

from elman.bench.agreement import TOLERANCE, WrongAnswerError, check
from elman.bench.case import Case
from elman.bench.contestants import Job
from elman.bench.machine import Machine
from elman.bench.measure import AGAIN, Row, measure
from elman.bench.race import Timing
from elman.bench.render import race_page
from elman.bench.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.bench.case import Arrays

RIGHT: Arrays = {"output": np.array([[0.5, -0.25]]), "h_n": np.array([0.5])}
CASE = Case("rnn", steps=5, batch=4, input_size=2, hidden_size=3)


def changed(**arrays: object) -> Arrays:
    return {**RIGHT, **{name: np.asarray(array) for name, array in arrays.items()}}


def test_agreement_lets_roundings_pass() -> None:
    check("peer", changed(output=RIGHT["output"] + 0.4 * TOLERANCE), RIGHT)


def test_agreement_lets_pass_what_torch_itself_rounds() -> None:
    far, rounded = changed(output=RIGHT["output"] + 20 * TOLERANCE), changed(output=RIGHT["output"] + TOLERANCE)
    check("peer", far, RIGHT, rounded)
    with pytest.raises(WrongAnswerError, match="peer"):
        check("peer", far, RIGHT, changed(output=RIGHT["output"] + 0.1 * TOLERANCE))


@pytest.mark.parametrize(
    "wrong",
    [
        changed(output=RIGHT["output"] + 0.6 * TOLERANCE),
        changed(output=[[0.5, np.nan]]),
        changed(output=[[0.5, np.inf]]),
        changed(output=[0.5, -0.25]),
        {"output": RIGHT["output"]},
    ],
    ids=["too far", "nan", "infinite", "other shape", "array missing"],
)
def test_agreement_refuses_a_wrong_answer_and_says_whose(wrong: Arrays) -> None:
    with pytest.raises(WrongAnswerError, match="peer"):
        check("peer", wrong, RIGHT)


class Fake:
    """A contestant that answers at once."""

    def __init__(
        self, name: str, answer: Callable[[Case], Arrays] = lambda case: RIGHT, modes: tuple[str, ...] = ("infer", "train")
    ) -> None:
        self.name, self.answer, self.modes = name, answer, modes
        self.runs = 0

    def job(self, case: Case, mode: str) -> Job:
        def run() -> Arrays:
            self.runs += 1
            return self.answer(case)

        return Job(run, lambda arrays: arrays)

    def why(self, case: Case, mode: str) -> str:
        return "fake"


def test_a_wrong_answer_is_not_timed_and_what_came_before_it_is_kept() -> None:
    peer = Fake("peer", lambda case: RIGHT if case == CASE else changed(h_n=[0.6]))
    other_case = Case("rnn", steps=6, batch=4, input_size=2, hidden_size=3)
    rows = measure([(1, CASE), (2, other_case)], ["infer"], Fake("elman"), [Fake("torch"), peer], threads=1, rounds=1, min_block_s=0.0)
    assert next(rows).number == 1
    before = peer.runs
    with pytest.raises(WrongAnswerError, match=r"peer, rnn 6,4,2,3, infer: h_n is 0\.1 away"):
        next(rows)
    assert peer.runs == before + 1


@pytest.mark.slow
def test_elman_races_itself_in_the_first_row_of_each_cell_or_in_every_row() -> None:
    def names(always_again: bool) -> list[list[str]]:
        rows = measure(
            [(3, CASE), (4, CASE), (3, replace(CASE, cell="gru"))],
            ["infer", "train"],
            Fake("elman"),
            [Fake("torch"), Fake("peer", modes=("infer",))],
            threads=1,
            rounds=1,
            min_block_s=0.0,
            always_again=always_again,
        )
        return [sorted(row.timings) for row in rows]

    infer, train = ["elman", "peer", "torch"], ["elman", "torch"]
    again = [sorted([*infer, AGAIN]), sorted([*train, AGAIN])]
    assert names(always_again=False) == [*again, infer, train, *again]
    assert names(always_again=True) == 3 * again


def report(complete: bool = True) -> Report:
    """Elman is four times as fast as torch in row 1; in row 2 jax is twice as fast as Elman."""
    rows = (
        Row(
            1,
            CASE,
            "infer",
            "native: fake",
            {"torch": Timing((4e-6,)), "jax": Timing((2e-6,)), "elman": Timing((1e-6,)), AGAIN: Timing((1.1e-6,))},
            peak=1e9,
        ),
        Row(
            2,
            CASE,
            "infer",
            "native: fake",
            {"torch": Timing((2e-6, 3e-6, 4e-6), neighbours=0.5), "jax": Timing((1e-6,) * 3), "elman": Timing((2e-6,) * 3)},
            peak=2e9,
        ),
    )
    machine = Machine("Abacus 1", "AVX2", 2, "Linux", {"elman": "0", "torch": "2"})
    return Report(
        machine,
        threads=2,
        rounds=3,
        min_block_s=0.05,
        rows=rows,
        absent=("ort is skipped (none); to install it: pip install '.[peers]'",),
        complete=complete,
    )


def test_the_share_of_the_peak_is_of_the_highest_peak_seen() -> None:
    # 600 operations in 1 µs are 0.6 GFLOP/s.
    assert_allclose(report().share_of_peak(report().rows[0]), 0.6e9 / 2e9)


def test_json_has_all_that_was_measured() -> None:
    facts = json.loads(json.dumps(report().to_dict()))
    assert set(facts) == {
        *("machine", "threads", "rounds", "min_block_s", "fma_peak_flops", "complete", "absent", "rows", "geometric_means"),
    }
    assert facts["machine"] == {"cpu": "Abacus 1", "isa": "AVX2", "cores": 2, "system": "Linux", "versions": {"elman": "0", "torch": "2"}}
    assert facts["fma_peak_flops"] == 2e9
    first, second = facts["rows"]
    assert set(first) == set(second)
    assert first["flops"] == 600
    assert first["over_elman"] == {"torch": 4.0, "jax": 2.0}
    assert first["best_other"] == "jax"
    assert_allclose(first["a_against_a"], 1.1)
    assert second["a_against_a"] is None
    assert second["seconds"]["torch"] == {
        "median": 3e-6,
        "low": pytest.approx(2.5e-6),
        "high": pytest.approx(3.5e-6),
        "rounds": [2e-6, 3e-6, 4e-6],
    }
    assert_allclose(facts["geometric_means"]["rnn"]["infer"]["torch"], (4 * 1.5) ** 0.5)
    assert_allclose(facts["geometric_means"]["rnn"]["infer"]["best"], (2 * 0.5) ** 0.5)


def test_markdown_marks_the_rows_where_elman_is_not_ahead() -> None:
    lines = race_page(report()).markdown().splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert "| 4.00 | 2.00 jax | 30.0% |" in table[2]
    assert "| 1.50 | ✗ 0.50 jax | 15.0% |" in table[3]
    assert "**2.45** | **1.00**" in table[4]


def test_each_cell_and_mode_has_a_table_and_means_of_its_own() -> None:
    one = report()
    slow = replace(one.rows[0], case=replace(CASE, cell="lstm"), mode="train", timings={"torch": Timing((1e-6,)), "elman": Timing((2e-6,))})
    both = replace(one, rows=(*one.rows, slow))
    assert [line for line in race_page(both).markdown().splitlines() if line.startswith("**")] == [
        "**RNN inference (other processes were busy)**",
        "**LSTM training: forward, and backward to x and all weights**",
    ]
    means = both.to_dict()["geometric_means"]
    assert {cell: list(modes) for cell, modes in means.items()} == {"rnn": ["infer"], "lstm": ["train"]}
    assert means["lstm"]["train"] == {"torch": 0.5, "best": 0.5}


def test_the_notes_tell_what_to_doubt() -> None:
    text = race_page(report(complete=False)).markdown()
    assert text.startswith("> **CUT SHORT: rows are missing.**\n\n> **WARNING: other processes kept up to 0.5 cores busy")
    assert "Elman against itself, RNN row 1, infer: 1.100; the machine was too noisy" in text
    assert "ort is skipped (none)" in text
    assert "CUT SHORT" not in race_page(report()).markdown()
    quiet = replace(report(), rows=report().rows[:1])
    assert race_page(quiet).markdown().startswith("**RNN inference**")
