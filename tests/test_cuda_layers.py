"""The layers on a GPU: torch.nn's and float64's numbers, gradients always, and what torch does with a layer. Skipped without a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import elman
from elman.backends.cuda import launcher

pytestmark = [
    pytest.mark.skipif(launcher.unavailable_reason() is not None, reason=f"no kernel can run: {launcher.unavailable_reason()}"),
    pytest.mark.filterwarnings("ignore:RNN module weights are not part of single contiguous chunk"),
]

LAYERS = {"RNN": (elman.RNN, nn.RNN), "GRU": (elman.GRU, nn.GRU), "LSTM": (elman.LSTM, nn.LSTM)}
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
# Half the distance of neighbouring numbers near 1, tf32's for float32: what one rounding of an operand may cost.
ROUNDING = {torch.bfloat16: 2.0**-9, torch.float16: 2.0**-12, torch.float32: 2.0**-12}


def error(found: Tensor, expected: Tensor) -> float:
    """The norm of the difference over the norm of what is expected."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


def run(layer: nn.Module, x: Tensor, grad_output: Tensor, *args: Any, **options: Any) -> list[Tensor]:
    """The outputs, and the gradients of x and of every parameter."""
    x = x.detach().clone().requires_grad_()
    output = layer(x, *args, **options)[0]
    return [output.detach(), *torch.autograd.grad(output, [x, *layer.parameters()], grad_output.to(output.dtype), allow_unused=True)]


def three(name: str, dtype: torch.dtype, *args: Any, **options: Any) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Elman's layer, torch's, and torch's in float64, with the same weights."""
    ours, theirs = (cls(*args, device="cuda", dtype=dtype, **options) for cls in LAYERS[name])
    theirs.load_state_dict(ours.state_dict())
    exact = LAYERS[name][1](*args, device="cuda", dtype=torch.float64, **options)
    exact.load_state_dict(ours.state_dict())
    return ours, theirs, exact


def new(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, device="cuda", dtype=dtype)


@pytest.fixture(autouse=True)
def poisoned() -> None:
    """Memory that torch hands out next holds NaN: whatever is not written shows."""
    torch.manual_seed(0)
    blocks = [torch.full((size // 4,), torch.nan, device="cuda") for size in (1 << 9, 1 << 12, 1 << 16, 1 << 20, 1 << 24) for _ in range(8)]
    del blocks


SHAPES: dict[str, tuple[int, int, int, dict[str, Any]]] = {
    "notebook": (20, 3, 5, {}),
    "odd": (37, 3, 11, {}),
    "tiny": (5, 4, 9, {"num_layers": 2}),
    "blocks without units": (300, 17, 7, {}),
    "stacked": (128, 16, 40, {"num_layers": 2, "bidirectional": True}),
    "batch first": (256, 9, 30, {"batch_first": True, "bidirectional": True}),
    "no bias": (512, 20, 16, {"bias": False}),
    "large": (1024, 70, 6, {}),
    "weights in shared memory": (768, 130, 5, {}),
    "those of float32": (512, 130, 5, {}),
}
PROJECTED: dict[str, dict[str, Any]] = {
    "one": {"proj_size": 32},
    "stacked": {"proj_size": 40, "num_layers": 2, "bidirectional": True},
    "large": {"proj_size": 200},
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_errors_are_torchs(name: str, dtype: torch.dtype, shape: str) -> None:
    hidden, batch, steps, options = SHAPES[shape]
    ours, theirs, exact = three(name, dtype, 24, hidden, **options)
    leading = (batch, steps) if options.get("batch_first") else (steps, batch)
    x, grad = new(*leading, 24, dtype=dtype), new(*leading, hidden * (2 if options.get("bidirectional") else 1), dtype=dtype)
    expected = run(exact, x.double(), grad)
    assert elman.why(ours, x).split(":")[0] in {"cuda", "aten"}
    for found, torchs, right in zip(run(ours, x, grad), run(theirs, x, grad), expected, strict=True):
        # Each of some roundings on the way to a number may go either way: torch's error is one draw of the same.
        assert error(found, right) <= 1.3 * error(torchs, right) + 2 * ROUNDING[dtype]


@pytest.mark.parametrize("given", [False, True], ids=["zeros", "initial states"])
@pytest.mark.parametrize("shape", PROJECTED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_so_are_a_projected_lstms(dtype: torch.dtype, shape: str, given: bool) -> None:
    hidden, options = 512 if shape == "large" else 128, PROJECTED[shape]
    ours, theirs, exact = three("LSTM", dtype, 24, hidden, **options)
    directions, layers = 1 + options.get("bidirectional", False), options.get("num_layers", 1)
    x, grad = new(30, 9, 24, dtype=dtype), new(30, 9, directions * options["proj_size"], dtype=dtype)
    hx = [new(directions * layers, 9, size, dtype=dtype) for size in (options["proj_size"], hidden)]
    args, exact_args = ((tuple(hx),), (tuple(state.double() for state in hx),)) if given else ((), ())
    assert elman.why(ours, x).startswith("cuda")
    expected = run(exact, x.double(), grad, *exact_args)
    for found, torchs, right in zip(run(ours, x, grad, *args), run(theirs, x, grad, *args), expected, strict=True):
        assert error(found, right) <= 1.3 * error(torchs, right) + 2 * ROUNDING[dtype]


@pytest.mark.parametrize("name", LAYERS)
def test_float32_is_exact_where_tf32_is_not_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ours, _, exact = three(name, torch.float32, 24, 128, 2, bidirectional=True)
    x, grad = new(30, 9, 24, dtype=torch.float32), new(30, 9, 256, dtype=torch.float32)
    assert elman.why(ours, x).startswith("cuda")
    assert max(map(error, run(ours, x, grad), run(exact, x.double(), grad))) < 30 * 2.0**-24


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("given", ["lengths", "reset", "both"])
@pytest.mark.parametrize("name", LAYERS)
def test_lengths_and_resets_agree_with_the_reference(name: str, given: str, dtype: torch.dtype) -> None:
    cls = LAYERS[name][0]
    ours = cls(24, 96, 2, bidirectional=True, learn_initial_state=True, device="cuda", dtype=dtype)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    exact = cls(24, 96, 2, bidirectional=True, learn_initial_state=True, device="cuda", dtype=torch.float64)
    exact.load_state_dict(ours.state_dict())
    lengths, reset = torch.tensor([13, 0, 5, 1, 13, 12, 2, 7, 3, 9]), torch.rand(13, 10, device="cuda") < 0.2
    options = {} if given == "reset" else {"lengths": lengths}
    options |= {} if given == "lengths" else {"reset": reset}
    x, grad = new(13, 10, 24, dtype=dtype), new(13, 10, 192, dtype=dtype)
    if given != "reset":
        x[torch.arange(13, device="cuda")[:, None] >= lengths.cuda()] = 0
    assert elman.why(ours, x, **options).startswith("cuda")
    assert elman.why(exact, x.double(), **options).startswith("reference")
    assert max(map(error, run(ours, x, grad, **options), run(exact, x.double(), grad, **options))) < 12 * ROUNDING[dtype]


def test_padding_changes_nothing() -> None:
    gru, lengths = elman.GRU(24, 64, 2, bidirectional=True, device="cuda", dtype=torch.bfloat16), [7, 3, 0, 5]
    x = new(7, 4, 24)
    padded = x.clone()
    for sequence, length in enumerate(lengths):
        padded[length:, sequence] = torch.nan
    assert torch.equal(gru(x, lengths=lengths)[0], gru(padded, lengths=lengths)[0])
    grad = new(7, 4, 128)
    assert all(found.isfinite().all() for found in run(gru, padded, grad, lengths=lengths))


@pytest.mark.parametrize("enforce_sorted", [True, False])
def test_packed_sequences_are_lengths(enforce_sorted: bool) -> None:
    lstm, x = elman.LSTM(24, 128, 2, bidirectional=True, device="cuda", dtype=torch.bfloat16), new(12, 6, 24)
    lengths = torch.tensor([12, 9, 9, 4, 1, 1] if enforce_sorted else [4, 12, 1, 9, 9, 1])
    packed, finals = lstm(pack_padded_sequence(x, lengths, enforce_sorted=enforce_sorted))
    output, expected = lstm(x, lengths=lengths)
    assert torch.equal(pad_packed_sequence(packed)[0], output)
    assert all(map(torch.equal, finals, expected))


@pytest.mark.parametrize(("name", "hidden"), [("RNN", 256), ("GRU", 128), ("LSTM", 512), ("GRU", 1024)])
def test_bits_do_not_move(name: str, hidden: int) -> None:
    layer, x, grad = LAYERS[name][0](64, hidden, device="cuda", dtype=torch.bfloat16), new(40, 20, 64), new(40, 20, hidden)
    first = run(layer, x, grad)
    for _ in range(100):
        assert all(map(torch.equal, run(layer, x, grad), first))


def test_a_sequence_alone_is_the_same_as_in_a_batch() -> None:
    gru, x = elman.GRU(64, 128, device="cuda", dtype=torch.bfloat16), new(30, 40, 64)
    assert torch.equal(gru(x)[0][:, 7], gru(x[:, 7:8].contiguous())[0][:, 0])


@pytest.mark.parametrize("name", LAYERS)
def test_a_trace_and_its_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    ours, _, _ = three(name, torch.float32, 16, 32, 2, bidirectional=True)
    exact = LAYERS[name][0](16, 32, 2, bidirectional=True, device="cuda", dtype=torch.float64)
    exact.load_state_dict(ours.state_dict())
    found = []
    for layer in (ours, exact):
        x = torch.linspace(-1, 1, 9 * 4 * 16, device="cuda", dtype=next(layer.parameters()).dtype).view(9, 4, 16).requires_grad_()
        traced = layer.trace(x, lengths=[9, 0, 4, 7])
        parts = [traced.output, traced.h, traced.last, *traced.gates.values()]
        found.append([*parts, *torch.autograd.grad(sum(part.square().sum() for part in parts), [x, *layer.parameters()])])
    assert max(map(error, *found)) < 1e-5


def test_recompute_keeps_less_and_changes_nothing() -> None:
    once, again = (elman.LSTM(64, 128, 2, recompute=recompute, device="cuda", dtype=torch.bfloat16) for recompute in (False, True))
    again.load_state_dict(once.state_dict())
    x, grad = new(50, 16, 64), new(50, 16, 128)
    assert all(map(torch.equal, run(once, x, grad), run(again, x, grad)))


@pytest.mark.parametrize(("name", "saved_per_step"), [("RNN", 1), ("GRU", 5), ("LSTM", 6)])
def test_memory_that_is_kept(name: str, saved_per_step: int) -> None:
    layer, x = LAYERS[name][0](64, 128, device="cuda", dtype=torch.bfloat16), new(64, 64, 64).requires_grad_()
    layer(x)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    output = layer(x)
    elements = (torch.cuda.memory_allocated() - before) / 2
    assert elements == pytest.approx(saved_per_step * 64 * 64 * 128, rel=0.05)
    del output


def test_a_cuda_graph_replays_it() -> None:
    assert_a_graph_replays(elman.GRU(64, 128, device="cuda", dtype=torch.bfloat16), new(50, 8, 64))


def assert_a_graph_replays(layer: nn.Module, x: Tensor) -> None:
    """Raise unless a captured call gives the same outputs as the layer, of numbers that are there at the replay."""
    with torch.no_grad():
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            layer(x)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = layer(x)[0]
        x.copy_(torch.randn_like(x))
        graph.replay()
        assert torch.equal(output, layer(x)[0])


def test_autocast_runs_in_its_dtype() -> None:
    ours, x = elman.LSTM(32, 64, device="cuda"), new(10, 4, 32, dtype=torch.float32)
    with torch.autocast("cuda", torch.bfloat16):
        output, (_, c_n) = ours(x)
    assert output.dtype is c_n.dtype is torch.bfloat16
    assert error(output, ours.double()(x.double())[0]) < 12 * ROUNDING[torch.bfloat16]


def test_a_compiled_network_is_one_graph() -> None:
    lstm, x, grad = elman.LSTM(32, 64, 2, device="cuda", dtype=torch.bfloat16), new(10, 4, 32), new(10, 4, 64)
    compiled = torch.compile(lstm, fullgraph=True)
    assert all(map(torch.equal, run(compiled, x, grad), run(lstm, x, grad)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_gradient_is_differentiated_again(dtype: torch.dtype) -> None:
    gru, x = elman.GRU(8, 16, device="cuda", dtype=dtype), new(6, 3, 8, dtype=dtype).requires_grad_()
    (grad,) = torch.autograd.grad(gru(x)[0].square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.square().sum(), x)
    exact = nn.GRU(8, 16, device="cuda", dtype=torch.float64)
    exact.load_state_dict(gru.state_dict())
    with torch.backends.cudnn.flags(enabled=False):
        y = x.detach().double().requires_grad_()
        (grad,) = torch.autograd.grad(exact(y)[0].square().sum(), y, create_graph=True)
        (expected,) = torch.autograd.grad(grad.square().sum(), y)
    assert error(second, expected) < 0.02 if dtype is torch.float32 else error(second, expected) < 1e-12


def test_what_the_kernels_do_not_run_goes_to_torchs_own_layers() -> None:
    ours, theirs, _ = three("LSTM", torch.float64, 16, 32, 2)
    x, grad = new(9, 4, 16, dtype=torch.float64), new(9, 4, 32, dtype=torch.float64)
    assert elman.why(ours, x).startswith("aten: cuda ")
    assert max(map(error, run(ours, x, grad), run(theirs, x, grad))) < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_network_that_is_too_large_goes_there_with_lengths_and_under_autocast(dtype: torch.dtype) -> None:
    gru = elman.GRU(8, 2500, device="cuda")
    x, lengths = new(6, 5, 8, dtype=torch.float32), torch.tensor([6, 0, 2, 1, 4])
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype is torch.bfloat16):
        assert elman.why(gru, x, lengths=lengths).startswith("aten: cuda has no plan")
        output, _ = gru(x, lengths=lengths)
    exact = elman.GRU(8, 2500, device="cuda", dtype=torch.float64)
    exact.load_state_dict(gru.state_dict())
    assert output.dtype is dtype
    assert error(output, exact(x.double(), lengths=lengths)[0]) < (0.03 if dtype is torch.bfloat16 else 0.003)


def test_it_is_compiled_as_one_operator_there() -> None:
    gru, x, grad = elman.GRU(8, 2500, device="cuda"), new(6, 5, 8, dtype=torch.float32), new(6, 5, 2500, dtype=torch.float32)
    compiled = torch.compile(gru, fullgraph=True)
    assert max(map(error, run(compiled, x, grad), run(gru, x, grad))) < 40 * ROUNDING[torch.float32]


def test_streams_run_beside_each_other() -> None:
    lstm, x = elman.LSTM(1024, 1024, device="cuda", dtype=torch.bfloat16), new(20, 32, 1024)  # blocks that wait for each other
    with torch.no_grad():
        expected = lstm(x)[0]
        torch.cuda.synchronize()
        streams, outputs = [torch.cuda.Stream() for _ in range(4)], []
        for turn in range(40):
            with torch.cuda.stream(streams[turn % 4]):
                outputs.append(lstm(x)[0])
        torch.cuda.synchronize()
    assert all(torch.equal(output, expected) for output in outputs)
