"""The native call as one operator: what torch.compile, torch.export, make_fx, fake tensors and opcheck see of a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import elman
from native import evaluate, random_like, required

if TYPE_CHECKING:
    from collections.abc import Iterator

# torch's own compiler, exporter and tracer warn of each other.
pytestmark = [
    required,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

OPTIONS = {
    "plain": {},
    "without bias": {"bias": False, "nonlinearity": "relu"},
    "deep": {"num_layers": 2},
    "all at once": {"num_layers": 3, "bidirectional": True, "batch_first": True},
}
every_network = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
OPERATOR = torch.ops.elman.scan.default


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def _network(options: dict[str, object]) -> tuple[elman.RNN, Tensor, Tensor]:
    """A network, its input and its state."""
    rnn = elman.RNN(3, 4, **options, dtype=torch.float64)
    state = torch.randn(rnn.num_layers * (1 + rnn.bidirectional), 2, 4, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    return rnn, x.transpose(0, 1).contiguous() if rnn.batch_first else x, state


@pytest.mark.parametrize("form", ["padded", "packed"])
@pytest.mark.parametrize("given_state", [False, True], ids=["fresh", "h_0"])
@every_network
def test_the_operator_keeps_torchs_rules(options: dict[str, object], given_state: bool, form: str) -> None:
    """Its schema, its gradient's registration, its fake and its traced gradients."""
    rnn, x, state = _network(options)
    sizes = torch.tensor([2, 2, 1]) if form == "packed" else None
    x = torch.randn(5, 3, dtype=torch.float64) if form == "packed" else (x.transpose(0, 1) if rnn.batch_first else x)
    arguments = (
        x.requires_grad_() if x.is_leaf else x.detach().requires_grad_(),
        state.requires_grad_() if given_state else None,
        list(rnn.parameters()),
        sizes,
        rnn.stack.cell.name,
        rnn.num_layers,
        rnn.bidirectional,
        rnn.bias,
        rnn.batch_first,
    )
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    if form == "padded" or given_state:  # else the number of rows is in the data, which a traced gradient has not
        tests.append("test_aot_dispatch_dynamic")
    torch.library.opcheck(OPERATOR, arguments, test_utils=tests)


@every_network
def test_a_compiled_network_is_the_eager_one(options: dict[str, object]) -> None:
    rnn, x, state = _network(options)
    expected = evaluate(rnn, x, state)
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    compiled = torch.compile(rnn, fullgraph=True, backend=backend)
    output, h_n = compiled(x.requires_grad_(), state.requires_grad_())
    got = {"output": output, "h_n": h_n}
    leaves = {"x": x, **dict(rnn.named_parameters()), "hx": state}
    gradients = torch.autograd.grad((output, h_n), list(leaves.values()), (random_like(output), random_like(h_n)))
    got |= {f"d {name}": gradient for name, gradient in zip(leaves, gradients, strict=True)}
    assert len(graphs) == 1
    for name, value in expected.items():
        assert torch.equal(got[name].detach(), value), name


def test_a_compiled_network_takes_any_number_of_steps_and_rows() -> None:
    rnn, _, _ = _network(OPTIONS["all at once"])
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager", dynamic=True)
    for B, T in ((2, 5), (3, 7), (4, 2)):
        x = torch.randn(B, T, 3, dtype=torch.float64)
        assert torch.equal(compiled(x)[0], rnn(x)[0])


def test_a_compiled_training_step_is_the_eager_one() -> None:
    rnn, x, _ = _network(OPTIONS["deep"])

    def loss(x: Tensor) -> Tensor:
        return rnn(2 * x)[0].square().sum()

    expected = torch.autograd.grad(loss(x), list(rnn.parameters()))
    got = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(x), list(rnn.parameters()))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@every_network
def test_an_exported_network_takes_any_number_of_steps_and_rows(options: dict[str, object]) -> None:
    rnn, x, _ = _network(options)
    shape = {0: Dim("B", max=100), 1: Dim("T", max=100)} if rnn.batch_first else {0: Dim("T", max=100), 1: Dim("B", max=100)}
    program = torch.export.export(rnn, (x,), dynamic_shapes=(shape,))
    calls = [node for node in program.graph.nodes if node.op == "call_function" and node.target is OPERATOR]
    assert len(calls) == 1
    for size in ((5, 2), (9, 6), (3, 4)):
        x = torch.randn(*size, 3, dtype=torch.float64)
        for got, expected in zip(program.module()(x), rnn(x), strict=True):
            assert torch.equal(got, expected)


@every_network
def test_fake_tensors_have_the_shapes_strides_and_dtypes_of_real_ones(options: dict[str, object]) -> None:
    rnn, x, state = _network(options)
    real = rnn(x, state)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = rnn(mode.from_tensor(x), mode.from_tensor(state))
    for got, expected in zip(fake, real, strict=True):
        assert (got.shape, got.stride(), got.dtype, got.device) == (expected.shape, expected.stride(), expected.dtype, expected.device)


def test_a_trace_sees_one_operator() -> None:
    rnn, x, state = _network({"num_layers": 2, "bidirectional": True})
    graph = make_fx(lambda x: rnn(x, state)[0])(x)
    calls = [node.target for node in graph.graph.nodes if node.op == "call_function" and "elman" in str(node.target)]
    assert calls == [OPERATOR]
    assert torch.equal(graph(2 * x), rnn(2 * x, state)[0])


def test_a_trace_of_packed_sequences_sees_one_operator() -> None:
    """How many sequences there are is in the data, so the state is left to the operator."""
    rnn, x, _ = _network({"num_layers": 2, "bidirectional": True})
    packed = pack_sequence([x[:5, 0], x[:3, 1]])

    def run(data: Tensor) -> Tensor:
        result: Tensor = rnn(PackedSequence(data, packed.batch_sizes))[0].data
        return result

    graph = make_fx(run)(packed.data)
    assert [node.target for node in graph.graph.nodes if "elman" in str(node.target)] == [OPERATOR]
    assert torch.equal(graph(2 * packed.data), run(2 * packed.data))
