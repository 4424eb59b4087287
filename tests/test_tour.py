"""`elman tour`: three networks, in two languages, for people and for programs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from typer.testing import CliRunner

from elman.cli.app import app
from elman.show.specification import Spec

if TYPE_CHECKING:
    from pathlib import Path


def invoke(*arguments: str, **environment: str) -> str:
    result = CliRunner().invoke(app, ["tour", *arguments], env={"LC_ALL": "C", "COLUMNS": "80", **environment})
    assert result.exit_code == 0, result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(scope="module")
def facts() -> list[dict]:
    return json.loads(invoke("--json"))["networks"]


def test_the_three_networks_are_the_notebooks(facts: list[dict]) -> None:
    shapes = {network["name"]: [tuple(tensor["shape"]) for tensor in network["tensors"]] for network in facts}
    assert shapes == {
        "one_directional": [(5, 3, 10), (5, 3, 20), (1, 3, 20)],
        "bidirectional": [(5, 3, 10), (5, 3, 40), (2, 3, 20)],
        "multi_layer": [(4, 3, 5), (4, 3, 10), (2, 3, 10)],
    }


@pytest.mark.parametrize(("cell", "states"), [("gru", ["h_n"]), ("lstm", ["h_n", "c_n"])])
def test_the_same_three_of_another_kind(cell: str, states: list[str], facts: list[dict]) -> None:
    facts_of_kind = json.loads(invoke("--cell", cell, "--json"))["networks"]
    assert [network["name"] for network in facts_of_kind] == [network["name"] for network in facts]
    assert all(network["spec"] == {**other["spec"], "kind": cell} for network, other in zip(facts_of_kind, facts, strict=True))
    for network in facts_of_kind:
        assert [tensor["name"] for tensor in network["tensors"]] == ["x", "output", *states]
        assert all(end["holds"] for each in network["unrolled"] for end in each["ends"])
        assert network["agreement"]["same_seed"]
        assert network["agreement"]["output"] < 1e-6


def test_a_cell_of_a_file_is_made_by_what_is_shown(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("import elman\nclass Own(elman.zoo.MGU): ...\nmade = Own()\n", encoding="utf-8")
    for name, made in (("Own", "Own()"), ("made", "made")):
        shown = " ".join(invoke("--cell", f"{tmp_path / 'own.py'}:{name}").split())
        assert f"After import elman, torch; cell = {made}, the code below" in shown
        assert "elman.Recurrent(cell, 10, 20)" in shown
    assert "After import elman, torch, the code" in " ".join(invoke("--cell", "zoo.MGU").split())


def test_the_states_places_are_told_and_checked(facts: list[dict]) -> None:
    ends = [[end for each in network["unrolled"] for end in each["ends"]] for network in facts]
    assert [[(end["state"], end["where"], end["holds"]) for end in of_network] for of_network in ends] == [
        [("h_n[0]", "output[-1]", True)],
        [("h_n[0]", "output[-1, :, :20]", True), ("h_n[1]", "output[0, :, 20:]", True)],
        [("h_n[0]", None, True), ("h_n[1]", "output[-1]", True)],
    ]
    assert facts[1]["trap"]["where"] == "output[-1, :, 20:]"
    assert facts[1]["trap"]["difference"] > 0.1
    assert ends[2][0]["nearest"] > 0.1


def test_the_numbers_are_torchs(facts: list[dict]) -> None:
    torch.manual_seed(0)
    network = torch.nn.RNN(10, 20)
    assert [tensor["values"] for tensor in facts[0]["parameters"]] == [p.tolist() for p in network.parameters()]
    assert all(network["agreement"]["same_seed"] and network["agreement"]["output"] < 1e-6 for network in facts)
    assert all(network["speed"]["elman"]["median"] > 0 for network in facts)


def test_another_seed_gives_other_weights(facts: list[dict]) -> None:
    other = json.loads(invoke("--json", "--seed", "7"))["networks"]
    assert other[0]["parameters"][0]["values"] != facts[0]["parameters"][0]["values"]
    assert other[0]["spec"]["seed"] == 7


def test_the_language_is_the_locales_or_the_one_asked_for() -> None:
    assert "Where the final states are" in invoke()
    assert "最终状态的位置" in invoke(LC_ALL="zh_CN.UTF-8")
    assert "最终状态的位置" in invoke("--lang", "zh")
    assert "Where the final states are" in invoke("--lang", "en", LC_ALL="zh_CN.UTF-8")


def test_the_code_for_a_gpu_moves_what_the_seed_gives_on_the_cpu() -> None:
    assert Spec("lstm", 10, 20, seed=3, device="cuda").code == (
        "torch.manual_seed(3)",
        "lstm = elman.LSTM(10, 20).to('cuda')",
        "x = torch.randn(5, 3, 10).to('cuda')",
        "output, (h_n, c_n) = lstm(x)",
    )
