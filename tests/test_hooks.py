"""Hooks of what a call returns: of a state that no gradient reaches they are not called, as in torch.nn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import elman
from elman import zoo
from kinds import Kind, as_states, every_kind

if TYPE_CHECKING:
    from collections.abc import Sequence


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def hooked(results: Sequence[Tensor], loss: Tensor) -> list[Tensor | None]:
    """What the hooks of the results are called with; nothing for those that are not."""
    seen: list[Tensor | None] = []
    for result in results:
        result.register_hook(seen.append)
    loss.backward()
    return seen


@every_kind
def test_hooks_of_states_that_no_gradient_reaches_are_not_called(kind: Kind, x: Tensor) -> None:
    for module in kind.pair(4, 5, 2, dtype=torch.float64):  # where torch has no oneDNN
        output, hx = module(x)
        assert hooked(as_states(hx), output.sum()) == []
        _, hx = module(x)
        assert [gradient is None for gradient in hooked(as_states(hx), as_states(hx)[0].sum())] == [False]


@every_kind
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_so_it_is_with_traces(kind: Kind, dtype: torch.dtype, x: Tensor) -> None:
    traced = kind.build(elman, 4, 5, 2, dtype=dtype).trace(x.to(dtype))
    assert hooked(as_states(traced.final), traced.output.sum()) == []


@pytest.mark.parametrize("cell", [zoo.PeepholeLSTM, zoo.MGU])
def test_so_it_is_with_your_own_cells_and_traces(cell: type[elman.Cell], x: Tensor) -> None:
    rnn = elman.Recurrent(cell(), 4, 5, dtype=torch.float64)
    output, hx = rnn(x)
    assert hooked(as_states(hx), output.sum()) == []
    _, hx = rnn(x, lengths=[3, 1])
    assert len(hooked(as_states(hx), as_states(hx)[0].sum())) == 1
    traced = rnn.trace(x)
    assert hooked(as_states(traced.final), traced.output.sum()) == []


@pytest.mark.parametrize("cell", [elman.LSTMCell(4, 5), elman.RecurrentCell(zoo.PeepholeLSTM(), 4, 5)], ids=["LSTMCell", "PeepholeLSTM"])
def test_so_it_is_with_a_step(cell: nn.Module, x: Tensor) -> None:
    for batch in (x[0].float(), x[0, 0].float()):
        h, c = cell(batch)
        assert [gradient is None for gradient in hooked((h, c), h.sum())] == [False]
