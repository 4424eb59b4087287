"""Cells of one's own on the CUDA kernels in recorded calls: compiled, exported, and as fake tensors see them; on the emulated device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.utils._python_dispatch import TorchDispatchMode

import cuda_emulator
import elman
import own_cells
from elman.backends import Operands, kernels, registry
from elman.backends.cuda import backend, launcher, own
from elman.backends.cuda.backend import CudaBackend
from elman.backends.program.lookup import program_of
from elman.backends.program.text import text_of
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from kinds import as_states
from native import required
from slow import slow
from test_cuda_compiler import needs_nvrtc
from test_cuda_kernels import DEVICES
from test_cuda_own import NoInput
from test_program_operator import calls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elman.cells import Cell

# torch's own compiler, exporter and tracer warn of each other.
pytestmark = [
    required,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
T, B, I, H = 4, 5, 3, 20  # noqa: E741
OPERATOR = torch.ops.elman.program.default
BACKWARD = torch.ops.elman.program_backward.default
CELLS: dict[str, Cell] = {
    "gru2014": own_cells.Gru2014(),  # a second product
    "decay": own_cells.Decay(),  # step inputs
    "layer norm": elman.zoo.LayerNormLSTM(),
    "min gru": elman.zoo.MinGRU(),  # no product
    "zoneout": elman.Zoneout(own_cells.Gru(), h=0.5),  # random numbers
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True, "learn_initial_state": True},
    "run again": {"num_layers": 2, "recompute": True, "bias": False},
}
FORMS = ("whole", "lengths", "lengths and reset")


@pytest.fixture
def on_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every call of the test runs on the emulated kernels."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cuda_emulator.install(monkeypatch)
    monkeypatch.setattr(registry, "BACKENDS", (CudaBackend(), ReferenceBackend()))
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def call_of(cell: Cell, form: str = "whole", **options: Any) -> tuple[elman.Recurrent, Tensor, dict[str, Any]]:
    """A network, its input, and what it takes beside."""
    rnn = elman.Recurrent(cell, I, H, **options)
    first = (B, T) if rnn.batch_first else (T, B)
    beside: dict[str, Any] = {name: torch.rand(*first, *[H] * bool(size)) for name, size in cell.step_inputs.items()}
    if "lengths" in form:
        beside["lengths"] = torch.tensor([3, 0, T, 1, 2])
    if "reset" in form:
        beside["reset"] = torch.arange(T * B).view(first) % 3 == 0
    return rnn, torch.randn(*first, I), beside


def evaluated(call: Any, rnn: elman.Recurrent, x: Tensor, beside: dict[str, Any]) -> list[Tensor]:
    """The results of a call, and the gradients of all that has one."""
    torch.manual_seed(1)  # for random numbers
    given = [value.requires_grad_() for value in beside.values() if value.is_floating_point()]
    output, hx = call(x.requires_grad_(), **beside)
    results = [output, *as_states(hx)]
    loss = sum((result * torch.arange(1, 1 + result.numel()).view_as(result).sin()).sum() for result in results)
    leaves = [x, *given, *rnn.parameters()]
    return [*results, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels", "poisoned")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", ["decay", *slow(*(name for name in CELLS if name != "decay"))])
def test_a_compiled_network_gives_the_bits_of_the_eager_one(name: str, options: dict[str, Any], form: str) -> None:
    rnn, x, beside = call_of(CELLS[name], form, **options)
    rnn.train(not CELLS[name].draws)  # of which a compiler draws others
    seen = []

    def keep(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        seen.append(calls(graph.graph))
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(rnn, fullgraph=True, backend=keep)
    for one, other in zip(evaluated(compiled, rnn, x, beside), evaluated(rnn, rnn, x, beside), strict=True):
        assert torch.equal(one, other)
    assert seen == [[torch.ops.elman.program]]


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels")
def test_random_numbers_reach_a_recorded_run() -> None:
    rnn, x, _ = call_of(CELLS["zoneout"])
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    one, other = (compiled(x)[0] for _ in range(2))
    assert not torch.equal(one, other)
    assert torch.autograd.grad(one.sum(), list(rnn.parameters()))[0].isfinite().all()


@cuda_emulator.required
@pytest.mark.slow
@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("name", CELLS)
def test_an_exported_network_takes_any_number_of_steps_and_sequences(name: str) -> None:
    rnn, x, beside = call_of(CELLS[name])
    rnn.eval()
    sizes = {0: Dim("T", max=100), 1: Dim("B", max=100)}

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, x: Tensor, beside: dict[str, Tensor]) -> Any:
            return self.rnn(x, **beside)

    dynamic = {"x": sizes, "beside": dict.fromkeys(beside, sizes)}
    program = torch.export.export(Model(), (x, beside), dynamic_shapes=dynamic)
    assert calls(program.graph) == [OPERATOR]
    for steps, batch in ((T, B), (7, 9), (1, 1)):
        x = torch.randn(steps, batch, I)
        beside = {key: torch.rand(steps, batch, *value.shape[2:]) for key, value in beside.items()}
        got, expected = program.module()(x, beside), rnn(x, **beside)
        for one, other in zip((got[0], *as_states(got[1])), (expected[0], *as_states(expected[1])), strict=True):
            assert torch.equal(one, other)


def operands_of(cell: Cell, **form: int) -> tuple[list[Tensor], str, list[int]]:
    """What the operator takes of a call with two layers, both directions, initial and fresh states."""
    rnn = elman.Recurrent(cell, I, H, 2, bidirectional=True)
    states, fresh = ([torch.randn(4, *sizes, H) for _ in cell.states] for sizes in ((B,), ()))
    beside = [torch.rand(T, B, *[H] * bool(size)) for size in cell.step_inputs.values()]
    operands = [torch.randn(T, B, I), *states, *fresh, *beside, *[parameter.detach() for parameter in rnn.parameters()]]
    sizes = {
        "hidden_size": H,
        "layers": 2,
        "directions": 2,
        "bias": 1,
        "recompute": 0,
        "batch_first": 0,
        "states": 1,
        "fresh": 1,
        "draws": 0,
    }
    return operands, text_of(program_of(cell, torch.float32, units=H)), list((sizes | form).values())


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("recompute", [0, 1], ids=["kept", "run again"])
@pytest.mark.parametrize("name", [name for name in CELLS if name != "zoneout"])
def test_results_are_as_the_fake_ones(name: str, recompute: int) -> None:
    operands, text, form = operands_of(CELLS[name], recompute=recompute)
    for lengths in (None, torch.tensor([T, 2, 0, 1, 3])):
        real = OPERATOR(operands, lengths, None, text, form, True)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = OPERATOR([mode.from_tensor(each) for each in operands], lengths, None, text, form, True)
        assert [(each.shape, each.stride(), each.dtype) for each in real] == [(each.shape, each.stride(), each.dtype) for each in fake]


# --- Which recorded calls are refused -------------------------------------------------------------------------------------


def test_recorded_calls_are_refused_as_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "is_recorded", lambda: True)
    stack, x = Stack(own_cells.Gru2014(), I, H), torch.zeros(T, B, I)
    params = [torch.zeros(shape) for shape in stack.shapes]
    assert own.refuses(stack, Operands(x, None, params)) is None
    packed = Spans(batch_sizes=torch.tensor([2, 1]))
    assert "PackedSequence" in str(own.refuses(stack, Operands(x, None, params, packed)))
    looping = Stack(own_cells.cell(lambda self, x, r, s, p: (torch.stack([x.f, r.n]).amax(0) * s.h, s.c)), I, H)
    assert own.refuses(looping, Operands(x, None, [torch.zeros(shape) for shape in looping.shapes]))
    monkeypatch.setattr(kernels, "_missing", "they are not built")
    assert "without the kernels" in str(own.refuses(stack, Operands(x, None, params)))


@needs_nvrtc  # which knows what it compiles for a device
def test_so_are_those_for_which_a_device_has_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "unavailable_reason", lambda: None)
    monkeypatch.setattr(launcher, "device_properties", lambda index: DEVICES["sm_80"])
    monkeypatch.setattr(backend, "_refuses_shape", backend._refuses_shape.__wrapped__)
    text = text_of(program_of(own_cells.Gru2014(), torch.float32, units=H))
    assert backend._refuses_recorded(text, 64, torch.bfloat16, 0) is None
    assert "has no plan" in str(backend._refuses_recorded(text, 4096, torch.bfloat16, 0))
    assert "input" in str(backend._refuses_recorded(text_of(program_of(NoInput(), torch.float32, units=H)), 64, torch.bfloat16, 0))


@needs_nvrtc
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in CELLS if name != "zoneout"])
def test_a_call_on_a_gpu_is_recorded_as_one_operator(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fake tensors are on a GPU where there is none."""
    monkeypatch.setattr(launcher, "unavailable_reason", lambda: None)
    monkeypatch.setattr(launcher, "device_properties", lambda index: DEVICES["sm_90a"])
    monkeypatch.setattr(backend, "_refuses_shape", backend._refuses_shape.__wrapped__)
    rnn, x, beside = call_of(CELLS[name], num_layers=2, dtype=dtype)
    seen = []

    class Spy(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for key, parameter in list(rnn.named_parameters()):
            setattr(rnn, key, torch.nn.Parameter(torch.empty_like(parameter, device="cuda")))
        x, beside = (
            torch.empty_like(x, device="cuda", dtype=dtype),
            {k: torch.empty_like(v, device="cuda", dtype=dtype) for k, v in beside.items()},
        )
        assert elman.why(rnn, x, **beside) == f"cuda: {str(dtype).removeprefix('torch.')} on the GPU"
        with Spy():
            output, finals = rnn(x, **beside)
    assert seen.count(OPERATOR) == 1
    assert len(seen) < 10  # and not a step's operations
    for result, shape in ((output, (T, B, H)), *((final, (2, B, H)) for final in as_states(finals))):
        assert (result.shape, result.device.type, result.dtype) == (shape, "cuda", dtype)
