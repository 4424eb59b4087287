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
    }


def test_it_tells_shapes_costs_and_backend() -> None:
    text = invoke("rnn", "--num-layers", "2", "--bidirectional")
    for said in ("(5, 3, 40)", "weight_ih_l1_reverse", "3 760", "3 600", "54 000", "runs on"):
        assert said in text


def test_an_lstm_has_two_states_gates_and_a_projection() -> None:
    network = json.loads(invoke("lstm", "--hidden-size", "6", "--proj-size", "4", "--num-layers", "2", "--numbers", "--json"))["network"]
    assert network["spec"]["proj_size"] == 4
    shapes = {tensor["name"]: tensor["shape"] for tensor in (*network["tensors"], *network["parameters"])}
    assert (shapes["h_n"], shapes["c_n"], shapes["weight_hr_l1"]) == ([2, 3, 4], [2, 3, 6], [4, 6])
    assert network["gates"][1] == {"gate": "f", "start": 6, "stop": 12}
    assert [line["name"] for line in network["worked"]["lines"]] == ["i[t]", "f[t]", "g[t]", "o[t]", "c[t]", "o[t] * tanh(c[t])"]
    assert len(network["worked"]["projection"]) == 6
    assert network["worked"]["difference"] < 1e-6


def test_a_gru_tells_its_gates_costs_and_equations_in_both_languages() -> None:
    for language, said in {"en": "update: how much of the old state stays", "zh": "更新门：保留多少旧状态"}.items():
        text = invoke("gru", "--no-bias", "--lang", language)
        for part in (said, "n[t] = tanh(W_in x[t] + r[t] * (W_hn h[t-1]))", "20:40", "(60, 20)", "1 800"):
            assert part in text


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
