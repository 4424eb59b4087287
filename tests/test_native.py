"""The native backend computes what torch.nn.RNN does, at sizes that reach every path of the kernels, for operands that lie anyhow.

In float64, to 1e-12. What is small and plain is crossed with every option in test_agreement; here are tiles of every height, vectors
that end early, several chunks, several threads, and what may be handed to a backward pass.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import elman
from native import assert_near, assert_same_bits, evaluate, native_alone, pair, random_like, required, threads

if TYPE_CHECKING:
    from collections.abc import Iterator

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


@pytest.mark.parametrize("H", [1, 7, 8, 9, 15, 16, 17, 33, 65, 100])
def test_every_number_of_rows_is_right_at_widths_around_a_vectors(H: int) -> None:
    theirs, ours = pair(5, H)
    for B in range(1, 21):
        x, hx = _randn(3, B, 5), _randn(1, B, H)
        assert_near(evaluate(ours, x, hx), evaluate(theirs, x, hx))


@pytest.mark.parametrize("I", [1, 2, 8, 31, 700])
def test_few_and_many_input_features_are_right(I: int) -> None:  # noqa: E741
    theirs, ours = pair(I, 6, 2)
    x = _randn(4, 3, I)
    assert_near(evaluate(ours, x), evaluate(theirs, x))


def _packed(T: int, B: int, I: int) -> PackedSequence:  # noqa: E741
    lengths = torch.randint(1, T + 1, (B,)).sort(descending=True).values
    lengths[0] = T
    return pack_padded_sequence(_randn(T, B, I), lengths)


def _assert_near_on_threads(theirs: nn.RNN, ours: elman.RNN, x: Tensor | PackedSequence, hx: Tensor | None = None) -> None:
    expected = evaluate(theirs, x, hx)
    for count in (1, 2, 3):
        with threads(count):
            assert_near(evaluate(ours, x, hx), expected)


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": True}, {"num_layers": 2}, {"num_layers": 3, "bidirectional": True}],
    ids=["plain", "both ways", "deep", "all at once"],
)
def test_many_chunks_on_many_threads_are_right(options: dict[str, object], packed: bool) -> None:
    """80,000 units over all steps: five chunks forward, several blocks of a weight's gradient."""
    theirs, ours = pair(7, 50, **options)
    _assert_near_on_threads(theirs, ours, _packed(200, 8, 7) if packed else _randn(200, 8, 7))


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_many_chunks_of_gradients_are_right(packed: bool) -> None:
    """700,000 units over all steps, three chunks of gate gradients, in both directions."""
    theirs, ours = pair(3, 130, bidirectional=True)
    _assert_near_on_threads(theirs, ours, _packed(270, 20, 3) if packed else _randn(270, 20, 3), _randn(2, 20, 130))


@pytest.mark.parametrize("B", [1, 2])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "num_layers": 2}], ids=["plain", "all at once"])
def test_the_columns_of_a_step_can_be_split_among_threads(options: dict[str, object], B: int) -> None:
    theirs, ours = pair(9, 350, **options)
    _assert_near_on_threads(theirs, ours, _randn(40, B, 9))


def test_gradients_through_a_hundred_thousand_steps_are_right() -> None:
    """One unit, so that the loop is one of plain numbers."""
    rnn, x = elman.RNN(1, 1, dtype=torch.float64), _randn(100_000, 1, 1)
    got = evaluate(rnn, x)
    w_ih, w_hh, b_ih, b_hh = (p.item() for p in rnn.parameters())
    inputs, states = x.flatten().tolist(), [0.0]
    for value in inputs:
        states.append(math.tanh(w_ih * value + b_ih + w_hh * states[-1] + b_hh))
    d_output, d_h = random_like(got["output"]).flatten().tolist(), random_like(got["h_n"]).item()
    d_x, sums = [0.0] * len(inputs), [0.0, 0.0, 0.0]
    for t in reversed(range(len(inputs))):
        d_a = (d_h + d_output[t]) * (1 - states[t + 1] ** 2)
        d_x[t], d_h = d_a * w_ih, d_a * w_hh
        sums = [sums[0] + d_a * inputs[t], sums[1] + d_a * states[t], sums[2] + d_a]
    expected = {"output": states[1:], "h_n": states[-1:], "d x": d_x}
    expected |= {"d weight_ih_l0": sums[:1], "d weight_hh_l0": sums[1:2], "d bias_ih_l0": sums[2:], "d bias_hh_l0": sums[2:]}
    assert_near(got, {name: torch.tensor(value, dtype=torch.float64).view(got[name].shape) for name, value in expected.items()})


def test_gradients_of_five_thousand_units_are_right() -> None:
    theirs, ours = pair(3, 5000, bias=False)
    x = _randn(2, 1, 3)
    assert_near(evaluate(ours, x), evaluate(theirs, x))


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


@pytest.mark.parametrize("place", PLACES)
def test_operands_may_lie_anyhow(place: str) -> None:
    """Input, states, parameters and the gradients that arrive: the same bits as from plain memory."""
    put = PLACES[place]
    rnn = elman.RNN(3, 4, 2, bidirectional=True, dtype=torch.float64)
    x, hx, d_output, d_h_n = _randn(6, 5, 3), _randn(4, 5, 4), _randn(6, 5, 8), _randn(4, 5, 4)
    assert torch.equal(put(x), x)
    results = []
    for at in (put, torch.clone):
        weights = {name: at(p.detach()).requires_grad_() for name, p in rnn.named_parameters() if p.ndim == 2}
        inputs = [at(x).requires_grad_(), at(hx).requires_grad_()]
        output, h_n = torch.func.functional_call(rnn, weights, tuple(inputs))
        leaves = [*inputs, *weights.values()]
        gradients = torch.autograd.grad((output, h_n), leaves, (at(d_output), at(d_h_n)))
        results.append({str(i): value.detach() for i, value in enumerate((output, h_n, *gradients))})
    assert_same_bits(*results)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (6, 1, 1), (6, 1, 3), (1, 5, 3)], ids=str)
def test_one_element_may_stand_for_many(shape: tuple[int, ...]) -> None:
    """Expanded inputs and states, in every axis."""
    theirs, ours = pair(3, 4)
    x, hx = _randn(*shape).expand(6, 5, 3), _randn(1, *shape[1:]).expand(1, 5, 3)
    hx = hx[..., :1].expand(1, 5, 4)
    assert_near(evaluate(ours, x, hx), evaluate(theirs, x, hx))


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 5, 1), (6, 1, 1), (6, 1, 8), (1, 5, 8), (6, 5, 1)], ids=str)
def test_one_element_may_stand_for_many_in_the_gradients_that_arrive(shape: tuple[int, ...]) -> None:
    results = []
    d_output, d_h_n = _randn(*shape).expand(6, 5, 8), _randn(1, 1, 4).expand(2, 5, 4)
    x = _randn(6, 5, 3)
    for module in pair(3, 4, bidirectional=True):
        leaves = [x.detach().requires_grad_(), *module.parameters()]
        results.append({str(i): g for i, g in enumerate(torch.autograd.grad(module(leaves[0]), leaves, (d_output, d_h_n)))})
    assert_near(*results)


@pytest.mark.parametrize("used", ["output", "h_n", "one step", "the sum of output", "both"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_gradients_may_arrive_at_some_of_the_results_only(used: str, packed: bool) -> None:
    x, hx, results = (_packed(6, 4, 3) if packed else _randn(6, 4, 3)), _randn(4, 4, 5), []
    for module in pair(3, 5, 2, bidirectional=True):
        data, state = (x.data if packed else x).detach().requires_grad_(), hx.detach().requires_grad_()
        output, h_n = module(PackedSequence(data, x.batch_sizes) if packed else data, state)
        output = output.data if packed else output
        losses = {
            "output": lambda o, h: (o**2).sum(),
            "h_n": lambda o, h: (h**2).sum(),
            "one step": lambda o, h: (o[2] ** 2).sum(),
            "the sum of output": lambda o, h: o.sum(),
            "both": lambda o, h: (o**2).sum() + (h**3).sum(),
        }
        gradients = torch.autograd.grad(losses[used](output, h_n), [data, state, *module.parameters()])
        results.append({str(i): gradient for i, gradient in enumerate(gradients)})
    assert_near(*reversed(results))


# --- What is wanted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2])
def test_a_gradient_is_the_same_whatever_others_are_wanted(count: int) -> None:
    rnn = elman.RNN(40, 70, 2, bidirectional=True, dtype=torch.float64)
    x, hx = _randn(20, 9, 40), _randn(4, 9, 70)
    leaves = {"x": x, "hx": hx, **dict(rnn.named_parameters())}
    with threads(count):
        everything = evaluate(rnn, x, hx)
        for wanted, leaf in leaves.items():
            for name, other in leaves.items():
                other.requires_grad_(name == wanted)
            output, h_n = rnn(x, hx)
            g = [torch.randn(o.shape, generator=torch.Generator().manual_seed(0), dtype=o.dtype) for o in (output, h_n)]
            (got,) = torch.autograd.grad((output, h_n), leaf, g)
            assert torch.equal(got, everything[f"d {wanted}"]), wanted


def test_a_parameter_that_was_changed_in_place_cannot_be_differentiated() -> None:
    rnn, x = elman.RNN(3, 4, dtype=torch.float64), _randn(5, 2, 3)
    output, _ = rnn(x)
    with torch.no_grad():
        rnn.weight_hh_l0.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()


def test_a_graph_that_is_kept_can_be_differentiated_again() -> None:
    rnn, x = elman.RNN(3, 4, 2, dtype=torch.float64), _randn(5, 2, 3)
    loss = rnn(x)[0].square().sum()
    first = torch.autograd.grad(loss, list(rnn.parameters()), retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(loss, list(rnn.parameters())), strict=True))


def test_tied_parameters_get_the_gradients_of_all_their_uses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between directions and between networks; first and second derivatives."""
    monkeypatch.undo()  # second derivatives are the reference's
    results, x = [], _randn(5, 2, 4)
    theirs, ours = pair(4, 4, bidirectional=True)
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


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 3e38], ids=str)
@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("where", ["x", "hx", "weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "weight_hh_l1", "d_output"])
def test_nan_and_infinity_go_where_torchs_go(where: str, nonlinearity: str, value: float) -> None:
    """Through results and gradients; elsewhere the numbers stay finite."""
    theirs, ours = pair(3, 9, 2, nonlinearity=nonlinearity, dtype=torch.float32)
    x, hx, d_output = _randn(5, 3, 3, dtype=torch.float32), _randn(2, 3, 9, dtype=torch.float32), _randn(5, 3, 9, dtype=torch.float32)
    results = []
    for module in (theirs, ours):
        spoiled = {"x": x.clone(), "hx": hx.clone(), "d_output": d_output.clone(), **dict(module.named_parameters())}
        with torch.no_grad():
            spoiled[where].view(-1)[spoiled[where].numel() // 2] = value
        leaves = [spoiled["x"].requires_grad_(), spoiled["hx"].requires_grad_(), *module.parameters()]
        output, h_n = module(leaves[0], leaves[1])
        results.append((output, h_n, *torch.autograd.grad(output, leaves, spoiled["d_output"])))
    for expected, got in zip(*results, strict=True):
        assert torch.equal(got.isnan(), expected.isnan())
        assert torch.equal(got.isposinf(), expected.isposinf())
        assert torch.equal(got.isneginf(), expected.isneginf())


def test_nothing_here_is_torchs_own_kernel() -> None:
    """The other tests compare ours with torch's: that they are not the same."""
    assert not issubclass(elman.RNN, nn.RNN)
    assert elman.why(elman.RNN(1, 1), torch.zeros(1, 1, 1)).startswith("native")
