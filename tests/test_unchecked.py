"""The shortest way to the kernels: how often they are asked, whose errors come through, and what other code can do meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.overrides import TorchFunctionMode

import elman
from elman import zoo
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = required
every_layer = pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
either_mode = pytest.mark.parametrize("grad", [False, True], ids=["inference", "training"])
OWN = {"one state": (zoo.IndRNN, "h"), "two states": (zoo.PeepholeLSTM, "hc")}
every_own_cell = pytest.mark.parametrize("cell", OWN)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each time that the kernels were asked to run forward, whether they did not refuse."""
    from elman import _native

    answers: list[bool] = []

    def watch(name: str, forward: Callable[..., Any]) -> None:
        def spy(*operands: Any, **options: Any) -> Any:
            answers.append(False)
            done = forward(*operands, **options)
            answers[-1] = True
            return done

        monkeypatch.setattr(_native, name, spy)

    for name in ("forward", "program_forward"):
        watch(name, getattr(_native, name))
    return answers


@every_layer
@either_mode
def test_a_call_is_made_once(grad: bool, layer: str, asked: list[bool]) -> None:
    with torch.set_grad_enabled(grad):
        getattr(elman, layer)(8, 5)(torch.randn(6, 4, 8))
    assert asked == [True]


@every_own_cell
@either_mode
def test_so_is_one_of_an_own_cell(grad: bool, cell: str, asked: list[bool]) -> None:
    with torch.set_grad_enabled(grad):
        elman.Recurrent(OWN[cell][0](), 8, 5)(torch.randn(6, 4, 8))
    assert asked == [True]


SPREAD = "an expanded state"  # which is copied in front of the kernels, so that nothing is refused
ANYHOW = {
    "strided features": (torch.randn(6, 4, 16)[..., ::2], torch.randn(1, 4, 5)),
    "permuted": (torch.randn(8, 6, 4).permute(1, 2, 0), torch.randn(1, 4, 5)),
    SPREAD: (torch.randn(6, 4, 8), torch.randn(1, 1, 5).expand(1, 4, 5)),
}


@every_layer
@pytest.mark.parametrize("case", ANYHOW)
@either_mode
def test_what_is_to_be_copied_is_refused_once_at_most(grad: bool, case: str, layer: str, asked: list[bool]) -> None:
    rnn, (x, h_0) = getattr(elman, layer)(8, 5), ANYHOW[case]
    hx, dense = ((h, h) if layer == "LSTM" else h for h in (h_0, h_0.contiguous()))
    with torch.set_grad_enabled(grad):
        output, _ = rnn(x, hx)
    assert asked == ([True] if case == SPREAD else [False, True])
    assert torch.equal(output, rnn(x.contiguous(), dense)[0])


@every_own_cell
@pytest.mark.parametrize("case", ANYHOW)
@either_mode
def test_so_is_what_an_own_cell_is_given(grad: bool, case: str, cell: str, asked: list[bool]) -> None:
    kind, states = OWN[cell]
    rnn, (x, h_0) = elman.Recurrent(kind(), 8, 5), ANYHOW[case]
    hx, dense = ((h,) * len(states) if len(states) > 1 else h for h in (h_0, h_0.contiguous()))
    with torch.set_grad_enabled(grad):
        output, _ = rnn(x, hx)
    assert asked == ([True] if case == SPREAD else [False, True])
    assert torch.equal(output, rnn(x.contiguous(), dense)[0])


@pytest.mark.parametrize("cell", [zoo.CfC, zoo.GRUD], ids=lambda cell: cell.__name__)
@either_mode
def test_so_is_a_step_input_of_an_own_cell(grad: bool, cell: type, asked: list[bool]) -> None:
    rnn, x = elman.Recurrent(cell(), 8, 5), torch.randn(6, 4, 8)
    spread = {name: torch.rand(4, 6).T for name in rnn.cell.step_inputs}
    with torch.set_grad_enabled(grad):
        output, _ = rnn(x, **spread)
    assert asked == [False, True]
    assert torch.equal(output, rnn(x, **{name: given.contiguous() for name, given in spread.items()})[0])


@pytest.mark.parametrize("cell", ["RNNCell", "GRUCell", "LSTMCell"])
@torch.no_grad()
def test_so_is_a_cells_input(cell: str, asked: list[bool]) -> None:
    getattr(elman, cell)(8, 5)(torch.randn(4, 16)[:, ::2])
    assert asked == [False, True]


@every_layer
@either_mode
def test_what_has_no_batch_axis_is_refused_never(grad: bool, layer: str, asked: list[bool]) -> None:
    with torch.set_grad_enabled(grad):
        getattr(elman, layer)(8, 5)(torch.randn(6, 8))
    assert asked == [True]


class Doubled(Tensor):
    """Means twice the numbers that it has."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with torch._C.DisableTorchFunctionSubclass():
            plain = [2 * arg.as_subclass(Tensor) if isinstance(arg, Doubled) and "set" not in function.__name__ else arg for arg in args]
            return function(*plain, **(kwargs or {}))


LAZY = torch._neg_view(-torch.randn(1, 4, 5))  # the kernels refuse it before they look at what comes after it


@pytest.mark.parametrize("layer", ["GRU", "one state"])
@either_mode
def test_a_subclass_beside_what_is_to_be_copied_keeps_its_meaning(grad: bool, layer: str) -> None:
    rnn = elman.Recurrent(OWN[layer][0](), 8, 5) if layer in OWN else getattr(elman, layer)(8, 5)
    x = torch.randn(6, 4, 8)
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(rnn(x.as_subclass(Doubled), LAZY)[0].as_subclass(Tensor), rnn(2 * x, LAZY)[0])


@pytest.mark.parametrize("other", [lambda h: h.numpy(), lambda h: [1.0]], ids=["ndarray", "list"])
@pytest.mark.parametrize("layer", ["LSTM", "two states"])
@either_mode
def test_what_is_no_tensor_beside_it_is_named(grad: bool, layer: str, other: Callable[[Tensor], Any]) -> None:
    rnn = elman.Recurrent(OWN[layer][0](), 8, 5) if layer in OWN else elman.LSTM(8, 5)
    with torch.set_grad_enabled(grad), pytest.raises(TypeError, match="expected c_0 to be a tensor, got"):
        rnn(torch.randn(6, 4, 8), (LAZY, other(torch.randn(1, 4, 5))))


@either_mode
def test_so_is_a_step_input_that_is_no_tensor(grad: bool) -> None:
    rnn, x = elman.Recurrent(zoo.CfC(), 8, 5), torch.randn(6, 4, 8)
    with torch.set_grad_enabled(grad), pytest.raises(TypeError, match="expected dt to be a tensor, got ndarray"):
        rnn(torch._neg_view(-x), dt=torch.rand(6, 4).numpy())


@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM", *OWN])
def test_an_input_that_is_copied_gets_its_gradient(layer: str) -> None:
    rnn = elman.Recurrent(OWN[layer][0](), 8, 5) if layer in OWN else getattr(elman, layer)(8, 5)
    rnn, x = rnn.requires_grad_(False), torch.randn(6, 4, 16)
    found = []
    for at in (lambda t: t[..., ::2], lambda t: t[..., ::2].contiguous(), lambda t: torch._neg_view(-t[..., ::2])):
        leaf = x.clone().requires_grad_()
        rnn(at(leaf))[0].square().sum().backward()
        found.append(leaf.grad)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("layer", ["GRU", *OWN])
@pytest.mark.parametrize("error", [RuntimeError, TypeError, ValueError, AttributeError])
def test_an_error_of_a_hooks_comes_through(error: type[Exception], layer: str) -> None:
    seen: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        raise error("of the hook's own")

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), pytest.raises(error, match="of the hook's own"):
        (elman.Recurrent(OWN[layer][0](), 3, 4) if layer in OWN else elman.GRU(3, 4))(torch.randn(5, 2, 3))
    assert len(seen) == 1


@either_mode
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
@pytest.mark.parametrize("behind", [0, 64])
@pytest.mark.parametrize("name", ["x", "hx", "weight_hh_l0"])
def test_freed_memory_is_named(name: str, behind: int, steps: int, grad: bool) -> None:
    """Also in a call long enough to keep its operands' memory, which is asked for before anything is checked."""
    gru = elman.GRU(64, 64).requires_grad_(grad)
    gru.weight_hh_l0.data = torch.randn(behind + 192 * 64)[behind:].view(192, 64)
    given = {name: torch.randn(behind + count * 8 * 64)[behind:].view(count, 8, 64) for name, count in (("x", steps), ("hx", 1))}
    given["weight_hh_l0"] = gru.weight_hh_l0.data
    given[name].untyped_storage().resize_(0)
    with pytest.raises(RuntimeError, match="to lie in memory, got a null pointer: was its storage freed"):
        gru(given["x"], given["hx"])


@pytest.mark.parametrize("layer", ["GRU", "one state"])
@either_mode
def test_freed_memory_is_not_copied(grad: bool, layer: str) -> None:
    """PyTorch's copies of it crash."""
    rnn = elman.Recurrent(OWN[layer][0](), 8, 5) if layer in OWN else getattr(elman, layer)(8, 5)
    x = torch.randn(6, 4, 16)[..., ::2]
    x.untyped_storage().resize_(0)
    with torch.set_grad_enabled(grad), pytest.raises(RuntimeError, match="expected x with its features side by side"):
        rnn(x)


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


@pytest.mark.parametrize("behind", [0, 1])
@pytest.mark.parametrize("name", ["lengths", "reset", "batch_sizes"])
def test_so_is_what_says_which_steps_there_are(name: str, behind: int) -> None:
    there = torch.zeros(2, 2, dtype=torch.bool) if name == "reset" else torch.tensor([2, 2])
    gone = torch.cat((torch.zeros_like(there[:behind]), there))
    part = gone[behind:]
    gone.untyped_storage().resize_(0)
    x, spans = (PackedSequence(torch.ones(4, 3), part), {}) if name == "batch_sizes" else (torch.ones(2, 2, 3), {name: part})
    with pytest.raises(RuntimeError, match=f"expected {name} to lie in memory, got a null pointer: was its storage freed"):
        elman.GRU(3, 4)(x, **spans)
    if spans:
        zeros = torch._efficientzerotensor((behind + len(there), *there.shape[1:]), dtype=there.dtype)[behind:]
        elman.GRU(3, 4)(x, **{name: zeros})
