"""What a call keeps for backward, and that nothing stays behind."""

from __future__ import annotations

import gc
import resource
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import elman
from elman.backends import BACKENDS, registry

if TYPE_CHECKING:
    from collections.abc import Callable

    from elman.backends import Backend

FLAT = 4_000_000  # bytes: what the allocators themselves may come to

T, B, I, H = 40, 8, 16, 32  # noqa: E741


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> None:
    """The native backend alone: what the reference keeps is autograd's business."""
    backend = BACKENDS[0]
    rnn = elman.RNN(1, 1)
    if not elman.why(rnn, torch.zeros(1, 1, 1)).startswith("native"):
        pytest.skip(elman.why(rnn, torch.zeros(1, 1, 1)))
    monkeypatch.setattr(registry, "BACKENDS", (backend,))


def _kept(rnn: torch.nn.Module, x: Tensor, *arguments: Tensor) -> int:
    """Floats that one call keeps for backward, in distinct storages, other than its arguments and parameters."""
    given = {tensor.untyped_storage().data_ptr() for tensor in (x, *arguments, *rnn.parameters())}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in given:
            storages[storage.data_ptr()] = storage.nbytes() // tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output, _ = rnn(x, *arguments)
    output.sum().backward()  # while the storages live, so that no two are counted as one
    return sum(storages.values())


@pytest.mark.usefixtures("native")
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
def test_a_layer_keeps_at_most_its_outputs_for_backward(nonlinearity: str, batch_first: bool) -> None:
    rnn = elman.RNN(I, H, nonlinearity=nonlinearity, batch_first=batch_first)
    x = torch.randn(B, T, I) if batch_first else torch.randn(T, B, I)
    assert 1.0 <= _kept(rnn, x.requires_grad_()) / (T * B * H) <= 1.1
    assert _kept(rnn, x, torch.randn(1, B, H, requires_grad=True)) / (T * B * H) <= 1.1


@pytest.mark.usefixtures("native")
def test_each_layer_and_direction_keeps_its_outputs() -> None:
    rnn = elman.RNN(I, H, num_layers=3, bidirectional=True)
    assert _kept(rnn, torch.randn(T, B, I)) / (6 * T * B * H) <= 1.1


def test_the_count_sees_what_autograd_keeps() -> None:
    class Squares(torch.nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, None]:
            return (x + 1).square(), None

    assert _kept(Squares(), torch.randn(10, requires_grad=True)) == 10


def _growth(call: Callable[[], object], count: int) -> int:
    """Bytes by which the process has grown over ``count`` calls, after a tenth as many to warm up."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        pytest.skip("the size of the process is read from /proc/self/statm, which is not here")
    sizes = []
    for calls in (count // 10, count):
        for _ in range(calls):
            call()
        gc.collect()
        sizes.append(int(statm.read_text().split()[1]) * resource.getpagesize())
    return sizes[1] - sizes[0]


def test_memory_stays_flat_over_many_calls(backend: Backend) -> None:
    """100,000 calls where that takes seconds: forgetting a single tensor a call would take tens of megabytes."""
    rnn, x = elman.RNN(4, 8), torch.randn(3, 2, 4)
    assert _growth(lambda: rnn(x)[0].sum().backward(), 100_000 if backend.name == "native" else 2_000) < FLAT


def test_growth_sees_a_leak() -> None:
    kept: list[bytearray] = []
    assert _growth(lambda: kept.append(bytearray(10_000)), 10_000) > FLAT


def test_a_call_leaves_no_cycle_behind(backend: Backend) -> None:
    rnn, x = elman.RNN(4, 8), torch.randn(3, 2, 4)
    rnn(x)[0].sum().backward()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            rnn(x)[0].sum().backward()
        assert gc.collect() == 0
    finally:
        gc.enable()
