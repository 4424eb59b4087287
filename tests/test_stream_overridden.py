"""A stream whose network overrides what a call does gives the same by step as by run; if it is torch.nn's again, an error says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import elman
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable


class _Doubled(elman.GRU):
    def forward(self, input: Any, hx: Any = None, **spans: Any) -> Any:
        output, h_n = super().forward(input, hx, **spans)
        return 2 * output, h_n


class _Called(elman.LSTM):
    def __call__(self, *arguments: Any) -> Any:
        output, hx = super().__call__(*arguments)
        return 2 * output, hx


class _Permuted(elman.GRU):
    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        return super().permute_hidden(hx, permutation) + 1


class _PermutedTorchs(nn.GRU):
    def permute_hidden(self, hx: Any, permutation: Tensor | None) -> Any:
        return super().permute_hidden(hx, permutation) + 1


NETWORKS = {
    "forward": lambda: _Doubled(3, 4),
    "call": lambda: _Called(3, 4),
    "what forward asks": lambda: _Permuted(3, 4, 2),
    "converted": lambda: elman.convert(_PermutedTorchs(3, 4)),
}


@pytest.mark.parametrize("view", [torch.Tensor.clone, torch.Tensor.numpy], ids=["tensor", "array"])
@pytest.mark.parametrize("build", NETWORKS.values(), ids=NETWORKS)
@torch.no_grad()
def test_step_and_run_give_the_same(build: Callable[[], Any], view: Any) -> None:
    rnn, xs = build(), torch.randn(5, 1, 3)
    by_step, by_run = elman.stream(rnn), elman.stream(rnn)
    hx = None
    for x in xs:
        step = torch.as_tensor(by_step.step(view(x)))
        assert torch.equal(step, torch.as_tensor(by_run.run(view(x[None])))[0])
        expected, hx = rnn(x[None], hx if hx is not None else by_zeros(rnn))
        assert torch.equal(step, expected[0])


def by_zeros(rnn: Any) -> Any:
    """The initial state that a stream gives."""
    return elman.stream(rnn).state


def _set_forward(rnn: Any) -> None:
    forward = rnn.forward
    rnn.forward = lambda *given: (forward(*given)[0] * 2, forward(*given)[1])


def _set_permute(rnn: Any) -> None:
    rnn.permute_hidden = lambda hx, permutation: hx + 1


def _set_class(rnn: Any) -> None:
    rnn.__class__ = _Doubled


@required
@pytest.mark.parametrize("change", [_set_forward, _set_permute, _set_class])
@torch.no_grad()
def test_what_is_set_under_a_stream_counts_from_the_next_step_on(change: Callable[[Any], None]) -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(1, 3)
    stream = elman.stream(rnn)
    for _ in range(2):
        before = stream.state
        assert torch.equal(stream.step(x), rnn(x[None], before)[0][0])
    change(rnn)
    for _ in range(2):
        before = stream.state
        changed = stream.step(x)
        assert torch.equal(changed, rnn(x[None], before)[0][0])
    plain = elman.GRU(3, 4)
    plain.load_state_dict(rnn.state_dict())
    assert not torch.equal(changed, plain(x[None], before)[0][0])


@torch.no_grad()
def test_a_stream_of_a_network_that_is_torchs_again_says_so() -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(1, 3)
    stream = elman.stream(rnn)
    stream.step(x)
    stream.step(x)
    state = stream.state
    elman.to_torch(rnn)
    others = (lambda: setattr(stream, "state", state), lambda: stream.load_state_dict({"h": state.numpy()}))
    for call in (lambda: stream.step(x), lambda: stream.step(x.numpy()), lambda: stream.run(x[None]), *others):
        with pytest.raises(
            TypeError, match=r"expected rnn to be one of Elman's layers, RNN, GRU, LSTM or Recurrent, got torch.nn.GRU: elman.convert"
        ):
            call()
    elman.convert(rnn)
    assert torch.equal(stream.step(x), rnn(x[None], state)[0][0])
    assert isinstance(stream.step(x.numpy()), np.ndarray)
