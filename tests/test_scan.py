"""The driver: dropout falls between layers with torch.nn's own masks, and everything else is handed on whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import elman
from elman.backends import Stack, registry
from elman.backends.reference import ReferenceBackend
from kinds import TANH, Kind, as_hx, as_states, every_kind

if TYPE_CHECKING:
    from elman.backends import Backend


def _pair(kind: Kind = TANH, **options: object) -> tuple[nn.Module, nn.Module]:
    return kind.pair(6, 5, **options, dtype=torch.float64)


@every_kind
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one direction", "both directions"])
def test_the_same_seed_drops_what_torch_drops(backend: Backend, kind: Kind, bidirectional: bool, batch_first: bool, packed: bool) -> None:
    theirs, ours = _pair(kind, num_layers=3, dropout=0.4, bidirectional=bidirectional, batch_first=batch_first)
    x = torch.randn(4, 4, 6, dtype=torch.float64)
    results = []
    for module in (theirs, ours):
        torch.manual_seed(0)
        given = x.clone().requires_grad_()
        output, last = module(pack_padded_sequence(given, [2, 4, 1, 3], batch_first, enforce_sorted=False) if packed else given)
        values = (output.data if packed else output, *as_states(last))
        gradients = torch.autograd.grad(sum(value.square().sum() for value in values), [given, *module.parameters()])
        results.append([*values, *gradients])
    for expected, got in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_nothing_is_dropped_in_evaluation() -> None:
    theirs, ours = _pair(num_layers=2, dropout=0.9)
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=0, atol=1e-12)


def test_dropout_of_one_leaves_only_the_biases_to_the_layer_above() -> None:
    theirs, ours = _pair(num_layers=2, dropout=1.0)
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    output, _ = ours(x)
    torch.testing.assert_close(output, theirs(x)[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(output, ours(torch.zeros_like(x))[0], rtol=0, atol=0)


def test_dropout_that_is_set_later_acts() -> None:
    _, ours = _pair(num_layers=2)
    ours.dropout = 0.5
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    assert not torch.equal(ours(x)[0], ours(x)[0])


class _Recorder(ReferenceBackend.__base__):  # type: ignore[misc, name-defined]
    """Runs everything on the reference and remembers which stacks it was given."""

    name = "recorder"

    def __init__(self) -> None:
        self.stacks: list[Stack] = []

    def refuses(self, *arguments: object) -> None:
        return None

    def run(self, stack: Stack, *arguments: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        self.stacks.append(stack)
        return ReferenceBackend().run(stack, *arguments)

    def trace(self, stack: Stack, *arguments: object) -> NoReturn:
        raise NotImplementedError


@pytest.mark.parametrize(("dropout", "training", "pieces"), [(0.0, True, 1), (0.5, False, 1), (0.5, True, 3)])
def test_a_backend_is_given_all_that_lies_between_two_dropouts(
    monkeypatch: pytest.MonkeyPatch, dropout: float, training: bool, pieces: int
) -> None:
    recorder = _Recorder()
    monkeypatch.setattr(registry, "BACKENDS", (recorder,))
    elman.RNN(6, 5, 3, bidirectional=True, dropout=dropout).train(training)(torch.randn(4, 3, 6))
    assert [stack.num_layers for stack in recorder.stacks] == [3 // pieces] * pieces
    assert [stack.input_size for stack in recorder.stacks] == [6, 10, 10][:pieces]


@every_kind
def test_given_states_reach_their_layers_through_dropout(kind: Kind) -> None:
    theirs, ours = _pair(kind, num_layers=3, dropout=0.5, bidirectional=True)
    x = torch.randn(4, 3, 6, dtype=torch.float64)
    hx = as_hx(tuple(torch.randn(6, 3, width, dtype=torch.float64) for width in kind.widths(5)))
    torch.manual_seed(0)
    expected = theirs(x, hx)
    torch.manual_seed(0)
    torch.testing.assert_close(ours(x, hx), expected, rtol=0, atol=1e-12)
