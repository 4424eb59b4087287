"""`elman explain`: any network that one names."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from elman.cli.app import app


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["explain", *arguments, "--no-time"], env={"LC_ALL": "C", "COLUMNS": "80"})
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


def test_every_option_reaches_the_network() -> None:
    options = "--input-size 4 --hidden-size 6 --num-layers 3 --bidirectional --nonlinearity relu --no-bias --dropout 0.25"
    data = "--dtype float64 --seq-len 7 --batch 2 --batch-first --seed 3"
    spec = json.loads(invoke("rnn", *options.split(), *data.split(), "--json"))["network"]["spec"]
    assert spec == {
        "kind": "rnn",
        "input_size": 4,
        "hidden_size": 6,
        "num_layers": 3,
        "nonlinearity": "relu",
        "bias": False,
        "batch_first": True,
        "dropout": 0.25,
        "bidirectional": True,
        "seq_len": 7,
        "batch": 2,
        "dtype": "float64",
        "seed": 3,
    }


def test_it_tells_shapes_costs_and_backend() -> None:
    text = invoke("rnn", "--num-layers", "2", "--bidirectional")
    for said in ("(5, 3, 40)", "weight_ih_l1_reverse", "3 760", "3 600", "54 000", "runs on"):
        assert said in text


def test_a_race_is_run_unless_it_is_declined() -> None:
    assert json.loads(invoke("rnn", "--json"))["network"]["speed"] is None
    timed = CliRunner().invoke(app, ["explain", "rnn", "--json"])
    assert json.loads(timed.stdout)["network"]["speed"]["rounds"] > 1


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_numbers_work_one_step_through(direction: str) -> None:
    options = ["--bidirectional", "--num-layers", "2", "--numbers", "--step", "2", "--unit", "3", "--row", "1", "--layer", "1"]
    worked = json.loads(invoke("rnn", *options, "--direction", direction, "--json"))["network"]["worked"]
    assert [worked[name] for name in ("step", "unit", "row", "layer", "direction")] == [2, 3, 1, 1, direction]
    assert worked["before"] == (1 if direction == "forward" else 3)
    assert worked["difference"] < 1e-6
    assert "by hand, float64" in invoke("rnn", *options, "--direction", direction)
