"""What the tests of streams share: how a stream is followed through a sequence, and how its state is compared."""

from __future__ import annotations

import warnings
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from kinds import as_states

if TYPE_CHECKING:
    from torch import Tensor

    from elman import Stream

VIEWS = {"tensors": lambda x: x, "arrays": lambda x: x.numpy()}
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


def tensor(values: Tensor | np.ndarray) -> Tensor:
    """A copy of what a stream gave, as a tensor."""
    return (torch.from_numpy(values) if isinstance(values, np.ndarray) else values).detach().clone()


def follow(stream: Stream, x: Tensor, cuts: list[int], view: Any) -> Tensor:
    """The outputs of x, time first, taken in pieces: 0 is a step, another number a run of so many."""
    batch_first, outputs, begin = stream.rnn.batch_first, [], 0
    for cut in cuts:
        piece = x[begin : begin + max(1, cut)]
        if cut == 0:
            outputs.append(tensor(stream.step(view(piece[0])))[None])
        else:
            output = tensor(stream.run(view(piece.transpose(0, 1) if batch_first else piece)))
            outputs.append(output.transpose(0, 1) if batch_first else output)
        begin += len(piece)
    assert begin == len(x)
    return torch.cat(outputs)


def assert_same_state(stream: Stream, hx: Tensor | tuple[Tensor, ...]) -> None:
    for got, expected in zip(as_states(stream.state), as_states(hx), strict=True):
        assert torch.equal(got, expected)
        assert got.requires_grad or not expected.requires_grad  # a graph that it carried is there still


def masked(numbers: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls it a prototype
        return torch.masked.masked_tensor(numbers, torch.ones_like(numbers, dtype=torch.bool))


def freed(*shape: int, behind: int = 0) -> Tensor:
    """A tensor whose memory has been given back, in which it began behind so many numbers."""
    gone = torch.zeros(behind + prod(shape))[behind:].view(shape)
    gone.untyped_storage().resize_(0)
    return gone
