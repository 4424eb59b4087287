"""torch.utils.flop_counter counts the kernels' matrix products as it counts those of the reference, one by one."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import elman
from cases import BACKENDS
from elman.backends import registry
from kinds import Kind, as_hx, as_states, every_kind
from native import initial_states, required

pytestmark = required
OPTIONS = {
    "plain": {},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True},
    "without bias": {"num_layers": 3, "bias": False},
}


def _count(rnn: torch.nn.Module, needs_grad: bool) -> tuple[int, int]:
    """What is counted of a call, and of its gradient."""
    x = torch.randn(5, 3, 3, requires_grad=needs_grad)
    states = [state.detach().requires_grad_() for state in initial_states(rnn.float(), x.shape[0 if rnn.batch_first else 1])]
    with FlopCounterMode(display=False) as forward:
        output, hx = rnn(x, as_hx(tuple(states)))
    with FlopCounterMode(display=False) as backward:
        sum(t.sum() for t in (output, *as_states(hx))).backward()
    return forward.get_total_flops(), backward.get_total_flops()


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("needs_grad", [False, True], ids=["weights", "x too"])
@every_kind
def test_the_operators_count_as_the_reference(
    kind: Kind, needs_grad: bool, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    rnn = kind.build(elman, 3, 4, **options)
    counted = _count(rnn, needs_grad)
    monkeypatch.setattr(registry, "BACKENDS", BACKENDS[-1:])
    assert counted == _count(rnn, needs_grad)
    assert min(counted) > 0
