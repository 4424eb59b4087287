"""The native call as one operator: what torch.compile, torch.export, make_fx, fake tensors and opcheck see of a network."""

from __future__ import annotations

import inspect
import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.utils import counters
from torch._functorch.compile_utils import fx_graph_cse
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import elman
from kinds import GRU, LSTM, PROJECTED, RELU, TANH, Kind, as_hx, as_states, every_kind
from native import evaluate, initial_states, named, required

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch's own compiler, exporter and tracer warn of each other.
pytestmark = [
    required,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

NETWORKS: dict[str, tuple[Kind, dict[str, object]]] = {
    "plain": (TANH, {}),
    "without bias": (RELU, {"bias": False}),
    "deep": (TANH, {"num_layers": 2}),
    "all at once": (TANH, {"num_layers": 3, "bidirectional": True, "batch_first": True}),
    "gru": (GRU, {}),
    "gru, all at once": (GRU, {"num_layers": 2, "bidirectional": True, "batch_first": True, "recompute": True}),
    "lstm": (LSTM, {}),
    "lstm, run again": (LSTM, {"recompute": True}),
    "lstm, all at once": (LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True, "bias": False}),
    "lstm projected, all at once": (PROJECTED, {"num_layers": 2, "bidirectional": True, "recompute": True}),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
OPERATOR = torch.ops.elman.scan.default


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _network(name: str) -> tuple[torch.nn.Module, Tensor, tuple[Tensor, ...]]:
    """A network, its input and its states."""
    kind, options = NETWORKS[name]
    rnn = kind.build(elman, 3, 4, **options, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    return rnn, x.transpose(0, 1).contiguous() if rnn.batch_first else x, initial_states(rnn, 2)


def _two(states: list[Tensor]) -> list[Tensor | None]:
    """The states as the operator takes them."""
    return [*states, None, None][:2]


@pytest.mark.slow
@pytest.mark.parametrize("form", ["padded", "packed", "lengths", "cut"])
@pytest.mark.parametrize("given_state", [False, True], ids=["fresh", "h_0"])
@pytest.mark.parametrize("save", [False, True], ids=["unsaved", "saved"])
@every_network
def test_the_operator_keeps_torchs_rules(name: str, save: bool, given_state: bool, form: str) -> None:
    """Its schema, its gradient's registration, its fake and its traced gradients."""
    rnn, x, states = _network(name)
    sizes = torch.tensor([2, 2, 1]) if form == "packed" else None
    stack, batch_first = rnn.stack, rnn.batch_first and form != "packed"
    x = torch.randn(5, 3, dtype=torch.float64) if form == "packed" else x
    what = (stack.cell.name, stack.hidden_size, stack.num_layers, stack.bidirectional, stack.bias, stack.proj_size, stack.recompute)
    initial = _two([state.requires_grad_() for state in states] if given_state else [])
    lengths = torch.tensor([3, 5]) if form in ("lengths", "cut") else None
    reset = torch.arange(10).view(5, 2) % 3 == 0 if form == "cut" else None
    fresh = _two([torch.randn_like(state[:, 0]).requires_grad_() for state in states] if form == "cut" and given_state else [])
    arguments = (x.requires_grad_(), *initial, list(rnn.parameters()), sizes, lengths, reset, *fresh, *what, batch_first, save)
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if form != "packed" or given_state:  # else the number of sequences is in the data, which a traced gradient has not
        tests.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(OPERATOR, arguments, test_utils=tests)


@every_kind
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "run again"])
def test_the_operator_keeps_torchs_rules_in_bfloat16(kind: Kind, recompute: bool) -> None:
    """There, what is saved is of another dtype than x."""
    rnn = kind.build(elman, 3, 4, 2, dtype=torch.bfloat16, recompute=recompute)
    stack, x = rnn.stack, torch.randn(5, 2, 3).bfloat16().requires_grad_()
    what = (stack.cell.name, 4, 2, False, True, stack.proj_size, recompute)
    arguments = (x, None, None, list(rnn.parameters()), None, None, None, None, None, *what, False, True)
    torch.library.opcheck(OPERATOR, arguments, test_utils=["test_schema", "test_faketensor", "test_aot_dispatch_dynamic"])


@every_network
def test_a_compiled_network_is_the_eager_one(name: str) -> None:
    rnn, x, states = _network(name)
    expected = evaluate(rnn, x, states)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    got = evaluate(_Called(torch.compile(rnn, fullgraph=True, backend=backend), rnn), x, states)
    assert len(graphs) == 1
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(got[key], value), key


class _Called:
    """A compiled network with the parameters' names of the one it was compiled from."""

    def __init__(self, compiled: object, original: torch.nn.Module) -> None:
        self.compiled, self.named_parameters = compiled, original.named_parameters

    def __call__(self, *arguments: object) -> object:
        return self.compiled(*arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if name.endswith("all at once")])
def test_a_compiled_network_takes_any_number_of_steps_and_rows(name: str) -> None:
    rnn, _, _ = _network(name)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager", dynamic=True)
    parameters = list(rnn.parameters())
    for shape in ((2, 5), (3, 7), (4, 2)):
        x = torch.randn(*shape, 3, dtype=torch.float64)
        got, expected = compiled(x)[0], rnn(x)[0]
        assert torch.equal(got, expected)
        for one, two in zip(*(torch.autograd.grad(output.sum(), parameters) for output in (got, expected)), strict=True):
            assert torch.equal(one, two)


@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("beside", ["nothing", "lengths", "reset", "hx"])
@pytest.mark.parametrize("dynamic", [None, True], ids=["by itself", "dynamic"])
@pytest.mark.slow
def test_no_size_needs_a_graph_of_its_own(dynamic: bool | None, beside: str, trains: bool) -> None:
    """Torch takes the first size for the only one, unless it is told; the second tells it."""
    lstm = elman.LSTM(3, 4).requires_grad_(trains)
    compiled = torch.compile(lstm, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    counters.clear()
    for steps, batch in ((5, 2), (17, 3), (50, 4), (123, 5)):
        x, hx, spans = torch.randn(steps, batch, 3, requires_grad=trains), (), {}
        if beside == "lengths":
            spans = {"lengths": torch.arange(batch)}
        elif beside == "reset":
            spans = {"reset": torch.arange(steps * batch).view(steps, batch) % 7 == 0}
        elif beside == "hx":
            hx = (as_hx(initial_states(lstm, batch)),)
        got, expected = compiled(x, *hx, **spans)[0], lstm(x, *hx, **spans)[0]
        assert torch.equal(got, expected)
        if trains:
            gradients = (torch.autograd.grad(output.square().sum(), [x, *lstm.parameters()]) for output in (got, expected))
            assert all(map(torch.equal, *gradients))
    assert counters["stats"]["unique_graphs"] == (1 if dynamic else 2)


@pytest.mark.parametrize("name", ["deep", "gru", "lstm, run again"])
def test_a_compiled_training_step_is_the_eager_one(name: str) -> None:
    rnn, x, _ = _network(name)

    def loss(x: Tensor) -> Tensor:
        return rnn(2 * x)[0].square().sum()

    expected = torch.autograd.grad(loss(x), list(rnn.parameters()))
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), list(rnn.parameters()))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def _written_into(rnn: torch.nn.Module, x: Tensor) -> Tensor:
    """Calls of a network, of each of which some result was written into."""

    def run(*arguments: object) -> tuple[Tensor, tuple[Tensor, ...]]:
        output, states = rnn(x, *arguments)
        return output, as_states(states)

    total = run()[0].mul_(2).sum() + run()[0].add_(x.sum()).square().sum() + torch.relu_(run()[0]).sum()
    output, _ = run()
    output[1:].zero_()
    output[0, 0] = 3 * x.sum()
    total = total + output.square().sum()
    output, finals = run()
    total = total + finals[-1].mul_(2).sum() + output.square().sum()
    output, finals = run()
    finals[0].add_(1)
    total = total + output.tanh_().sum() * finals[0].sum()
    output, finals = run()
    finals[0].mul_(0.5)  # and on it goes
    return total + run(as_hx(finals))[0].mul_(3).sum() + output.sum()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deep", "gru", "lstm projected, all at once"])
def test_what_a_compiled_network_gave_may_be_written_into(name: str) -> None:
    rnn, x, _ = _network(name)
    leaves = [x.requires_grad_(), *rnn.parameters()]
    expected = torch.autograd.grad(_written_into(rnn, x), leaves)
    compiled = torch.compile(lambda x: _written_into(rnn, x), fullgraph=True, backend="aot_eager")
    for got, one in zip(torch.autograd.grad(compiled(x), leaves), expected, strict=True):
        torch.testing.assert_close(got, one, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NETWORKS if "all at once" in name or "again" in name])
def test_a_compiler_need_not_know_sizes_to_take_a_network_whole(name: str) -> None:
    """In two parts the first part's output would be saved where the second writes into it. Not fullgraph, which asks for more symbols."""
    rnn, _, _ = _network(name)
    compiled = torch.compile(lambda x: rnn(x)[0].mul_(2), backend="aot_eager")
    for shape in ((5, 3), (5, 4), (7, 6)):  # the second time torch lets a size vary, the third time the other
        x = torch.randn(*shape, 3, dtype=torch.float64, requires_grad=True)
        leaves = [x, *rnn.parameters()]
        expected = torch.autograd.grad(rnn(x)[0].mul_(2).square().sum(), leaves)
        for got, one in zip(torch.autograd.grad(compiled(x).square().sum(), leaves), expected, strict=True):
            torch.testing.assert_close(got, one, rtol=0, atol=1e-12)


@pytest.mark.skipif(
    "extra_node_key" in inspect.signature(fx_graph_cse).parameters,
    reason="torch's compiler merges no call of the backward pass with the same one of the forward pass here",
)
@pytest.mark.parametrize("name", ["deep", "gru", "lstm"])
def test_a_compiler_runs_a_network_once_though_its_output_was_written_into(name: str) -> None:
    """With Inductor's way to part what runs forward from what runs backward."""
    rnn, x, _ = _network(name)
    graphs: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return make_boxed_func(graph)

    backend = aot_autograd(fw_compiler=compiler, bw_compiler=compiler, partition_fn=min_cut_rematerialization_partition)
    torch.compile(lambda x: rnn(x)[0].mul_(2), fullgraph=True, backend=backend)(x).sum().backward()
    calls = [node for graph in graphs for node in graph.graph.nodes if node.target is OPERATOR]
    assert (len(graphs), len(calls)) == (2, 1)


def test_what_the_operator_gave_may_be_written_into_without_a_compiler() -> None:
    rnn, x, _ = _network("gru")
    expected = torch.autograd.grad(rnn(x)[0].mul_(2).sum(), list(rnn.parameters()))
    output = OPERATOR(x, None, None, list(rnn.parameters()), *5 * [None], "gru", 4, 1, False, True, 0, False, False, True)[0]
    assert all(map(torch.equal, torch.autograd.grad(output.mul_(2).sum(), list(rnn.parameters())), expected))


@pytest.mark.parametrize("hooked", [False, True])
def test_what_the_operator_keeps_is_free_after_its_gradient_and_seen_by_hooks(hooked: bool) -> None:
    rnn, x, _ = _network("gru")
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, torch.clone) if hooked else nullcontext():
        output = OPERATOR(x, None, None, list(rnn.parameters()), *5 * [None], "gru", 4, 1, False, True, 0, False, False, True)[0]
    memory, node = weakref.ref(output.untyped_storage()), output.grad_fn
    loss = output.mul(2).sum()
    del output
    assert (memory() is None) is hooked  # what hooks do not see does not stay
    gradients = [torch.autograd.grad(loss, list(rnn.parameters()), retain_graph=again) for again in ((False,) if hooked else (True, False))]
    expected = torch.autograd.grad(rnn(x)[0].mul(2).sum(), list(rnn.parameters()))
    assert all(all(map(torch.equal, found, expected)) for found in gradients)
    assert node is not None
    assert memory() is None


@pytest.mark.parametrize("layer", ["RNN", "GRU", "LSTM"])
@pytest.mark.slow
def test_a_fresh_layer_with_dropout_compiles_in_its_first_call(layer: str) -> None:
    rnn, x = getattr(elman, layer)(3, 4, 2, dropout=0.5), torch.randn(5, 2, 3)
    assert torch.compile(rnn, fullgraph=True, backend="aot_eager")(x)[0].shape == (5, 2, 4)
    rnn = getattr(elman, layer)(3, 4, 2, dropout=0.5).eval()
    assert torch.equal(torch.compile(rnn, fullgraph=True, backend="aot_eager")(x)[0], rnn(x)[0])


@every_network
def test_an_exported_network_takes_any_number_of_steps_and_rows(name: str) -> None:
    rnn, x, _ = _network(name)
    shape = {0: Dim("B", max=100), 1: Dim("T", max=100)} if rnn.batch_first else {0: Dim("T", max=100), 1: Dim("B", max=100)}
    program = torch.export.export(rnn, (x,), dynamic_shapes=(shape,))
    calls = [node for node in program.graph.nodes if node.op == "call_function" and node.target is OPERATOR]
    assert len(calls) == 1
    for size in ((5, 2), (9, 6), (3, 4)):
        x = torch.randn(*size, 3, dtype=torch.float64)
        for got, expected in zip(*(named(*module(x)).values() for module in (program.module(), rnn)), strict=True):
            assert torch.equal(got, expected)


@every_network
def test_fake_tensors_have_the_shapes_strides_and_dtypes_of_real_ones(name: str) -> None:
    rnn, x, states = _network(name)
    real = rnn(x, as_hx(states))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = rnn(mode.from_tensor(x), as_hx(tuple(map(mode.from_tensor, states))))
    for got, expected in zip(named(*fake).values(), named(*real).values(), strict=True):
        assert (got.shape, got.stride(), got.dtype, got.device) == (expected.shape, expected.stride(), expected.dtype, expected.device)


every_deep_kind = pytest.mark.parametrize("kind", [TANH, GRU, LSTM, PROJECTED], ids=str)


@every_deep_kind
def test_a_trace_sees_one_operator(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4, 2, bidirectional=True), torch.randn(5, 2, 3)
    hx = as_hx(initial_states(rnn, 2))
    graph = make_fx(lambda x: rnn(x, hx)[0])(x)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function" and "elman" in str(node.target)]
    assert calls == [OPERATOR]
    assert torch.equal(graph(2 * x), rnn(2 * x, hx)[0])


@every_deep_kind
def test_a_trace_of_packed_sequences_sees_one_operator(kind: Kind) -> None:
    """How many sequences there are is in the data, so the state is left to the operator."""
    rnn, packed = kind.build(elman, 3, 4, 2, bidirectional=True), pack_sequence([torch.randn(5, 3), torch.randn(3, 3)])

    def run(data: Tensor) -> Tensor:
        result: Tensor = rnn(PackedSequence(data, packed.batch_sizes))[0].data
        return result

    graph = make_fx(run)(packed.data)
    assert [node.target for node in graph.graph.nodes if "elman" in str(node.target)] == [OPERATOR]
    assert torch.equal(graph(2 * packed.data), run(2 * packed.data))


def test_counts_may_be_strided_and_what_was_kept_must_be_whole() -> None:
    """The kernels read counts one after another, and as much of what was kept as the sizes say."""
    lstm, x = elman.LSTM(3, 4, 2, dtype=torch.float64), torch.randn(6, 3, 3, dtype=torch.float64)
    params, what = list(lstm.parameters()), ("lstm", 4, 2, False, True, 0, False, False)
    lengths = torch.tensor([6, 1, 2, 1, 4, 1])[::2]
    output, _, _, hidden, steps, _ = OPERATOR(x, None, None, params, None, lengths, None, None, None, *what, True)
    assert torch.equal(output, lstm(x, lengths=[6, 2, 4])[0])
    sizes = torch.tensor([3, 0, 3, 0, 1, 0])[::2]
    rows = x.flatten(0, 1)[:7]
    packed, whole = (OPERATOR(rows, None, None, params, counts, *4 * [None], *what, True)[0] for counts in (sizes, sizes.contiguous()))
    assert torch.equal(packed, whole)

    def backward(hidden: Tensor, steps: Tensor | None, checkpoints: Tensor | None, what: tuple[object, ...] = what) -> list[Tensor]:
        spans = (None, lengths, None, None, None)
        backward_: list[Tensor] = torch.ops.elman.scan_backward(
            output, None, None, x, None, None, params, *spans, output, hidden, steps, checkpoints, *what, 9 * [True]
        )
        return backward_

    assert all(gradient.isfinite().all() for gradient in backward(hidden, steps, None))
    with pytest.raises(RuntimeError, match="expected hidden of 18 rows"):
        backward(hidden[:, :12], steps, None)
    with pytest.raises(RuntimeError, match="expected saved of 36 rows"):
        backward(hidden, steps[:, :12], None)
    with pytest.raises(RuntimeError, match="expected checkpoints of"):
        backward(hidden, None, x.new_zeros(1), (*what[:6], True, False))


@pytest.mark.parametrize("packed", [False, True])
def test_counts_on_the_meta_device_are_refused(packed: bool) -> None:
    rnn, x, _ = _network("lstm")
    counts = torch.tensor([2, 2, 1] if packed else [3, 5], device="meta")
    spans = (counts, None) if packed else (None, counts)
    with pytest.raises(RuntimeError, match="expected batch_sizes and lengths on the CPU, got them on meta"):
        OPERATOR(x[0] if packed else x, None, None, list(rnn.parameters()), *spans, *3 * [None], "lstm", 4, 1, False, True, 0, *3 * [False])


@pytest.mark.parametrize(("place", "size"), [(2, 2**24), (2, 2**31), (2, 2**62), (1, 2**62), (1, 2**30), (1, -1), (5, 2**62)])
def test_sizes_beyond_the_parameters_are_refused_before_anything_is_built(place: int, size: int) -> None:
    rnn, x, _ = _network("lstm")
    what: list[object] = ["lstm", 4, 1, False, True, 0, False, False]
    params = list(rnn.parameters())
    run = (x, None, None, params, *5 * [None])
    output, _, _, *_ = OPERATOR(*run, *what, True)
    what[place] = size
    with pytest.raises(RuntimeError, match=r"^expected [^\n]+, got [^\n]+$"):
        OPERATOR(*run, *what, True)
    with pytest.raises(RuntimeError, match=r"^expected [^\n]+, got [^\n]+$"):
        torch.ops.elman.scan_backward(output, None, None, *run, output, None, None, None, *what, 5 * [True])
