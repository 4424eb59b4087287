"""A stream gives what the layer gives, to the bit, however a sequence is cut; in place, in no memory; and training goes through it."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import tracemalloc
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import elman
from elman.backends import kernels
from kinds import GRU, KINDS, LSTM, TANH, Kind, as_hx, as_states, every_kind, projected
from native import initial_states, random_like, required

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

    from elman import Stream

ISAS = kernels.isas() if kernels.available() else ()
VIEWS = {"tensors": lambda x: x, "arrays": lambda x: x.numpy()}
every_view = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)


@contextmanager
def instruction_set(isa: str) -> Iterator[None]:
    before = kernels.isa()
    kernels._native.use(isa)
    try:
        yield
    finally:
        kernels._native.use(before)


def tensor(values: Tensor | np.ndarray) -> Tensor:
    """A copy of what a stream gave, as a tensor."""
    return (torch.from_numpy(values) if isinstance(values, np.ndarray) else values).detach().clone()


def follow(stream: Stream, x: Tensor, cuts: list[int], view: Any) -> Tensor:
    """The outputs of x, time first, taken in pieces: 0 is a step, another number a run of so many."""
    batch_first, outputs, begin = stream.rnn.batch_first, [], 0
    for cut in cuts:
        piece = x[begin : begin + max(1, cut)]
        if cut == 0:
            outputs.append(tensor(stream.step(view(piece[0])))[None])
        else:
            output = tensor(stream.run(view(piece.transpose(0, 1) if batch_first else piece)))
            outputs.append(output.transpose(0, 1) if batch_first else output)
        begin += len(piece)
    assert begin == len(x)
    return torch.cat(outputs)


def assert_same_state(stream: Stream, hx: Tensor | tuple[Tensor, ...]) -> None:
    for got, expected in zip(as_states(stream.state), as_states(hx), strict=True):
        assert torch.equal(got, expected)


# --- The same bits ----------------------------------------------------------------------------------------------------


@required
@every_kind
@pytest.mark.parametrize("isa", ISAS)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
@torch.no_grad()
def test_every_cut_gives_the_bits_of_the_whole_run(isa: str, kind: Kind, data: st.DataObject) -> None:
    draw = data.draw
    B, hidden = draw(st.integers(1, 9), label="B"), draw(st.integers(3, 70), label="H")
    options = {"num_layers": draw(st.integers(1, 3)), "bias": draw(st.booleans()), "batch_first": draw(st.booleans())}
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    cuts = draw(st.lists(st.sampled_from([0, 0, 0, 1, 2, 7]), min_size=1, max_size=9), label="cuts")
    torch.manual_seed(0)
    rnn = kind.build(elman, draw(st.integers(1, 40), label="I"), hidden, **options).to(dtype)
    x = torch.randn(sum(max(1, cut) for cut in cuts), B, rnn.input_size, dtype=dtype)
    with instruction_set(isa):
        output, hx = rnn(x.transpose(0, 1) if rnn.batch_first else x)
        for view in VIEWS.values():
            stream = elman.stream(rnn, B)
            assert torch.equal(follow(stream, x, cuts, view), output.transpose(0, 1) if rnn.batch_first else output)
            assert_same_state(stream, hx)


@required
@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM, projected(1), projected(17)], ids=str)
@torch.no_grad()
def test_widths_around_a_vectors_and_tall_batches_give_the_bits_of_the_whole_run(isa: str, kind: Kind) -> None:
    with instruction_set(isa):
        for sizes, B in [((5, 18), 1), ((16, 31), 1), ((1, 33), 2), ((64, 64), 1), ((300, 130), 1), ((40, 65), 33), ((2, 250), 70)]:
            rnn, x = kind.build(elman, *sizes), torch.randn(3, B, sizes[0])
            states = initial_states(rnn, B)
            stream = elman.stream(rnn, B)
            stream.state = as_hx(states)
            assert torch.equal(follow(stream, x, [0, 0, 0], VIEWS["arrays"]), rnn(x, as_hx(states))[0])


@required
@every_kind
def test_a_step_is_run_by_the_kernels(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn = kind.build(elman, 3, 5, 2)
    stream = elman.stream(rnn)
    monkeypatch.setattr(type(rnn), "forward", None)  # whoever calls the layer fails
    stream.step(np.zeros((1, 3), np.float32))
    with torch.no_grad():
        stream.step(torch.zeros(1, 3))


@pytest.mark.skipif(not kernels.sees_tensors(), reason="torch does not show its tensors to the kernels here")
@every_view
@torch.no_grad()
def test_torch_that_does_not_show_its_tensors_gives_the_same(view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn, x = elman.GRU(3, 5), torch.randn(4, 1, 3)
    expected = rnn(x)[0]
    monkeypatch.setattr(kernels, "sees_tensors", lambda: False)
    kernels._native.offer_exchange(object())
    try:
        stream = elman.stream(rnn)
        assert torch.equal(follow(stream, x, [0] * 4, view), expected)
        with torch.no_grad():
            rnn.bias_hh_l0.add_(1)
        assert not torch.equal(tensor(stream.step(view(x[0]))), expected[0])
    finally:
        kernels._native.offer_exchange(torch.Tensor.__dlpack_c_exchange_api__)


@required
@every_view
@pytest.mark.parametrize("kind", [TANH, GRU], ids=str)
@torch.no_grad()
def test_bfloat16_gives_the_bits_of_the_whole_run_where_all_that_is_kept_is_rounded(kind: Kind, view: Any) -> None:
    rnn, x = kind.build(elman, 6, 20, 2).bfloat16(), torch.randn(7, 2, 6, dtype=torch.bfloat16)
    stream = elman.stream(rnn, 2)
    if view is VIEWS["arrays"]:
        with pytest.raises(
            ValueError, match=r"expected x to be a torch tensor: the parameters are torch.bfloat16, which NumPy does not have"
        ):
            stream.step(np.zeros((2, 6), np.float32))
    else:
        assert torch.equal(follow(stream, x, [0, 3, 0, 2], view), rnn(x)[0])


@torch.no_grad()
def test_an_lstms_c_in_bfloat16_is_rounded_where_a_call_ends() -> None:
    rnn, x = elman.LSTM(6, 20).bfloat16(), torch.randn(6, 2, 6, dtype=torch.bfloat16)
    hx, outputs = None, []
    for x_t in x:
        output, hx = rnn(x_t[None], hx)
        outputs.append(output)
    assert torch.equal(follow(elman.stream(rnn, 2), x, [0] * 6, VIEWS["tensors"]), torch.cat(outputs))


@every_view
@every_kind
@torch.no_grad()
def test_without_kernels_the_layer_runs_the_steps(kind: Kind, view: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rnn, x = kind.build(elman, 3, 5, 2).double(), torch.randn(6, 2, 3, dtype=torch.float64)
    theirs = kind.build(nn, 3, 5, 2).double()
    theirs.load_state_dict(rnn.state_dict())
    expected = theirs(x)[0]
    torch.testing.assert_close(follow(elman.stream(rnn, 2), x, [0, 3, 0, 0], view), expected, rtol=0, atol=1e-12)
    monkeypatch.setattr(kernels, "available", lambda: False)
    torch.testing.assert_close(follow(elman.stream(rnn, 2), x, [0, 3, 0, 0], view), expected, rtol=0, atol=1e-12)


@every_view
@torch.no_grad()
def test_half_precision_goes_to_the_reference(view: Any) -> None:
    rnn, x = elman.GRU(3, 5).half(), torch.randn(4, 1, 3).half()
    stream = elman.stream(rnn)
    # The same but for the order in which products are added up: a pre-activation below 4 is then one of two neighbours.
    torch.testing.assert_close(follow(stream, x, [0, 2, 0], view), rnn(x)[0], rtol=0, atol=2**-8)
    assert stream.state_dict()["h"].dtype == np.float16


# --- What is taken, and what is given ---------------------------------------------------------------------------------


@every_view
@torch.no_grad()
def test_one_sequence_needs_no_batch_axis(view: Any) -> None:
    for batch_first in (False, True):
        rnn, x = elman.LSTM(3, 5, 2, batch_first=batch_first), torch.randn(6, 3)
        expected = rnn(x)[0]
        stream = elman.stream(rnn)
        assert torch.equal(torch.stack([tensor(stream.step(view(x_t))) for x_t in x[:2]]), expected[:2])
        assert torch.equal(tensor(stream.run(view(x[2:]))), expected[2:])


def test_every_layout_of_rows_is_read_right() -> None:
    rnn = elman.RNN(4, 5)
    base = torch.randn(3, 4)
    with torch.no_grad():
        expected = rnn(base[None])[0][0]
    wide = np.zeros((6, 8), np.float32)
    wide[::2, :4] = base
    bytes_ = np.zeros(3 * 4 * 4 + 1, np.uint8)
    odd = bytes_[1:].view(np.float32).reshape(3, 4)
    odd[:] = base
    frozen = base.numpy().copy()
    frozen.flags.writeable = False
    arrays = {
        "dense": base.numpy(),
        "rows apart": wide[::2, :4],
        "rows backwards": base.numpy()[::-1].copy()[::-1],
        "columns apart": np.repeat(base.numpy(), 2, axis=1)[:, ::2],
        "columns backwards": base.numpy()[:, ::-1].copy()[:, ::-1],
        "Fortran": np.asfortranarray(base.numpy()),
        "misaligned": odd,
        "read-only": frozen,
        "a subclass": base.numpy().view(np.matrix),
    }
    assert not odd.flags.aligned
    for name, array in arrays.items():
        stream = elman.stream(rnn, 3)
        for _ in range(2):  # as the first step, and as one that follows
            stream.reset()
            y = stream.step(array)
            assert type(y) is np.ndarray
            assert torch.equal(tensor(y), expected), name
    tensors = [base, torch.from_numpy(wide)[::2, :4], base.t().contiguous().t(), base.repeat_interleave(2, 1)[:, ::2], nn.Parameter(base)]
    tensors.append(torch._neg_view(-base))
    for x in tensors:
        stream = elman.stream(rnn, 3)
        with torch.no_grad():
            for _ in range(2):
                stream.reset()
                assert torch.equal(stream.step(x), expected)


@torch.no_grad()
def test_one_row_may_stand_for_all() -> None:
    rnn, x = elman.RNN(4, 5), torch.randn(1, 4).expand(3, 4)
    for view in VIEWS.values():
        stream = elman.stream(rnn, 3)
        assert torch.equal(tensor(stream.step(view(x))), rnn(x[None])[0][0])


@torch.no_grad()
def test_the_output_may_be_the_next_input() -> None:
    for kind in KINDS[:4]:
        rnn, x = kind.build(elman, 6, 6, 2), torch.randn(1, 6)
        for view in VIEWS.values():
            stream, y, expected = elman.stream(rnn), view(x), x
            hx = None
            for _ in range(4):
                y = stream.step(y)
                output, hx = rnn(expected[None], hx)
                expected = output[0]
            assert torch.equal(tensor(y), expected)


@required
def test_a_step_takes_no_memory_and_gives_the_same_object() -> None:
    for kind in KINDS:
        stream = elman.stream(kind.build(elman, 10, 20, 2), 3)
        x = np.ones((3, 10), np.float32)
        y = stream.step(x)
        gc.collect()
        tracemalloc.start()
        try:
            stream.step(x)
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            same = all([stream.step(x) is y for _ in range(1000)])  # noqa: C419  # a list of Trues
            now, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert same
        assert now - before < 1000  # of which the list above has nothing left
        assert peak - before < 12_000  # the list: 8 bytes an element
        with torch.no_grad():
            y = stream.step(torch.ones(3, 10))
            assert all(stream.step(torch.ones(3, 10)) is y for _ in range(10))


@torch.no_grad()
def test_what_is_written_into_an_output_does_not_reach_the_state() -> None:
    rnn, x = elman.RNN(3, 5, 2), torch.randn(4, 1, 3)
    for view in VIEWS.values():
        stream = elman.stream(rnn)
        for x_t, expected in zip(x, rnn(x)[0], strict=True):
            y = stream.step(view(x_t))
            assert torch.equal(tensor(y), expected)
            y[:] = 7


def test_what_a_run_gives_is_the_callers() -> None:
    stream = elman.stream(elman.RNN(3, 5))
    first = stream.run(np.ones((4, 1, 3), np.float32))
    before = first.copy()
    stream.run(np.zeros((4, 1, 3), np.float32))
    np.testing.assert_array_equal(first, before)


def test_nan_goes_through() -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    y = stream.step(np.array([[1, np.nan, 2], [1, 2, 3]], np.float32))
    assert np.isnan(y[0]).all()
    assert np.isfinite(y[1]).all()


# --- The state --------------------------------------------------------------------------------------------------------


@every_kind
@torch.no_grad()
def test_a_state_is_read_and_set(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 5, 2), torch.randn(6, 2, 3)
    expected = rnn(x)[0]
    stream = elman.stream(rnn, 2)
    for view in VIEWS.values():
        stream.reset()
        follow(stream, x[:3], [0, 0, 0], view)
        kept, arrays = stream.state, stream.state_dict()
        assert_same_state(stream, rnn(x[:3])[1])
        for put_back in (lambda s=kept: setattr(stream, "state", s), lambda d=arrays: stream.load_state_dict(d)):
            assert torch.equal(follow(stream, x[3:], [0, 0, 0], view), expected[3:])
            put_back()
        stream.state = as_hx(tuple(array for array in arrays.values()))
        assert torch.equal(follow(stream, x[3:], [2, 0], view), expected[3:])


def test_a_state_that_was_read_or_set_is_a_copy() -> None:
    stream = elman.stream(elman.LSTM(3, 5))
    stream.step(np.ones((1, 3), np.float32))
    read, arrays = stream.state, stream.state_dict()
    before = [state.clone() for state in read]
    mine = [torch.ones(1, 1, 5), torch.ones(1, 1, 5)]
    stream.state = tuple(mine)
    mine[0].zero_()
    stream.step(np.ones((1, 3), np.float32))
    assert all(map(torch.equal, read, before))
    assert all(torch.equal(torch.from_numpy(a), b) for a, b in zip(arrays.values(), before, strict=True))
    read[0].fill_(9)
    assert not (stream.state[0] == 9).any()


@torch.no_grad()
def test_rows_are_reset_one_by_one() -> None:
    rnn, x = elman.GRU(3, 5, 2), torch.randn(8, 4, 3)
    masks = {"a number": 2, "numbers": [1, 2], "a mask": [False, True, True, False], "an array": np.array([3]), "none of them": []}
    masks |= {"a tensor": torch.tensor([True, False, False, True]), "an array of truth": np.array([True, True, False, True])}
    masks |= {kind: np.array([3, 0], kind) for kind in ("uint8", "int16", "uint16", "uint32", "uint64", ">i8")}
    masks |= {"backwards": np.arange(4)[2::-1], "truth backwards": np.array([True, True, False, False])[::-1]}
    masks |= {"a number in an array": np.array(2), "a tensor of uint16": torch.tensor([1, 3], dtype=torch.uint16)}
    for rows in masks.values():
        for view in VIEWS.values():
            stream = elman.stream(rnn, 4)
            follow(stream, x[:4], [0, 3], view)
            stream.reset(rows)
            chosen = torch.zeros(4, dtype=torch.bool)
            chosen[rows if isinstance(rows, int | list) else rows.tolist()] = True
            state = torch.where(chosen[:, None], 0, rnn(x[:4])[1])
            assert torch.equal(stream.state, state)
            assert torch.equal(follow(stream, x[4:], [0, 0, 2], view), rnn(x[4:], state)[0])


def learned(kind: Kind) -> nn.Module:
    """A network that learns its initial states, with some."""
    rnn = kind.build(elman, 3, 5, 2, learn_initial_state=True).double()
    for name in kind.states:
        nn.init.normal_(getattr(rnn, f"{name}_0"))
    return rnn


@every_kind
def test_a_fresh_sequence_begins_with_what_the_network_learned(kind: Kind) -> None:
    rnn, x = learned(kind), torch.randn(5, 3, 3, dtype=torch.float64)
    for view in VIEWS.values():
        stream = elman.stream(rnn, 3)
        with torch.no_grad():
            assert torch.equal(follow(stream, x, [0, 0, 3], view), rnn(x)[0])
            stream.reset([1])
            rnn.h_0.add_(1)  # before the row begins
            assert torch.equal(tensor(stream.step(view(x[0])))[1], rnn(x)[0][0, 1])


@every_kind
@pytest.mark.parametrize("frozen", [False, True], ids=["all", "initial states alone"])
def test_what_a_fresh_sequence_begins_with_is_learned_through_a_stream(frozen: bool, kind: Kind) -> None:
    rnn, x = learned(kind), torch.randn(5, 3, 3, dtype=torch.float64)
    for name, parameter in rnn.named_parameters():
        parameter.requires_grad_(not frozen or name in ("h_0", "c_0"))
    parameters = [parameter for parameter in rnn.parameters() if parameter.requires_grad]
    stream = elman.stream(rnn, 3)
    output = torch.cat([stream.step(x[0])[None], stream.run(x[1:3]), stream.step(x[3])[None], stream.run(x[4:])])
    expected = rnn(x)[0]
    weights = random_like(expected)
    got = torch.autograd.grad(output, parameters, weights)
    for a, b in zip(got, torch.autograd.grad(expected, parameters, weights), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, b.abs().max().item()))


# --- Copies -----------------------------------------------------------------------------------------------------------

COPIES = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": lambda stream: pickle.loads(pickle.dumps(stream))}  # noqa: S301


@every_kind
@pytest.mark.parametrize("way", COPIES)
@torch.no_grad()
def test_a_copy_has_a_state_of_its_own(way: str, kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 5, 2), torch.randn(6, 2, 3)
    expected = rnn(x)[0]
    for before in ([0, 0, 0], [3]):
        stream = elman.stream(rnn, 2)
        follow(stream, x[:3], before, VIEWS["arrays"])
        other = COPIES[way](stream)
        assert (other.rnn is rnn) == (way == "copy")
        assert torch.equal(follow(stream, x[3:], [0, 0, 0], VIEWS["arrays"]), expected[3:])
        assert torch.equal(follow(other, x[3:], [0, 0, 0], VIEWS["arrays"]), expected[3:])


@pytest.mark.parametrize("way", COPIES)
def test_a_copy_of_a_stream_in_training_has_no_graph(way: str) -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    stream.run(torch.randn(4, 2, 3))
    stream.reset([0])
    other = COPIES[way](stream)
    assert torch.equal(other.state, stream.state)
    assert stream.state.requires_grad
    assert not other.state.requires_grad


# --- Parameters that change -------------------------------------------------------------------------------------------


def _replace(rnn: nn.Module) -> None:
    rnn.weight_hh_l0 = nn.Parameter(torch.randn_like(rnn.weight_hh_l0))


def _optimize(optimizer: torch.optim.Optimizer) -> None:
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _unpickle(rnn: nn.Module) -> None:
    other = elman.GRU(3, 5)
    rnn.__setstate__(other.__dict__.copy())


CHANGES = {
    "SGD": lambda rnn: _optimize(torch.optim.SGD(rnn.parameters(), lr=0.1)),
    "Adam": lambda rnn: _optimize(torch.optim.Adam(rnn.parameters(), lr=0.1)),
    "Adam, fused": lambda rnn: _optimize(torch.optim.Adam(rnn.parameters(), lr=0.1, fused=True)),
    "load_state_dict": lambda rnn: rnn.load_state_dict({k: v + 1 for k, v in rnn.state_dict().items()}),
    "load_state_dict, assigned": lambda rnn: rnn.load_state_dict({k: v + 1 for k, v in rnn.state_dict().items()}, assign=True),
    "reset_parameters": lambda rnn: rnn.reset_parameters(),
    "another parameter": _replace,
    "other parameters at once": _unpickle,
    "numbers that torch does not count": lambda rnn: rnn.weight_hh_l0.data.mul_(1.1),
    "other memory": lambda rnn: setattr(rnn.bias_ih_l0, "data", torch.randn_like(rnn.bias_ih_l0)),
}


@every_view
@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_the_parameters_acts_from_the_next_step_on(change: str, view: Any) -> None:
    torch.manual_seed(0)
    rnn, x = elman.GRU(3, 5), torch.randn(3, 1, 3)
    stream = elman.stream(rnn)
    with torch.no_grad():
        follow(stream, x[:2], [0, 0], view)
        state = stream.state
        stale = rnn(x[2:], state)[0][0]
    CHANGES[change](rnn)
    with torch.no_grad():
        y = tensor(stream.step(view(x[2])))
        assert torch.equal(y, rnn(x[2:], state)[0][0])
        assert not torch.equal(y, stale)


@required
@every_view
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@torch.no_grad()
def test_sixteen_numbers_of_each_parameter_are_watched(dtype: torch.dtype, view: Any) -> None:
    rnn, x = elman.RNN(3, 8).to(dtype), torch.randn(1, 3, dtype=dtype)
    stream = elman.stream(rnn)
    for name, parameter in rnn.named_parameters():
        numbers = parameter.data.view(-1)
        places = {(len(numbers) - 1) * i // 15 for i in range(16)}
        assert len(places) == min(16, len(numbers))
        for place in places:
            stream.reset()
            stream.step(view(x))
            numbers[place] += 1
            stream.reset()
            assert torch.equal(tensor(stream.step(view(x))), rnn(x[None])[0][0]), (name, place)


@torch.no_grad()
def test_a_parameter_that_is_turned_where_it_lies_is_seen() -> None:
    for view in VIEWS.values():
        rnn, x = elman.RNN(3, 5), torch.randn(3, 1, 3)
        stream = elman.stream(rnn)
        follow(stream, x[:2], [0, 0], view)
        state = stream.state
        rnn.weight_hh_l0.data = rnn.weight_hh_l0.data.t()
        assert torch.equal(tensor(stream.step(view(x[2]))), rnn(x[2:], state)[0][0])


@every_view
@torch.no_grad()
def test_a_network_that_changes_its_dtype_takes_the_state_along(view: Any) -> None:
    rnn, x = elman.LSTM(3, 5), torch.randn(4, 1, 3)
    stream = elman.stream(rnn)
    follow(stream, x[:2], [0, 0], view)
    state = stream.state
    rnn.double()
    with pytest.raises(ValueError, match=r"expected x of (torch.)?float64, the parameters' dtype, got (torch.)?float32: convert"):
        stream.step(view(x[2]))
    wide = tuple(s.double() for s in state)
    assert torch.equal(follow(stream, x[2:].double(), [0, 0], view), rnn(x[2:].double(), wide)[0])


@torch.no_grad()
def test_a_weight_that_is_computed_is_computed_at_each_step() -> None:
    rnn, x = weight_norm(elman.RNN(3, 5), "weight_hh_l0"), torch.randn(4, 1, 3)
    for view in VIEWS.values():
        stream = elman.stream(rnn)
        assert torch.equal(follow(stream, x, [0, 0, 2], view), rnn(x)[0])
        rnn.parametrizations.weight_hh_l0.original0.mul_(1.5)


@torch.no_grad()
def test_other_parameters_for_one_call_are_seen() -> None:
    rnn, x = elman.RNN(3, 5), torch.randn(1, 1, 3)
    other = {name: torch.randn_like(p) for name, p in rnn.named_parameters()}
    stream = elman.stream(rnn)
    stream.step(x[0])

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, x: Tensor) -> Tensor:
            stream.reset()
            return stream.step(x).clone()

    y = torch.func.functional_call(Step(), {f"rnn.{name}": p for name, p in other.items()}, (x[0],))
    assert torch.equal(y, torch.func.functional_call(rnn, other, (x,))[0][0])
    stream.reset()
    assert torch.equal(stream.step(x[0]), rnn(x)[0][0])


def test_dropout_acts_as_in_the_layer() -> None:
    rnn, x = elman.RNN(3, 50, 2, dropout=0.5), torch.randn(4, 1, 3)
    for view in VIEWS.values():
        stream = elman.stream(rnn)
        with torch.no_grad():
            first = tensor(stream.step(view(x[0])))
            stream.reset()
            assert not torch.equal(tensor(stream.step(view(x[0]))), first)
            rnn.eval()
            stream.reset()
            assert torch.equal(follow(stream, x, [0, 0, 2], view), rnn(x)[0])
            rnn.train()


# --- Training ---------------------------------------------------------------------------------------------------------


@every_kind
def test_gradients_through_a_stream_are_torchs_of_the_whole_sequence(kind: Kind) -> None:
    theirs, ours = kind.pair(3, 5, 2)
    theirs, ours, x = theirs.double(), ours.double(), torch.randn(9, 2, 3, dtype=torch.float64)
    expected = theirs(x)[0]
    weights = random_like(expected)
    stream = elman.stream(ours, 2)
    outputs = [stream.step(x[0])[None], stream.run(x[1:4]), stream.step(x[4])[None], stream.step(x[5])[None], stream.run(x[6:])]
    got = torch.autograd.grad(torch.cat(outputs), list(ours.parameters()), weights)
    for a, b in zip(got, torch.autograd.grad(expected, list(theirs.parameters()), weights), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 * max(1.0, b.abs().max().item()))


def test_the_graph_grows_with_each_step_on_a_tensor_until_it_is_cut() -> None:
    def length(stream: Stream) -> int:
        nodes, last = 0, stream.state.grad_fn
        seen, following = set(), [last]
        while following:
            node = following.pop()
            if node is not None and node not in seen:
                seen.add(node)
                nodes += 1
                following += [next_ for next_, _ in node.next_functions]
        return nodes

    x = torch.randn(1, 3)
    for cut in (lambda s: s.detach(), lambda s: s.reset()):
        stream = elman.stream(elman.RNN(3, 5))
        lengths = []
        for _ in range(3):
            stream.step(x)
            lengths.append(length(stream))
        assert lengths[0] < lengths[1] < lengths[2]
        cut(stream)
        assert length(stream) == 0
        stream.step(x.numpy())
        with torch.no_grad():
            stream.step(x)
        assert length(stream) == 0


def test_detach_cuts_the_graph() -> None:
    rnn, x = elman.LSTM(3, 5).double(), torch.randn(6, 2, 3, dtype=torch.float64, requires_grad=True)
    stream = elman.stream(rnn, 2)
    stream.run(x[:3])
    state = stream.state
    assert all(s.requires_grad for s in state)
    stream.detach()
    assert_same_state(stream, state)
    output = stream.run(x[3:])
    (d_x,) = torch.autograd.grad(output.sum(), x)
    assert not d_x[:3].any()
    expected = torch.autograd.grad(rnn(x[3:], tuple(s.detach() for s in state))[0].sum(), x)[0]
    torch.testing.assert_close(d_x, expected, rtol=0, atol=1e-12)


def test_a_reset_cuts_the_graph_of_its_rows() -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    x = torch.randn(4, 2, 3, requires_grad=True)
    stream.run(x[:2])
    stream.reset([0])
    (d_x,) = torch.autograd.grad(stream.step(x[2]).sum(), x)
    assert not d_x[:2, 0].any()
    assert d_x[:2, 1].any(1).all()
    stream.reset()
    assert not stream.state.requires_grad


def test_steps_in_place_between_steps_of_training_do_not_harm_the_graph() -> None:
    rnn, x = elman.GRU(3, 5).double(), torch.randn(3, 2, 3, dtype=torch.float64)
    stream = elman.stream(rnn, 2)
    with torch.no_grad():
        stream.step(x[0])
    state = stream.state
    y = stream.step(x[1])  # its graph begins with the state that the step after writes over
    with torch.no_grad():
        stream.step(x[2])
        stream.step(x[2])
    got = torch.autograd.grad(y.sum(), list(rnn.parameters()))
    expected = torch.autograd.grad(rnn(x[1:2], state)[0].sum(), list(rnn.parameters()))
    assert all(map(torch.equal, got, expected))


def test_an_initial_state_is_trained() -> None:
    rnn, x = elman.RNN(3, 5).double().requires_grad_(False), torch.randn(4, 2, 3, dtype=torch.float64)
    state = torch.randn(1, 2, 5, dtype=torch.float64, requires_grad=True)
    stream = elman.stream(rnn, 2)
    stream.state = state
    (got,) = torch.autograd.grad(stream.step(x[0]).sum() + stream.run(x[1:]).sum(), state)
    (expected,) = torch.autograd.grad(rnn(x, state)[0].sum(), state)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_what_is_built_on_a_frozen_network_trains() -> None:
    rnn, head, x = elman.RNN(3, 5).requires_grad_(False), nn.Linear(5, 1), torch.randn(4, 2, 3)
    stream = elman.stream(rnn, 2)
    loss = sum(head(stream.step(x_t)).square().sum() for x_t in x)
    got = torch.autograd.grad(loss, head.weight)[0]
    expected = torch.autograd.grad(head(rnn(x)[0]).square().sum(), head.weight)[0]
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


@required
def test_a_graph_that_kept_an_output_learns_that_it_was_written_over() -> None:
    stream, weight = elman.stream(elman.RNN(3, 5)), torch.ones(5, requires_grad=True)
    with torch.no_grad():
        y = stream.step(torch.ones(1, 3))
    loss = (y * weight).sum()
    with torch.no_grad():
        stream.step(torch.ones(1, 3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_what_inference_mode_left_can_be_trained_on() -> None:
    stream, x = elman.stream(elman.RNN(3, 5)), torch.randn(1, 3)
    with torch.inference_mode():
        stream.step(x)
        stream.run(x[None])
    stream.step(x).sum().backward()
    with torch.inference_mode():
        stream.step(x)
    assert not stream.step(x).is_inference()


@pytest.mark.parametrize(("name", "dtype"), [("RNN", torch.bfloat16), ("GRU", torch.float32)])
def test_modes_of_torch_are_the_layers(name: str, dtype: torch.dtype) -> None:
    rnn, x = getattr(elman, name)(3, 5), torch.randn(4, 2, 3)
    with torch.no_grad():
        stream = elman.stream(rnn, 2)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = torch.stack([stream.step(x_t) for x_t in x])
            # The same but for the order in which the reference adds products up: below 4 a bfloat16 sum is then one of two neighbours.
            torch.testing.assert_close(outputs, rnn(x)[0], rtol=0, atol=2**-6)
            assert outputs.dtype is dtype
        assert stream.state.dtype is torch.float32
        stream.step(x[0])

        def step(x: Tensor) -> Tensor:
            stream.reset()
            return stream.step(x)

        many = torch.randn(6, 2, 3)
        mapped = torch.func.vmap(step)(many)
        torch.testing.assert_close(mapped, torch.stack([rnn(m[None])[0][0] for m in many]), rtol=0, atol=1e-6)


@torch.no_grad()
def test_arrays_know_of_no_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (GRU, LSTM):
        rnn, x = kind.build(elman, 3, 5), torch.randn(6, 2, 3)
        expected = rnn(x)[0]
        for cuts in ([0] * 6, [2, 0, 3]):
            for has_kernels in (True, False):
                with monkeypatch.context() as patch, torch.autocast("cpu", torch.bfloat16):
                    if not has_kernels:
                        patch.setattr(kernels, "available", lambda: False)
                    y = follow(elman.stream(rnn, 2), x, cuts, VIEWS["arrays"])
                assert y.dtype is torch.float32
                torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def test_an_output_that_cannot_be_an_array_leaves_the_state() -> None:
    rnn = elman.RNN(3, 5)
    rnn.register_forward_hook(lambda rnn, x, result: (result[0].bfloat16(), result[1]))
    stream = elman.stream(rnn)
    stream.step(np.ones((1, 3), np.float32))
    state = stream.state
    with pytest.raises(TypeError, match="BFloat16"):
        stream.run(np.ones((4, 1, 3), np.float32))
    assert_same_state(stream, state)


@every_view
@torch.no_grad()
def test_another_default_device_changes_nothing(view: Any) -> None:
    rnn, x = elman.LSTM(3, 5), torch.randn(6, 2, 3)
    expected = rnn(x)[0]
    with torch.device("meta"):
        stream = elman.stream(rnn, 2)
        y = [tensor(stream.step(view(x_t))) for x_t in x[:3]]
        stream.reset()
        y += [tensor(stream.step(view(x_t))) for x_t in x[:2]]
        stream.reset([1])
        stream.reset(np.array([True, False]))
        stream.load_state_dict(stream.state_dict())
        y += [tensor(stream.step(view(x[0])))]
    assert torch.equal(torch.stack(y), expected[[0, 1, 2, 0, 1, 0]])


# --- Threads, and the end ---------------------------------------------------------------------------------------------


def test_threads_that_step_one_stream_break_nothing() -> None:
    stream = elman.stream(elman.LSTM(8, 16), 2)
    failed = []

    def work(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((2, 8)).astype(np.float32)
        try:
            for i in range(2000):
                stream.step(x if seed % 2 else torch.from_numpy(x)) if i % 50 else stream.reset([seed % 2])
        except Exception as error:
            failed.append(error)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failed == []
    assert np.isfinite(stream.step(np.zeros((2, 8), np.float32))).all()


def test_outputs_and_states_outlive_their_stream() -> None:
    stream = elman.stream(elman.RNN(3, 5))
    y, state = stream.step(np.ones((1, 3), np.float32)), stream.state
    before = y.copy()
    del stream
    gc.collect()
    [elman.stream(elman.RNN(3, 5)).step(np.zeros((1, 3), np.float32)) for _ in range(50)]
    np.testing.assert_array_equal(y, before)
    np.testing.assert_array_equal(state[0].numpy(), before)


@every_view
@torch.no_grad()
def test_a_stream_that_its_own_parameter_refers_to_is_freed(view: Any) -> None:
    rnn = elman.LSTM(3, 5)
    stream = elman.stream(rnn)
    stream.step(view(torch.ones(1, 3)))
    rnn.weight_hh_l0.mine = stream
    gone = weakref.ref(stream), weakref.ref(rnn)
    del stream
    gc.collect()
    rnn.weight_hh_l0.mine.step(view(torch.ones(1, 3)))  # what is still in use is not
    del rnn
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


# --- What is wrong ----------------------------------------------------------------------------------------------------

STEP = {
    "a list": ([0.0] * 3, TypeError, "expected x to be a torch tensor or a NumPy array, got list"),
    "nothing": (None, TypeError, "expected x to be a torch tensor or a NumPy array, got NoneType"),
    "three dimensions": (
        np.zeros((1, 2, 3), np.float32),
        ValueError,
        r"expected x of 2 dimensions, \(B, I\), got 3: x has shape \(1, 2, 3\)",
    ),
    "one dimension": (np.zeros(3, np.float32), ValueError, r"expected x of 2 dimensions, \(B, I\), got 1: x has shape \(3,\)"),
    "features": (np.zeros((2, 4), np.float32), RuntimeError, r"expected input of 3 features \(input_size\), got 4: x has shape \(2, 4\)"),
    "rows": (
        np.zeros((5, 3), np.float32),
        RuntimeError,
        r"expected x of 2 rows \(batch_size\), got 5: x has shape \(5, 3\); make a stream",
    ),
    "no rows": (np.zeros((0, 3), np.float32), RuntimeError, r"expected x of 2 rows \(batch_size\), got 0"),
    "dtype": (
        np.zeros((2, 3)),
        ValueError,
        r"expected x of float32, the parameters' dtype, got float64: convert it with x.astype\(numpy.float32",
    ),
    "byte order": (np.zeros((2, 3), ">f4"), ValueError, "expected x of float32, the parameters' dtype, got >f4"),
    "objects": (np.full((2, 3), None), ValueError, "expected x of float32, the parameters' dtype, got object"),
    "integers": (torch.zeros(2, 3, dtype=torch.int32), ValueError, "expected x of torch.float32, the parameters' dtype, got torch.int32"),
    "device": (torch.zeros(2, 3, device="meta"), RuntimeError, "expected x on cpu, where the parameters are, got meta"),
    "packed": (nn.utils.rnn.pack_sequence([torch.zeros(2, 3)]), TypeError, "got PackedSequence"),
}
RUN = {
    "a list": ([[0.0] * 3], TypeError, "expected x to be a torch tensor or a NumPy array, got list"),
    "two dimensions": (np.zeros((2, 3), np.float32), ValueError, r"expected x of 3 dimensions, \(T, B, I\), got 2"),
    "rows": (np.zeros((4, 5, 3), np.float32), RuntimeError, r"expected x of 2 rows \(batch_size\), got 5: x has shape \(4, 5, 3\)"),
    "no step": (np.zeros((0, 2, 3), np.float32), RuntimeError, "expected at least one step, got none"),
    "dtype": (torch.zeros(4, 2, 3).double(), ValueError, "expected x of torch.float32, the parameters' dtype, got torch.float64"),
}


@pytest.mark.parametrize("wrong", [("step", name) for name in STEP] + [("run", name) for name in RUN], ids=": ".join)
def test_what_is_wrong_is_said_and_changes_nothing(wrong: tuple[str, str]) -> None:
    method, name = wrong
    x, error, message = (STEP if method == "step" else RUN)[name]
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            stream = elman.stream(elman.LSTM(3, 5, 2), 2)
            for before in (lambda s: None, lambda s: s.step(np.ones((2, 3), np.float32)), lambda s: s.run(torch.ones(4, 2, 3))):
                before(stream)
                state = stream.state
                with pytest.raises(error, match=message):
                    getattr(stream, method)(x)
                assert_same_state(stream, state)
                stream.reset([0])
                state = stream.state
                with pytest.raises(error, match=message):
                    getattr(stream, method)(x)
                assert_same_state(stream, state)


H = torch.zeros(2, 2, 5)
STATES = {
    "no tuple": (H, TypeError, r"expected state to be a tuple \(h, c\), got Tensor"),
    "nothing": (None, TypeError, r"expected a state as the network's hx, got None: reset\(\)"),
    "one of two": ((H,), RuntimeError, r"expected state to be a tuple \(h, c\), got 1 of them"),
    "shape": ((H, H[0]), RuntimeError, r"expected c of shape \(2, 2, 5\), \(L, B, H\), got \(2, 5\)"),
    "dtype": ((H.double(), H), ValueError, "expected h of torch.float32, the parameters' dtype, got torch.float64"),
    "a list": ((H, [0.0]), TypeError, "expected c to be a torch tensor or a NumPy array, got list"),
}


@pytest.mark.parametrize("wrong", STATES)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(wrong: str) -> None:
    hx, error, message = STATES[wrong]
    stream = elman.stream(elman.LSTM(3, 5, 2), 2)
    stream.step(np.ones((2, 3), np.float32))
    state = stream.state
    with pytest.raises(error, match=message):
        stream.state = hx
    assert_same_state(stream, state)
    with pytest.raises(RuntimeError, match="expected a state of h and c, got h"):
        stream.load_state_dict({"h": state[0].numpy()})
    with pytest.raises(RuntimeError, match=r"expected c of shape \(2, 2, 5\), \(L, B, H\), got \(2, 1, 5\)"):
        stream.load_state_dict({"h": state[0].numpy(), "c": state[0].numpy()[:, :1]})
    with pytest.raises(ValueError, match="expected h of float32, the parameters' dtype, got float64"):
        stream.load_state_dict({"h": state[0].double().numpy(), "c": state[0].numpy()})
    assert_same_state(stream, state)


def test_a_state_of_one_is_called_state() -> None:
    stream = elman.stream(elman.GRU(3, 5))
    stream.step(np.ones((1, 3), np.float32))
    before = stream.state
    with pytest.raises(TypeError, match="expected state to be a torch tensor or a NumPy array, got list"):
        stream.state = [[0]]
    with pytest.raises(RuntimeError, match=r"expected state of shape \(1, 1, 5\), \(L, B, H\), got \(1, 5\)"):
        stream.state = before[0]
    with pytest.raises(ValueError, match=r"expected state of torch.float32, .*: convert it with state.to\(torch.float32\)"):
        stream.state = before.double()
    assert_same_state(stream, before)


@pytest.mark.parametrize(
    ("rows", "error", "message"),
    [
        (2, IndexError, r"expected rows to be numbers from 0 to 1, or a mask of 2 truth values, got 2"),
        ([-1], IndexError, r"got \[-1\]"),
        ([True], IndexError, r"got a mask of shape \(1,\)"),
        ([0.5], TypeError, r"got torch.float32"),
        ("all", TypeError, r"got 'all'"),
        ([2**63], IndexError, r"got \[9223372036854775808\]"),
        (-(2**70), IndexError, r"got -1180591620717411303424"),
        (np.array([2**64 - 1], np.uint64), IndexError, r"got \[18446744073709551615\]"),
        (np.array([7], np.uint16), IndexError, r"got \[7\]"),
        ([[0], [1]], IndexError, r"got numbers of shape \(2, 1\)"),
        (np.zeros((1, 0), np.int64), IndexError, r"got numbers of shape \(1, 0\)"),
        (np.array([1, 0], np.uint8), TypeError, r"got torch.uint8, which may be either: convert a mask to bool, and numbers to int64"),
        (torch.tensor([1, 0], dtype=torch.uint8), TypeError, r"got torch.uint8, which may be either"),
    ],
)
def test_rows_that_are_not_there_are_refused(rows: object, error: type[Exception], message: str) -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    stream.step(np.ones((2, 3), np.float32))
    state = stream.state
    with pytest.raises(error, match=message):
        stream.reset(rows)
    assert_same_state(stream, state)


def test_what_cannot_be_a_stream_is_refused() -> None:
    with pytest.raises(ValueError, match="its reverse direction begins at the sequence's end, which a stream does not have"):
        elman.stream(elman.RNN(3, 5, bidirectional=True))
    with pytest.raises(TypeError, match=r"expected rnn to be one of Elman's layers, RNN, GRU or LSTM, got torch\.nn\.GRU$"):
        elman.stream(nn.GRU(3, 5))
    with pytest.raises(TypeError, match=r"RNN, GRU or LSTM, got int$"):
        elman.stream(3)
    with pytest.raises(ValueError, match="expected batch_size to be at least 1, got 0"):
        elman.stream(elman.RNN(3, 5), 0)
    with pytest.raises(TypeError, match="expected batch_size to be an int, got True of type bool"):
        elman.stream(elman.RNN(3, 5), True)


def test_a_stream_keeps_its_network_and_its_batch_size() -> None:
    stream = elman.stream(elman.RNN(3, 5), 2)
    rnn = stream.rnn
    for name, other in {"rnn": elman.RNN(3, 5), "batch_size": 3}.items():
        with pytest.raises(AttributeError):
            setattr(stream, name, other)
    assert stream.rnn is rnn
    assert stream.batch_size == 2


def test_a_stream_says_what_it_is() -> None:
    assert repr(elman.stream(elman.RNN(3, 5), 2)) == "Stream(RNN(3, 5), batch_size=2)"
