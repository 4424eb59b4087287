"""Cells of one's own as one operator: what torch.compile, torch.export, fake tensors and opcheck see of a network of them."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim
from torch.utils.flop_counter import FlopCounterMode

import elman
import own_cells
from cases import BACKENDS
from elman.backends import registry
from elman.backends.program import lookup
from elman.backends.program.lookup import program_of
from elman.backends.program.text import text_of
from kinds import as_states
from native import required

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from elman.cells import Cell

# torch's own compiler, exporter and tracer warn of each other.
pytestmark = [
    required,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

T, B, I, H = 5, 3, 3, 4  # noqa: E741
CELLS: dict[str, Cell] = {
    "gru": own_cells.Gru(),
    "peephole": own_cells.Peephole(),  # two states, vectors of its own
    "gru2014": own_cells.Gru2014(),  # a second product
    "decay": own_cells.Decay(),  # step inputs
    "layer norm": elman.zoo.LayerNormLSTM(),
    "min gru": elman.zoo.MinGRU(),  # no product
    "zoneout": elman.Zoneout(own_cells.Gru(), h=0.5),  # random numbers
}
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "all at once": {"num_layers": 2, "bidirectional": True, "batch_first": True, "learn_initial_state": True},
    "run again": {"num_layers": 2, "recompute": True},
}
OPERATOR = torch.ops.elman.program.default
every_cell = pytest.mark.parametrize("name", CELLS)
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No program has been recorded, and nothing compiled."""
    monkeypatch.setattr(lookup, "_found", {})
    torch.manual_seed(0)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def network(name: str, **options: Any) -> elman.Recurrent:
    rnn = elman.Recurrent(CELLS[name], I, H, dtype=torch.float64, **options)
    for parameter in rnn.parameters():  # initial states too, which are zeros at first
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return rnn


def data(rnn: elman.Recurrent, steps: int = T, batch: int = B) -> tuple[Tensor, dict[str, Tensor]]:
    """The input and the step inputs."""
    lead = (batch, steps) if rnn.batch_first else (steps, batch)
    shapes = {name: (*lead, *([H] if size else [])) for name, size in rnn.stack.cell.step_inputs.items()}
    return torch.randn(*lead, I, dtype=torch.float64), {name: torch.rand(shape, dtype=torch.float64) for name, shape in shapes.items()}


def spans(rnn: elman.Recurrent, which: str, steps: int = T, batch: int = B) -> dict[str, Tensor]:
    if which == "whole":
        return {}
    lengths = (torch.arange(batch) * 2 + 1).clamp(max=steps)
    reset = torch.arange(steps * batch).view(steps, batch) % 3 == 0
    return {"lengths": lengths, "reset": reset.t() if rnn.batch_first else reset} if which == "cut" else {"lengths": lengths}


def evaluated(call: Any, rnn: elman.Recurrent, x: Tensor, beside: dict[str, Tensor], **options: Any) -> list[Tensor]:
    """The results of a call and the gradients of all that has one."""
    leaves = [x.requires_grad_(), *[each.requires_grad_() for each in beside.values()], *rnn.parameters()]
    output, hx = call(x, **beside, **options)
    results = [output, *as_states(hx)]
    loss = sum((result * torch.arange(1, 1 + result.numel()).view_as(result).sin()).sum() for result in results)
    return [*results, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]


def assert_same(got: list[Tensor], expected: list[Tensor]) -> None:
    assert len(got) == len(expected)
    assert all(map(torch.equal, got, expected))


def calls(graph: torch.fx.Graph) -> list[object]:
    return [node.target for node in graph.nodes if node.op == "call_function" and "elman" in str(node.target)]


# --- torch's rules ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("which", ["whole", "lengths", "cut"])
@every_option
@every_cell
def test_the_operator_keeps_torchs_rules(name: str, options: dict[str, Any], which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its schema, its gradient's registration, its fake and its traced gradients, with the operands of a real call."""
    rnn = network(name, **options)
    x, beside = data(rnn)
    given: list[Any] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is OPERATOR:
                given.append(args)
            return func(*args, **(kwargs or {}))

    with Spy(), torch.no_grad():
        rnn(x, **beside, **spans(rnn, which))
    ((operands, *rest),) = given
    for save in (False, True):
        leaves = [operand.detach().clone().requires_grad_() for operand in operands]
        tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
        if not save:  # between the arrays that are saved lie numbers that nobody writes or reads
            tests.append("test_aot_dispatch_dynamic")
        torch.library.opcheck(OPERATOR, (leaves, *rest[:-1], save), test_utils=tests)


@every_option
@every_cell
def test_fake_tensors_have_the_shapes_strides_and_dtypes_of_real_ones(name: str, options: dict[str, Any]) -> None:
    rnn = network(name, **options)
    x, beside = data(rnn)
    real = rnn(x, **beside)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = rnn(mode.from_tensor(x), **{key: mode.from_tensor(value) for key, value in beside.items()})
    for got, expected in zip((fake[0], *as_states(fake[1])), (real[0], *as_states(real[1])), strict=True):
        assert (got.shape, got.stride(), got.dtype, got.device) == (expected.shape, expected.stride(), expected.dtype, expected.device)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "run again"])
@pytest.mark.parametrize("cell", elman.zoo.CELLS, ids=lambda cell: cell.__name__)
def test_as_much_is_saved_as_the_fake_says(cell: Any, recompute: bool, dtype: torch.dtype) -> None:
    rnn = elman.Recurrent(cell(), I, 17, 2, dtype=dtype, recompute=recompute)
    x = torch.randn(T, B, I, dtype=dtype)
    beside = [torch.rand(T, B, *([17] if size else []), dtype=dtype) for size in rnn.stack.cell.step_inputs.values()]
    form, text = [17, 2, 1, 1, int(recompute), 0, 0, 0, 0], text_of(program_of(rnn.stack.cell, dtype))
    operands = [x, *beside, *[parameter.detach() for parameter in rnn.parameters()]]
    for lengths in (None, torch.tensor([5, 2, 0])):
        real = OPERATOR(operands, lengths, None, text, form, True)
        with FakeTensorMode(allow_non_fake_inputs=True) as mode:
            fake = OPERATOR([mode.from_tensor(each) for each in operands], lengths, None, text, form, True)
        assert [each.shape for each in real] == [each.shape for each in fake]


# --- Compiled ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("which", ["whole", "lengths", "cut"])
@every_option
@every_cell
def test_a_compiled_network_gives_the_bits_of_the_eager_one(name: str, options: dict[str, Any], which: str) -> None:
    rnn = network(name, **options)
    x, beside = data(rnn)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    for training in (False, True):
        if training and rnn.stack.cell.draws:  # other numbers each time
            continue
        rnn.train(training)
        assert_same(*[evaluated(call, rnn, x, beside, **spans(rnn, which)) for call in (compiled, rnn)])


@pytest.mark.parametrize("name", ["peephole", "decay"])
def test_a_compiled_network_takes_initial_states_and_no_gradients(name: str) -> None:
    rnn = network(name)
    x, beside = data(rnn)
    hx = tuple(torch.randn(1, B, H, dtype=torch.float64) for _ in rnn.stack.cell.states)
    hx = hx if len(hx) > 1 else hx[0]
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        got, expected = (call(x, hx, **beside) for call in (compiled, rnn))
    assert_same([got[0], *as_states(got[1])], [expected[0], *as_states(expected[1])])


@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
def test_inductors_code_calls_the_kernels_and_gives_the_eager_bits(trains: bool) -> None:
    rnn = network("peephole", num_layers=2).requires_grad_(trains)
    x, _ = data(rnn)
    compiled = torch.compile(rnn, fullgraph=True)
    if not trains:
        got, code = run_and_get_code(compiled, x)
        expected = rnn(x)
        assert_same([got[0], *got[1]], [expected[0], *expected[1]])
    else:
        got, code = run_and_get_code(lambda: evaluated(compiled, rnn, x, {}))
        assert_same(got, evaluated(rnn, rnn, x, {}))
    text = "\n".join(code)
    assert "elman_program(" in text
    assert ("elman_program_backward(" in text) is trains
    assert "torch.ops.elman" not in "\n".join(line for line in text.splitlines() if " = " in line)


@pytest.mark.slow
@pytest.mark.parametrize("trains", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("name", ["gru", "decay"])
def test_no_size_needs_a_graph_of_its_own(name: str, trains: bool) -> None:
    """Torch takes the first size for the only one; the second tells it."""
    rnn = network(name).requires_grad_(trains)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    counters.clear()
    for steps, batch in ((5, 2), (17, 3), (50, 4), (123, 5)):
        x, beside = data(rnn, steps, batch)
        got, expected = (call(x, **beside) for call in (compiled, rnn))
        assert_same([got[0], *as_states(got[1])], [expected[0], *as_states(expected[1])])
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("steps", [3, 300])
def test_the_graph_is_as_small_for_many_steps(steps: int) -> None:
    rnn, seen = network("gru2014"), []

    def keep(graph: torch.fx.GraphModule, _: Any) -> Any:
        seen.append(graph.graph)
        return graph.forward

    torch.compile(rnn, fullgraph=True, backend=keep)(data(rnn, steps)[0])
    assert calls(seen[0]) == [torch.ops.elman.program]
    assert len(seen[0].nodes) < 60  # with one step that a compiler drops


def test_an_empty_batch_has_gradients_of_zeros() -> None:
    rnn = network("peephole")
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager", dynamic=True)
    compiled(data(rnn)[0])
    output, _ = compiled(torch.randn(T, 0, I, dtype=torch.float64))
    assert output.shape == (T, 0, H)
    assert all(not gradient.any() for gradient in torch.autograd.grad(output.sum(), list(rnn.parameters())))


FACTOR = 0.5


class Scaled(elman.Cell):
    """Depends on an option, on what its class defines, and on a global."""

    gates = ("n",)
    bend = 1.0

    def __init__(self, alpha: Any) -> None:
        self.alpha = alpha

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Tensor:
        return torch.tanh(FACTOR * x.n + self.alpha * r.n) * self.bend


def assert_followed(cell: Cell, changes: list[Callable[[], object]], atol: float = 0) -> None:
    """A compiled network gives the eager one's numbers after each change, which are others each time."""
    rnn = elman.Recurrent(cell, I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    compiled = torch.compile(rnn, fullgraph=True, backend="aot_eager")
    seen = []
    for change in (lambda: None, *changes):
        change()
        seen.append(rnn(x)[0])
        torch.testing.assert_close(compiled(x)[0], seen[-1], rtol=0, atol=atol)
    assert all(not torch.equal(one, two) for one, two in pairwise(seen))


def test_what_the_step_depends_on_is_looked_at_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Scaled(1.0)
    of_class, of_module = partial(monkeypatch.setattr, Scaled, "bend", 0.75), partial(monkeypatch.setitem, globals(), "FACTOR", 2.0)
    assert_followed(cell, [partial(setattr, cell, "alpha", 0.25), of_class, of_module])


SCALE = torch.tensor(0.5, dtype=torch.float64)


class Held(Scaled):
    """Depends on a tensor of its own, and on a global one."""

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Tensor:
        return torch.tanh(x.n + r.n + self.alpha) * SCALE


def test_so_is_a_tensor_whose_numbers_no_compiler_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Held(torch.tensor(0.5, dtype=torch.float64))
    fill, another = partial(cell.alpha.fill_, 0.25), partial(setattr, cell, "alpha", torch.tensor(0.75, dtype=torch.float64))
    of_module = partial(monkeypatch.setitem, globals(), "SCALE", torch.tensor(2.0, dtype=torch.float64))
    assert_followed(cell, [fill, another, of_module], atol=1e-15)  # the compiler has torch's own operations


def by_value(self: Any, x: Any, r: Any, s: Any, p: Any) -> Any:
    return torch.stack([x.f, r.n]).amax(0) * s.h, s.c


def test_a_step_that_cannot_be_recorded_is_compiled_as_it_stands() -> None:
    rnn = elman.Recurrent(own_cells.cell(by_value), I, H, dtype=torch.float64)
    x = torch.randn(T, B, I, dtype=torch.float64)
    assert elman.why(rnn, x).startswith("reference: native does not run")
    assert_same(*[evaluated(call, rnn, x, {}) for call in (torch.compile(rnn, fullgraph=True, backend="aot_eager"), rnn)])


def test_a_compiled_gradient_cannot_be_differentiated_again() -> None:
    rnn = network("gru")
    x = data(rnn)[0].requires_grad_()
    output = torch.compile(rnn, fullgraph=True, backend="aot_eager")(x)[0]
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(torch.autograd.grad(output.sum(), x, create_graph=True)[0].sum(), x)


# --- Exported, and watched --------------------------------------------------------------------------------------------


class WithStepInputs(torch.nn.Module):
    """A model around a network of ``own_cells.Decay``."""

    def __init__(self, rnn: elman.Recurrent) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, dt: Tensor, mask: Tensor) -> Any:
        return self.rnn(x, dt=dt, mask=mask)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True], ids=["as it runs", "strict"])
@every_cell
def test_an_exported_network_takes_any_number_of_steps_and_sequences(name: str, strict: bool) -> None:
    rnn = network(name, num_layers=2).eval()
    x, beside = data(rnn)
    sizes = {0: Dim("T", max=100), 1: Dim("B", max=100)}
    module = WithStepInputs(rnn) if beside else rnn
    program = torch.export.export(module, (x, *beside.values()), dynamic_shapes=(sizes,) * (1 + len(beside)), strict=strict)
    assert calls(program.graph) == [OPERATOR]
    for steps, batch in ((5, 3), (9, 6), (3, 4)):
        x, beside = data(rnn, steps, batch)
        (got, finals), (expected, wanted) = program.module()(x, *beside.values()), rnn(x, **beside)
        assert_same([got, *as_states(finals)], [expected, *as_states(wanted)])


def test_what_the_operator_gave_may_be_written_into_without_a_compiler() -> None:
    rnn = network("peephole")
    x, _ = data(rnn)
    expected = torch.autograd.grad(rnn(x)[0].sum(), list(rnn.parameters()))
    with FlopCounterMode(display=False):
        output, _ = rnn(x)
        output += 1
        got = torch.autograd.grad(output.sum(), list(rnn.parameters()))
    assert_same(list(got), list(expected))


@pytest.mark.slow
@pytest.mark.parametrize("needs_grad", [False, True], ids=["weights", "x too"])
@every_option
@pytest.mark.parametrize("name", [name for name in CELLS if name != "gru2014"])  # for whose second product the reference makes a part twice
def test_the_operator_counts_as_the_reference(
    name: str, options: dict[str, Any], needs_grad: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rnn = network(name, **options)
    x, beside = data(rnn)
    count_of_states = rnn.num_layers * rnn.stack.num_directions
    states = [torch.randn(count_of_states, B, H, dtype=torch.float64, requires_grad=True) for _ in rnn.stack.cell.states]

    def count() -> tuple[int, int]:
        with FlopCounterMode(display=False) as forward:
            output, hx = rnn(x.detach().requires_grad_(needs_grad), tuple(states) if len(states) > 1 else states[0], **beside)
        with FlopCounterMode(display=False) as backward:
            sum(t.sum() for t in (output, *as_states(hx))).backward()
        return forward.get_total_flops(), backward.get_total_flops()

    counted = count()
    monkeypatch.setattr(registry, "BACKENDS", BACKENDS[-1:])
    assert counted == count()
    assert counted[0] > 0
