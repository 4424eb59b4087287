"""Cells of one's own under autocast to bfloat16, on the kernels: the numbers of float32, in the dtypes that torch's operators give."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence

import elman
import own_cells
from elman.backends import BACKENDS, registry
from elman.zoo import CELLS
from kinds import as_states
from native import native_alone, required
from slow import slow

if TYPE_CHECKING:
    from collections.abc import Callable


pytestmark = [required, pytest.mark.usefixtures("poisoned")]
__all__ = ["native_alone"]

I, H, B = 3, 8, 4  # noqa: E741

ALL = {**{name: own.cell for name, own in own_cells.OWN.items()}, **{kind.__name__: kind() for kind in CELLS}}
every_cell = pytest.mark.parametrize("cell", ALL.values(), ids=ALL)


class Shift(elman.Cell):
    """States that hand a value on, so that its dtype takes three steps to get through."""

    gates = ("h",)
    states = ("h", "later", "last")

    def step(self, x, r, s, p):
        return torch.tanh(x.h + r.h), s.h, s.later


class Swap(elman.Cell):
    """Two states that change places: of two dtypes, there is no step from which on they stay."""

    gates = ("h",)
    states = ("h", "c")

    def step(self, x, r, s, p):
        return s.c, s.h


class Lerp(elman.Cell):
    """An operation that takes no two dtypes, under autocast neither."""

    gates = ("h",)

    def step(self, x, r, s, p):
        return torch.lerp(s.h, torch.tanh(x.h + r.h), 0.5)


def _autocast(to: torch.dtype = torch.bfloat16) -> torch.autocast:
    return torch.autocast("cpu", to)


def _arguments(
    cell: elman.Cell, steps: int, directions: int = 1, dtype: torch.dtype = torch.float32, given: torch.dtype | None = None
) -> dict[str, Any]:
    """A call's, of numbers that are the same in bfloat16."""
    states = tuple([torch.randn(directions, B, H).bfloat16().to(given) for _ in cell.states]) if given else None
    beside = {name: torch.rand(steps, B, *[H] * bool(size)).bfloat16().to(dtype) for name, size in cell.step_inputs.items()}
    x = torch.randn(steps, B, I).bfloat16().to(dtype)
    return {"input": x, "hx": states[0] if states is not None and len(states) == 1 else states, **beside}


def _call(net: elman.Recurrent, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    output, hx = net(**arguments)
    return output, *as_states(hx)


def _trace(net: elman.Recurrent, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    named = {{"input": "x", "hx": "state"}.get(name, name): value for name, value in arguments.items()}
    traced = net.trace(**named)
    return traced.output, traced.h, *traced.states.values(), *traced.gates.values(), traced.last, *as_states(traced.final)


def _wide(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_wide, value))
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def _on_reference(run: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "BACKENDS", BACKENDS[-1:])
        return run()


def _check(net: elman.Recurrent, arguments: dict[str, Any], runs: Any = (_call, _trace)) -> None:
    """Dtypes are the reference's, numbers and gradients those of a call in float32."""
    mixed = torch.bfloat16 in {
        t.dtype for value in arguments.values() if value is not None for t in as_states(value) if isinstance(t, Tensor)
    }
    # Under autocast to float16 some of torch's operators take no bfloat16.
    for run, to in itertools.product(runs, (torch.bfloat16,) if mixed else (torch.bfloat16, torch.float16)):
        with _autocast(to), torch.no_grad():
            torch.manual_seed(1)
            expected = _on_reference(lambda run=run: run(net, arguments))
        with _autocast(to):
            assert elman.why(net, **{"x" if name == "input" else name: value for name, value in arguments.items()}).startswith("native")
            torch.manual_seed(1)
            found = run(net, arguments)
        assert [each.dtype for each in found] == [each.dtype for each in expected]
        torch.manual_seed(1)
        plain = run(net, {name: _wide(value) for name, value in arguments.items()})
        gradients = []
        for results in (found, [value.to(like.dtype) for value, like in zip(plain, found, strict=True)]):
            (torch.stack([each.float().sum() for each in results])).sum().backward()
            gradients.append([parameter.grad for parameter in net.parameters()])
            net.zero_grad()
        for got, value in zip(found, plain, strict=True):
            assert torch.equal(got, value.to(got.dtype))
        assert all(map(torch.equal, *gradients))


@every_cell
@pytest.mark.parametrize("given", [None, *slow(torch.float32, torch.bfloat16)], ids=["fresh", "float32 states", "bfloat16 states"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("native_alone")
def test_every_cell_has_the_references_dtypes_and_the_numbers_of_float32(
    cell: elman.Cell, dtype: torch.dtype, given: torch.dtype | None
) -> None:
    torch.manual_seed(0)
    net = elman.Recurrent(cell, I, H, num_layers=2, bidirectional=True)
    for steps in (1, 2, 5):
        _check(net, _arguments(cell, steps, 4, dtype, given))


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7])
def test_a_dtype_may_take_several_steps_to_get_through(steps: int) -> None:
    net = elman.Recurrent(Shift(), I, H)
    for given in (None, torch.float32, torch.bfloat16):
        _check(net, _arguments(Shift(), steps, 1, torch.float32, given))


@pytest.mark.parametrize("options", [{"batch_first": True}, {"learn_initial_state": True}, {"recompute": True, "num_layers": 2}], ids=str)
def test_lengths_resets_options_and_packed_sequences(options: dict[str, Any]) -> None:
    for cell in (own_cells.Lstm(), own_cells.Decay(), Shift()):
        torch.manual_seed(0)
        net = elman.Recurrent(cell, I, H, **options)
        arguments = _arguments(cell, 5)
        reset = torch.rand(5, B) < 0.5
        if options.get("batch_first"):
            arguments = {name: None if value is None else value.transpose(0, 1) for name, value in arguments.items()}
            reset = reset.T
        _check(net, arguments)
        _check(net, arguments | {"lengths": [5, 0, 3, 1], "reset": reset})
    packed = pack_sequence([torch.randn(steps, I) for steps in (2, 5, 1)], enforce_sorted=False)
    net = elman.Recurrent(own_cells.Lstm(), I, H)
    with _autocast():
        output, (h, c) = net(packed)
    expected, (h_n, c_n) = net(packed)
    assert torch.equal(output.data, expected.data)
    assert torch.equal(h, h_n)
    assert torch.equal(c, c_n)


def test_random_numbers_are_drawn_as_ever() -> None:
    cell = elman.Zoneout(own_cells.Gru(), h=0.5)
    _check(elman.Recurrent(cell, I, H), _arguments(cell, 5))


@every_cell
def test_a_single_step(cell: elman.Cell) -> None:
    one = elman.RecurrentCell(cell, I, H)
    arguments = {name: None if value is None else value[0] for name, value in _arguments(cell, 1).items()}

    def run() -> tuple[Tensor, ...]:
        return as_states(one(**arguments))

    with _autocast():
        expected, found = _on_reference(run), run()
    plain = run()
    for got, wanted, value in zip(found, expected, plain, strict=True):
        assert got.dtype is wanted.dtype
        assert torch.equal(got, value.to(got.dtype))


def test_a_cell_first_met_under_autocast_is_recorded_for_all_calls() -> None:
    class New(own_cells.Gru):
        pass

    net, x = elman.Recurrent(New(), I, H), torch.randn(5, B, I)
    with _autocast():
        net(x)
    assert elman.why(net, x).startswith("native")
    other = elman.Recurrent(own_cells.Gru(), I, H)
    other.load_state_dict(net.state_dict())
    assert torch.equal(net(x)[0], other(x)[0])


def test_vmap_runs_it_on_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    nets, xs = [elman.Recurrent(own_cells.Lstm(), I, H) for _ in range(2)], torch.randn(2, 5, B, I)
    expected = [net(x)[0] for net, x in zip(nets, xs, strict=True)]
    monkeypatch.setattr(registry, "BACKENDS", BACKENDS[:1])
    params, _ = torch.func.stack_module_state(nets)
    with _autocast():
        found = torch.func.vmap(lambda params, x: torch.func.functional_call(nets[0], params, (x,))[0])(params, xs)
        same = torch.func.vmap(lambda x: nets[0](x)[0])(xs)
    assert torch.equal(found, torch.stack(expected))
    assert torch.equal(same[0], expected[0])


@pytest.mark.parametrize("cell", [own_cells.Lstm(), own_cells.Decay(), own_cells.Tanh(), Shift()], ids=lambda cell: type(cell).__name__)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.slow
def test_a_compiled_network_is_the_eager_one(cell: elman.Cell, monkeypatch: pytest.MonkeyPatch) -> None:
    net = elman.Recurrent(cell, I, H)
    compiles = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Any:
        compiles.append([node.target for node in graph.graph.nodes])
        return graph.forward

    torch.compiler.reset()
    monkeypatch.setattr(registry, "BACKENDS", BACKENDS[:1])
    compiled = torch.compile(net, fullgraph=True, backend=backend, dynamic=True)
    with _autocast():
        for steps in (5, 6, 7):  # not as many as sequences, which would be another graph
            arguments = _arguments(cell, steps)
            output, hx = compiled(**arguments)
            expected, finals = net(**arguments)
            for got, value in zip((output, *as_states(hx)), (expected, *as_states(finals)), strict=True):
                assert got.dtype is value.dtype
                assert torch.equal(got, value)
    assert len(compiles) == 1
    assert compiles[0].count(torch.ops.elman.program) == 1
    torch.compiler.reset()


class Kept(elman.Cell):
    """Keeps its state's dtype or not, as an option says, which is a number or a tensor."""

    gates = ("h",)

    def __init__(self, factor: Any, adds: bool = False) -> None:
        self.factor, self.adds = factor, adds

    def step(self, x, r, s, p):
        h = torch.tanh(x.h + r.h) * self.factor
        return h + s.h if self.adds else h


@pytest.mark.parametrize("reverse", [False, True])
def test_dtypes_follow_a_cells_options(reverse: bool) -> None:
    """A tensor of one axis counts among dtypes where one without does not."""
    factors = [0.5, torch.tensor(0.5), torch.tensor([0.5]), np.float32(0.5)]
    cell = Kept(0.5)
    net, arguments = elman.Recurrent(cell, I, H), _arguments(cell, 3)
    for factor, adds in sorted(itertools.product(factors, (False, True)), key=lambda each: each[1], reverse=reverse):
        cell.factor, cell.adds = factor, adds
        _check(net, arguments)
        _check(elman.Recurrent(Kept(factor, adds), I, H), arguments)


@pytest.mark.parametrize("autocasts", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpoint_may_hold_the_first_call(autocasts: bool, reentrant: bool) -> None:
    """What records a step does not count among what the checkpoint saves."""

    class New(own_cells.Gru):
        pass

    net, x = elman.Recurrent(New(), I, H), torch.randn(5, B, I, requires_grad=True)
    found = []
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocasts):
            output = torch.utils.checkpoint.checkpoint(lambda x: net(x)[0], x, use_reentrant=reentrant)
        found.append(torch.autograd.grad(output.float().sum(), net.weight_hh_l0) if not reentrant else output)
        if reentrant:
            output.float().sum().backward()
    assert torch.equal(found[0][0], found[1][0])


def test_streams_and_gradients_of_torch_func() -> None:
    net, x = elman.Recurrent(own_cells.Tanh(), I, H), torch.randn(5, B, I)
    stream = elman.stream(net, B)
    with _autocast(), torch.no_grad():
        outputs = torch.stack([stream.step(each) for each in x])
        assert outputs.dtype is _on_reference(lambda: net(x))[0].dtype
    plain = net(x)[0].detach()
    torch.testing.assert_close(outputs.float(), plain, rtol=0, atol=5 * 2**-8)  # rounded after each of five steps
    with _autocast():
        assert torch.equal(
            torch.func.grad(lambda x: net(x)[0].float().sum())(x), torch.autograd.grad(net(x.requires_grad_())[0].float().sum(), x)[0]
        )


# --- What is refused --------------------------------------------------------------------------------------------------

UNKNOWN = "reference: native does not know the dtypes that this step gives under autocast"


def test_what_has_no_dtypes_that_can_be_told_goes_to_the_reference() -> None:
    swap, lerp, decay = (elman.Recurrent(cell, I, H, num_layers=2) for cell in (Swap(), Lerp(), own_cells.Decay()))
    x, states = torch.randn(3, B, I), (torch.randn(2, B, H), torch.randn(2, B, H, dtype=torch.bfloat16))
    with _autocast():
        assert elman.why(swap, x, states) == UNKNOWN
        assert [each.dtype for each in swap(x, states)[1]] == [torch.bfloat16, torch.float32]
        assert elman.why(swap, x).startswith("native")  # of one dtype they may change places
        assert elman.why(lerp, x) == UNKNOWN
        with pytest.raises(RuntimeError, match="dtype"):
            lerp(x)
        decay.rate_l1.data = decay.rate_l1.data.bfloat16()
        beside = _arguments(own_cells.Decay(), 3)
        assert elman.why(decay, x, dt=beside["dt"], mask=beside["mask"]) == UNKNOWN
    assert elman.why(lerp, x).startswith("native")


def test_float64_goes_to_the_reference() -> None:
    net, x = elman.Recurrent(own_cells.Decay(), I, H), torch.randn(3, B, I)
    dt, mask = torch.rand(3, B), torch.rand(3, B, H)
    with _autocast():
        assert elman.why(net, x, dt=dt.double(), mask=mask) == "reference: native does not run float64 under autocast"


class Asks(elman.Cell):
    """Does something else in another precision."""

    gates = ("h",)

    def __init__(self, what: str) -> None:
        self.what = what

    def step(self, x, r, s, p):
        h = torch.tanh(x.h + r.h)
        if self.what == "autocast":
            return h * 0.5 if torch.is_autocast_enabled("cpu") else h
        if self.what == "dtype":
            return h + (0.5 if x.h.dtype is torch.bfloat16 else 0.0)
        if self.what == "the other dtype":
            return h + (0.5 if x.h.dtype is torch.float16 else 0.0)
        return h + 30 * torch.finfo(x.h.dtype).eps


@pytest.mark.parametrize("what", ["autocast", "dtype", "the other dtype", "eps"])
def test_a_step_that_asks_for_its_precision_goes_to_the_reference(what: str) -> None:
    net, x = elman.Recurrent(Asks(what), I, H), torch.randn(3, B, I)
    said = "reference: native does not run a step that asks for dtypes, or whether autocast is on, in 16 bits"
    with _autocast():
        assert elman.why(net, x) == said
        found = net(x)[0]
        assert torch.equal(found, _on_reference(lambda: net(x))[0])
        compiled = torch.compile(net, fullgraph=True, backend="eager")(x)[0]
        assert torch.equal(compiled, found)
    torch.compiler.reset()
    assert elman.why(net, x).startswith("native")
    assert elman.why(net.bfloat16(), x.bfloat16()) == said
    assert elman.why(net.half(), x.half()) == said


class Careful(elman.Cell):
    """Computes a part of its step in float32, whatever there is, as one does."""

    gates = ("h",)

    def step(self, x, r, s, p):
        with torch.autocast("cpu", enabled=False):
            h = torch.tanh(x.h.float() + r.h.float())
        return (h * torch.ones_like(x.h)).to(s.h.dtype)


def test_a_step_that_computes_in_float32_runs() -> None:
    _check(elman.Recurrent(Careful(), I, H), _arguments(Careful(), 3))


class Counts(elman.Cell):
    """Changes itself, but only under autocast."""

    gates = ("h",)

    def __init__(self) -> None:
        self.calls = 0

    def step(self, x, r, s, p):
        if torch.is_autocast_enabled("cpu"):
            self.calls += 1
        return torch.tanh(x.h + r.h) * (1 + self.calls)


def test_a_step_that_changes_the_cell_under_autocast_is_told() -> None:
    net = elman.Recurrent(Counts(), I, H)
    with _autocast(), pytest.raises(RuntimeError, match="expected the step of Counts not to change the cell"):
        net(torch.randn(3, B, I))
