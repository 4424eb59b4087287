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
        "proj_size": 0,
        "seq_len": 7,
        "batch": 2,
        "dtype": "float64",
        "seed": 3,
        "device": "cpu",
        "lengths": None,
        "reset": [],
    }


def test_it_tells_shapes_costs_and_backend() -> None:
    text = invoke("rnn", "--num-layers", "2", "--bidirectional")
    for said in ("(5, 3, 40)", "weight_ih_l1_reverse", "3,760", "3,600", "54,000", "backend"):
        assert said in text


def test_an_lstm_has_two_states_gates_and_a_projection() -> None:
    network = json.loads(invoke("lstm", "--hidden-size", "6", "--proj-size", "4", "--num-layers", "2", "--numbers", "--json"))["network"]
    assert network["spec"]["proj_size"] == 4
    shapes = {tensor["name"]: tensor["shape"] for tensor in (*network["tensors"], *network["parameters"])}
    assert (shapes["h_n"], shapes["c_n"], shapes["weight_hr_l1"]) == ([2, 3, 4], [2, 3, 6], [4, 6])
    gate = network["gates"][1]
    assert (gate["gate"], gate["start"], gate["stop"]) == ("f", 6, 12)
    *_others, m, h = network["worked"]["lines"]
    assert (m["equation"], h["equation"]) == ("m[t] = o[t] * tanh(c[t])", "h[t] = W_hr m[t]")
    assert len(h["sums"][0]["products"]) == 6
    assert network["worked"]["difference"] < 1e-6


def test_a_gru_tells_its_gates_costs_and_equations_in_both_languages() -> None:
    for language, said in {"en": "update gate: how much of the old state is kept", "zh": "更新门：保留多少旧状态"}.items():
        text = invoke("gru", "--no-bias", "--lang", language)
        for part in (said, "n[t] = tanh(W_in x[t] + r[t] * (W_hn h[t-1]))", "20:40", "(60, 20)", "1,800"):
            assert part in text


def test_a_kind_may_be_named_as_the_other_commands_take_it() -> None:
    assert invoke("--cell", "gru") == invoke("gru")


def test_a_race_is_run_unless_it_is_declined() -> None:
    assert json.loads(invoke("rnn", "--json"))["network"]["speed"] is None
    timed = CliRunner().invoke(app, ["explain", "rnn", "--json"])
    assert json.loads(timed.stdout)["network"]["speed"]["rounds"] > 1


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_numbers_work_one_step_through(direction: str) -> None:
    options = ["--bidirectional", "--num-layers", "2", "--numbers", "--step", "2", "--unit", "3", "--sequence", "1", "--layer", "1"]
    worked = json.loads(invoke("rnn", *options, "--direction", direction, "--json"))["network"]["worked"]
    assert [worked[name] for name in ("step", "unit", "sequence", "layer", "direction")] == [2, 3, 1, 1, direction]
    assert worked["before"] == (1 if direction == "forward" else 3)
    assert worked["difference"] < 1e-6
    assert "by hand, in float64" in invoke("rnn", *options, "--direction", direction)


def test_lengths_and_resets_tell_what_is_run_of_each_sequence() -> None:
    facts = json.loads(invoke("gru", "--lengths", "5,3,0", "--reset", "2,0:1", "--bidirectional", "--json"))["network"]
    assert tuple(facts["spec"][name] for name in ("seq_len", "batch", "lengths")) == (5, 3, [5, 3, 0])
    assert facts["backend"].split()[0].rstrip(":") in ("native", "reference")
    assert [each["segments"] for each in facts["unrolled"]] == [[[0, 0], [1, 1], [2, 4]], [[0, 1], [2, 2]], []]
    assert [end["where"] for end in facts["unrolled"][1]["ends"]] == ["output[2, 1, :20]", "output[0, 1, 20:]"]
    assert "sequence 1 forward  ○ ──▶ ○  ┃  ◆     ·     ·" in invoke("gru", "--lengths", "5,3,0", "--reset", "2", "--bidirectional")
    assert "序列 2  没有时间步" in invoke("lstm", "--lengths", "5,3,0", "--lang", "zh")


def test_the_data_are_as_long_as_is_said_or_as_the_lengths_are() -> None:
    for options, sizes in {
        ("--reset", "1"): (5, 3),
        ("--lengths", "2,7"): (7, 2),
        ("--lengths", "2,7", "--seq-len", "9"): (9, 2),
        ("--lengths", "0", "--seq-len", "4"): (4, 1),
        ("--reset", "0:6", "--seq-len", "8", "--batch", "1"): (8, 1),
    }.items():
        spec = json.loads(invoke("rnn", *options, "--json"))["network"]["spec"]
        assert (spec["seq_len"], spec["batch"]) == sizes


def test_final_numbers_are_printed_with_numbers() -> None:
    options = ("--lengths", "5,3,0", "--hidden-size", "2")
    first, second = json.loads(invoke("rnn", *options, "--json"))["network"]["unrolled"][1]["ends"][0]["numbers"]
    line = f"{first:8.4f}  {second:8.4f}"
    assert line in invoke("rnn", *options, "--numbers")
    assert line not in invoke("rnn", *options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--lengths 5,a", "--lengths: expected whole numbers like 5,3,0, got '5,a'"),
        ("--lengths 5,,3", "got '5,,3'"),
        ("--lengths 5,-3", "got '5,-3'"),
        ("--lengths 0,0", "all --lengths are 0; give the number of steps with --seq-len"),
        ("--lengths 5,3 --batch 3", "expected a length for each sequence of the batch, 3 in all, got 2"),
        ("--lengths 5,3 --seq-len 4", "--lengths must be between 0 and 4, got 5"),
        ("--lengths 999999999999", "numbers in this network and its data"),
        ("--reset two", "--reset: expected steps like 2, or sequences and steps like 0:2,1:1, got 'two'"),
        ("--reset 1:1:1", "got '1:1:1'"),
        ("--reset 5", "--reset step must be between 0 and 4, got 5"),
        ("--reset 3:1", "--reset sequence must be between 0 and 2, got 3"),
        (
            "--lengths 5 --numbers --step 1",
            "--step, --unit, --sequence, --layer and --direction cannot be combined with --lengths or --reset",
        ),
    ],
)
def test_lengths_and_resets_that_cannot_be_are_one_clear_line(options: str, said: str) -> None:
    result = CliRunner().invoke(app, ["explain", "rnn", *options.split()])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
