"""torch.jit.trace: what it records serves any number of steps and sequences; anything else is an error, never a wrong number."""

from __future__ import annotations

import io
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import elman
from kinds import GRU, LSTM, PROJECTED, TANH, Kind, as_hx, as_states

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]
every_deep_kind = pytest.mark.parametrize("kind", [TANH, GRU, LSTM, PROJECTED], ids=str)
ALL_AT_ONCE: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dtype": torch.float64}


class _Calling(nn.Module):
    """A module that calls another in some way."""

    def __init__(self, module: nn.Module, call: Callable[..., tuple[Tensor, ...]]) -> None:
        super().__init__()
        self.module, self.call = module, call

    def forward(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return self.call(self.module, *arguments)


def _flat(result: Any) -> tuple[Tensor, ...]:
    return result[0], *as_states(result[1])


def _traced(module: nn.Module, call: Callable[..., tuple[Tensor, ...]], *arguments: Tensor) -> Callable[..., tuple[Tensor, ...]]:
    """A call as it was traced, saved and loaded."""
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(_Calling(module, call), arguments, check_trace=False), file)
    file.seek(0)
    loaded: Callable[..., tuple[Tensor, ...]] = torch.jit.load(file)
    return loaded


def _x(steps: int, batch_size: int) -> Tensor:
    return torch.randn(steps, batch_size, 3, dtype=torch.float64)


def _packed(rnn: nn.Module, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    output, states = rnn(pack_padded_sequence(x, lengths, enforce_sorted=False))
    return pad_packed_sequence(output, total_length=x.shape[0])[0], *as_states(states)


def _by_batch_sizes(rnn: nn.Module, data: Tensor, batch_sizes: Tensor) -> tuple[Tensor, ...]:
    output, states = rnn(PackedSequence(data, batch_sizes))
    return output.data, *as_states(states)


def _seen(rnn: nn.Module, x: Tensor, lengths: Tensor) -> tuple[Tensor, ...]:
    traced: Any = rnn.trace(x, lengths=lengths)
    return traced.output, traced.h, traced.last, *traced.gates.values()


def _sizes(*sizes: int) -> Tensor:
    return torch.tensor(sizes)


def _some(*shape: int) -> Tensor:
    return torch.rand(shape) < 0.4


# A call, what it is traced with, and what else it then takes.
CALLS: dict[str, tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...], list[tuple[Tensor, ...]]]] = {
    "x": (lambda rnn, x: _flat(rnn(x)), (_x(5, 3),), [(_x(5, 3),), (_x(5, 1),), (_x(2, 7),), (_x(9, 1),)]),
    "unbatched": (lambda rnn, x: _flat(rnn(x)), (_x(5, 1)[:, 0],), [(_x(5, 1)[:, 0],), (_x(8, 1)[:, 0],)]),
    "lengths": (
        lambda rnn, x, lengths: _flat(rnn(x, lengths=lengths)),
        (_x(5, 3), _sizes(5, 2, 3)),
        [(_x(5, 3), _sizes(1, 0, 4)), (_x(7, 4), _sizes(2, 6, 0, 5).int()), (_x(3, 1), _sizes(0))],
    ),
    "reset": (
        lambda rnn, x, reset: _flat(rnn(x, reset=reset)),
        (_x(5, 3), _some(5, 3)),
        [(_x(5, 3), _some(5, 3)), (_x(8, 4), _some(8, 4)), (_x(3, 2), torch.zeros(3, 2, dtype=torch.bool))],
    ),
    "both": (
        lambda rnn, x, lengths, reset: _flat(rnn(x, lengths=lengths, reset=reset)),
        (_x(5, 3), _sizes(5, 2, 3), _some(5, 3)),
        [(_x(5, 3), _sizes(1, 0, 4), _some(5, 3)), (_x(8, 2), _sizes(1, 6), _some(8, 2))],
    ),
    "packed": (
        _packed,
        (_x(5, 3), _sizes(5, 2, 3)),
        [(_x(5, 3), _sizes(1, 5, 4)), (_x(5, 3), _sizes(2, 3, 1)), (_x(7, 4), _sizes(1, 2, 6, 4))],
    ),
    "batch sizes": (
        _by_batch_sizes,
        (_x(8, 1)[:, 0], _sizes(3, 3, 1, 1)),
        [
            (_x(8, 1)[:, 0], _sizes(3, 2, 2, 1)),
            (_x(8, 1)[:, 0], _sizes(4, 4)),
            (_x(6, 1)[:, 0], _sizes(4, 1, 1)),
            (_x(8, 1)[:, 0], _sizes(3, 2, 1, 1, 1)),
        ],
    ),
    "trace": (_seen, (_x(5, 3), _sizes(5, 2, 3)), [(_x(5, 3), _sizes(1, 0, 4)), (_x(5, 4), _sizes(2, 5, 0, 5))]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("call", "sample", "others"), CALLS.values(), ids=CALLS)
@every_deep_kind
def test_a_traced_call_takes_other_batches(
    kind: Kind, call: Callable[..., tuple[Tensor, ...]], sample: tuple[Tensor, ...], others: list[tuple[Tensor, ...]]
) -> None:
    rnn = kind.build(elman, 3, 4, **ALL_AT_ONCE)
    traced = _traced(rnn, call, *sample)
    for arguments in (sample, *others):
        for got, expected in zip(traced(*arguments), call(rnn, *arguments), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@every_deep_kind
def test_so_do_states_learned_and_given(kind: Kind) -> None:
    rnn = kind.build(elman, 3, 4, **ALL_AT_ONCE, learn_initial_state=True)
    for name in rnn._learned:
        nn.init.normal_(getattr(rnn, name))

    def given(rnn: nn.Module, x: Tensor, *states: Tensor) -> tuple[Tensor, ...]:
        return _flat(rnn(x, as_hx(states) if states else None, lengths=torch.full((x.shape[1],), 4), reset=torch.ones(5, x.shape[1]) > 0))

    states = [[torch.randn(4, batch_size, width, dtype=torch.float64) for width in rnn.stack.state_sizes] for batch_size in (3, 2)]
    for sample, other in (((_x(5, 3),), (_x(5, 2),)), ((_x(5, 3), *states[0]), (_x(5, 2), *states[1]))):
        traced = _traced(rnn, given, *sample)
        for got, expected in zip(traced(*other), given(rnn, *other), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


@every_deep_kind
@pytest.mark.slow
def test_a_trace_records_torchs_own_layers(kind: Kind, tmp_path: Path) -> None:
    """They are as fast as torch.nn's, and their file loads where nobody imports Elman. Gradients go through them."""
    rnn, file = kind.build(elman, 3, 4, **ALL_AT_ONCE), tmp_path / "traced.pt"
    traced = torch.jit.trace(rnn, (_x(5, 3),), check_trace=False)
    graph = str(traced.inlined_graph)
    assert f"aten::{kind.cell}(" in graph
    assert "elman::" not in graph
    leaves = [_x(7, 2).requires_grad_(), *rnn.parameters()]
    one, other = (torch.autograd.grad(sum(t.sum() for t in _flat(network(leaves[0]))), leaves) for network in (traced, rnn))
    for got, expected in zip(one, other, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    torch.jit.save(traced, file)
    alone = "import sys, torch; torch.jit.load(sys.argv[1])(torch.zeros(2, 1, 3, dtype=torch.float64)); assert 'elman' not in sys.modules"
    subprocess.run([sys.executable, "-W", "ignore", "-c", alone, str(file)], check=True)


# A call and what it is traced with, as above; and what it does not take then.
REFUSED: dict[str, tuple[str, list[tuple[Tensor, ...]]]] = {
    "unbatched": ("x", [(_x(5, 1)[:, 0],)]),
    "batched": ("unbatched", [(_x(5, 3),), (_x(5, 1),)]),
    "lengths out of range": ("lengths", [(_x(5, 3), _sizes(1, 0, 6)), (_x(5, 3), _sizes(1, -1, 2)), (_x(5, 3), _sizes(1, 2))]),
    "a reset of another size": (
        "reset",
        [(_x(5, 3), _some(6, 3)), (_x(5, 3), _some(4, 3)), (_x(5, 3), _some(5, 2)), (_x(5, 3), 1 * _some(5, 3))],
    ),
    "more steps than there are, packed": ("batch sizes", [(_x(8, 1)[:, 0], _sizes(3, 3, 3))]),
}


@pytest.mark.parametrize(("called", "others"), REFUSED.values(), ids=REFUSED)
@pytest.mark.parametrize("kind", [GRU, LSTM], ids=str)
def test_what_was_not_traced_is_an_error(kind: Kind, called: str, others: list[tuple[Tensor, ...]]) -> None:
    rnn = kind.build(elman, 3, 4, **ALL_AT_ONCE)
    call, sample, _ = CALLS[called]
    traced = _traced(rnn, call, *sample)
    for arguments in others:
        with pytest.raises(RuntimeError):
            traced(*arguments)


@every_deep_kind
@pytest.mark.parametrize("batch", [1, 2])
def test_a_traced_module_refuses_a_state_of_another_batch(kind: Kind, batch: int) -> None:
    """Also of a single sequence, which torch would broadcast."""
    rnn, cell = kind.build(elman, 3, 4, **ALL_AT_ONCE), elman.GRUCell(3, 4, dtype=torch.float64)

    def state(batch: int) -> Any:
        return as_hx(tuple(torch.randn(4, batch, width, dtype=torch.float64) for width in kind.widths(4)))

    traced = torch.jit.trace(rnn, (_x(5, 3), state(3)), check_trace=False)
    traced_cell = torch.jit.trace(cell, (_x(1, 3)[0], torch.randn(3, 4, dtype=torch.float64)), check_trace=False)
    traced(_x(5, 7), state(7))
    with pytest.raises(RuntimeError, match="is invalid for input of size"):
        traced(_x(5, 3), state(batch))
    with pytest.raises(RuntimeError):
        traced_cell(_x(1, 3)[0], torch.randn(batch, 4, dtype=torch.float64))


def test_what_is_wrong_while_tracing_is_told_as_ever() -> None:
    with pytest.raises(RuntimeError, match="expected lengths from 0 to T, the steps of x"):
        torch.jit.trace(_Calling(elman.GRU(3, 4), lambda rnn, x, n: rnn(x, lengths=n)), (torch.randn(5, 3, 3), _sizes(1, 6, 2)))


@pytest.mark.parametrize("name", ["RNNCell", "GRUCell", "LSTMCell"])
def test_a_traced_cell_takes_other_batches(name: str) -> None:
    cell = getattr(elman, name)(3, 4, dtype=torch.float64)
    traced = torch.jit.trace(cell, (_x(1, 3)[0],), check_trace=False)
    for batch_size in (3, 1, 5):
        x = _x(1, batch_size)[0]
        for got, expected in zip(as_states(traced(x)), as_states(cell(x)), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
    with pytest.raises(RuntimeError):
        traced(_x(1, 1)[0, 0])


@every_deep_kind
def test_the_older_onnx_exporter_traces_a_bare_layer(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes the defaults of keyword-only arguments by position."""
    rnn, x = kind.build(elman, 3, 4, **ALL_AT_ONCE), _x(5, 3)
    with pytest.raises(TypeError, match="positional arguments"):
        rnn(x, None, None, None)
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    _, output = torch.jit._get_trace_graph(rnn, (x, None, None, None), _return_inputs_states=False, return_inputs=False)[:2]
    for got, expected in zip(_flat(output), _flat(rnn(x)), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)
