"""reset=: sequences cut into pieces in the middle of a batch, with the results and gradients of running the pieces one by one."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, jvp, vmap
from torch.nn.utils.rnn import pack_padded_sequence

import elman
import pieces
from cases import assert_same, assert_same_numbers, every_backend
from elman.backends import Operands, Spans, registry
from kinds import GRU, LSTM, PROJECTED, TANH, Kind, as_hx, as_states, every_kind
from pieces import Batch

if TYPE_CHECKING:
    from elman.backends import Backend

# torch's own forward mode still builds its decompositions with it.
pytestmark = [
    pytest.mark.usefixtures("poisoned"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning"),
]

LENGTHS = [3, 1, 6, 4]

SHAPES = pytest.mark.parametrize(
    ("num_layers", "bidirectional"),
    [(1, False), (1, True), (3, False), (2, True)],
    ids=["plain", "both directions", "three layers", "two layers in both directions"],
)


def _assert_is_pieces(
    theirs: nn.Module, ours: nn.Module, batch: Batch, form: str = "padded", learned: dict[str, Tensor] | None = None
) -> None:
    """Results and gradients of elman's network are those of torch's, run piece by piece."""
    fresh = tuple(learned.values()) if learned else None
    leaves, learned = batch.leaves, learned or {}
    own = leaves | {name: p for name, p in ours.named_parameters() if name not in learned} | dict(ours.named_parameters())
    got = pieces.values(pieces.named(pieces.call(ours, batch, form)), own)
    expected = pieces.values(
        pieces.named(pieces.run(theirs, batch, fresh)), leaves | dict(theirs.named_parameters()) | learned, unused=True
    )
    assert_same(got, expected, 1e-12)


@pytest.mark.slow
@every_kind
@SHAPES
@pytest.mark.parametrize("given_state", [False, True], ids=["from zeros", "given states"])
@pytest.mark.parametrize("lengths", [None, LENGTHS, [0, 6, 2, 0]], ids=str)
def test_each_piece_is_run_as_if_it_were_alone(
    backend: Backend, kind: Kind, num_layers: int, bidirectional: bool, given_state: bool, lengths: list[int] | None
) -> None:
    theirs, ours = kind.pair(3, 4, num_layers=num_layers, bidirectional=bidirectional, dtype=torch.float64)
    batch = Batch.draw(kind, num_layers * (1 + bidirectional), lengths, 0.4, given=given_state)
    _assert_is_pieces(theirs, ours, batch)


@every_kind
@pytest.mark.parametrize("batch_first", [False, True], ids=["time first", "batch first"])
@pytest.mark.parametrize("form", ["padded", "packed", "unbatched"])
def test_so_it_is_in_every_form_of_the_call(backend: Backend, kind: Kind, form: str, batch_first: bool) -> None:
    theirs, ours = kind.pair(3, 4, num_layers=2, bidirectional=True, batch_first=batch_first, dtype=torch.float64)
    theirs.batch_first = False
    count = 1 if form == "unbatched" else 4
    _assert_is_pieces(theirs, ours, Batch.draw(kind, 4, LENGTHS[-count:], 0.4, batch_size=count), form)


@every_kind
@pytest.mark.parametrize("form", ["padded", "packed", "unbatched"])
@pytest.mark.parametrize("given_state", [False, True], ids=["no hx", "hx"])
def test_a_piece_starts_from_the_learned_state(backend: Backend, kind: Kind, form: str, given_state: bool) -> None:
    theirs = kind.build(nn, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    ours = kind.build(elman, 3, 4, num_layers=2, bidirectional=True, learn_initial_state=True, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict(), strict=False)
    learned = {
        f"{name}_0": torch.randn(4, w, dtype=torch.float64, requires_grad=True) for name, w in zip(kind.states, kind.widths(4), strict=True)
    }
    ours.load_state_dict(learned, strict=False)
    count = 1 if form == "unbatched" else 4
    _assert_is_pieces(theirs, ours, Batch.draw(kind, 4, LENGTHS[-count:], 0.4, batch_size=count, given=given_state), form, learned)


@every_kind
def test_through_dropout_each_layer_starts_from_its_own_state(backend: Backend, kind: Kind) -> None:
    """Dropout so rare that it never falls still runs the layers one by one."""
    rnn = kind.build(elman, 3, 4, num_layers=3, bidirectional=True, dropout=1e-30, learn_initial_state=True, dtype=torch.float64)
    with torch.no_grad():
        for name in rnn._learned:
            nn.init.normal_(rnn.get_parameter(name))
    batch = Batch.draw(kind, 6, LENGTHS, 0.4)
    results = [
        pieces.values(pieces.named(pieces.call(rnn.train(mode), batch)), batch.leaves | dict(rnn.named_parameters()))
        for mode in (False, True)
    ]
    assert_same(results[1], results[0], 1e-12)


@every_kind
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=str)
def test_where_nothing_is_cut_nothing_changes(backend: Backend, kind: Kind, lengths: list[int] | None) -> None:
    rnn = kind.build(elman, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    batch = Batch.draw(kind, 4, lengths, 0.0)
    assert not batch.reset.any()
    for got, expected in zip(rnn(batch.x, lengths=lengths, reset=batch.reset), rnn(batch.x, lengths=lengths), strict=True):
        assert_same_numbers(backend, as_states(got), as_states(expected))


@every_kind
def test_cut_everywhere_every_step_is_alone(backend: Backend, kind: Kind) -> None:
    rnn = kind.build(elman, 3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    output, _ = rnn(x, reset=torch.ones(6, 4, dtype=torch.bool))
    for t in range(6):
        torch.testing.assert_close(output[t : t + 1], rnn(x[t : t + 1])[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["padded", "batch first", "unbatched", "packed", "chunks"])
def test_a_reset_may_be_numpys(backend: Backend, form: str) -> None:
    rnn, x = elman.GRU(3, 4, batch_first=form == "batch first"), torch.randn(6, 4, 3)
    reset = torch.rand(6, 4) < 0.3
    if form == "unbatched":
        x, reset = x[:, 0], reset[:, 0]
    array = np.asfortranarray(np.flip(np.flip(reset.numpy()).copy()))
    if form == "batch first":
        x, array, reset = x.transpose(0, 1), array.T, reset.t()
    if form == "packed":
        calls = [rnn(pack_padded_sequence(x, [6, 4, 3, 1]), reset=given)[0].data for given in (array, reset)]
    elif form == "chunks":
        calls = [torch.cat([output for _, output in elman.chunks(rnn, x, 4, reset=given)]) for given in (array, reset)]
    else:
        calls = [rnn(x, reset=given)[0] for given in (array, reset)]
    assert torch.equal(*calls)


def test_a_reset_may_lie_anywhere(backend: Backend) -> None:
    rnn, x = elman.GRU(3, 4, bidirectional=True, dtype=torch.float64), torch.randn(6, 4, 3, dtype=torch.float64)
    dense = torch.rand(6, 4, generator=torch.Generator().manual_seed(0)) < 0.4
    gaps = torch.stack([dense, ~dense], -1).repeat_interleave(2, 0)[::2, :, 0]
    column = torch.tensor([False, False, True, False, True, False]).unsqueeze(1).expand(6, 4)
    for reset, same in ((dense.t().contiguous().t(), dense), (gaps, dense), (column, column.contiguous())):
        assert torch.equal(reset, same)
        assert_same_numbers(backend, rnn(x, reset=reset), rnn(x, reset=same.clone()))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [TANH, GRU, LSTM, PROJECTED], ids=str)
@pytest.mark.parametrize("backend", every_backend())
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_lengths_and_resets_are_pieces(backend: Backend, kind: Kind, data: st.DataObject) -> None:
    count, steps = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    num_layers, bidirectional = data.draw(st.integers(1, 2)), data.draw(st.booleans())
    inputs, units = data.draw(st.integers(1, 9)), data.draw(st.integers(3, 19))
    lengths = data.draw(st.none() | st.lists(st.integers(0, steps), min_size=count, max_size=count))
    options = {"num_layers": num_layers, "bidirectional": bidirectional, "bias": data.draw(st.booleans()), "dtype": torch.float64}
    theirs, ours = kind.pair(inputs, units, **options)
    directions = num_layers * (1 + bidirectional)
    probability = data.draw(st.sampled_from([0.0, 0.1, 0.5, 1.0]) | st.none())
    seed, given_state = data.draw(st.integers(0, 2**31)), data.draw(st.booleans())
    batch = Batch.draw(
        kind, directions, lengths, probability, steps=steps, batch_size=count, given=given_state, sizes=(inputs, units), seed=seed
    )
    spans = Spans(lengths=None if lengths is None else torch.tensor(lengths), reset=batch.reset)
    assert backend.refuses(ours.stack, Operands(batch.x, batch.states, list(ours.parameters()), spans)) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "BACKENDS", (backend,))
        _assert_is_pieces(theirs, ours, batch)


def test_pieces_are_not_the_whole() -> None:
    """What is expected above is not what comes without resets, in neither direction."""
    theirs, _ = LSTM.pair(3, 4, num_layers=2, bidirectional=True, dtype=torch.float64)
    batch = Batch.draw(LSTM, 4, LENGTHS, 0.4)
    output, _ = pieces.run(theirs, batch)
    whole, _ = pieces.run(theirs, Batch(batch.x, batch.states, batch.lengths, None))
    assert ((output - whole).abs().view(6, 4, 2, 4).amax((0, 1, 3)) > 1e-3).all()


# --- Beyond one gradient ----------------------------------------------------------------------------------------------

beyond = pytest.mark.parametrize("kind", [TANH, GRU, LSTM, PROJECTED], ids=str)


def _network(kind: Kind) -> tuple[nn.Module, dict[str, Tensor]]:
    rnn = kind.build(elman, 2, 3, num_layers=2, bidirectional=True, learn_initial_state=True, dtype=torch.float64)
    return rnn, {name: torch.randn_like(p).requires_grad_() for name, p in rnn.named_parameters()}


@beyond
@pytest.mark.slow
def test_first_and_second_derivatives_are_those_of_finite_differences(kind: Kind) -> None:
    rnn, values = _network(kind)
    reset = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) < 0.4

    def run(x: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
        swapped = dict(zip(values, parameters, strict=True))
        output, hx = functional_call(rnn, swapped, (x,), {"lengths": [2, 0, 4], "reset": reset})
        return output, *as_states(hx)

    arguments = [torch.randn(4, 3, 2, dtype=torch.float64, requires_grad=True), *values.values()]
    assert torch.autograd.gradcheck(run, arguments, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, arguments, fast_mode=True)


@beyond
def test_vmap_and_forward_mode_go_through_lengths_and_resets(kind: Kind) -> None:
    rnn, _ = _network(kind)
    samples = torch.randn(5, 4, 3, 2, dtype=torch.float64)
    resets = torch.rand(5, 4, 3, generator=torch.Generator().manual_seed(0)) < 0.4

    def run(x: Tensor, reset: Tensor) -> Tensor:
        return rnn(x, lengths=[2, 0, 4], reset=reset)[0]

    mapped = vmap(run)(samples, resets)
    for got, sample, reset in zip(mapped, samples, resets, strict=True):
        torch.testing.assert_close(got, run(sample, reset), rtol=0, atol=1e-14)
    tangent = torch.randn(4, 3, 2, dtype=torch.float64)
    _, along = jvp(lambda x: run(x, resets[0]), (samples[0],), (tangent,))
    difference = (run(samples[0] + 1e-6 * tangent, resets[0]) - run(samples[0] - 1e-6 * tangent, resets[0])) / 2e-6
    torch.testing.assert_close(along, difference, rtol=0, atol=1e-7)


def test_a_compiler_takes_an_array() -> None:
    rnn, x = elman.GRU(3, 4), torch.randn(6, 4, 3)
    reset = np.zeros((6, 4), dtype=bool)
    reset[2, 1:] = True
    for got, want in zip(torch.compile(rnn, backend="eager", fullgraph=True)(x, reset=reset), rnn(x, reset=reset), strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


# --- What is wrong ----------------------------------------------------------------------------------------------------

Z = torch.zeros(6, 4, dtype=torch.bool)
WRONG: list[tuple[object, type[Exception], str]] = [
    (torch.zeros(5, 4, dtype=torch.bool), RuntimeError, "expected reset of shape (6, 4), (T, B), got (5, 4)"),
    (Z.t(), RuntimeError, "expected reset of shape (6, 4), (T, B), got (4, 6): transpose it with reset.t()"),
    (Z.t().numpy(), RuntimeError, "expected reset of shape (6, 4), (T, B), got (4, 6): transpose it with reset.T"),
    (
        Z[:, 0],
        RuntimeError,
        "got (6,): if each sequence begins anew at these steps, repeat it with torch.as_tensor(reset)[:, None].expand(6, 4)",
    ),
    (Z.unsqueeze(-1), RuntimeError, "got (6, 4, 1)"),
    (
        Z.long(),
        TypeError,
        "expected reset to be a bool tensor or NumPy array, True where a fresh sequence begins, got torch.int64: if it holds 1 there and 0 "
        "elsewhere, convert it with reset.bool()",
    ),
    (Z.numpy().astype(int), TypeError, "got int64: if it holds 1 there and 0 elsewhere, convert it with reset.astype(bool)"),
    (torch.tensor([0, 2]), TypeError, "got torch.int64"),
    (Z.float(), TypeError, "got torch.float32"),
    (Z.to("meta"), RuntimeError, "expected reset on cpu, where x is, got meta: move it with reset.to('cpu')"),
    (
        Z.tolist(),
        TypeError,
        "a bool tensor or NumPy array, True where a fresh sequence begins, got list: convert it with torch.tensor(reset)",
    ),
    (True, TypeError, "True where a fresh sequence begins, got bool"),
]


@pytest.mark.parametrize(("reset", "error", "message"), WRONG, ids=[message for *_, message in WRONG])
def test_a_reset_that_does_not_fit_is_an_error(reset: object, error: type[Exception], message: str) -> None:
    rnn, x = elman.RNN(3, 4), torch.zeros(6, 4, 3)
    packed = pack_padded_sequence(x, [6, 4, 3, 1])
    for call in (rnn, rnn.trace, lambda x, reset: elman.why(rnn, x, reset=reset), lambda _, reset: rnn(packed, reset=reset)):
        with pytest.raises(error, match=re.escape(message)):
            call(x, reset=reset)


def test_with_batch_first_a_reset_is_too() -> None:
    with pytest.raises(RuntimeError, match=re.escape("expected reset of shape (4, 6), (B, T), got (6, 4): transpose it with reset.t()")):
        elman.RNN(3, 4, batch_first=True)(torch.zeros(4, 6, 3), reset=Z)
    with pytest.raises(RuntimeError, match=re.escape("got (6,): if each sequence begins anew at these steps, repeat it with ")) as raised:
        elman.RNN(3, 4, batch_first=True)(torch.zeros(4, 6, 3), reset=Z[:, 0])
    repeated = eval(str(raised.value).rsplit("with ", 1)[1], {"torch": torch, "reset": Z[:, 0]})
    elman.RNN(3, 4, batch_first=True)(torch.zeros(4, 6, 3), reset=repeated)


def test_unbatched_a_reset_has_one_axis() -> None:
    with pytest.raises(RuntimeError, match=re.escape("expected reset of shape (6,), (T,), got (6, 4)")):
        elman.RNN(3, 4)(torch.zeros(6, 3), reset=Z)


def test_hx_is_checked_as_ever() -> None:
    with pytest.raises(RuntimeError, match=re.escape("expected hx of shape (1, 4, 4)")):
        elman.RNN(3, 4)(torch.zeros(6, 4, 3), as_hx((torch.zeros(1, 3, 4),)), reset=Z)
