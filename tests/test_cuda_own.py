"""Cells of one's own in calls as users make them, on the emulated CUDA kernels (cuda_emulator.py); and which calls are refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

import cuda_emulator
import elman
import own_cells
from cuda_usage import usage_of
from elman import zoo
from elman.backends import Operands, registry
from elman.backends.cuda import backend, launcher, own, run, source
from elman.backends.cuda.backend import CudaBackend
from elman.backends.cuda.choice import choose, registers_of_thread
from elman.backends.cuda.plan import Number
from elman.backends.cuda.shape import CELLS
from elman.backends.program.lookup import program_of
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from elman.backends.stack import Stack
from slow import slow
from test_cuda_compiler import needs_nvrtc
from test_cuda_kernels import DEVICES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

pytestmark = pytest.mark.usefixtures("poisoned")
T, B, I, H = 4, 5, 3, 20  # noqa: E741
ROUNDINGS = 2.0**-24 * 200  # of sums of some hundred numbers of about 1


@pytest.fixture
def on_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every call of the test runs on the emulated kernels."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    cuda_emulator.install(monkeypatch)
    monkeypatch.setattr(registry, "BACKENDS", (CudaBackend(), ReferenceBackend()))


def results(module: Any, x: Tensor, backends: Sequence[Any], monkeypatch: pytest.MonkeyPatch, **call: Any) -> list[Tensor]:
    """The output, the final states and the gradients of x and of all parameters."""
    with monkeypatch.context() as changed:
        changed.setattr(registry, "BACKENDS", tuple(backends))
        x = x.clone().requires_grad_()
        output, finals = module(x, **call)
        every = [output, *(finals if isinstance(finals, tuple) else (finals,))]
        total = torch.stack([(each * torch.cos(torch.arange(each.numel())).view(each.shape)).sum() for each in every]).sum()
        gradients = torch.autograd.grad(total, [x, *module.parameters()], allow_unused=True)
        return [each.detach() for each in every] + [torch.zeros(1) if each is None else each for each in gradients]


def check(cell: elman.Cell, monkeypatch: pytest.MonkeyPatch, *, steps: int = T, **options: Any) -> None:
    torch.manual_seed(0)
    module = elman.Recurrent(cell, I, H, **options)
    sizes = (B, steps) if options.get("batch_first") else (steps, B)
    x = torch.randn(*sizes, I)
    given = {name: torch.rand(*sizes, *([H] if size else [])) for name, size in cell.step_inputs.items()}
    found = results(module, x, [CudaBackend()], monkeypatch, **given)
    exact = {name: each.double() for name, each in given.items()}
    expected = results(module.double(), x.double(), [ReferenceBackend()], monkeypatch, **exact)
    for one, other in zip(found, expected, strict=True):
        assert float((one.double() - other).norm()) <= ROUNDINGS * max(1.0, float(other.norm()))


class _OfTwoProducts(elman.Cell):
    gates = ("n", "f")
    states = ("h", "c")


class EarlyState(_OfTwoProducts):
    """The second state is known before the last product."""

    def step(self, x, r, s, p):
        c = torch.tanh(s.c + x.n)
        return torch.tanh(r("n", c) + s.c) + 0 * r.f, c


class EarlyGradient(_OfTwoProducts):
    """The gradient of the second state is known before that of the last product's factor."""

    def step(self, x, r, s, p):
        f = torch.sigmoid(x.f + r.f)
        return torch.tanh(x.n + r("n", f * s.h) + s.c), f


class ManySums(elman.Cell):
    """More numbers at once of all units than an int has bits, and one that is not summed."""

    gates = ("n",)

    def step(self, x, r, s, p):
        n = torch.tanh(x.n + r.n)
        return n - sum((n * k).mean(-1, keepdim=True) for k in range(1, 34)) / 500 + n.amax(-1, keepdim=True) / 10


class EarlyParameter(elman.Cell):
    """So is a parameter's."""

    gates = ("n", "f")
    parameters = {"b": "H"}  # noqa: RUF012

    def step(self, x, r, s, p):
        return torch.tanh(p.b + x.n + r("n", torch.sigmoid(x.f + r.f) * s.h))


class NoProductOfH(elman.Cell):
    """Both gates multiply a factor, none h; and the last gate comes first."""

    gates = ("a", "b")

    def step(self, x, r, s, p):
        v = torch.tanh(x.b + s.h)
        w = torch.sigmoid(r("b", v))
        return torch.tanh(x.a + r("a", v * w)) + 0.5 * w


class OddPadding(elman.Cell):
    """What a unit without parameters computes is no number."""

    gates = ("a",)
    parameters = {"scale": "H"}  # noqa: RUF012

    def init(self, name: str, tensor: Tensor) -> bool:
        if name == "scale":
            tensor.fill_(2.0)
        return name == "scale"

    def step(self, x, r, s, p):
        return torch.tanh((x.a + r.a) / p.scale)


class Softmax(elman.Cell):
    """The largest number of a sequence, and sums, over the units."""

    gates = ("a", "b")

    def step(self, x, r, s, p):
        return torch.softmax(x.a + r.a, -1) * torch.tanh(x.b + r.b) + 0.5 * s.h


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("cell", [EarlyState, *slow(EarlyGradient, EarlyParameter, NoProductOfH, ManySums, OddPadding, Softmax)])
def test_odd_steps_are_the_references(cell: type[elman.Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    check(cell(), monkeypatch)


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize("cell", zoo.CELLS)
@pytest.mark.slow
def test_every_cell_of_the_zoo_is_the_references(cell: type[elman.Cell], monkeypatch: pytest.MonkeyPatch) -> None:
    check(cell(), monkeypatch, num_layers=2, bidirectional=True, batch_first=True)


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels")
@pytest.mark.parametrize(
    "options",
    [{}, *slow({"batch_first": True}, {"bias": False}, {"recompute": True}, {"learn_initial_state": True})],
    ids=lambda each: "".join(each),
)
def test_calls_are_the_references(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    check(own_cells.Decay(), monkeypatch, **options)
    check(own_cells.Gru2014(), monkeypatch, steps=1, **options)


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels")
def test_an_option_that_changes_after_a_call_leaves_its_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = elman.Recurrent(zoo.LeakyRNN(alpha=0.5), I, H), torch.randn(T, B, I)
    gradients = []
    for after in (0.5, 0.9):
        module.stack.cell.alpha = 0.5
        output, _ = module(x)
        module.stack.cell.alpha = after
        gradients.append(torch.autograd.grad(output.sum(), list(module.parameters())))
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels")
def test_a_gradient_is_differentiated_and_taken_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    module, x = elman.Recurrent(own_cells.Gru2014(), I, H), torch.randn(T, B, I, requires_grad=True)
    output, _ = module(x)
    first, again = (torch.autograd.grad(output.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, again)
    (gradient,) = torch.autograd.grad(output.square().sum(), x, create_graph=True)
    assert torch.autograd.grad(gradient.square().sum(), x)[0].isfinite().all()


@pytest.fixture
def under_autocast() -> Iterator[None]:
    """As torch.autocast("cuda", torch.bfloat16) would have it, which is not to be had without a GPU."""
    torch.set_autocast_enabled("cuda", True)
    yield
    torch.set_autocast_enabled("cuda", False)


@cuda_emulator.required
@pytest.mark.usefixtures("on_kernels", "under_autocast")
def test_autocast_computes_in_float32() -> None:
    cell, generator = own_cells.Gru2014(), torch.Generator().manual_seed(0)
    stack = Stack(cell, I, H)
    params = [torch.randn(shape, generator=generator) * 0.3 for shape in stack.shapes]
    x = torch.randn(T, B, I, generator=generator).bfloat16()
    output, finals = own.run_own(stack, Operands(x, None, params), False)
    torch.set_autocast_enabled("cuda", False)
    expected, last = own.run_own(stack, Operands(x.float(), None, params), False)
    assert torch.equal(output.float(), expected.to(output.dtype).float())
    assert torch.equal(finals[0].float(), last[0].to(finals[0].dtype).float())


def test_constants_are_no_part_of_a_kernel() -> None:
    stacks = [Stack(zoo.LeakyRNN(alpha=alpha), I, H) for alpha in (0.25, 0.75)]
    one, other = map(run.kernel_of, stacks)
    assert one.shape is other.shape
    assert one.forward != other.forward


class Divided(elman.Cell):
    """1 divided by an option's zero is infinite, on which side its sign says."""

    gates = ("n",)

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = by

    def step(self, x: Any, r: Any, s: Any, p: Any) -> Tensor:
        return torch.tanh((x.n * x.n + r.n * r.n + 1) / self.by)


def test_constants_that_are_equal_may_differ() -> None:
    """What is prepared for one of them is not for the other."""
    one, other = (run.kernel_of(Stack(Divided(by), I, H)) for by in (0.0, -0.0))
    assert one.shape is other.shape
    assert one != other


# --- What is refused ------------------------------------------------------------------------------------------------------


def refusal(cell: elman.Cell, x: Tensor | None = None, spans: Spans | None = None) -> str | None:
    stack = Stack(cell, I, H)
    params = [torch.zeros(shape) for shape in stack.shapes]
    return own.refuses(stack, Operands(torch.zeros(T, B, I) if x is None else x, None, params, spans or Spans()))


class AsksDtype(elman.Cell):
    gates = ("a",)

    def step(self, x, r, s, p):
        return torch.tanh(x.a + r.a) * (1.0 if s.h.dtype is torch.float32 else 2.0)


class NoInput(elman.Cell):
    gates = ("a",)
    input_gates = ()

    def step(self, x, r, s, p):
        return torch.tanh(r.a)


class ManyStates(elman.Cell):
    gates = ("a",)
    states = tuple(f"s{number}" for number in range(60))

    def step(self, x, r, s, p):
        return tuple(torch.tanh(x.a + r.a) * getattr(s, name) for name in self.states)


def test_what_the_kernels_do_not_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(own_cells.Gru2014()) is None
    assert refusal(AsksDtype()) is None
    for dtype in (torch.bfloat16, torch.float16):
        assert "asks for dtypes" in str(refusal(AsksDtype(), torch.zeros(T, B, I, dtype=dtype)))
    assert "input_gates are empty" in str(refusal(NoInput()))
    leaky = zoo.LeakyRNN()
    leaky.alpha = torch.zeros((), device="meta")
    for cell in (leaky, elman.Zoneout(leaky)):
        assert "tensor on another device" in str(refusal(cell))
    packed = Spans(batch_sizes=torch.tensor([2, 1]), step_inputs=(torch.zeros(2, 2),) * 2)
    assert "PackedSequence" in str(refusal(own_cells.Decay(), torch.zeros(3, I), packed))
    monkeypatch.setattr(own, "_get_tracing_state", lambda: object())
    assert "torch.jit.trace" in str(refusal(own_cells.Gru2014()))


@needs_nvrtc  # which knows what it compiles for a device
def test_what_a_device_has_no_room_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "unavailable_reason", lambda: None)
    monkeypatch.setattr(launcher, "device_properties", lambda index: DEVICES["sm_80"])
    refuses = backend._refuses_shape.__wrapped__
    monkeypatch.setattr(backend, "_refuses_shape", refuses)
    shape, wide = (run.kernel_of(Stack(cell, I, H)).shape for cell in (own_cells.Gru2014(), ManyStates()))
    assert refuses(shape, 64, Number.BFLOAT16, 0) is None
    assert "has no plan" in str(refuses(shape, 4096, Number.BFLOAT16, 0))
    assert "so many states" in str(refuses(wide, 64, Number.BFLOAT16, 0))
    # Where torch has layers they run what only one group of blocks has room for, with the help of shared memory.
    for hidden, expected in ((1024, "None"), (1280, "fast with many sequences"), (4096, "has no plan for hidden_size=4096 in bfloat16 on")):
        reason = backend._refuses_built_in.__wrapped__(CELLS["lstm"], hidden, Number.BFLOAT16, 0)
        assert expected in str(reason)


# --- Without an emulator: the compiler ------------------------------------------------------------------------------------


def sample() -> list[tuple[type[elman.Cell], str, Number, bool]]:
    """Each cell for sm_90a and for one of the other targets. These go round, and with each of them the types of numbers and spans."""
    others, numbers = [target for target in DEVICES if target != "sm_90a"], list(Number)
    found = []
    for turn, cell in enumerate(zoo.CELLS):
        lap, place = divmod(turn, len(others))
        found += [
            (cell, "sm_90a", numbers[turn % len(numbers)], lap % 2 > 0),
            (cell, others[place], numbers[(turn + lap) % len(numbers)], lap % 2 > 0),
        ]
    return found


@needs_nvrtc
@pytest.mark.parametrize(
    ("cell", "target", "number", "has_spans"), sample(), ids=lambda each: each.name if isinstance(each, Number) else None
)
@pytest.mark.slow
def test_every_cell_of_the_zoo_compiles_for_two_targets(cell: type[elman.Cell], target: str, number: Number, has_spans: bool) -> None:
    program = program_of(cell(), torch.float32, bool(cell.draws), units=128)
    assert source.refuses(program) is None
    shape = source.kernel_of(program, cell.__name__).shape
    for is_backward in (False, True):
        plan = choose(shape, is_backward, number, 128, 16, 1, has_spans, DEVICES[target])[0]
        used = usage_of("scan", target, plan.defines, plan.entry)["scan"]
        assert used.spill_stores <= 160
        assert used.registers <= registers_of_thread(plan, DEVICES[target])
