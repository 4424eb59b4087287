"""torch's own layers in recorded calls, as of a network on a GPU that no kernel runs: on the CPU, where torch's functions are the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

import elman
from cases import assert_same
from elman.backends import aten_recorded, operator, registry
from elman.backends.aten import AtenBackend
from elman.backends.cuda import backend, launcher
from elman.backends.reference import ReferenceBackend
from kinds import as_states
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
@pytest.mark.parametrize("given", [False, True], ids=["zeros", "given"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
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
