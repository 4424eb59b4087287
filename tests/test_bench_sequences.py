"""`elman bench --grid sequences`: the ways agree, every question gets an answer, and the answer is of the right two."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from elman.bench import sequences
from elman.bench.agreement import WrongAnswerError
from elman.bench.race import Timing
from elman.cli.app import app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from torch import Tensor


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEPS": 6, "BATCH": 5, "SIZE": 4, "STREAM_SIZE": 3, "CELL_STEPS": 3, "CELL_BATCH": 2}.items():
        monkeypatch.setattr(sequences, name, value)


def timed(monkeypatch: pytest.MonkeyPatch, seconds: Mapping[str, float]) -> list[sequences.Answer]:
    def race(jobs: Mapping[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
        for job in jobs.values():
            job()
        return {name: Timing((seconds.get(name, 1.0),)) for name in jobs}

    monkeypatch.setattr(sequences, "race", race)
    return list(sequences.measure(["lstm"], ["infer", "train"], threads=1, rounds=1, min_block_s=0.001))


def test_every_question_is_answered_by_the_other_ways_time_over_elmans(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = {"ragged": 2.0, "torch": 10.0, "whole": 3.0, "resets": 4.0, "trace": 5.0}
    answers = timed(monkeypatch, layers | {"stream": 0.5, "cell": 8.0, "ours": 4.0, "theirs": 6.0})
    ratios = {"ragged": 5.0, "padded": 1.5, "resets": 0.75, "trace": 0.6, "cells": 1.5}
    assert {a.question: a.ratio for a in answers if a.mode == "train"} == ratios
    assert {a.question: a.ratio for a in answers if a.mode == "infer"} == ratios | {"stream": 16.0}
    assert set(ratios) | {"stream"} == set(sequences.QUESTIONS)
    assert len(answers) == sequences.number_of_answers(["lstm"], ["infer", "train"])


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_ways_that_do_not_agree_are_not_timed(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack = sequences.pad_packed_sequence

    def wrong(*arguments: object, **named: object) -> tuple[Tensor, Tensor]:
        output, lengths = unpack(*arguments, **named)  # type: ignore[arg-type]
        return output * 1.01, lengths

    monkeypatch.setattr(sequences, "pad_packed_sequence", wrong)
    with pytest.raises(WrongAnswerError, match="ragged, rnn"):
        next(sequences.measure(["rnn"], [mode], threads=1, rounds=1, min_block_s=0.001))  # type: ignore[list-item]


def _run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as left:
        app(["bench", "--grid", "sequences", "--quick", "--rounds", "1", "--threads", "1", *arguments])
    return int(left.value.code or 0)


@pytest.mark.slow
def test_the_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "answers.json"
    assert _run("--cell", "gru", "--mode", "infer", "--json", str(path)) == 0
    facts = json.loads(path.read_text(encoding="utf-8"))
    assert facts["complete"] is True
    assert [answer["question"] for answer in facts["answers"]] == ["ragged", "padded", "resets", "trace", "cells", "stream"]
    out = capsys.readouterr().out
    assert "GRU infer" in out
    assert "stream, µs a step, Elman / torch: GRU " in out


def test_markdown(capsys: pytest.CaptureFixture[str]) -> None:
    assert _run("--cell", "rnn", "--mode", "train", "--markdown") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert lines[:2] == ["|  | RNN train |", "| :-- | --: |"]
    assert lines[2].startswith("| ragged | ")


@pytest.mark.slow
def test_ctrl_c_prints_what_has_been_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    measure = sequences.measure

    def interrupted(*arguments: object, **named: object) -> Iterator[sequences.Answer]:
        yield next(measure(*arguments, **named))  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(sequences, "measure", interrupted)
    assert _run("--cell", "rnn") != 0
    assert "ragged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--cell", "rnm"), "--cell: unknown kind 'rnm'; did you mean 'rnn'?"),
        (("--rows", "2"), "--rows: --grid sequences has no rows to choose from"),
    ],
)
def test_bad_input_is_one_line(arguments: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(*arguments) != 0
    assert message in capsys.readouterr().err
