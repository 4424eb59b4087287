"""bfloat16 on the kernels: stored in 16 bits, computed in float32.

What is stored is known exactly, so each step is held against float64 loops from the very state that it started from: to float32's bound for
one step, and one rounding to bfloat16, u = 2^-8. What is made of several steps, layers or sequences is held to the same bits as its parts.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import bounds
import elman
import oracle
from approx import Approx
from cases import Case, allow, as_layers, build, evaluate, expect, selection
from elman.backends import WHOLE, kernels
from elman.backends.native import NativeBackend
from elman.backends.reference import ReferenceBackend
from elman.backends.spans import Spans
from kinds import GRU, KINDS, RELU, TANH, Kind, as_hx, as_states, every_kind
from native import instruction_set, native_alone, on_every_isa, required, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [required, pytest.mark.usefixtures("poisoned", "native_alone")]
__all__ = ["native_alone"]

U = 2.0**-8  # half the distance from 1 to the next number
LEAST = 2.0**-126  # below the smallest normal number, products may count as zero


@pytest.fixture(params=[*(kernels.isas() if kernels.available() else ()), "avx512 without products of pairs"])
def every_isa(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each instruction set in turn, and AVX-512 as it is on processors without AVX-512 BF16."""
    isa = request.param.split()[0]
    if isa not in kernels.isas():
        pytest.skip(f"{isa} is not offered by this processor and this build")
    with instruction_set(isa):
        kernels._native.allow_pairs(isa == request.param)
        yield
        kernels._native.allow_pairs(True)


@pytest.fixture(autouse=True)
def _seeded_and_on_one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    with threads(1):
        yield


def _randn(*shape: int) -> Tensor:
    return torch.randn(*shape).bfloat16()


def _build(kind: Kind, *sizes: int, **options: object) -> nn.Module:
    return kind.build(elman, *sizes, **options).bfloat16()


def _states(kind: Kind, directions: int, batch: int, hidden_size: int) -> tuple[Tensor, ...]:
    return tuple(_randn(directions, batch, width) for width in kind.widths(hidden_size))


@torch.no_grad()
def _run(module: nn.Module, x: Tensor, states: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
    """The output and the final states."""
    output, hx = module(x, None if states is None else as_hx(states))
    return output, *as_states(hx)


_by_operators = ReferenceBackend().trace


def _assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype is b.dtype is torch.bfloat16
        assert torch.equal(a, b), f"differs by up to {(a - b).abs().max():.3g}"


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().double().numpy()


# --- Numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@on_every_isa
@every_kind
@pytest.mark.parametrize("H", [3, 7, 16, 17, 32, 65])
@pytest.mark.parametrize(("I", "B"), [(1, 1), (2, 9), (15, 5), (16, 8), (33, 2), (64, 17)])
def test_each_step_is_one_rounding_from_float32(kind: Kind, I: int, H: int, B: int) -> None:  # noqa: E741
    module, T = _build(kind, I, H), 4
    x, states = _randn(T, B, I), _states(kind, 1, B, H)
    output, *finals = _run(module, x, states)
    layers = as_layers([_array(p) for p in module.parameters()], 1, 1, True)
    before, slack = tuple(map(_array, states)), np.zeros((1, B, H))
    w_hr = layers[0][0].w_hr
    for t in range(T):
        grad_output, grad_finals = np.zeros((1, B, before[0].shape[-1])), tuple(map(np.zeros_like, before))
        call = kind.cell, layers, _array(x[t : t + 1]), before, [1] * B, grad_output, grad_finals
        step, bound = oracle.run(*call), bounds.run(*call)
        # c is not stored between steps: its error reaches h by slopes of at most 1, as the next c. A projection reads what is stored.
        units = slack if w_hr is None else (U + slack) @ np.abs(w_hr).T
        h, allowed = step.finals[0], bound.finals[0] + units + LEAST * (I + H)
        error = np.abs(_array(output[t : t + 1]) - h)
        assert (error <= allowed + U * (np.abs(h) + allowed)).all(), f"step {t}: off by {error.max():.3g}"
        before = _array(output[t : t + 1]), *step.finals[1:]
        if len(before) == 2:
            slack = slack + bound.finals[1] + LEAST * (I + H)
    assert torch.equal(finals[0][0], output[-1])
    for final, c in zip(finals[1:], before[1:], strict=True):
        assert (np.abs(_array(final) - c) <= slack + U * (np.abs(c) + slack)).all()


@on_every_isa
def test_every_number_is_rounded_to_the_nearest_even() -> None:
    """One relu unit whose weight is 1: h is x + b, for each normal number of bfloat16, with ties among them."""
    x = torch.arange(2**16).to(torch.int32).to(torch.int16).view(torch.bfloat16)
    x = x[(x.float().abs() >= LEAST) | (x == 0) | x.isnan()].view(1, -1, 1)
    module = _build(RELU, 1, 1)
    for b in (0.0, 1.0, 2.0**-7 + 2.0**-14, 1.0 + 2.0**-7, -3.0, 1e30):
        with torch.no_grad():
            for p, value in zip(module.parameters(), (1.0, 0.0, b, 0.0), strict=True):
                p.fill_(value)
        output, _ = _run(module, x)
        expected = (x.float() + torch.tensor(b).bfloat16().float()).relu().bfloat16()
        assert torch.equal(output.isnan(), expected.isnan())
        assert torch.equal(output.nan_to_num(-1.0), expected.nan_to_num(-1.0))


@on_every_isa
@every_kind
def test_results_and_gradients_are_nearer_to_float64_than_torchs(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """Than torch.nn's in bfloat16, operator by operator: by the mean square over several networks.

    Some gradients are as near as torch's, not nearer: of both only the same two roundings are left. Two sums of n squares of errors of one
    normal distribution have a ratio whose standard deviation is sqrt(2 · 2 / n): three of these may be chance.
    """
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    errors: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    for seed in range(20):
        torch.manual_seed(seed)
        theirs, ours = (module.bfloat16() for module in kind.pair(20, 33, 2, bidirectional=True))
        exact, x = kind.build(nn, 20, 33, 2, bidirectional=True).double(), _randn(30, 5, 20)
        exact.load_state_dict(ours.state_dict())
        names, results = ["output", *kind.states, "d x", *dict(exact.named_parameters())], []
        for module, dtype in ((exact, torch.float64), (ours, torch.bfloat16), (theirs, torch.bfloat16)):
            data = x.to(dtype).requires_grad_()
            output, hx = module(data)
            values = output, *as_states(hx)
            gradients = torch.autograd.grad([v.sum() for v in values], [data, *module.parameters()])
            results.append([value.detach().double() for value in (*values, *gradients)])
        for name, expected, *found in zip(names, *results, strict=True):
            for all_errors, value in zip(errors.setdefault(name, ([], [])), found, strict=True):
                all_errors.append((value - expected).square().flatten())
    for name, (mine, torchs) in errors.items():
        n = sum(map(len, mine))
        assert sum(map(torch.sum, mine)) <= (1 + 3 * (4 / n) ** 0.5) * sum(map(torch.sum, torchs)), name


@on_every_isa
@pytest.mark.parametrize("case", selection(), ids=str)
@pytest.mark.slow
def test_gradients_are_as_near_to_float64_as_rounding_allows(case: Case) -> None:
    """What is kept between two products is bfloat16, at most: h, the gradients of gates and of h, those between layers."""
    got = evaluate(build(elman, case, torch.bfloat16), case, torch.bfloat16)
    expected, allowed = expect(case, torch.bfloat16), allow(case, torch.bfloat16, U)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        assert got[name].dtype is torch.bfloat16
        error, bound = (got[name].double() - value).abs(), allowed[name] + LEAST
        assert (error <= bound + U * (value.abs() + bound)).all(), f"{name}: off by {error.max():.3g}"


@pytest.fixture
def without_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that the kernels leave to the reference is an error."""
    monkeypatch.delattr(ReferenceBackend, "trace")


@on_every_isa
@every_kind
@pytest.mark.usefixtures("without_the_reference")
@torch.no_grad()
def test_a_trace_shows_each_step_one_rounding_from_float32(kind: Kind) -> None:
    I, H, B, T = 15, 33, 5, 6  # noqa: E741
    module, x, states = _build(kind, I, H), _randn(T, B, I), _states(kind, 1, B, H)
    traced = module.trace(x, as_hx(states))
    _assert_same((traced.output, *as_states(traced.final)), _run(module, x, states))
    assert torch.equal(traced.h[0, 0], traced.output)
    cell, ((direction,),) = module.stack.cell, as_layers([_array(p) for p in module.parameters()], 1, 1, True)
    weights = bounds.Weights(bounds.CELLS[kind.cell], direction)
    shown = {**traced.gates} if traced.c is None else {**traced.gates, "c": traced.c}
    before = tuple(Approx.exact(_array(state[0])) for state in states)
    for t in range(T):
        (_, *others), saved = weights.forward(Approx.exact(_array(x[t])), before)
        for name, value in zip(cell.saved, saved, strict=True):
            if name:
                allowed = value.error + LEAST * (I + H)
                assert shown[name].dtype is torch.bfloat16
                error = np.abs(_array(shown[name][0, 0, t]) - value.value)
                assert (error <= allowed + U * (np.abs(value.value) + allowed)).all(), f"step {t}: {name} is off by {error.max():.3g}"
        before = Approx.exact(_array(traced.h[0, 0, t])), *others
    for state, final in zip(("h", "c"), as_states(traced.final), strict=False):
        assert torch.equal(traced.states[state][0, 0, -1], final[0])


@on_every_isa
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not RELU], ids=str)
@pytest.mark.usefixtures("without_the_reference")
def test_a_traces_gradients_are_nearer_to_float64_than_those_of_torchs_operators(kind: Kind) -> None:
    """By the mean square over several networks, within chance as above; every part of the trace gets a gradient, steps end and resets cut.

    Not relu's: where its derivative jumps, one rounding decides a whole gradient, and few of them the sum.
    """
    errors: dict[str, tuple[list[Tensor], list[Tensor]]] = {}
    lengths, reset = [12, 0, 5, 8], torch.rand(12, 4) < 0.2
    spans = Spans(lengths=torch.tensor(lengths), reset=reset)
    for seed in range(20):
        torch.manual_seed(seed)
        module, x = _build(kind, 6, 9, 2, bidirectional=True), _randn(12, 4, 6)
        exact = kind.build(elman, 6, 9, 2, bidirectional=True).double()
        exact.load_state_dict(module.state_dict())
        given: list[Tensor] = []
        results = []
        for rnn, run in ((exact, _by_operators), (module, NativeBackend().trace), (module, _by_operators)):
            dtype = rnn.weight_ih_l0.dtype
            data = x.to(dtype).requires_grad_()
            traced = run(rnn.stack, data, None, list(rnn.parameters()), spans)
            parts = [traced.hidden, *traced.finals, *traced.states.values(), *traced.gates.values()]
            given = given or [_randn(*part.shape) for part in parts]
            gradients = torch.autograd.grad(parts, [data, *rnn.parameters()], [g.to(dtype) for g in given])
            assert all(g.dtype is dtype for g in gradients)
            results.append([g.double() for g in gradients])
        for name, expected, *found in zip(("x", *dict(module.named_parameters())), *results, strict=True):
            for all_errors, value in zip(errors.setdefault(name, ([], [])), found, strict=True):
                all_errors.append((value - expected).square().flatten())
    for name, (mine, operators) in errors.items():
        n = sum(map(len, mine))
        assert sum(map(torch.sum, mine)) <= (1 + 3 * (4 / n) ** 0.5) * sum(map(torch.sum, operators)), name


@every_kind
def test_a_traces_gradient_can_be_differentiated_again(kind: Kind) -> None:
    """By the reference, in the operands' dtype."""
    module, x = _build(kind, 3, 4), _randn(5, 2, 3).requires_grad_()
    given: list[Tensor] = []
    found = []
    for run in (NativeBackend().trace, _by_operators):
        traced = run(module.stack, x, None, list(module.parameters()), WHOLE)
        parts = [traced.hidden, *traced.finals, *traced.states.values(), *traced.gates.values()]
        given = given or [_randn(*part.shape) for part in parts]
        (first,) = torch.autograd.grad(parts, x, given, create_graph=True)
        found.append((first.detach(), *torch.autograd.grad(first.sum(), [x, module.weight_hh_l0])))
    _assert_same(*found)


@every_kind
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")], ids=str)
@pytest.mark.parametrize("where", ["x", "hx", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0"])
def test_nan_and_infinity_go_where_torchs_go(kind: Kind, where: str, value: float) -> None:
    ours, theirs = _build(kind, 3, 9), kind.build(nn, 3, 9)
    x, states = _randn(5, 3, 3), _states(kind, 1, 3, 9)
    with torch.no_grad():
        {"x": x, "hx": states[0], **dict(ours.named_parameters())}[where].view(-1)[5] = value
    theirs.load_state_dict(ours.state_dict())
    for got, expected in zip(_run(ours, x, states), _run(theirs, x.float(), tuple(s.float() for s in states)), strict=True):
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.isinf(), expected.isinf())


# --- Parts and wholes ---------------------------------------------------------------------------------------------------


@on_every_isa
@every_kind
def test_layers_and_directions_are_what_they_are_alone(kind: Kind) -> None:
    """So also where layers and directions share threads, and a reverse direction runs the other way."""
    H, P = 17, kind.widths(17)[0]
    whole, parts = _build(kind, 5, H, 2, bidirectional=True), [_build(kind, width, H) for width in (5, 5, 2 * P, 2 * P)]
    params, each = list(whole.parameters()), len(list(parts[0].parameters()))
    with torch.no_grad():
        for i, part in enumerate(parts):
            for to, value in zip(part.parameters(), params[i * each : (i + 1) * each], strict=True):
                to.copy_(value)
    x, states = _randn(9, 4, 5), _states(kind, 4, 4, H)
    layer, finals = x, []
    for i in (0, 2):
        ways = [_run(parts[i + d], layer.flip(0) if d else layer, tuple(s[i + d : i + d + 1] for s in states)) for d in (0, 1)]
        layer = torch.cat((ways[0][0], ways[1][0].flip(0)), -1)
        finals += [way[1:] for way in ways]
    expected = layer, *(torch.cat(state) for state in zip(*finals, strict=True))
    _assert_same(_run(whole, x, states), expected)
    with threads(3):
        _assert_same(_run(whole, x, states), expected)


@every_kind
@torch.no_grad()
def test_a_rows_results_do_not_depend_on_the_batch_nor_on_how_it_is_given(kind: Kind) -> None:
    """Padded of every height, batch first, unbatched, packed."""
    module, first = _build(kind, 5, 17, 2, bidirectional=True), _build(kind, 5, 17, 2, bidirectional=True, batch_first=True)
    first.load_state_dict(module.state_dict())
    x = _randn(9, 20, 5)
    output, *finals = _run(module, x)
    batch_first = _run(first, x.transpose(0, 1))
    _assert_same((batch_first[0].transpose(0, 1), *batch_first[1:]), (output, *finals))
    for B in range(1, 20):
        _assert_same(_run(module, x[:, 20 - B :]), (output[:, 20 - B :], *(f[:, 20 - B :] for f in finals)))
    lengths = [9, 9, 7, 4, 4, 3, 1]
    packed, hx = module(pack_sequence([x[:length, b] for b, length in enumerate(lengths)]))
    padded, _ = pad_packed_sequence(packed)
    for b, length in enumerate(lengths):
        alone = _run(module, x[:length, b].contiguous())
        _assert_same(alone, (padded[:length, b], *(f[:, b] for f in as_states(hx))))


@every_kind
@pytest.mark.parametrize(("shape", "H"), [((60, 13, 40), 70), ((40, 1, 8), 350), ((30, 2, 7), 350)], ids=str)
def test_results_and_gradients_do_not_depend_on_the_number_of_threads(kind: Kind, shape: tuple[int, ...], H: int) -> None:
    module, x = _build(kind, shape[2], H), _randn(*shape).requires_grad_()

    def run() -> tuple[Tensor, ...]:
        output, hx = module(x)
        results = output, *as_states(hx)
        gradients = torch.autograd.grad(results, [x, *module.parameters()], [torch.ones_like(r) for r in results])
        return *(r.detach() for r in results), *gradients

    expected = run()
    for count in (2, 3):
        with threads(count):
            _assert_same(run(), expected)


@pytest.mark.parametrize("kind", [TANH, RELU, GRU], ids=str)
def test_a_sequence_run_in_pieces_is_the_sequence_run_whole(kind: Kind) -> None:
    """But for an LSTM, whose c is rounded where a call ends."""
    module, x, states = _build(kind, 5, 33, 2), _randn(40, 3, 5), _states(kind, 2, 3, 33)
    whole = _run(module, x, states)
    for size in (1, 7, 39):
        outputs = []
        after = states
        for piece in x.split(size):
            output, *after = _run(module, piece, tuple(after))
            outputs.append(output)
        _assert_same((torch.cat(outputs), *after), whole)


@every_kind
def test_recording_gradients_changes_no_result(kind: Kind) -> None:
    module, x, states = _build(kind, 5, 17, 2, bidirectional=True), _randn(9, 4, 5), _states(kind, 4, 4, 17)
    output, hx = module(x.requires_grad_(), as_hx(states))
    _assert_same(tuple(t.detach() for t in (output, *as_states(hx))), _run(module, x, states))


# --- Memory -------------------------------------------------------------------------------------------------------------


@on_every_isa
@pytest.mark.skipif(not hasattr(mmap, "MAP_ANONYMOUS"), reason="needs anonymous memory maps")
@every_kind
@pytest.mark.parametrize("size", [1, 3, 17, 33])
def test_nothing_is_read_past_the_last_number(kind: Kind, size: int) -> None:
    """Every operand ends where a page ends, and the page after it may not be touched."""
    page, alive = mmap.PAGESIZE, []

    def at_the_edge(tensor: Tensor) -> Tensor:
        pages = -(-tensor.nbytes // page)
        memory = mmap.mmap(-1, (pages + 1) * page)
        alive.append(memory)
        start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + pages * page), ctypes.c_size_t(page), 0) == 0
        offset = pages * page - tensor.nbytes
        return torch.frombuffer(memory, dtype=torch.bfloat16, count=tensor.numel(), offset=offset).view(tensor.shape).copy_(tensor)

    H, steps = max(size, 3), 3
    module, x, states = _build(kind, size, H), _randn(steps, 2, size), _states(kind, 1, 2, H)
    random = [_randn(steps, 2, kind.widths(H)[0]), *_states(kind, 1, 2, H)]

    def results(x: Tensor, states: tuple[Tensor, ...], gradients: list[Tensor]) -> tuple[Tensor, ...]:
        given = [tensor.requires_grad_() for tensor in (x, *states)]
        output, hx = module(given[0], as_hx(tuple(given[1:])))
        found = output, *as_states(hx)
        return *(t.detach() for t in found), *torch.autograd.grad(found, [*given, *module.parameters()], gradients)

    expected = results(x, states, random)
    with torch.no_grad():
        for name, parameter in list(module.named_parameters()):
            setattr(module, name, nn.Parameter(at_the_edge(parameter)))
    x, states, random = at_the_edge(x.detach()), tuple(at_the_edge(state.detach()) for state in states), list(map(at_the_edge, random))
    _assert_same(results(x, states, random), expected)


# --- Operators ----------------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_compiled_network_is_the_eager_one(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # a traced gradient may not be watched for refusals
    module, x = _build(kind, 3, 4, 2), _randn(5, 2, 3).requires_grad_()
    torch.compiler.reset()
    results = []
    for run in (module, torch.compile(module, fullgraph=True, backend="aot_eager")):
        output, hx = run(x)
        values = output, *as_states(hx)
        results.append((*values, *torch.autograd.grad(output.float().sum(), [x, *module.parameters()])))
    torch.compiler.reset()
    _assert_same(*results)
