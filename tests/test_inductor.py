"""What Inductor, torch.compile's default, makes of a network: calls of the kernels without a detour, once for all lengths."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch._dynamo.utils import counters
from torch._inductor import lowering
from torch._inductor.utils import run_and_get_code

import elman
from elman.backends import inductor
from kinds import GRU, LSTM, PROJECTED, RELU, Kind, as_hx, as_states, every_cell, every_kind
from native import initial_states, named, required

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    required,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Code is written anew for each test."""
    torch.manual_seed(0)
    torch.compiler.reset()
    with torch._inductor.config.patch(fx_graph_cache=False), torch._functorch.config.patch(enable_autograd_cache=False):
        yield
    torch.compiler.reset()


def _evaluated(run: Callable[..., Any], module: nn.Module, x: Tensor, *arguments: object, **spans: object) -> dict[str, Tensor]:
    """What a network gives, and the gradients where there are any."""
    results = named(*run(x, *arguments, **spans))
    if not torch.is_grad_enabled():
        return results
    leaves = {"x": x, **dict(module.named_parameters())}
    loss = sum(result.square().sum() for result in results.values())
    gradients = torch.autograd.grad(loss, list(leaves.values()))
    return results | {f"gradient of {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}


def _assert_same(got: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(got[name], value), name


@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("given_state", [False, True], ids=["fresh", "hx"])
@every_kind
@pytest.mark.slow
def test_the_code_calls_the_kernels_and_gives_the_eager_bits(kind: Kind, given_state: bool, trains: bool) -> None:
    module = kind.build(elman, 3, 4, 2, bidirectional=True, batch_first=True)
    x, hx = torch.randn(2, 5, 3, requires_grad=trains), (as_hx(initial_states(module, 2)),) if given_state else ()
    with torch.set_grad_enabled(trains):
        expected = _evaluated(module, module, x, *hx)
        compiled = torch.compile(module, fullgraph=True)
        got, codes = run_and_get_code(lambda: _evaluated(compiled, module, x, *hx))
    _assert_same(got, expected)
    code = "".join(codes)
    assert ("= elman_scan(" in code, "= elman_scan_backward(" in code) == (True, trains)
    assert "= torch.ops.elman" not in code
    assert f"False, True, {trains})" in code.split("= elman_scan(")[1].splitlines()[0]  # not recompute, batch first; saved only to train


@pytest.mark.parametrize("form", ["every second feature", "transposed", "bfloat16", "resets", "counts"])
@pytest.mark.slow
def test_operands_of_any_kind_give_the_eager_bits(form: str) -> None:
    gru = elman.GRU(3, 4, dtype=torch.bfloat16 if form == "bfloat16" else None)
    x = torch.randn(5, 2, 6)[..., ::2] if form == "every second feature" else torch.randn(5, 2, 3).to(gru.weight_ih_l0.dtype)
    x = torch.randn(2, 5, 3).transpose(0, 1) if form == "transposed" else x
    spans = {"reset": torch.arange(10).view(5, 2) % 3 == 0} if form == "resets" else {}
    if form == "counts":
        spans = {"lengths": torch.tensor([5, 9, 2, 9])[::2]}
    x.requires_grad_()
    got, codes = run_and_get_code(lambda: _evaluated(torch.compile(gru, fullgraph=True), gru, x, **spans))
    _assert_same(got, _evaluated(gru, gru, x, **spans))
    assert "= elman_scan(" in "".join(codes)
    assert "= elman_scan_backward(" in "".join(codes)


@pytest.mark.parametrize("marked", [False, True], ids=["by itself", "mark_dynamic"])
@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
def test_no_length_needs_code_of_its_own(trains: bool, marked: bool) -> None:
    """Torch takes the first length for the only one, unless it is told; the second tells it."""
    lstm = elman.LSTM(3, 4)
    counters.clear()
    with torch.set_grad_enabled(trains):
        compiled = torch.compile(lstm, fullgraph=True)
        for steps in (5, 7, 9, 2, 60):
            x = torch.randn(steps, 2, 3, requires_grad=trains)
            if marked:
                torch._dynamo.mark_dynamic(x, 0)
            _assert_same(_evaluated(compiled, lstm, x), _evaluated(lstm, lstm, x))
    assert counters["stats"]["unique_graphs"] == (1 if marked else 2)


@pytest.mark.parametrize("steps", [3, 3000])
def test_the_graph_is_as_small_for_many_steps(steps: int) -> None:
    code = run_and_get_code(torch.compile(elman.GRU(3, 4), fullgraph=True), torch.randn(steps, 1, 3))[1][0]
    assert code.count("= elman_scan(") == 1
    assert len(code.splitlines()) < 150


@pytest.mark.parametrize("options", [{}, {"recompute": True, "learn_initial_state": True}], ids=["plain", "options"])
@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_a_batch_without_sequences_is_one_operator_and_has_the_eager_gradients(kind: Kind, options: dict[str, Any]) -> None:
    rnn = kind.build(elman, 3, 4, 2, bidirectional=True, **options)
    x = torch.randn(300, 0, 3, requires_grad=True)
    spans = {"lengths": torch.zeros(0, dtype=torch.int64), "reset": torch.zeros(300, 0, dtype=torch.bool)} if options else {}
    graphs = CompileCounterWithBackend("aot_eager")
    got = _evaluated(torch.compile(rnn, fullgraph=True, backend=graphs), rnn, x, **spans)
    _assert_same(got, _evaluated(rnn, rnn, x, **spans))
    assert got["gradient of weight_hh_l1"].count_nonzero() == 0
    assert graphs.op_count < 30  # not one for each step


@pytest.mark.slow
@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
@every_cell
def test_a_loop_of_cells_takes_no_more_work_than_torchs(kind: Kind, trains: bool) -> None:
    """Of the code that Inductor writes: products, buffers and kernels, forward and backward."""
    x, work = torch.randn(4, 3, 5, requires_grad=trains), []
    for library in (nn, elman):
        cell = kind.build_cell(library, 5, 6).requires_grad_(trains)

        def loop(x: Tensor, cell: nn.Module = cell) -> Tensor:
            state, total = None, x.new_zeros(3, 6)
            for step in x:
                state = cell(step, state)
                total = total + as_states(state)[0]
            return total

        def run(loop: Callable[[Tensor], Tensor] = loop) -> None:
            result = torch.compile(loop, fullgraph=True)(x)
            if trains:
                result.sum().backward()

        codes = [code[code.index("def call(") :] for code in run_and_get_code(run)[1]]
        work.append([[code.count(call) for call in ("extern_kernels.", "empty_strided_cpu(", "        cpp_fused")] for code in codes])
    torchs, ours = work
    assert len(ours) == len(torchs) == 1 + trains
    assert all(mine <= theirs for one, other in zip(ours, torchs, strict=True) for mine, theirs in zip(one, other, strict=True)), work


@pytest.mark.parametrize("kind", [RELU, LSTM], ids=str)
def test_only_the_gradients_that_are_wanted_are_made(kind: Kind) -> None:
    """Of the input of a first layer there is none, nor of frozen parameters."""
    module = kind.build(elman, 3, 4)
    module.weight_hh_l0.requires_grad_(False)
    x, leaves = torch.randn(5, 2, 3), [module.weight_ih_l0, module.bias_ih_l0, module.bias_hh_l0]
    expected = torch.autograd.grad(module(x)[0].square().sum(), leaves)
    compiled = torch.compile(module, fullgraph=True)
    got, codes = run_and_get_code(lambda: torch.autograd.grad(compiled(x)[0].square().sum(), leaves))
    assert all(map(torch.equal, got, expected))
    assert "[False, True, False, True, True])" in "".join(codes)


@pytest.mark.parametrize("how", ["reduce-overhead", "compiled autograd", "a copy", "part of a model"])
@pytest.mark.parametrize("kind", [GRU, PROJECTED], ids=str)
@pytest.mark.slow
def test_ways_to_compile(kind: Kind, how: str) -> None:
    module = kind.build(elman, 3, 4, 2)
    x = torch.randn(5, 2, 3, requires_grad=True)
    expected = _evaluated(module, module, x)
    if how == "a copy":
        module.compile(fullgraph=True)
        module(x)
        module = copy.deepcopy(module)
        _assert_same(_evaluated(module, module, x), expected)
    elif how == "part of a model":

        def model(x: Tensor) -> tuple[Tensor, Any]:
            output, finals = module(x)
            return output.tanh(), as_hx(tuple([2 * final for final in as_states(finals)]))

        got = _evaluated(torch.compile(model, fullgraph=True), module, x)
        for name, value in _evaluated(model, module, x).items():
            torch.testing.assert_close(got[name], value)
    else:
        with torch._dynamo.config.patch(compiled_autograd=how == "compiled autograd"):
            mode = None if how == "compiled autograd" else how
            _assert_same(_evaluated(torch.compile(module, fullgraph=True, mode=mode), module, x), expected)


@pytest.mark.parametrize("ci", ["", "true"])
def test_an_inductor_of_another_make_calls_the_operator(monkeypatch: pytest.MonkeyPatch, ci: str) -> None:
    monkeypatch.setenv("CI", ci)  # which Inductor reads, and refuses more where it is set

    def teach(*_: object) -> None:
        raise ImportError("cannot import name 'FallbackKernel'")

    monkeypatch.setattr(inductor, "_taught", set())
    monkeypatch.setattr(inductor, "_teach", teach)
    for operator in (torch.ops.elman.scan.default, torch.ops.elman.scan_backward.default):
        monkeypatch.delitem(lowering.lowerings, operator, raising=False)
    gru, x = elman.GRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)
    compiled = torch.compile(gru, fullgraph=True)
    got, codes = run_and_get_code(lambda: _evaluated(compiled, gru, x))
    _assert_same(got, _evaluated(gru, gru, x))
    assert "= torch.ops.elman.scan.default(" in "".join(codes)
    assert "= torch.ops.elman.scan_backward.default(" in "".join(codes)


def test_code_that_asks_for_what_there_is_not_gets_empty_tensors() -> None:
    params, x = [param.detach() for param in elman.GRU(3, 4).parameters()], torch.randn(5, 2, 3)

    def run(x: Tensor) -> list[Tensor]:
        return list(torch.ops.elman.scan(x, None, None, params, *5 * [None], "gru", 4, 1, False, True, 0, False, False, False))

    for got, expected in zip(torch.compile(run, fullgraph=True)(x), run(x), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.slow
def test_a_new_process_loads_the_code_of_another_where_ci_is_set(tmp_path: Path) -> None:
    program = """
import torch, elman
from torch._dynamo.utils import counters
torch.manual_seed(0)
gru, x = elman.GRU(3, 4), torch.randn(5, 2, 3, requires_grad=True)
wanted = [x, *gru.parameters()]
got, expected = (torch.autograd.grad(run(x)[0].square().sum(), wanted) for run in (torch.compile(gru, fullgraph=True), gru))
assert all(map(torch.equal, got, expected))
print(counters["aot_autograd"]["autograd_cache_hit"])
"""
    environment = {**os.environ, "CI": "true", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    hits = [
        subprocess.run([sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, check=True, text=True).stdout
        for _ in range(2)
    ]
    assert hits == ["0\n", "1\n"]
