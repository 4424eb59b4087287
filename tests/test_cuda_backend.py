"""Which calls go to the CUDA kernels past the checks in words: only those that need none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from elman.backends.cuda import backend
from elman.backends.stack import Stack
from elman.cells import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

T, B, I, H = 5, 3, 4, 32  # noqa: E741


@pytest.fixture(autouse=True)
def every_size_has_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_refuses_network", lambda *network: None)


class Call:
    """Operands that fit."""

    def __init__(self, batch_first: bool = False, **options: Any) -> None:
        self.stack = Stack(BY_NAME["lstm"](), I, H, num_layers=2, bidirectional=True, **options)
        self.batch_first = batch_first
        self.x = torch.zeros((B, T, I) if batch_first else (T, B, I))
        self.states: tuple[Any, ...] | None = (torch.zeros(4, B, H), torch.zeros(4, B, H))
        self.params: list[Any] = [nn.Parameter(torch.zeros(shape)) for shape in self.stack.shapes]

    def fits(self) -> bool:
        return backend._fits(self.stack, self.x, self.states, self.params, self.batch_first)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("has_states", [False, True])
def test_usual_operands_fit(batch_first: bool, has_states: bool) -> None:
    call = Call(batch_first)
    call.states = call.states if has_states else None
    assert call.fits()


class Subclass(Tensor):
    """May mean anything by its operations."""


def other_x(change: Callable[[Tensor], Any]) -> Callable[[Call], None]:
    def apply(call: Call) -> None:
        call.x = change(call.x)

    return apply


def other_state(change: Callable[[Tensor], Any]) -> Callable[[Call], None]:
    def apply(call: Call) -> None:
        assert call.states is not None
        call.states = (call.states[0], change(call.states[1]))

    return apply


def other_parameter(change: Callable[[Tensor], Any]) -> Callable[[Call], None]:
    def apply(call: Call) -> None:
        call.params[3] = change(call.params[3].detach())

    return apply


CHANGES = {
    "x is unbatched": other_x(lambda x: x[0]),
    "x has other features": other_x(lambda x: x[..., 1:]),
    "x has no steps": other_x(lambda x: x[:0]),
    "x has no sequences": other_x(lambda x: x[:, :0]),
    "x is float64": other_x(Tensor.double),
    "x is float16": other_x(Tensor.half),
    "x is a subclass": other_x(lambda x: x.as_subclass(Subclass)),
    "x is sparse": other_x(Tensor.to_sparse),
    "a state has other sequences": other_state(lambda state: state[:, 1:]),
    "a state has another dtype": other_state(Tensor.half),
    "a parameter has another shape": other_parameter(lambda p: p[1:]),
    "a parameter has another dtype": other_parameter(Tensor.half),
    "a parameter is a subclass": other_parameter(lambda p: p.as_subclass(Subclass)),
    "a parameter is sparse": other_parameter(lambda p: p.unsqueeze(0).to_sparse()[0]),
}


@pytest.mark.parametrize("what", CHANGES)
def test_others_are_checked_in_words(what: str) -> None:
    call = Call()
    CHANGES[what](call)
    assert not call.fits()


def test_other_calls_are_checked_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Call(proj_size=8).fits()
    with torch.autograd.forward_ad.dual_level():
        assert not Call().fits()
    with monkeypatch.context() as changed:
        changed.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
        assert not Call().fits()
    monkeypatch.setattr(backend, "_refuses_network", lambda *network: "has no plan")
    assert not Call().fits()


@pytest.mark.parametrize("wrong", [None, "x", 3, [[1.0]]])
def test_what_is_no_tensor_is_nobodys(wrong: Any) -> None:
    call = Call()
    assert backend.CudaBackend().run_unchecked(call.stack, wrong, None, call.params, False) is None
    monkey = [*call.params[:-1], wrong]
    assert backend.CudaBackend().run_unchecked(call.stack, call.x, None, monkey, False) is None
    assert backend.CudaBackend().run_unchecked(call.stack, call.x, (call.x,), call.params, False) is None
