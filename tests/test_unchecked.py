"""The shortest way to the kernels: how often they are asked, whose errors come through, and what other code can do meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

import elman
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = required
every_layer = pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that the kernels were asked to run forward, whether they did not refuse."""
    from elman import _native

    answers: list[bool] = []

    def forward(*operands: Any, forward: Callable[..., Any] = _native.forward, **options: Any) -> Any:
        answers.append(False)
        done = forward(*operands, **options)
        answers[-1] = True
        return done

    monkeypatch.setattr(_native, "forward", forward)
    return answers


ANYHOW = {
    "strided features": (torch.randn(6, 4, 16)[..., ::2], torch.randn(1, 4, 5)),
    "permuted": (torch.randn(8, 6, 4).permute(1, 2, 0), torch.randn(1, 4, 5)),
    "an expanded state": (torch.randn(6, 4, 8), torch.randn(1, 1, 5).expand(1, 4, 5)),
}


@every_layer
@pytest.mark.parametrize("case", ANYHOW)
@torch.no_grad()
def test_what_is_to_be_copied_is_refused_once(case: str, layer: str, asked: list[bool]) -> None:
    rnn, (x, h_0) = getattr(elman, layer)(8, 5), ANYHOW[case]
    hx, dense = ((h, h) if layer == "LSTM" else h for h in (h_0, h_0.contiguous()))
    output, _ = rnn(x, hx)
    assert asked == [False, True]
    assert torch.equal(output, rnn(x.contiguous(), dense)[0])


@pytest.mark.parametrize("cell", ["RNNCell", "GRUCell", "LSTMCell"])
@torch.no_grad()
def test_so_is_a_cells_input(cell: str, asked: list[bool]) -> None:
    getattr(elman, cell)(8, 5)(torch.randn(4, 16)[:, ::2])
    assert asked == [False, True]


@every_layer
@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
def test_what_has_no_batch_axis_is_refused_never(grad: bool, layer: str, asked: list[bool]) -> None:
    with torch.set_grad_enabled(grad):
        getattr(elman, layer)(8, 5)(torch.randn(6, 8))
    assert asked == [True]


@every_layer
def test_an_input_that_is_copied_gets_its_gradient(layer: str) -> None:
    rnn, x = getattr(elman, layer)(8, 5).requires_grad_(False), torch.randn(6, 4, 16)
    found = []
    for at in (lambda t: t[..., ::2], lambda t: t[..., ::2].contiguous(), lambda t: torch._neg_view(-t[..., ::2])):
        leaf = x.clone().requires_grad_()
        rnn(at(leaf))[0].square().sum().backward()
        found.append(leaf.grad)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, AttributeError])
def test_an_error_of_a_hooks_comes_through(error: type[Exception]) -> None:
    seen: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        raise error("of the hook's own")

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), pytest.raises(error, match="of the hook's own"):
        elman.GRU(3, 4)(torch.randn(5, 2, 3))
    assert len(seen) == 1


@pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("kind", [lambda h: h, memoryview, lambda h: bytearray(h.tobytes())], ids=["ndarray", "memoryview", "bytearray"])
def test_an_array_is_no_state_and_no_parameter(kind: Callable[[Any], Any], grad: bool) -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(5, 2, 3)
    with torch.set_grad_enabled(grad):
        with pytest.raises(TypeError, match="expected hx to be a tensor, got"):
            rnn(x, kind(np.zeros((1, 2, 4), np.float32)))
        for names in (["weight_hh_l0"], list(dict(rnn.named_parameters()))):
            spoiled = elman.GRU(3, 4)
            for name in names:
                spoiled._parameters[name] = kind(getattr(rnn, name).detach().numpy())
            with pytest.raises(TypeError, match=f"expected {names[0]} to be a tensor"):
                spoiled(x)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("steps", [2, 200])
@pytest.mark.parametrize("name", ["x", "hx", "weight_hh_l0"])
def test_freed_memory_is_named(name: str, steps: int, grad: bool) -> None:
    """Also in a call long enough to keep its operands' memory, which is asked for before anything is checked."""
    gru = elman.GRU(64, 64).requires_grad_(grad)
    given = {"x": torch.randn(steps, 8, 64), "hx": torch.randn(1, 8, 64), "weight_hh_l0": gru.weight_hh_l0.data}
    given[name].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="to lie in memory, got a null pointer: was its storage freed"):
        gru(given["x"], given["hx"])


class _Swap(TorchFunctionMode):
    """Gives x other memory as soon as its memory is asked for, as another thread may."""

    def __init__(self, x: Tensor, other: Callable[[], Tensor]) -> None:
        super().__init__()
        self.x, self.other, self.swapped = x, other, False

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        storage = function(*args, **(kwargs or {}))
        if function is torch.Tensor.untyped_storage and args[0] is self.x and not self.swapped:
            self.swapped = True
            self.x.data = self.other()
        return storage


@pytest.mark.parametrize(
    "other",
    [lambda x: x[:-1], lambda x: x[::2], lambda x: x.double(), lambda x: x.clone(), lambda x: x[:, :, :0]],
    ids=["shorter, there", "strided, there", "another type", "elsewhere", "empty"],
)
@torch.no_grad()
def test_what_changes_while_its_memory_is_kept_is_refused(other: Callable[[Tensor], Tensor]) -> None:
    """A call long enough to give Python's lock away."""
    gru, x = elman.GRU(64, 64), torch.randn(200, 8, 64)
    before = x.detach()
    swap = _Swap(x, lambda: other(before))
    with swap, pytest.raises(RuntimeError, match="expected"):
        gru(x)
    assert swap.swapped
