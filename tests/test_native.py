"""The native backend computes what torch.nn's networks do, at sizes that reach every path of the kernels, for operands that lie anyhow.

In float64, to 1e-12. What is small and plain is crossed with every option in test_agreement; here are tiles of every height, vectors
that end early, several chunks, several threads, and what may be handed to a backward pass.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from elman.backends import Operands, call
from kinds import GRU, LSTM, RELU, TANH, Kind, as_hx, projected
from native import (
    assert_near,
    assert_same_bits,
    chunk,
    evaluate,
    initial_states,
    named,
    native_alone,
    on_every_isa,
    random_like,
    required,
    tensors_asked,
    threads,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

every_kind = pytest.mark.parametrize("kind", [TANH, GRU, LSTM, projected(3)], ids=str)  # relu's equation is in test_agreement
both_forms = pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])

pytestmark = [required, pytest.mark.usefixtures("poisoned", "native_alone")]
__all__ = ["native_alone"]


def _randn(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, dtype=dtype)


@pytest.fixture(autouse=True)
def _seeded_and_on_one_thread() -> Iterator[None]:
    torch.manual_seed(0)
    with threads(1):
        yield


# --- Sizes ------------------------------------------------------------------------------------------------------------


def _pair(kind: Kind, *sizes: int, **options: object) -> tuple[nn.Module, nn.Module]:
    return kind.pair(*sizes, **options, dtype=torch.float64)


def _assert_near_at_every_number_of_rows(kind: Kind, H: int) -> None:
    theirs, ours = _pair(kind, 5, H)
    for B in range(1, 21):
        x, states = _randn(3, B, 5), initial_states(ours, B)
        assert_near(evaluate(ours, x, states), evaluate(theirs, x, states))


@pytest.mark.slow
@on_every_isa
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)
@pytest.mark.parametrize("H", [1, 7, 8, 9, 15, 16, 17, 33, 65, 100])
def test_every_number_of_rows_is_right_at_widths_around_a_vectors(H: int, kind: Kind) -> None:
    _assert_near_at_every_number_of_rows(kind, H)


@on_every_isa
@pytest.mark.parametrize("P", [1, 7, 8, 9, 16, 17])
def test_every_number_of_rows_is_right_at_projections_around_a_vectors_width(P: int) -> None:
    for H in (P + 1, 18):
        _assert_near_at_every_number_of_rows(projected(P), H)


@pytest.mark.slow
@every_kind
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_single_steps_are_right(bidirectional: bool, kind: Kind) -> None:
    """Few sequences, whose weights are packed block by block, and many."""
    theirs, ours = _pair(kind, 5, 150, 2, bidirectional=bidirectional)
    for B in (1, 3, 64, 65):
        _assert_near_on_threads(theirs, ours, _randn(1, B, 5), initial_states(ours, B))


@on_every_isa
@every_kind
@pytest.mark.parametrize("I", [1, 2, 8, 31, 64, 65, 193, 700])
def test_few_and_many_input_features_are_right(I: int, kind: Kind) -> None:  # noqa: E741
    theirs, ours = _pair(kind, I, 6, 2)
    x = _randn(6, 3, I)  # gate gradients are copied from 16 rows and 65 features on
    assert_near(evaluate(ours, x), evaluate(theirs, x))


def _packed(T: int, B: int, I: int) -> PackedSequence:  # noqa: E741
    lengths = torch.randint(1, T + 1, (B,)).sort(descending=True).values
    lengths[0] = T
    return pack_padded_sequence(_randn(T, B, I), lengths)


def _assert_near_on_threads(
    theirs: nn.Module, ours: nn.Module, x: Tensor | PackedSequence, states: tuple[Tensor, ...] | None = None
) -> None:
    expected = evaluate(theirs, x, states)
    for count in (1, 2, 3):
        with threads(count):
            assert_near(evaluate(ours, x, states), expected)


@pytest.mark.slow
@every_kind
@both_forms
@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True}, {"num_layers": 2}, {"num_layers": 3, "bidirectional": True}],
    ids=["plain", "both ways", "deep", "all at once"],
)
def test_many_chunks_on_many_threads_are_right(options: dict[str, object], packed: bool, kind: Kind) -> None:
    """80,000 units over all steps: five chunks forward and more, several blocks of a weight's gradient."""
    theirs, ours = _pair(kind, 7, 50, **options)
    _assert_near_on_threads(theirs, ours, _packed(200, 8, 7) if packed else _randn(200, 8, 7))


@pytest.mark.slow
@on_every_isa
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)
def test_so_are_those_of_a_deep_network_on_each_instruction_set(kind: Kind) -> None:
    theirs, ours = _pair(kind, 7, 50, num_layers=3, bidirectional=True)
    _assert_near_on_threads(theirs, ours, _packed(200, 8, 7))


@pytest.mark.slow
@every_kind
@both_forms
@pytest.mark.parametrize("bidirectional", [False, True], ids=["one way", "both ways"])
def test_many_chunks_of_gradients_are_right(bidirectional: bool, packed: bool, kind: Kind) -> None:
    theirs, ours = _pair(kind, 3, 33, bidirectional=bidirectional)
    T = 2 * chunk(kind, 33, 60) + 50
    _assert_near_on_threads(theirs, ours, _packed(T, 60, 3) if packed else _randn(T, 60, 3), initial_states(ours, 60))


@pytest.mark.slow
@on_every_isa
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM, projected(3), projected(200)], ids=lambda kind: f"{kind} {kind.widths(0)[0] or ''}")
@pytest.mark.parametrize("B", [1, 2])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=["plain", "all at once"])
def test_the_columns_of_a_step_can_be_split_among_threads(options: dict[str, object], B: int, kind: Kind) -> None:
    theirs, ours = _pair(kind, 9, 350, **options)
    _assert_near_on_threads(theirs, ours, _randn(30, B, 9), initial_states(ours, B))


@pytest.mark.slow
@every_kind
def test_a_split_step_may_be_the_last_of_a_chunk(kind: Kind) -> None:
    theirs, ours = _pair(kind, 2, 300)
    _assert_near_on_threads(theirs, ours, _randn(chunk(kind, 300, 1) + 7, 1, 2))


def test_gradients_through_a_hundred_thousand_steps_are_right() -> None:
    """One unit, so that the loop is one of plain numbers."""
    rnn, x = elman.RNN(1, 1, dtype=torch.float64), _randn(100_000, 1, 1)
    got = evaluate(rnn, x)
    w_ih, w_hh, b_ih, b_hh = (p.item() for p in rnn.parameters())
    inputs, states = x.flatten().tolist(), [0.0]
    for value in inputs:
        states.append(math.tanh(w_ih * value + b_ih + w_hh * states[-1] + b_hh))
    grad_output, d_h = random_like(got["output"]).flatten().tolist(), random_like(got["h_n"]).item()
    grad_x, sums = [0.0] * len(inputs), [0.0, 0.0, 0.0]
    for t in reversed(range(len(inputs))):
        d_a = (d_h + grad_output[t]) * (1 - states[t + 1] ** 2)
        grad_x[t], d_h = d_a * w_ih, d_a * w_hh
        sums = [sums[0] + d_a * inputs[t], sums[1] + d_a * states[t], sums[2] + d_a]
    expected = {"output": states[1:], "h_n": states[-1:], "d x": grad_x}
    expected |= {"d weight_ih_l0": sums[:1], "d weight_hh_l0": sums[1:2], "d bias_ih_l0": sums[2:], "d bias_hh_l0": sums[2:]}
    assert_near(got, {name: torch.tensor(value, dtype=torch.float64).view(got[name].shape) for name, value in expected.items()})


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)
def test_gradients_of_thousands_of_units_are_right(kind: Kind) -> None:
    theirs, ours = _pair(kind, 3, 5000 // kind.gates, bias=False)
    x = _randn(2, 1, 3)
    assert_near(evaluate(ours, x), evaluate(theirs, x))


@pytest.mark.slow
@every_kind
def test_a_chunk_may_be_a_single_step(kind: Kind) -> None:
    """More gate gradients in a step than a chunk holds."""
    theirs, ours = _pair(kind, 1, 5)
    B = chunk(kind, 5, 1) + 1
    x = _randn(3, B, 1)
    _assert_near_on_threads(theirs, ours, x)
    _assert_near_on_threads(theirs, ours, pack_padded_sequence(x, torch.tensor([3] * 2 + [2] * 5 + [1] * (B - 7))))


# --- Where operands lie -----------------------------------------------------------------------------------------------

PLACES = {
    "transposed": lambda t: t.transpose(0, 1).contiguous().transpose(0, 1),
    "last axis outermost": lambda t: t.movedim(-1, 0).contiguous().movedim(0, -1),
    "every third of the first axis": lambda t: t.repeat_interleave(3, 0)[1::3],
    "every other of the last axis": lambda t: t.repeat_interleave(2, -1)[..., ::2],
    "from an odd place": lambda t: torch.cat((t.new_zeros(3), t.flatten()))[3:].view(t.shape),
    "negated lazily": lambda t: torch._neg_view(-t),
    "an imaginary part": lambda t: torch.complex(t, -t).conj().imag,
}


@every_kind
@pytest.mark.parametrize("place", PLACES)
def test_operands_may_lie_anyhow(place: str, kind: Kind) -> None:
    """Input, states, parameters and the gradients that arrive: the same bits as from plain memory."""
    put = PLACES[place]
    rnn = kind.build(elman, 3, 4, 2, bidirectional=True, dtype=torch.float64)
    x, states = _randn(6, 5, 3), initial_states(rnn, 5)
    assert torch.equal(put(x), x)
    found = []
    for at in (put, torch.clone):
        weights = {name: at(p.detach()).requires_grad_() for name, p in rnn.named_parameters() if p.ndim == 2}
        inputs = [at(tensor).requires_grad_() for tensor in (x, *states)]
        values = named(*torch.func.functional_call(rnn, weights, (inputs[0], as_hx(tuple(inputs[1:])))))
        grad_outputs = tuple(at(random_like(value)) for value in values.values())
        gradients = torch.autograd.grad(tuple(values.values()), [*inputs, *weights.values()], grad_outputs)
        found.append({str(i): value.detach() for i, value in enumerate((*values.values(), *gradients))})
    assert_same_bits(*found)


@every_kind
def test_tensors_that_are_asked_what_they_are_give_the_same_bits(kind: Kind) -> None:
    """As where torch does not show them to the kernels: with dense operands and others, and what does not fit is refused too."""
    rnn, x = kind.build(elman, 3, 4, 2, bidirectional=True, dtype=torch.float64), _randn(6, 5, 3)
    for options in ({}, {"lengths": [6, 0, 2, 5, 1], "reset": torch.rand(6, 5) < 0.2}):
        expected = [evaluate(rnn, at(x), initial_states(rnn, 5), **options) for at in PLACES.values() for _ in [torch.manual_seed(0)]]
        with tensors_asked():
            got = [evaluate(rnn, at(x), initial_states(rnn, 5), **options) for at in PLACES.values() for _ in [torch.manual_seed(0)]]
        for pair in zip(got, expected, strict=True):
            assert_same_bits(*pair)
    with tensors_asked():
        for wrong in (x[..., :2], x.float(), x[0], x.long(), x.to("meta"), x.to_sparse()):
            with pytest.raises(RuntimeError):
                call.forward(rnn.stack, Operands(wrong, None, tuple(rnn.parameters())), False, save=False)


@every_kind
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (6, 1, 1), (6, 1, 3), (1, 5, 3)], ids=str)
def test_one_element_may_stand_for_many(shape: tuple[int, ...], kind: Kind) -> None:
    """Expanded inputs and states, in every axis."""
    theirs, ours = _pair(kind, 3, 4)
    x = _randn(*shape).expand(6, 5, 3)
    states = tuple(state[:, : shape[1], :1].expand(state.shape) for state in initial_states(ours, 5))
    assert_near(evaluate(ours, x, states), evaluate(theirs, x, states))


@every_kind
@pytest.mark.parametrize("axes", [(0, 1, 2), (0, 2), (1, 2), (1,), (0,), (2,)], ids=str)
def test_one_element_may_stand_for_many_in_the_gradients_that_arrive(axes: tuple[int, ...], kind: Kind) -> None:
    found, x = [], _randn(6, 5, 3)
    for module in _pair(kind, 3, 4, bidirectional=True):
        leaves = [x.detach().requires_grad_(), *module.parameters()]
        values = tuple(named(*module(leaves[0])).values())
        grad_outputs = []
        for value in values:
            one = random_like(value)
            for axis in axes:
                one = one.narrow(axis, 0, 1)
            grad_outputs.append(one.expand(value.shape))
        found.append({str(i): g for i, g in enumerate(torch.autograd.grad(values, leaves, tuple(grad_outputs)))})
    assert_near(*reversed(found))


USES: dict[str, Callable[..., Tensor]] = {
    "output": lambda output, *finals: (output**2).sum(),
    "h_n": lambda output, *finals: (finals[0] ** 2).sum(),
    "the last state": lambda output, *finals: (finals[-1] ** 2).sum(),
    "one step": lambda output, *finals: (output[2] ** 2).sum(),
    "the sum of output": lambda output, *finals: output.sum(),
    "all": lambda output, *finals: (output**2).sum() + sum((final**3).sum() for final in finals),
}


@every_kind
@pytest.mark.parametrize("use", USES.values(), ids=USES)
@both_forms
def test_gradients_may_arrive_at_some_of_the_results_only(use: Callable[..., Tensor], packed: bool, kind: Kind) -> None:
    x, found = _packed(6, 4, 3) if packed else _randn(6, 4, 3), []
    theirs, ours = _pair(kind, 3, 5, 2, bidirectional=True)
    initial = initial_states(ours, 4)
    for module in (ours, theirs):
        data, states = (x.data if packed else x).detach().requires_grad_(), tuple(state.detach().requires_grad_() for state in initial)
        values = named(*module(PackedSequence(data, x.batch_sizes) if packed else data, as_hx(states)))
        gradients = torch.autograd.grad(use(*values.values()), [data, *states, *module.parameters()], materialize_grads=True)
        found.append({str(i): gradient for i, gradient in enumerate(gradients)})
    assert_near(*found)


# --- What is wanted ---------------------------------------------------------------------------------------------------


@every_kind
@pytest.mark.parametrize("count", [1, 2])
def test_a_gradient_is_the_same_whatever_others_are_wanted(count: int, kind: Kind) -> None:
    rnn = kind.build(elman, 40, 70, 2, bidirectional=True, dtype=torch.float64)
    x, states = _randn(20, 9, 40), initial_states(rnn, 9)
    leaves = {"x": x, **{f"initial {name}": state for name, state in zip("hc", states, strict=False)}, **dict(rnn.named_parameters())}
    with threads(count):
        everything = evaluate(rnn, x, states)
        for leaf_name, leaf in leaves.items():
            for name, other in leaves.items():
                other.requires_grad_(name == leaf_name)
            values = tuple(named(*rnn(x, as_hx(states))).values())
            (got,) = torch.autograd.grad(values, leaf, tuple(map(random_like, values)))
            assert torch.equal(got, everything[f"d {leaf_name}"]), leaf_name


@every_kind
def test_a_parameter_that_was_changed_in_place_cannot_be_differentiated(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4, dtype=torch.float64), _randn(5, 2, 3)
    output, _ = rnn(x)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


@every_kind
def test_a_graph_that_is_kept_can_be_differentiated_again(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4, 2, dtype=torch.float64), _randn(5, 2, 3)
    loss = rnn(x)[0].square().sum()
    first = torch.autograd.grad(loss, list(rnn.parameters()), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, list(rnn.parameters())), strict=True))


def test_tied_parameters_get_the_gradients_of_all_their_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between directions and between networks; first and second derivatives."""
    monkeypatch.undo()  # second derivatives are the reference's
    results, x = [], _randn(5, 2, 4)
    theirs, ours = _pair(TANH, 4, 4, bidirectional=True)
    for module in (theirs, ours):
        module.weight_hh_l0_reverse = module.weight_hh_l0
        module.weight_ih_l0_reverse = module.weight_hh_l0  # I = H
        other = type(module)(8, 4, dtype=torch.float64)
        other.load_state_dict({name: torch.ones_like(value) / 8 for name, value in other.state_dict().items()})
        other.weight_hh_l0 = module.weight_hh_l0
        leaves = [x.clone().requires_grad_(), *module.parameters(), *(p for p in other.parameters() if p is not module.weight_hh_l0)]
        output, _ = other(module(leaves[0])[0])
        first = torch.autograd.grad(output.square().sum(), leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
        results.append({str(i): value.detach() for i, value in enumerate((output, *first, *second))})
    assert_near(*reversed(results))


# --- Infinities and NaN -----------------------------------------------------------------------------------------------


@on_every_isa
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38], ids=str)
@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM, projected(5)], ids=str)
@pytest.mark.parametrize("where", ["x", "state", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_hh_l1", "grad_output"])
@pytest.mark.usefixtures("unfused")
def test_nan_and_infinity_go_where_torchs_go(where: str, kind: Kind, value: float) -> None:
    """Through results and gradients; elsewhere the numbers stay finite."""
    theirs, ours = kind.pair(3, 9, 2, dtype=torch.float32)
    x, states = _randn(5, 3, 3, dtype=torch.float32), initial_states(ours, 3)
    grad_output = _randn(5, 3, kind.widths(9)[0], dtype=torch.float32)
    found = []
    for module in (theirs, ours):
        spoiled = {"x": x.clone(), "state": states[-1].clone(), "grad_output": grad_output.clone(), **dict(module.named_parameters())}
        with torch.no_grad():
            spoiled[where].view(-1)[spoiled[where].numel() // 2] = value
        inputs = [spoiled["x"], *(state.clone() for state in states[:-1]), spoiled["state"]]
        leaves = [*(tensor.requires_grad_() for tensor in inputs), *module.parameters()]
        values = named(*module(inputs[0], as_hx(tuple(inputs[1:]))))
        found.append((*values.values(), *torch.autograd.grad(values["output"], leaves, spoiled["grad_output"])))
    for expected, got in zip(*found, strict=True):
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.isposinf(), expected.isposinf())
        assert torch.equal(got.isneginf(), expected.isneginf())


@pytest.mark.parametrize("kind", [TANH, RELU, GRU, LSTM], ids=str)
def test_nothing_here_is_torchs_own_kernel(kind: Kind) -> None:
    """The other tests compare ours with torch's: that they are not the same, though ours inherit from torch's."""
    computing, found = re.compile("^aten::.*(rnn|gru|lstm|mm$|mul|linear|tanh|relu|sigmoid)"), []
    for module in _pair(kind, 3, 4):
        with torch.autograd.profiler.profile() as profile:
            module(_randn(5, 2, 3))[0].sum().backward()
        found.append([event.name for event in profile.function_events if computing.search(event.name)])
    assert found[0]
    assert not found[1]
