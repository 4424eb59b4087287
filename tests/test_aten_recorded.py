"""torch's own layers in recorded calls, as of a network on a GPU that no kernel runs: on the CPU, where torch's functions are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import elman
from cases import assert_same
from elman.backends import Operands, aten_recorded, operator, registry
from elman.backends.aten import AtenBackend
from elman.backends.cuda import backend, launcher
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from kinds import as_states
from slow import slow
from test_cuda_compiler import needs_nvrtc
from test_cuda_kernels import DEVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.filterwarnings("ignore::FutureWarning")]
T, B, I, H = 5, 4, 3, 6  # noqa: E741
NETWORKS: dict[str, Callable[..., elman.RNN | elman.GRU | elman.LSTM]] = {
    "rnn": elman.RNN,
    "gru": elman.GRU,
    "lstm": elman.LSTM,
    "projected": lambda *sizes, **options: elman.LSTM(*sizes, proj_size=2, **options),
}
OPTIONS: dict[str, dict[str, Any]] = {"plain": {}, "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True}}


@pytest.fixture
def torchs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every call of the test runs on torch's own layers."""
    monkeypatch.setattr(registry, "BACKENDS", (AtenBackend(), ReferenceBackend()))
    monkeypatch.setattr(AtenBackend, "refuses", lambda *call: None)
    monkeypatch.setattr(operator, "kernels_of", lambda x, recorded=None: aten_recorded)
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def evaluated(call: Any, rnn: Any, x: Tensor, hx: Any, **options: Any) -> list[Tensor]:
    """The results of a call and all gradients."""
    output, states = call(x.requires_grad_(), hx, **options)
    results = [output, *as_states(states)]
    loss = sum((result * torch.arange(1, 1 + result.numel()).view_as(result).sin()).sum() for result in results)
    given = [] if hx is None else [state.requires_grad_() for state in as_states(hx)]
    return [*results, *torch.autograd.grad(loss, [x, *given, *rnn.parameters()], allow_unused=True, materialize_grads=True)]


@pytest.mark.usefixtures("torchs")
@pytest.mark.parametrize("lengths", [None, [5, 0, 2, 1]], ids=["whole", "lengths"])
@pytest.mark.parametrize("given", [False, *slow(True)], ids=["zeros", "given"])
@pytest.mark.parametrize("options", [OPTIONS["plain"], *slow(OPTIONS["all at once"])], ids=OPTIONS)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_compiled_network_gives_the_eager_results(name: str, options: dict[str, Any], given: bool, lengths: list[int] | None) -> None:
    rnn = NETWORKS[name](I, H, dtype=torch.float64, **options)
    x = torch.randn((B, T, I) if rnn.batch_first else (T, B, I), dtype=torch.float64)
    count = rnn.stack.num_layers * rnn.stack.num_directions
    states = tuple(torch.randn(count, B, width, dtype=torch.float64, requires_grad=True) for width in rnn.stack.state_sizes)
    hx = (states if len(states) > 1 else states[0]) if given else None
    call = {} if lengths is None else {"lengths": torch.tensor(lengths)}
    seen = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.append(graph.graph)
        return graph.forward

    torch.compile(rnn, fullgraph=True, backend=keep)(x, hx, **call)
    assert [node.target for node in seen[0].nodes if "elman" in str(node.target)] == [torch.ops.elman.scan]
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    assert compiled(x, hx, **call)[0].is_contiguous()  # as its fake one is
    for place, (one, other) in enumerate(zip(evaluated(compiled, rnn, x, hx, **call), evaluated(rnn, rnn, x, hx, **call), strict=True)):
        assert_same({f"{place}": one.detach()}, {f"{place}": other.detach()}, 1e-12)


@pytest.mark.usefixtures("torchs")
def test_what_needs_no_gradient_gets_none() -> None:
    gru = elman.GRU(I, H, dtype=torch.float64)
    gru.weight_ih_l0.requires_grad_(False)
    compiled = torch.compile(gru, fullgraph=True, backend="aot_eager")
    compiled(torch.randn(T, B, I, dtype=torch.float64))[0].sum().backward()
    assert gru.weight_ih_l0.grad is None
    assert gru.weight_hh_l0.grad is not None


@pytest.mark.usefixtures("torchs")
def test_an_exported_network_takes_any_number_of_steps_and_sequences() -> None:
    lstm = elman.LSTM(I, H, 2, dtype=torch.float64).eval()
    x = torch.randn(T, B, I, dtype=torch.float64)
    program = torch.export.export(lstm, (x,), dynamic_shapes=({0: Dim("T", max=100), 1: Dim("B", max=100)},))
    for steps, batch in ((T, B), (9, 2)):
        x = torch.randn(steps, batch, I, dtype=torch.float64)
        assert torch.equal(program.module()(x)[0], lstm(x)[0])


SCAN = torch.ops.elman.scan.default
GRU = ("gru", H, 1, False, True, 0, False, False)


def scanned(x: Tensor, params: list[Tensor], **given: Any) -> Tensor:
    """The outputs of the operator for a GRU."""
    names = ("h_0", "c_0", "params", "batch_sizes", "lengths", "reset", "fresh_h", "fresh_c")
    output: Tensor = SCAN(x, *(dict.fromkeys(names) | {"params": params} | given).values(), *GRU, True)[0]
    return output


@pytest.mark.usefixtures("torchs")
def test_resets_of_a_call_that_was_recorded_elsewhere_are_heeded() -> None:
    gru, x = elman.GRU(I, H, learn_initial_state=True, dtype=torch.float64), torch.randn(T, B, I, dtype=torch.float64)
    torch.nn.init.uniform_(gru.h_0)
    reset, fresh = torch.rand(T, B) < 0.4, gru.h_0.detach().clone().requires_grad_()
    params = [gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0]
    output = scanned(x, params, h_0=gru.h_0.unsqueeze(1).expand(-1, B, -1), reset=reset, fresh_h=fresh)
    expected, _ = ReferenceBackend().run(
        gru.stack, Operands(x, (gru.h_0.unsqueeze(1).expand(-1, B, -1),), params, Spans(reset=reset, fresh=(fresh,)))
    )
    leaves = [*params, gru.h_0, fresh]
    assert_same({"output": output.detach()}, {"output": expected.detach()}, 1e-12)
    pairs = zip(*(torch.autograd.grad(each.sin().sum(), leaves) for each in (output, expected)), strict=True)
    for one, other in pairs:
        assert_same({"gradient": one}, {"gradient": other}, 1e-12)


@pytest.mark.usefixtures("torchs")
def test_autocast_around_an_operator_changes_nothing() -> None:
    gru, x = elman.GRU(I, H), torch.randn(T, B, I)
    found = []
    for enabled in (False, True):
        params = [parameter.detach().requires_grad_() for parameter in gru.parameters()]
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            output = scanned(x, params)
            output.sum().backward()
        assert output.dtype is torch.float32
        found.append([output.detach(), *(param.grad for param in params)])
    assert all(map(torch.equal, *found))


@pytest.mark.usefixtures("torchs")
def test_a_result_without_a_gradient_takes_none() -> None:
    """A single step: the recurrent weights, which h_0 of zeros is multiplied by, have no part in c."""
    lstm = elman.LSTM(I, H, proj_size=2, dtype=torch.float64).requires_grad_(False)
    lstm.weight_hr_l0.requires_grad_(True)
    x, found = torch.randn(1, B, I, dtype=torch.float64), []
    for call in (torch.compile(lstm, fullgraph=True, backend="aot_eager"), lstm):
        output, (_, c_n) = call(x)
        found.append(torch.autograd.grad(output.sum() + c_n.sum(), lstm.weight_hr_l0)[0])
    assert_same({"w_hr": found[0]}, {"w_hr": found[1]}, 1e-12)


@pytest.mark.usefixtures("torchs")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"lengths": torch.tensor([5, -1, 2, 3])}, "lengths from 0 to 5"),
        ({"lengths": torch.tensor([9, 1, 2, 3])}, "lengths from 0 to 5"),
        ({"h_0": torch.zeros(1, B - 1, H)}, "an initial state of shape"),
        ({"h_0": torch.zeros(1, B, H), "c_0": torch.zeros(1, B, H)}, "for each of 1 states, got 2"),
        ({"batch_sizes": torch.tensor([T * B])}, "x of shape"),
    ],
    ids=str,
)
def test_operands_that_do_not_fit_are_refused(given: dict[str, Tensor], words: str) -> None:
    params = [parameter.detach() for parameter in elman.GRU(I, H).parameters()]
    with pytest.raises(RuntimeError, match=words):
        scanned(torch.zeros(T, B, I), params, **given)


class _Watching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


def test_a_checkpoint_in_a_dispatch_mode_gives_what_was_saved_once() -> None:
    gru, x = elman.GRU(I, H), torch.randn(T, B, I)
    with _Watching():
        checkpoint(gru, x, use_reentrant=False)[0].sum().backward()
    expected = torch.autograd.grad(gru(x)[0].sum(), list(gru.parameters()))
    for parameter, gradient in zip(gru.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@needs_nvrtc
def test_the_operator_knows_which_networks_have_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "unavailable_reason", lambda: None)
    monkeypatch.setattr(launcher, "device_properties", lambda index: DEVICES["sm_90a"])
    monkeypatch.setattr(backend, "_refuses_shape", backend._refuses_shape.__wrapped__)
    for hidden, dtype, options, has_kernels in (
        (64, torch.float32, {}, True),
        (2500, torch.float32, {}, False),
        (64, torch.float64, {}, False),
        (64, torch.float32, {"proj_size": 8}, False),  # whose kernels run a network without a projection
    ):
        lstm = elman.LSTM(I, hidden, dtype=dtype, device="meta", **options)
        with FakeTensorMode():
            x = torch.empty(T, B, I, dtype=dtype, device="cuda")
        assert backend.has_kernels(lstm.stack, x) is has_kernels
        assert (operator.kernels_of(x, lstm.stack) is not aten_recorded) is has_kernels
