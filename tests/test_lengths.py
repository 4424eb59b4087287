"""lengths=: sequences of different lengths in one padded batch, as if each were alone, whatever lies in the padding."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import elman
import pieces
from cases import Case, allow, assert_same, assert_same_numbers, assert_within, build, evaluate, expect
from elman.layers import spans
from kinds import GRU, KINDS, LSTM, RELU, TANH, Kind, as_hx, as_states, every_cell, every_kind
from pieces import Batch

if TYPE_CHECKING:
    from elman.backends import Backend

pytestmark = pytest.mark.usefixtures("poisoned")

LENGTHS = [3, 0, 6, 2]

CASES = [
    Case(kind, *options, form="ragged") for kind in KINDS for options in itertools.product((1, 2), *[(False, True)] * 4) if sum(options) % 2
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float64_is_the_loops_to_1e12(backend: Backend, case: Case) -> None:
    assert_same(evaluate(build(elman, case, torch.float64), case, torch.float64), expect(case), 1e-12)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_float32_is_within_the_derived_bound_of_the_loops(backend: Backend, case: Case) -> None:
    assert_within(evaluate(build(elman, case, torch.float32), case, torch.float32), expect(case), allow(case))


@every_kind
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("lengths", [[3, 1, 6, 2], [6, 6, 6, 6], [1, 1, 1, 1], [4, 4, 2, 2]], ids=str)
def test_it_is_packing_running_and_unpacking(backend: Backend, kind: Kind, batch_first: bool, lengths: list[int]) -> None:
    theirs, ours = kind.pair(3, 4, num_layers=3, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    batch = Batch.draw(kind, 6, lengths, None)
    packed = pack_padded_sequence(batch.x, lengths, enforce_sorted=False)
    output, last = theirs(packed, as_hx(batch.states))
    expected = pad_packed_sequence(output, total_length=6)[0], as_states(last)
    leaves, own = batch.leaves | dict(theirs.named_parameters()), batch.leaves | dict(ours.named_parameters())
    assert_same(pieces.values(pieces.named(pieces.call(ours, batch)), own), pieces.values(pieces.named(expected), leaves), 1e-12)


@every_kind
@pytest.mark.parametrize("length", [0, 1, 4, 6])
def test_an_unbatched_sequence_has_one_length(backend: Backend, kind: Kind, length: int) -> None:
    theirs, ours = kind.pair(3, 4, num_layers=2, bidirectional=True, batch_first=True, dtype=torch.float64)
    theirs.batch_first = False
    batch = Batch.draw(kind, 4, [length], None, batch_size=1)
    got = pieces.values(pieces.named(pieces.call(ours, batch, "unbatched")), batch.leaves)
    assert_same(got, pieces.values(pieces.named(pieces.run(theirs, batch)), batch.leaves, unused=True), 1e-12)


@pytest.mark.parametrize(
    "lengths",
    [
        tuple(LENGTHS),
        [np.int32(length) for length in LENGTHS],
        *(torch.tensor(LENGTHS, dtype=dtype) for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)),
        *(np.array(LENGTHS, dtype=dtype) for dtype in (np.int64, np.int32, np.uint8, np.uint16, ">i4")),
        np.array([LENGTHS, LENGTHS]).T[::-1][::-1, 0],
        [torch.tensor(length) for length in LENGTHS],
        torch.tensor([LENGTHS, LENGTHS]).t()[:, 0],
        torch.tensor(LENGTHS).flip(0).flip(0),
    ],
    ids=lambda lengths: f"{lengths.dtype}, stride {lengths.stride(0)}" if isinstance(lengths, Tensor) else f"{lengths}",
)
def test_lengths_may_be_any_integers(backend: Backend, lengths: object) -> None:
    rnn = elman.GRU(3, 4, bidirectional=True, dtype=torch.float64)
    x = Batch.draw(GRU, 2, LENGTHS, None).x
    assert_same_numbers(backend, rnn(x, lengths=lengths), rnn(x, lengths=LENGTHS))


@pytest.mark.parametrize("length", [3, np.int32(3), np.array(3), np.array([3]), torch.tensor(3), torch.tensor([3])], ids=repr)
def test_one_row_has_one_length(backend: Backend, length: object) -> None:
    rnn, x = elman.GRU(3, 4, bidirectional=True), torch.randn(6, 1, 3)
    for given in (x, x[:, 0]):
        for got, expected in zip(rnn(given, lengths=length), rnn(given, lengths=[3]), strict=True):
            assert torch.equal(got, expected)


def test_zeros_without_memory_are_lengths_and_resets(backend: Backend) -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(6, 4, 3)
    lengths, reset = torch._efficientzerotensor((4,), dtype=torch.int64), torch._efficientzerotensor((6, 4), dtype=torch.bool)
    assert not rnn(x, lengths=lengths)[0].any()
    assert torch.equal(rnn(x, reset=reset)[0], rnn(x, reset=torch.zeros(6, 4, dtype=torch.bool))[0])


@pytest.mark.parametrize("kind", [TANH, GRU, LSTM], ids=str)
def test_each_sample_of_a_vmap_may_have_its_own(backend: Backend, kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4, 2, bidirectional=True, dtype=torch.float64), torch.randn(6, 4, 3, dtype=torch.float64)
    samples = torch.tensor([LENGTHS, [6, 0, 1, 5]])
    for got, lengths in zip(vmap(lambda lengths: rnn(x, lengths=lengths)[0])(samples), samples, strict=True):
        torch.testing.assert_close(got, rnn(x, lengths=lengths)[0], rtol=0, atol=1e-13)
    twice = vmap(vmap(lambda lengths: rnn(x, lengths=lengths)[0]))(torch.stack([samples, samples.flip(0)]))
    torch.testing.assert_close(twice[1, 0], rnn(x, lengths=samples[1])[0], rtol=0, atol=1e-13)
    for wrong in (torch.tensor([LENGTHS, [6, 0, 7, 5]]), torch.tensor([LENGTHS, [6, 0, -1, 5]])):
        with pytest.raises(RuntimeError, match=r"expected lengths from 0 to 6, the steps of x, got (7|-1)"):
            vmap(lambda lengths: rnn(x, lengths=lengths)[0])(wrong)


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32], ids=str)
def test_what_the_scan_is_given_is_nobody_elses(dtype: torch.dtype, recorded: bool) -> None:
    lengths = torch.tensor([LENGTHS, LENGTHS], dtype=dtype).t()[:, 0]
    with _Recorder() if recorded else contextlib.nullcontext():
        own = spans.as_lengths(lengths, 4, 6)
    assert (own.dtype, own.device.type, own.is_contiguous()) == (torch.int64, "cpu", True)
    lengths.fill_(6)
    assert own.tolist() == LENGTHS


class _Recorder(TorchDispatchMode):
    """Somebody who looks on: numbers are not asked for then."""

    def __torch_dispatch__(
        self, operator: Any, types: object, args: tuple[object, ...] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        assert "_local_scalar_dense" not in str(operator)
        return operator(*args, **(kwargs or {}))


@every_cell
def test_lengths_that_are_written_to_before_the_gradient_do_no_harm(backend: Backend, kind: Kind) -> None:
    rnn, batch, lengths = (
        kind.build(elman, 3, 4, bidirectional=True, dtype=torch.float64),
        Batch.draw(kind, 2, LENGTHS, None),
        torch.tensor(LENGTHS),
    )
    expected = torch.autograd.grad(rnn(batch.x, lengths=LENGTHS)[0].square().sum(), [batch.x, *rnn.parameters()])
    output, _ = rnn(batch.x, lengths=lengths)
    lengths.fill_(6)
    assert_same_numbers(backend, torch.autograd.grad(output.square().sum(), [batch.x, *rnn.parameters()]), expected)


def test_a_state_that_became_infinite_is_not_met_again_in_the_padding(backend: Backend) -> None:
    """0 * inf is NaN: a sequence that ends in infinity has the gradients that it has when it is packed."""
    theirs, ours = RELU.pair(3, 4, dtype=torch.float64)
    for rnn in (theirs, ours):
        nn.init.constant_(rnn.weight_hh_l0, 1e200)
    x = torch.rand(5, 2, 3, dtype=torch.float64)
    with torch.no_grad():
        for rnn in (theirs, ours):
            rnn.bias_hh_l0.fill_(1e200)
    (packed, _), (output, h_n) = theirs(pack_padded_sequence(x, [2, 2])), ours(x, lengths=[2, 2])
    assert h_n.isinf().all()
    expected = torch.autograd.grad(packed.data[:2].sum(), list(theirs.parameters()))
    for got, gradient in zip(torch.autograd.grad(output[0].sum(), list(ours.parameters())), expected, strict=True):
        assert gradient.isfinite().all()
        torch.testing.assert_close(got, gradient, rtol=1e-12, atol=0)


@every_kind
@pytest.mark.parametrize("lengths", [[0, 0, 0], []], ids=["no steps", "no sequences"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_where_there_is_nothing_to_run_all_is_zero(backend: Backend, kind: Kind, lengths: list[int], dropout: float) -> None:
    batch_size = len(lengths)
    rnn = kind.build(elman, 3, 4, num_layers=2, bidirectional=True, dropout=dropout, dtype=torch.float64)
    batch = Batch.draw(kind, 4, lengths, 0.5, batch_size=batch_size)
    if not batch_size and backend.name == "native":
        return  # it says so, and leaves this to the reference
    output, finals = pieces.call(rnn, batch)
    assert torch.equal(output, torch.zeros(6, batch_size, 2 * kind.widths(4)[0], dtype=torch.float64))
    for final, state in zip(finals, batch.states, strict=True):
        assert torch.equal(final, state)
    leaves = [batch.x, *rnn.parameters(), *batch.states]
    gradients = torch.autograd.grad([output, *finals], leaves, [torch.ones_like(output), *map(torch.ones_like, finals)])
    for gradient, leaf in zip(gradients, leaves, strict=True):
        assert torch.equal(gradient, torch.full_like(leaf, float(any(leaf is state for state in batch.states))))


@every_kind
def test_dropout_falls_where_it_falls_without_lengths(backend: Backend, kind: Kind) -> None:
    rnn = kind.build(elman, 3, 4, num_layers=3, dropout=0.5, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    torch.manual_seed(0)
    whole, _ = rnn(x)
    torch.manual_seed(0)
    output, _ = rnn(x, lengths=LENGTHS)
    for b, length in enumerate(LENGTHS):
        torch.testing.assert_close(output[:length, b], whole[:length, b], rtol=0, atol=1e-12)
        assert not output[length:, b].any()


def test_other_dtypes_run_too() -> None:
    rnn, x = elman.LSTM(3, 4, bidirectional=True), torch.randn(6, 4, 3)
    output, (h_n, c_n) = rnn.half()(x.half(), lengths=LENGTHS)
    expected, (expected_h_n, expected_c_n) = rnn.float()(x.half().float(), lengths=LENGTHS)
    for got, want in zip((output, h_n, c_n), (expected, expected_h_n, expected_c_n), strict=True):
        assert got.dtype is torch.float16
        torch.testing.assert_close(got.float(), want, rtol=0, atol=2e-3)  # some roundings of 2**-11 of numbers below 1


@every_kind
def test_under_autocast_dtypes_are_those_of_a_call_without_lengths(kind: Kind) -> None:
    rnn, x = kind.build(elman, 3, 4, num_layers=2), torch.randn(6, 4, 3)
    with torch.autocast("cpu", torch.float16):
        whole, ragged = rnn(x), rnn(x, lengths=LENGTHS, reset=torch.zeros(6, 4, dtype=torch.bool))
    for got, expected in zip((ragged[0], *as_states(ragged[1])), (whole[0], *as_states(whole[1])), strict=True):
        assert got.dtype is expected.dtype


@pytest.mark.parametrize("lengths", [LENGTHS, torch.tensor(LENGTHS), np.array(LENGTHS)], ids=["list", "tensor", "array"])
def test_a_compiler_sees_one_graph(lengths: object) -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(6, 4, 3)
    expected = rnn(x, lengths=lengths)
    compiled = torch.compile(rnn, backend="eager", fullgraph=True)
    for got, want in zip(compiled(x, lengths=lengths), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("lengths", [torch.tensor([3, 1]), torch.ones(4, 1, dtype=torch.int64)], ids=["two", "two axes"])
def test_a_compiled_call_says_without_a_warning_that_the_count_is_wrong(lengths: Tensor) -> None:
    torch.compiler.reset()
    with pytest.raises(RuntimeError, match="expected 4 lengths, one for each sequence of x, got"):
        torch.compile(elman.GRU(3, 5), backend="eager")(torch.randn(6, 4, 3), lengths=lengths)


def test_a_compiled_call_notices_lengths_out_of_range() -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(6, 4, 3)
    rnn(x, lengths=LENGTHS)
    compiled = torch.compile(rnn, backend="eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="expected lengths from 0 to T, the steps of x"):
        compiled(x, lengths=torch.tensor([3, 0, 7, 2]))


# --- What is wrong ----------------------------------------------------------------------------------------------------

WRONG: list[tuple[object, type[Exception], str]] = [
    ([3, -1, 6, 2], RuntimeError, "expected lengths from 0 to 6, the steps of x, got -1: lengths is [3, -1, 6, 2]"),
    ([3, 0, 7, 2], RuntimeError, "expected lengths from 0 to 6, the steps of x, got 7: lengths is [3, 0, 7, 2]"),
    ([3, 0, 2**70, 2], RuntimeError, "got 1180591620717411303424"),
    (torch.tensor([3, 0, 7, 2]), RuntimeError, "got 7: lengths is [3, 0, 7, 2]"),
    (torch.tensor([3, 0, 255, 2], dtype=torch.uint8), RuntimeError, "got 255"),
    ([3, 0, 6], RuntimeError, "expected 4 lengths, one for each sequence of x, got 3: lengths is [3, 0, 6]"),
    (torch.ones(9, dtype=torch.int64), RuntimeError, "got 9: lengths is [1, 1, 1, 1, 1, 1, 1, 1, ...]"),
    ([], RuntimeError, "got 0: lengths is []"),
    (np.array([]), RuntimeError, "expected 4 lengths, one for each sequence of x, got 0: lengths is []"),
    (torch.tensor([]), RuntimeError, "expected 4 lengths, one for each sequence of x, got 0: lengths is []"),
    (torch.tensor(3), RuntimeError, "expected 4 lengths, one for each sequence of x, got a tensor of shape (): give it one axis"),
    (torch.ones(4, 1, dtype=torch.int64), RuntimeError, "got a tensor of shape (4, 1)"),
    (np.ones((4, 1), dtype=np.int64), RuntimeError, "got an array of shape (4, 1)"),
    (np.array(3), RuntimeError, "expected 4 lengths, one for each sequence of x, got an array of shape (): give it one axis"),
    (np.array([3, 0, 7, 2]), RuntimeError, "got 7: lengths is [3, 0, 7, 2]"),
    (np.ones(4), TypeError, "of an integer dtype, got float64: if they are whole numbers, convert them with lengths.astype(int)"),
    (np.ones(4, dtype=bool), TypeError, "got bool: count a mask's steps"),
    (
        torch.ones(4),
        TypeError,
        "expected lengths of an integer dtype, got torch.float32: if they are whole numbers, convert them with lengths.long()",
    ),
    (torch.ones(4, dtype=torch.bool), TypeError, "got torch.bool: count a mask's steps"),
    (torch.ones(4, dtype=torch.complex64), TypeError, "got torch.complex64"),
    ([3, 0, 6.0, 2], TypeError, "expected lengths to be integers, got 6.0 of type float: lengths is [3, 0, 6.0, 2]"),
    ([3, 0, True, 2], TypeError, "got True: count a mask's steps with its sum over time"),
    ([3, 0, None, 2], TypeError, "got None"),
    (4, TypeError, "expected lengths to be a list, a tuple, a tensor or a NumPy array of 4 integers, one for each sequence of x, got int"),
    ("3062", TypeError, "got str"),
]


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(("lengths", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_lengths_that_do_not_fit_are_an_error(lengths: object, error: type[Exception], message: str, batch_first: bool) -> None:
    rnn, x = elman.RNN(3, 4, batch_first=batch_first), torch.zeros(*((4, 6) if batch_first else (6, 4)), 3)
    for call in (rnn, rnn.trace, lambda x, lengths: elman.why(rnn, x, lengths=lengths)):
        with pytest.raises(error, match=re.escape(message)):
            call(x, lengths=lengths)


def test_an_unbatched_sequence_has_not_two_lengths() -> None:
    with pytest.raises(RuntimeError, match=r"expected 1 length, one for each sequence of x, got 2: lengths is \[3, 2\]"):
        elman.RNN(3, 4)(torch.zeros(6, 3), lengths=[3, 2])


@pytest.mark.parametrize("lengths", [[3, 2], torch.tensor([3, 2])], ids=["list", "tensor"])
def test_a_packed_sequence_takes_no_lengths(lengths: object) -> None:
    rnn, packed = elman.RNN(3, 4), pack_padded_sequence(torch.zeros(6, 2, 3), [3, 2])
    for call in (rnn, rnn.trace, lambda x, lengths: elman.why(rnn, x, lengths=lengths)):
        with pytest.raises(
            ValueError, match=r"expected no lengths with a PackedSequence, which has its own, got \[3, 2\]: leave lengths out"
        ):
            call(packed, lengths=lengths)


@pytest.mark.parametrize("given", [{"lengths": [1]}, {"reset": torch.zeros(1, 1, dtype=torch.bool)}], ids=["lengths", "reset"])
def test_a_cell_takes_neither_lengths_nor_reset(given: dict[str, object]) -> None:
    with pytest.raises(TypeError, match=f"expected neither lengths nor reset, got {next(iter(given))}: a cell runs one step"):
        elman.why(elman.LSTMCell(3, 4), torch.zeros(1, 3), **given)


def test_why_looks_at_the_whole_call() -> None:
    rnn, x = elman.LSTM(3, 4, dtype=torch.complex64), torch.zeros(6, 2, 3, dtype=torch.complex64)
    message = elman.why(rnn, x, lengths=[3, 2], reset=torch.zeros(6, 2, dtype=torch.bool))
    assert message.startswith("reference: native ")


def test_these_cases_reach_every_option() -> None:
    for field in ("num_layers", "bidirectional", "bias", "batch_first", "given_state"):
        for kind in (LSTM, GRU):
            assert len({getattr(case, field) for case in CASES if case.kind is kind}) == 2
    assert all(dataclasses.replace(case, form="padded").lengths != case.lengths for case in CASES)
