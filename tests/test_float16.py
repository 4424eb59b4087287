"""float16 on the CPU: the network in float32, which holds float16's numbers exactly, with its results rounded where a call ends."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from elman import zoo
from elman.backends import BACKENDS, registry
from kinds import GRU, LSTM, Kind, as_hx, as_states, every_kind
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = required

T, B, I, H = 4, 3, 5, 6  # noqa: E741
HALF = torch.float16


def _results(rnn: nn.Module, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None, **options: Any) -> tuple[Tensor, ...]:
    output, hx = rnn(x, None if states is None else as_hx(states), **options)
    return output if isinstance(output, Tensor) else output.data, *as_states(hx)


def _assert_is_float32_rounded(rnn: nn.Module, run: Callable[[nn.Module, list[Tensor]], tuple[Tensor, ...]], given: list[Tensor]) -> None:
    """Results and gradients of a float16 network are, to the bit, those of the same network in float32, rounded.

    Args:
        run: is given the network and the tensors, in its dtype.
        given: the tensors of the call, in float16; gradients of all that need one are compared.
    """
    wide = copy.deepcopy(rnn).float()
    narrow_results = run(rnn, given)
    wide_given = [t.detach().float().requires_grad_(t.requires_grad) if t.is_floating_point() else t for t in given]
    wide_results = run(wide, wide_given)
    weights = [torch.randn_like(result) for result in narrow_results]
    torch.autograd.backward(narrow_results, weights)
    torch.autograd.backward(wide_results, [weight.float() for weight in weights])
    for got, expected in zip(narrow_results, wide_results, strict=True):
        assert got.dtype is HALF
        assert torch.equal(got, expected.half())
    leaves = zip((*given, *rnn.parameters()), (*wide_given, *wide.parameters()), strict=True)
    for got, expected in leaves:
        assert (got.grad is None) == (expected.grad is None)
        if got.grad is not None:
            assert got.grad.dtype is HALF
            assert torch.equal(got.grad, expected.grad.half())


def _numbers(kind: Kind, layers: int, directions: int, batch_first: bool) -> list[Tensor]:
    x = torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)
    states = [torch.randn(layers * directions, B, width) for width in kind.widths(H)]
    return [t.half().requires_grad_() for t in (x, *states)]


def _reset(rnn: nn.Module, t: list[Tensor]) -> tuple[Tensor, ...]:
    return _results(rnn, t[0], tuple(t[1:]), reset=torch.arange(t[0].shape[0] * t[0].shape[1]).view(t[0].shape[:2]) % 5 == 2)


def _trace(rnn: nn.Module, t: list[Tensor], **beside: Tensor) -> tuple[Tensor, ...]:
    """Without what shares numbers with h, whose gradients add up in either dtype."""
    traced = rnn.trace(t[0], **beside)
    return traced.h, *traced.gates.values()


CALLS: dict[str, Callable[[nn.Module, list[Tensor]], tuple[Tensor, ...]]] = {
    "whole": lambda rnn, t: _results(rnn, t[0], tuple(t[1:])),
    "from zeros": lambda rnn, t: _results(rnn, t[0], None),
    "lengths": lambda rnn, t: _results(rnn, t[0], tuple(t[1:]), lengths=[2, 4, 0]),
    "reset": _reset,
    "trace": _trace,
}


@every_kind
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True}, {"recompute": True}, {"bias": False}], ids=str)
def test_a_layer_is_float32s_rounded(kind: Kind, call: str, options: dict[str, Any]) -> None:
    rnn = kind.build(elman, I, H, 2, dtype=HALF, **options)
    given = _numbers(kind, 2, 1 + ("bidirectional" in options), "batch_first" in options)
    assert elman.why(rnn, given[0]).startswith("native")
    _assert_is_float32_rounded(rnn, CALLS[call], given)


@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_so_is_a_packed_sequence(kind: Kind) -> None:
    rnn = kind.build(elman, I, H, dtype=HALF)

    def run(rnn: nn.Module, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        packed = pack_padded_sequence(tensors[0], torch.tensor([2, 4, 1]), enforce_sorted=False)
        assert elman.why(rnn, packed).startswith("native")
        return _results(rnn, packed, tuple(tensors[1:]))

    _assert_is_float32_rounded(rnn, run, _numbers(kind, 1, 1, batch_first=False))


@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_so_is_a_cell(kind: Kind) -> None:
    cell = kind.build_cell(elman, I, H, dtype=HALF)
    given = [torch.randn(B, size).half().requires_grad_() for size in (I, *kind.widths(H))]
    _assert_is_float32_rounded(cell, lambda cell, t: as_states(cell(t[0], as_hx(tuple(t[1:])))), given)


@every_kind
def test_no_other_dtype_may_be_among_them(kind: Kind) -> None:
    """As everywhere: what is converted to float32 on the way is float16, all of it."""
    modules = [(kind.build(elman, I, H, dtype=HALF), (1, B))]
    if "proj_size" not in kind.options:
        modules.append((kind.build_cell(elman, I, H, dtype=HALF), (B,)))
    for module, axes in modules:
        x, states = torch.randn(*axes[:-1], B, I).half(), [torch.randn(*axes, width).half() for width in kind.widths(H)]
        for i, state in enumerate(states):
            mixed = (*states[:i], state.float(), *states[i + 1 :])
            with pytest.raises(RuntimeError, match=r"torch\.float16.* got torch\.float32"):
                module(x, as_hx(mixed))
        for param in module.parameters():
            param.data = param.data.float()
            with pytest.raises(RuntimeError, match="convert the whole module"):
                module(x, as_hx(tuple(states)))
            param.data = param.data.half()


@pytest.mark.parametrize("cell", [zoo.PeepholeLSTM(), zoo.CfC()], ids=lambda cell: type(cell).__name__)
@pytest.mark.parametrize("call", [_results, _trace])
def test_so_is_a_cell_of_ones_own(cell: elman.Cell, call: Callable[..., tuple[Tensor, ...]]) -> None:
    rnn = elman.Recurrent(cell, I, H, 2, dtype=HALF)
    given = [torch.randn(T, B, I).half().requires_grad_(), *(torch.rand(T, B).half() for _ in cell.step_inputs)]

    def run(rnn: nn.Module, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        beside = dict(zip(cell.step_inputs, tensors[1:], strict=True))
        assert elman.why(rnn, tensors[0], **beside).startswith("native")
        return call(rnn, tensors, **beside) if call is _trace else call(rnn, tensors[0], None, **beside)

    _assert_is_float32_rounded(rnn, run, given)


@pytest.mark.parametrize("cell", [zoo.MGU(), elman.Zoneout(zoo.MGU(), h=0.5)], ids=lambda cell: type(cell).__name__)
def test_random_numbers_are_drawn_in_float16(cell: elman.Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference draws the same: it differs by its roundings after each operation, each of at most 2**-12 of a number below 4."""
    rnn, x = elman.Recurrent(cell, I, H, dtype=HALF), torch.randn(T, B, I).half()
    found = []
    for backends in (BACKENDS[:1], BACKENDS[-1:]):
        monkeypatch.setattr(registry, "BACKENDS", backends)
        torch.manual_seed(0)
        found.append(rnn(x)[0])
    torch.testing.assert_close(*found, rtol=0, atol=T * 2**-8)


@every_kind
def test_compiled_it_is_the_eager_one(kind: Kind) -> None:
    torch.compiler.reset()
    rnn, given = kind.build(elman, I, H, 2, dtype=HALF), _numbers(kind, 2, 1, batch_first=False)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    found = []
    for call in (compiled, rnn):
        results = _results(call, given[0], tuple(given[1:]))
        gradients = torch.autograd.grad([result.float().sum() for result in results], [*given, *rnn.parameters()])
        found.append((*results, *gradients))
    assert all(map(torch.equal, *found))


@every_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_exported_it_serves_any_number_of_steps_and_sequences(kind: Kind) -> None:
    rnn, dynamic = kind.build(elman, I, H, 2, dtype=HALF).eval(), torch.export.Dim.DYNAMIC
    program = torch.export.export(rnn, (torch.randn(T, B, I).half(),), dynamic_shapes=({0: dynamic, 1: dynamic},)).module()
    for sizes in ((7, 2), (1, 5)):
        x = torch.randn(*sizes, I).half()
        (output, hx), expected = program(x), _results(rnn, x, None)
        assert all(map(torch.equal, (output, *as_states(hx)), expected))


def test_gradients_of_each_example_are_its_own() -> None:
    rnn, x = elman.GRU(I, H, dtype=HALF), torch.randn(B, T, I).half()
    params = dict(rnn.named_parameters())

    def loss(params: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(rnn, params, (x,))[0].float().square().sum()

    together = vmap(grad(loss), in_dims=(None, 0))(params, x)
    for b, example in enumerate(x):
        alone = grad(loss)(params, example)
        for name, gradient in together.items():
            # What is summed over the steps in another order differs by float32's roundings: then a neighbour of float16 at most.
            torch.testing.assert_close(gradient[b], alone[name], rtol=2**-10, atol=2**-24)


@pytest.mark.parametrize("target", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("traced", [False, True])
def test_under_autocast_results_have_torchs_dtypes(target: torch.dtype, traced: bool) -> None:
    theirs, ours, x = nn.GRU(I, H).half(), elman.GRU(I, H).half(), torch.randn(T, B, I).half()
    with torch.autocast("cpu", target):
        expected = theirs(x)[0].dtype
        assert (ours.trace(x).output if traced else ours(x, lengths=[4, 2, 1])[0]).dtype is expected


def test_other_dtypes_beside_it_are_refused() -> None:
    gru, x = elman.GRU(I, H), torch.randn(T, B, I)
    with pytest.raises(ValueError, match="float16"):
        gru(x.half())
    with pytest.raises((RuntimeError, ValueError), match="float32"):
        gru.half()(x.half(), torch.zeros(1, B, H))


@pytest.mark.parametrize("lengths", [None, [4, 2, 1]])
def test_a_cell_of_ones_own_stays_in_bfloat16(lengths: list[int] | None) -> None:
    rnn, x = elman.Recurrent(zoo.MGU(), I, H, dtype=torch.bfloat16), torch.randn(T, B, I).bfloat16()
    output, h_n = rnn(x, lengths=lengths)
    assert output.dtype is h_n.dtype is torch.bfloat16
    torch.testing.assert_close(output.float(), rnn.float()(x.float(), lengths=lengths)[0], rtol=0, atol=2**-8)
