"""Cells of one's own under a compiler, an exporter, torch.func's transforms, autocast and torch.jit.trace: the numbers of a plain call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor

import elman
import own_cells
from elman.backends.reference import ReferenceBackend
from kinds import as_states
from own_cells import OWN

if TYPE_CHECKING:
    from own_cells import Own

# torch's own compiler, exporter and tracer warn of each other.
pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]

T, B, I, H = 3, 2, 3, 4  # noqa: E741

every_own = pytest.mark.parametrize("own", OWN.values(), ids=OWN)


def made(own: Own, dtype: torch.dtype = torch.float64) -> tuple[elman.Recurrent, Tensor, dict[str, Tensor]]:
    torch.manual_seed(0)
    rnn = elman.Recurrent(own.cell, I, H, num_layers=2, dtype=dtype)
    shapes = {name: (T, B, *([H] if size else [])) for name, size in own.cell.step_inputs.items()}
    beside = {name: torch.rand(shape, dtype=dtype) for name, shape in shapes.items()}
    return rnn, torch.randn(T, B, I, dtype=dtype), beside


def assert_same(got: Any, expected: Any) -> None:
    output, hx = got
    wanted, finals = expected
    torch.testing.assert_close([output, *as_states(hx)], [wanted, *as_states(finals)], rtol=0, atol=1e-12)


@every_own
def test_a_compiler_takes_the_network_as_one_graph(own: Own) -> None:
    rnn, x, beside = made(own)
    torch.compiler.reset()
    compiled = torch.compile(rnn, fullgraph=True, backend="eager")
    assert_same(compiled(x, **beside), rnn(x, **beside))
    assert_same(compiled(x, lengths=[3, 1], **beside), rnn(x, lengths=[3, 1], **beside))


@every_own
def test_a_compiler_takes_a_step_and_a_trace(own: Own) -> None:
    rnn, x, beside = made(own)
    cell = elman.RecurrentCell(own.cell, I, H, dtype=torch.float64)
    first = {name: value[0] for name, value in beside.items()}
    torch.compiler.reset()
    compiled = torch.compile(cell, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x[0], **first), cell(x[0], **first), rtol=0, atol=1e-12)
    gates = torch.compile(lambda x: rnn.trace(x, **beside).gates, fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(gates, rnn.trace(x, **beside).gates, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rnn", [elman.RNN(I, H), elman.GRU(I, H), elman.LSTM(I, H)], ids=lambda rnn: type(rnn).__name__)
def test_a_compiler_takes_the_trace_of_a_built_in_network(rnn: Any) -> None:
    x = torch.randn(T, B, I)
    torch.compiler.reset()
    found = torch.compile(lambda x: (rnn.trace(x).h, rnn.trace(x).gates), fullgraph=True, backend="eager")(x)
    torch.testing.assert_close(found, (rnn.trace(x).h, rnn.trace(x).gates))


def test_a_compiler_takes_random_numbers() -> None:
    rnn = elman.Recurrent(elman.Zoneout(own_cells.Gru(), h=0.5), I, H, dtype=torch.float64)
    torch.compiler.reset()
    compiled, x = torch.compile(rnn, fullgraph=True, backend="eager"), torch.randn(T, B, I, dtype=torch.float64)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])
    rnn.eval()
    assert_same(compiled(x), rnn(x))


@pytest.mark.parametrize("training", [True, False])
def test_so_it_does_in_a_step(training: bool) -> None:
    """Those of the same seed as an eager call, and none in evaluation."""
    cell = elman.RecurrentCell(elman.Zoneout(own_cells.Gru(), h=0.5), I, H, dtype=torch.float64).train(training)
    x, h = torch.randn(B, I, dtype=torch.float64), torch.ones(B, H, dtype=torch.float64)
    torch.compiler.reset()
    found = []
    for call in (cell, torch.compile(cell, fullgraph=True, backend="eager")):
        for seed in (0, 1):
            torch.manual_seed(seed)
            found.append(call(x, h))
    torch.testing.assert_close(found[:2], found[2:], rtol=0, atol=1e-12)
    assert torch.equal(found[2], found[3]) != training


@every_own
def test_the_network_is_exported(own: Own) -> None:
    rnn, x, beside = made(own)
    program = torch.export.export(rnn.eval(), (x,), beside, strict=False)
    assert_same(program.module()(x, **beside), rnn(x, **beside))


@every_own
def test_vmap_and_forward_mode_run_through_it(own: Own) -> None:
    rnn, _, beside = made(own)
    xs = torch.randn(4, T, B, I, dtype=torch.float64)
    got = torch.func.vmap(lambda x: rnn(x, **beside)[0])(xs)
    torch.testing.assert_close(got, torch.stack([rnn(x, **beside)[0] for x in xs]), rtol=0, atol=1e-12)
    tangent = torch.randn_like(xs[0])
    _, forward = torch.func.jvp(lambda x: rnn(x, **beside)[0], (xs[0],), (tangent,))
    _, pull = torch.func.vjp(lambda x: rnn(x, **beside)[0], xs[0])
    weights = torch.randn_like(forward)
    torch.testing.assert_close((forward * weights).sum(), (pull(weights)[0] * tangent).sum(), rtol=0, atol=1e-12)


def refuse_to_run(*_: Any, **__: Any) -> Any:
    raise AssertionError("the reference ran")


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=["plain", "all at once"])
@pytest.mark.parametrize("own", [own for own in OWN.values() if not own.cell.step_inputs], ids=lambda own: type(own.cell).__name__)
def test_vmap_runs_it_on_the_kernels_and_why_says_so(own: Own, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rnns = [elman.Recurrent(own.cell, I, H, dtype=torch.float64, **options) for _ in range(2)]
    xs = torch.randn(6, 2, I, T, B, dtype=torch.float64).movedim(2, -1)  # whose rows lie elsewhere than the kernels read
    expected = torch.stack([torch.stack([rnn(x)[0] for x in xs[:, index]]) for index, rnn in enumerate(rnns)], 1)
    monkeypatch.setattr(ReferenceBackend, "run", refuse_to_run)
    params, _ = torch.func.stack_module_state(rnns)

    def call(params: dict[str, Tensor], x: Tensor) -> Tensor:
        assert elman.why(rnns[0], x).startswith("native")
        return torch.func.functional_call(rnns[0], params, (x,))[0]

    inner = torch.func.vmap(call, (None, 0))
    got = torch.func.vmap(inner, (0, 1), 1)(params, xs)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@every_own
def test_autocast_and_bfloat16_run_it(own: Own) -> None:
    rnn, x, beside = made(own, torch.float32)
    expected = rnn(x, **beside)[0]
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = rnn(x, **beside)
        loss = output.float().sum()
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.dtype is torch.float32 for parameter in rnn.parameters())
    # The products of two layers over three steps are rounded to 8 bits.
    torch.testing.assert_close(output.float(), expected, rtol=0, atol=12 * 2**-8)
    narrow = rnn.to(torch.bfloat16)(x.bfloat16(), **{name: value.bfloat16() for name, value in beside.items()})[0]
    assert narrow.dtype is torch.bfloat16
    torch.testing.assert_close(narrow.float(), expected, rtol=0, atol=24 * 2**-8)


def test_torch_jit_trace_writes_it_down() -> None:
    rnn, x, _ = made(OWN["peephole"])
    traced = torch.jit.trace(rnn.eval(), x)
    assert_same(traced(x + 1), rnn(x + 1))


def test_functional_call_and_ensembles_have_parameters_of_their_own() -> None:
    rnns = [made(OWN["peephole"])[0] for _ in range(3)]
    for rnn in rnns:
        rnn.reset_parameters()
    params, buffers = torch.func.stack_module_state(rnns)
    x = torch.randn(T, B, I, dtype=torch.float64)
    got = torch.func.vmap(lambda p, b: torch.func.functional_call(rnns[0], (p, b), (x,))[0])(params, buffers)
    torch.testing.assert_close(got, torch.stack([rnn(x)[0] for rnn in rnns]), rtol=0, atol=1e-12)
