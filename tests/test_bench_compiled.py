"""`elman bench --compiled`: compiled layers beside eager ones, Elman's and torch.nn's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch

from elman.bench import compiled
from elman.bench.agreement import WrongAnswerError
from elman.bench.case import cases_of
from elman.bench.contestants import CompiledElman, Job
from elman.bench.race import Timing
from elman.cli.app import app
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from elman.bench.case import Case

pytestmark = [required, pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]
SECONDS = {"elman": 2e-5, "elman compiled": 3e-5, "torch": 5e-5, "torch compiled": 6e-5, "elman again": 3.3e-5}
ROW_1 = [(1, cases_of("gru", "sizes")[0])]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    torch.compiler.reset()


def _race(jobs: Mapping[str, Callable[[], object]], **_: object) -> dict[str, Timing]:
    assert jobs.keys() == SECONDS.keys()
    return {name: Timing((SECONDS[name],)) for name in jobs}


@pytest.mark.parametrize("as_json", [False, True], ids=["markdown", "json"])
def test_a_row_says_how_much_longer_a_compiled_call_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, as_json: bool
) -> None:
    monkeypatch.setattr(compiled, "race", _race)
    file = tmp_path / "compiled.json"
    options = ["--compiled", "--cell", "gru", "--rows", "1", "--threads", "1", "--rounds", "1"]
    with pytest.raises(SystemExit) as left:
        app(["bench", *options, *(["--json", str(file)] if as_json else ["--markdown"])])
    assert not left.value.code
    if not as_json:
        lines = capsys.readouterr().out.splitlines()
        assert lines.count("| GRU 1 | 5,3,10,20 | 20.0 | 30.0 | 50.0 | 60.0 | 0% | 1.50 | +10 | 2.00 |") == 2
        assert "- The compiled layer against itself: 1.10 to 1.10." in lines
        return
    facts = json.loads(file.read_text(encoding="utf-8"))
    assert [row["mode"] for row in facts["rows"]] == ["infer", "train"]
    assert facts["complete"]
    for row in facts["rows"]:
        assert (row["row"], row["cell"], row["over_eager"]) == (1, "gru", pytest.approx(1.5))
        assert (row["more_s"], row["torch_compiled_over_elman_compiled"]) == (pytest.approx(1e-5), pytest.approx(2))


def test_each_size_is_compiled_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the second size's code would serve any, and Dynamo would give up after eight."""
    monkeypatch.setattr(compiled, "race", _race)
    graphs: list[torch.fx.GraphModule] = []
    compile_fx = torch._dynamo.lookup_backend("eager")

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return compile_fx(graph, inputs)

    monkeypatch.setattr(CompiledElman, "_ready", lambda _, layer: layer.compile(fullgraph=True, backend=backend) or layer)
    cases = list(enumerate(cases_of("rnn", "sizes")[2:4], 3))
    assert [row.number for row in compiled.measure(cases, ["infer"], threads=1, rounds=1, min_block_s=0.001)] == [3, 4]
    sizes = [[node.meta["example_value"].shape for node in graph.graph.nodes if node.op == "placeholder"] for graph in graphs]
    assert len(sizes) >= 2
    assert all(isinstance(size, int) for shapes in sizes for shape in shapes for size in shape)


def test_a_wrong_answer_of_a_compiled_layer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    job = CompiledElman.infer

    def wrong(self: CompiledElman, case: Case) -> Job:
        right = job(self, case)
        return Job(right.run, lambda result: {name: 2 * array for name, array in right.numbers(result).items()})

    monkeypatch.setattr(CompiledElman, "infer", wrong)
    with pytest.raises(WrongAnswerError, match=r"^elman compiled, gru 5,3,10,20, infer: output is"):
        list(compiled.measure(ROW_1, ["infer"], threads=1, rounds=1, min_block_s=0.001))
